"""The generators by name. A generator is one function in a file of its family."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any

from .gpipe import gpipe
from .ir import Schedule, whole
from .one_f_one_b import one_f_one_b
from .single import single

SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "gpipe": gpipe,
    "1f1b": one_f_one_b,
    "single": single,
}


def make(name: str, num_ranks: int, num_microbatches: int, **options: Any) -> Schedule:
    """See ``Schedule.make``."""
    if name not in SCHEDULES:
        near = difflib.get_close_matches(str(name).lower(), SCHEDULES, n=1, cutoff=0.3)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"no schedule named {name!r}: {hint}There are {', '.join(SCHEDULES)}"
        )
    num_ranks = whole(num_ranks, "num_ranks", 1)
    num_microbatches = whole(num_microbatches, "num_microbatches", 1)
    generator = SCHEDULES[name]
    known = list(inspect.signature(generator).parameters)[2:]
    for option in options:
        if option not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes no options"
            raise ValueError(f"schedule {name!r} has no option {option!r}; {takes}")
    return generator(num_ranks, num_microbatches, **options)
