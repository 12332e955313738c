"""How long rows take: a max-plus evaluation over action numbers.

Gives the same times as ``simulate`` does on the same order; the tests compare the two.
"""

from __future__ import annotations

from dataclasses import dataclass

from .problem import Problem, Rows


@dataclass(frozen=True)
class Times:
    """When rows end: ``end`` per action; per rank, its first start and its last end."""

    end: list[int]
    first: list[int]
    last: list[int]

    @property
    def makespan(self) -> int:
        return max(self.last)

    @property
    def span(self) -> int:
        return max(e - s for s, e in zip(self.first, self.last, strict=True))


def evaluate(problem: Problem, rows: Rows) -> Times | None:
    """Every action as early as its row and its messages allow; None on a deadlock.

    An action whose own stage's F or I does not stand before it in its row counts as
    one that waits forever.
    """
    duration, lag, source = problem.duration, problem.lag, problem.message_from
    kinds, m = len(problem.kinds), problem.num_microbatches
    per_stage = kinds * m
    end = [-1] * problem.size
    clock = [0] * len(rows)
    position = [0] * len(rows)
    sleeping: dict[int, int] = {}
    awake = list(range(len(rows)))
    left = problem.size
    while awake:
        rank = awake.pop()
        row, now, at = rows[rank], clock[rank], position[rank]
        count = len(row)
        while at < count:
            action = row[at]
            need = source[action]
            if need >= 0:
                ready = end[need]
                if ready < 0:
                    sleeping[need] = rank
                    break
                ready += lag[action]
                if ready > now:
                    now = ready
            if action % per_stage >= m and end[action - m] < 0:
                return None
            now += duration[action]
            end[action] = now
            if action in sleeping:
                awake.append(sleeping.pop(action))
            at += 1
            left -= 1
        clock[rank], position[rank] = now, at
    if left:
        return None
    first = [end[row[0]] - duration[row[0]] if row else 0 for row in rows]
    return Times(end, first, clock)


class Objective:
    """What is made small: the makespan or the span, in scaled ticks."""

    def __init__(self, problem: Problem, name: str) -> None:
        self.problem = problem
        self.name = name
        self.calls = 0

    def times(self, rows: Rows) -> Times | None:
        self.calls += 1
        return evaluate(self.problem, rows)

    def of(self, times: Times) -> int:
        return times.makespan if self.name == "makespan" else times.span
