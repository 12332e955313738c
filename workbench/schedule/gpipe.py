"""GPipe (Huang et al. 2019, arXiv:1811.06965): all forwards, then all backwards."""

from __future__ import annotations

from .actions import Action, Kind
from .ir import Schedule


def gpipe(num_ranks: int, num_microbatches: int) -> Schedule:
    """One stage per rank; every rank holds all microbatches between the two phases.

    Bubble: (p - 1)(F + B) per rank. Peak in flight: m on every rank.
    """
    rows = [
        [
            Action(rank, kind, k)
            for kind in (Kind.F, Kind.B)
            for k in range(num_microbatches)
        ]
        for rank in range(num_ranks)
    ]
    return Schedule("gpipe", tuple(map(tuple, rows)), tuple(range(num_ranks)))
