"""BitPipe (Wu et al. 2024, arXiv:2410.19367): two V-shaped pipelines in opposite
directions over the same ranks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from . import greedy
from .actions import Action, Row
from .greedy import Problem, Rule, Uniform
from .ir import Schedule
from .placement import even, mirrored, waves


def _schedule(
    p: int, m: int, rows: Iterable[Sequence[Action]] | Sequence[Row]
) -> Schedule:
    down = waves(p, 2)
    return Schedule(
        "bitpipe",
        rows,
        (*down, *mirrored(down)),
        num_microbatches=m,
        copy_of=(*range(2 * p), *range(2 * p)),
        route=[0] * (m // 2) + [1] * (m // 2),
    )


def _together(p: int, m: int) -> Iterator[Schedule]:
    """Both pipelines list-scheduled together."""
    half = m // 2
    ways = ((range(2 * p), range(half)), (range(2 * p, 4 * p), range(half, m)))
    down = waves(p, 2)
    placed = (*down, *mirrored(down))
    for limit in (2 * p, 3 * p):
        problem = Problem(placed, p, ways, [limit] * p, Uniform(), split=False)
        for late_first in (True, False):
            for alternate in (False, True):
                rows = greedy.rows(problem, Rule(1.0, late_first, alternate))
                if rows is not None:
                    yield _schedule(p, m, rows)


def _in_units(p: int, m: int, gap: int) -> Iterator[Schedule]:
    """Units of p microbatches one behind the other, as Chimera's: each rank's actions
    in the order of the times they would have if units came 6p + ``gap`` apart."""
    if m % p:
        return
    for unit in _together(p, p):
        starts = greedy.times(unit, Uniform())
        placed: list[list[tuple[float, Action]]] = [[] for _ in range(p)]
        for action, (start, _) in starts.items():
            copy, k = divmod(action.microbatch, p // 2)
            for number in range(m // p):
                microbatch = copy * (m // 2) + number * (p // 2) + k
                placed[unit.stage_to_rank[action.stage]].append(
                    (
                        start + number * (6 * p + gap),
                        action._replace(microbatch=microbatch),
                    )
                )
        yield _schedule(p, m, [[action for _, action in sorted(row)] for row in placed])


def bitpipe(num_ranks: int, num_microbatches: int) -> Schedule:
    """Two copies of the parameters, each 2p stages in a V; the second's V begins at the
    last rank. Half of the microbatches passes either.

    The paper's order is not known exactly: of both pipelines list-scheduled together
    and of units of p microbatches in a row the best by the span is kept. What is held
    to is its property, a smaller bubble than 1F1B's. At most 3p activations of a stage
    are in flight on a rank. Raises ValueError unless p and m are even.
    """
    p = even(num_ranks, "num_ranks", "BitPipe pairs ranks from both ends")
    m = even(num_microbatches, "num_microbatches", "BitPipe sends half either way")

    def candidates() -> Iterator[Schedule]:
        yield from _together(p, m)
        if m > p:
            for gap in (0, 2):
                yield from _in_units(p, m, gap)

    return greedy.best(candidates(), Uniform())
