"""How long rows take: in Python for one look at all times, in C for many makespans."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..schedule import Schedule
from ..simulator import Evaluator
from .problem import Problem, Rows

Order = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Times:
    """When rows run, in the costs' unit: per action, and per rank its first start and
    its last end."""

    start: list[float]
    end: list[float]
    first: list[float]
    last: list[float]


class Objective:
    """What is made small, "makespan" or "span", of orders of one problem.

    An order is the rows behind one another as the C evaluator wants them; ``order`` and
    ``shifted`` make them.
    """

    def __init__(self, problem: Problem, name: str) -> None:
        self.problem, self.name = problem, name
        rows: Rows = [[] for _ in range(problem.num_ranks)]
        for action, rank in enumerate(problem.rank_of):
            rows[rank].append(action)
        # The numbers that the evaluator gives are those of this schedule's rows.
        schedule: Schedule = problem.to_schedule(rows, "numbers")
        self._evaluator = Evaluator(schedule, problem.costs)
        self._number = np.empty(problem.size, np.int32)
        self._number[[a for row in rows for a in row]] = np.arange(problem.size)
        self.row_start: list[int] = self._evaluator.row_start.tolist()
        self._capacity = problem.capacity
        self._plain = set(problem.weights) == {1}
        self._holds = np.empty(problem.size, np.int64)
        self._holds[self._number] = problem.holds

    def order(self, rows: Rows) -> Order:
        return self._number[[action for row in rows for action in row]]

    def shifted(self, order: Order, rank: int, low: int, actions: list[int]) -> Order:
        """The order with these actions of a rank's row from position ``low`` on."""
        changed = order.copy()
        begin = self.row_start[rank] + low
        changed[begin : begin + len(actions)] = self._number[actions]
        return changed

    def value(self, order: Order) -> float:
        """The objective; negative for an order that does not run or holds too much."""
        if self.name == "makespan":
            whole = self._evaluator.makespan(order)
            return whole if whole < 0 or self._fits(order) else -1.0
        whole, starts, ends = self._evaluator.times(order)
        if whole < 0 or not self._fits(order):
            return -1.0
        firsts, lasts = self._edges(order, starts, ends)
        return float((lasts - firsts).max())

    def _fits(self, order: Order) -> bool:
        """Whether the order evaluated last keeps the memory limit."""
        if self._capacity is None:
            return True
        if self._plain:
            return bool(self._evaluator.peaks.max() <= self._capacity)
        held = np.cumsum(self._holds[order])
        base = np.array([0, *held[np.array(self.row_start[1:-1]) - 1]])
        peaks = np.maximum.reduceat(held, self.row_start[:-1]) - base
        return bool(peaks.max() <= self._capacity)

    def _edges(
        self, order: Order, starts: npt.NDArray, ends: npt.NDArray
    ) -> tuple[npt.NDArray, npt.NDArray]:
        begin = np.array(self.row_start)
        return starts[order[begin[:-1]]], ends[order[begin[1:] - 1]]

    def times(self, order: Order) -> Times:
        """All times of an order that runs."""
        _, starts, ends = self._evaluator.times(order)
        firsts, lasts = self._edges(order, starts, ends)
        return Times(
            starts[self._number].tolist(),
            ends[self._number].tolist(),
            firsts.tolist(),
            lasts.tolist(),
        )
