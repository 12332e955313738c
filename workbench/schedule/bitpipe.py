"""BitPipe (Wu et al. 2024, arXiv:2410.19367): two V-shaped pipelines in opposite
directions over the same ranks."""

from __future__ import annotations

from collections.abc import Iterator

from . import greedy
from .greedy import Problem, Rule, Uniform
from .ir import Schedule
from .placement import even, mirrored, waves


def bitpipe(num_ranks: int, num_microbatches: int) -> Schedule:
    """Two copies of the parameters, each 2p stages in a V; the second's V begins at the
    last rank. Half of the microbatches passes either.

    The paper's order is not known exactly: both pipelines are list-scheduled together,
    at most p microbatches' activations on a rank. What is held to is its property: a
    smaller bubble than 1F1B's and than Chimera's for B = 2F. Raises ValueError unless p
    and m are even.
    """
    p = even(num_ranks, "num_ranks", "BitPipe pairs ranks from both ends")
    m = even(num_microbatches, "num_microbatches", "BitPipe sends half either way")
    down = waves(p, 2)
    placed = (*down, *mirrored(down))
    length, half = 2 * p, m // 2
    ways = (
        (range(length), range(half)),
        (range(length, 2 * length), range(half, m)),
    )
    costs = Uniform()
    problem = Problem(placed, p, ways, [2 * min(p, m)] * p, costs, split=False)

    def candidates() -> Iterator[Schedule]:
        for late_first in (True, False):
            for alternate in (False, True):
                rows = greedy.rows(problem, Rule(1.0, late_first, alternate))
                if rows is not None:
                    yield Schedule(
                        "bitpipe",
                        rows,
                        placed,
                        num_microbatches=m,
                        copy_of=(*range(length), *range(length)),
                        route=[0] * half + [1] * half,
                    )

    return greedy.best(candidates(), costs)
