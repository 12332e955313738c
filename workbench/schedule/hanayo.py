"""Hanayo (Liu et al. 2023, arXiv:2308.15762): waves, without a second copy of the
parameters."""

from __future__ import annotations

from collections.abc import Iterator

from . import greedy
from .greedy import Problem, Rule, Uniform
from .ir import Schedule
from .placement import at_least, waves


def hanayo(num_ranks: int, num_microbatches: int, num_waves: int = 1) -> Schedule:
    """2 w stages per rank for ``num_waves`` w: down the ranks and up again, w times.

    A rank has the activations of at most p microbatches in all its stages, as in the
    paper's figures (m = p). Its exact order is not known here: backwards first, then
    forwards of later stages, as soon as they can run. The bubble falls about as 1/w.
    """
    w = at_least(num_waves, "num_waves", 1, "a wave goes down and up once")
    p, m, v = num_ranks, num_microbatches, 2 * w
    placed = waves(p, v)
    costs = Uniform()
    limit = [v * min(p, m)] * p
    ways = ((range(v * p), range(m)),)
    problem = Problem(placed, p, ways, limit, costs, split=False)

    def candidates() -> Iterator[Schedule]:
        for late_first in (True, False):
            for alternate in (False, True):
                rows = greedy.rows(problem, Rule(1.0, late_first, alternate))
                if rows is not None:
                    yield Schedule("hanayo", rows, placed)

    return greedy.best(candidates(), costs)
