"""Two event simulators in Python to compare with: a heap by hand, and SimPy.

Both are given what ours is given, a schedule laid out beforehand, and answer the same
question: how long does a step take under these costs? Ranks work in order, a message
takes a hop, channels have no limit. Neither does anything that the question does not
need.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any, NamedTuple

import workbench as wb
from workbench.schedule import Action, halves


class Task(NamedTuple):
    """One action of a rank: its price's key, its message and the message it needs."""

    key: tuple[int, str]
    sends: int  # number of its message, -1: none
    needs: int


def tasks(schedule: wb.Schedule) -> tuple[list[list[Task]], dict[int, int]]:
    """(by rank its tasks, by message the rank that takes it). One message is needed at
    most, and overlaps are none of this simulator's."""
    home = schedule.stage_to_rank
    numbers: dict[Action, int] = {}
    takers: dict[int, int] = {}
    needs: dict[Action, int] = {}
    for rank, row in enumerate(schedule.ranks):
        for item in row:
            (action,) = halves(item)
            for need in schedule.dependencies(action):
                if home[need.stage] != rank:
                    number = numbers.setdefault(need, len(numbers))
                    needs[action], takers[number] = number, rank
    rows = [
        [
            Task((a.stage, str(a.kind)), numbers.get(a, -1), needs.get(a, -1))
            for item in row
            for a in halves(item)
        ]
        for row in schedule.ranks
    ]
    return rows, takers


def prices(costs: wb.CostModel, num_stages: int) -> dict[tuple[int, str], float]:
    return {
        (stage, kind): costs.seconds(Action.parse(f"{stage}{kind}0"))
        for stage in range(num_stages)
        for kind in "FBIW"
    }


class Heap:
    """Events on a heap: a rank has finished, or a message has come."""

    def __init__(self, schedule: wb.Schedule) -> None:
        self.rows, self.takers = tasks(schedule)
        self.num_stages = schedule.num_stages

    def makespan(self, costs: wb.CostModel) -> float:
        price, hop = prices(costs, self.num_stages), costs.hop
        rows, takers = self.rows, self.takers
        at = [0] * len(rows)
        idle = [True] * len(rows)
        here = [False] * len(takers)
        # (time, rank, message that has come, or -1: the rank has finished)
        heap = [(0.0, rank, -2) for rank in range(len(rows))]
        push, pop, now = heapq.heappush, heapq.heappop, 0.0
        while heap:
            now, rank, message = pop(heap)
            row = rows[rank]
            if message >= 0:
                here[message] = True
            elif message == -1:
                done = row[at[rank]]
                at[rank] += 1
                idle[rank] = True
                if done.sends >= 0:
                    push(heap, (now + hop, takers[done.sends], done.sends))
            if idle[rank] and at[rank] < len(row):
                task = row[at[rank]]
                if task.needs < 0 or here[task.needs]:
                    idle[rank] = False
                    push(heap, (now + price[task.key], rank, -1))
        return now


class SimPy:
    """A process per rank, an event per message."""

    def __init__(self, schedule: wb.Schedule) -> None:
        import simpy

        self.simpy = simpy
        self.rows, self.takers = tasks(schedule)
        self.num_stages = schedule.num_stages

    def makespan(self, costs: wb.CostModel) -> float:
        price, hop = prices(costs, self.num_stages), costs.hop
        world = self.simpy.Environment()
        messages = [world.event() for _ in self.takers]

        def deliver(event: Any) -> Iterator[Any]:
            yield world.timeout(hop)
            event.succeed()

        def rank(row: list[Task]) -> Iterator[Any]:
            for task in row:
                if task.needs >= 0:
                    yield messages[task.needs]
                yield world.timeout(price[task.key])
                if task.sends >= 0:
                    world.process(deliver(messages[task.sends]))

        ranks = [world.process(rank(row)) for row in self.rows]
        world.run(world.all_of(ranks))
        return float(world.now)
