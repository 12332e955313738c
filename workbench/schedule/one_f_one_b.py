"""1F1B (PipeDream-flush, Narayanan et al. 2021, arXiv:2006.09503; DAPPLE's early
backward)."""

from __future__ import annotations

from .actions import Action, Kind, Row
from .ir import Schedule


def alternate(stage: int, warmup: int, num_microbatches: int, backward: Kind) -> Row:
    """``warmup`` forwards, then one forward and one backward in turn, then the
    backwards that are left."""
    warmup = min(warmup, num_microbatches)
    row = [Action(stage, Kind.F, k) for k in range(warmup)]
    for k in range(num_microbatches - warmup):
        row.append(Action(stage, Kind.F, warmup + k))
        row.append(Action(stage, backward, k))
    first = num_microbatches - warmup
    row += [Action(stage, backward, k) for k in range(first, num_microbatches)]
    return tuple(row)


def one_f_one_b(num_ranks: int, num_microbatches: int) -> Schedule:
    """One stage per rank: fill with p - 1 - r forwards, then one forward and one
    backward in turn, then drain.

    Bubble: (p - 1)(F + B) per rank, as GPipe's. Peak in flight: min(p - r, m) on rank
    r.
    """
    rows = [
        alternate(rank, num_ranks - 1 - rank, num_microbatches, Kind.B)
        for rank in range(num_ranks)
    ]
    return Schedule("1f1b", rows, range(num_ranks))
