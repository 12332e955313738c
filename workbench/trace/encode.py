"""Events as one binary buffer of columns, for the canvas; ``decode`` in timeline.js
reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..schedule import KINDS
from .palette import KIND_COLOURS, WAIT_COLOUR

#: Columns of the buffer, in order: name and dtype. Widest first, so that all are
#: aligned.
LAYOUT = (
    ("start", "<f8"),
    ("duration", "<f4"),
    ("step", "<i4"),
    ("microbatch", "<i2"),
    ("stage", "<i2"),
    ("rank", "<i2"),
    ("kind", "u1"),
    ("lane", "u1"),
)
EVENT_BYTES = sum(np.dtype(kind).itemsize for _, kind in LAYOUT)


def encode(columns: Mapping[str, np.ndarray], tick: float) -> bytes:
    """24 bytes per event. ``columns`` has start and end in ticks; the buffer has units.

    Events are sorted by start within each rank, as the canvas wants them.
    """
    order = np.lexsort((columns["start"], columns["rank"]))
    start = columns["start"][order] * tick
    values = {
        **{name: columns[name][order] for name, _ in LAYOUT if name in columns},
        "start": start,
        "duration": columns["end"][order] * tick - start,
    }
    return b"".join(
        np.ascontiguousarray(values[n], kind).tobytes() for n, kind in LAYOUT
    )


def view_options(
    *, ranks: int, title: str, source: str, unit: str, kinds: set[int]
) -> dict[str, Any]:
    """What the canvas needs to know before the first event."""
    shown = [k for k in ("F", "B", "W", "R") if KINDS.index(k) in kinds or k in "FB"]
    return {
        "ranks": ranks,
        "title": title,
        "source": source,
        "unit": unit,
        "kinds": shown,
        "colours": KIND_COLOURS,
        "wait": WAIT_COLOUR,
    }
