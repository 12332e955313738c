"""What the pictures of a trace have in common: which half of a row an event fills, and
its colour."""

from __future__ import annotations

import numpy as np

from ..schedule import KINDS
from ..schedule.draw import tint
from .palette import KIND_COLOURS, WAIT_COLOUR
from .trace import COMPUTE_LANE, WAIT_LANE, Trace

WHOLE, UPPER, LOWER = 0, 1, 2


def halves(trace: Trace) -> np.ndarray:
    """(events,): WHOLE, or UPPER and LOWER for two actions that run together."""
    found = np.full(len(trace), WHOLE)
    work = np.flatnonzero((trace.lane == COMPUTE_LANE) & (trace.end > trace.start))
    about = np.stack([trace.rank[work], trace.start[work], trace.end[work]])
    _, first, where = np.unique(about, axis=1, return_index=True, return_inverse=True)
    second = np.setdiff1d(np.arange(len(work)), first)
    found[work[first[where.reshape(-1)[second]]]] = UPPER
    found[work[second]] = LOWER
    return found


def stage_numbers(trace: Trace) -> np.ndarray:
    """(events,): the number of the event's stage among those of its rank, from 0."""
    found = np.zeros(len(trace), dtype=np.int64)
    for rank in range(trace.num_ranks):
        mine = (trace.rank == rank) & (trace.lane != WAIT_LANE)
        found[mine] = np.unique(trace.stage[mine], return_inverse=True)[1].reshape(-1)
    return found


def colours(trace: Trace) -> np.ndarray:
    """(events,): the kind's colour, lighter for a rank's later stages; copies of the
    parameters are stages of their own."""
    known: dict[tuple[int, int], str] = {}
    pairs = zip(trace.kind.tolist(), stage_numbers(trace).tolist(), strict=True)
    return np.array(
        [
            known.get((kind, number))
            or known.setdefault(
                (kind, number),
                tint(KIND_COLOURS.get(KINDS[kind], WAIT_COLOUR), number),
            )
            for kind, number in pairs
        ],
        dtype=object,
    )
