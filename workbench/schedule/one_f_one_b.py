"""1F1B (PipeDream-flush, Narayanan et al. 2021, arXiv:2006.09503; DAPPLE's early
backward)."""

from __future__ import annotations

from .actions import Action, Kind
from .ir import Schedule


def one_f_one_b(num_ranks: int, num_microbatches: int) -> Schedule:
    """One stage per rank: fill with p - 1 - r forwards, then one forward and one
    backward in turn, then drain.

    Bubble: (p - 1)(F + B) per rank, as GPipe's. Peak in flight: min(p - r, m) on rank
    r.
    """
    rows = []
    for rank in range(num_ranks):
        warmup = min(num_ranks - 1 - rank, num_microbatches)
        row = [Action(rank, Kind.F, k) for k in range(warmup)]
        for k in range(num_microbatches - warmup):
            row.append(Action(rank, Kind.F, warmup + k))
            row.append(Action(rank, Kind.B, k))
        first = num_microbatches - warmup
        row += [Action(rank, Kind.B, k) for k in range(first, num_microbatches)]
        rows.append(tuple(row))
    return Schedule("1f1b", tuple(rows), tuple(range(num_ranks)))
