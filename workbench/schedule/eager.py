"""Eager-1F1B (Zhuang et al. 2022, arXiv:2211.05322): 1F1B with a deeper warm-up."""

from __future__ import annotations

from .actions import Kind
from .ir import Schedule
from .one_f_one_b import alternate


def eager_1f1b(num_ranks: int, num_microbatches: int) -> Schedule:
    """One stage per rank: 2(p - 1 - r) forwards before the first backward, so that a
    message's way is hidden behind them.

    Bubble: (p - 1)(F + B + 2 hop) per rank, for 2 hop <= F + B; 1F1B also waits in its
    steady part. Peak in flight: min(2(p - r) - 1, m) on rank r.
    """
    rows = [
        alternate(rank, 2 * (num_ranks - 1 - rank), num_microbatches, Kind.B)
        for rank in range(num_ranks)
    ]
    return Schedule("eager_1f1b", rows, range(num_ranks))
