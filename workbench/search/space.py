"""One placement of the stages, and everything found in it so far."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from ..schedule import Schedule
from .bounds import Bound
from .budget import Budget
from .catalogue import Candidate, Wish
from .evaluate import Objective
from .greedy import Rules, changed, greedy, some_rules
from .improve import Annealer
from .problem import Problem, Rows

#: How many of the best rows are kept to go on from.
_POOL = 8


class Space:
    """The orders of one placement. Values are in the costs' unit."""

    def __init__(self, wish: Wish, problem: Problem, name: str, objective: str) -> None:
        self.wish, self.problem, self.name = wish, problem, name
        if problem.costs.has_optimizer:
            # Ranks wait for each other at the step's end, and the first stage's rank
            # begins at once: its span is the makespan.
            objective = "makespan"
        self.objective = Objective(problem, objective)
        bound = Bound(problem)
        ticks = bound.makespan() if objective == "makespan" else bound.span()
        self.bound = bound.problem.units(ticks)
        self.target = self._ticks_of(self.bound)
        self.proven = False
        self.pool: list[tuple[int, Rows]] = []
        self.rules: list[tuple[int, Rules]] = []

    def _ticks_of(self, value: float) -> int:
        """The fewest ticks that are not below a value."""
        low = max(0, int((value - self.problem.units(0)) / self.problem.units(1)) - 2)
        while self.problem.units(low) < value * (1 - 1e-12):
            low += 1
        return low

    def raise_bound(self, value: float) -> None:
        """Takes a bound that was proven elsewhere."""
        if value > self.bound:
            self.bound = value
            self.target = self._ticks_of(value)

    @property
    def best(self) -> float:
        """The best value so far, or infinity."""
        return self.problem.units(self.pool[0][0]) if self.pool else float("inf")

    @property
    def closed(self) -> bool:
        """Whether nothing better is possible here."""
        return bool(self.pool) and (self.proven or self.pool[0][0] <= self.target)

    def add(self, rows: Rows) -> int | None:
        """Takes rows into the pool if they run and fit; returns their ticks."""
        times = self.objective.times(rows)
        if times is None or not all(self.problem.fits(row) for row in rows):
            return None
        ticks = self.objective.of(times)
        if all(rows != known for _, known in self.pool):
            self.pool.append((ticks, rows))
            self.pool.sort(key=lambda entry: entry[0])
            # Not only the best one's neighbours: one of each value, then the rest.
            del self.pool[_POOL:]
        return ticks

    def seed(self, schedules: Sequence[Schedule]) -> None:
        """Begins with schedules of the catalogue that have this placement."""
        for schedule in schedules:
            if schedule.stage_to_rank == self.problem.stage_to_rank:
                rows = self.problem.from_schedule(schedule)
                if rows is not None:
                    self.add(rows)

    def build(self, budget: Budget, random: Random) -> None:
        """List schedules by random rules, and by good ones with a number changed."""
        while not self.closed and budget.more():
            if len(self.rules) > 3 and random.random() < 0.6:
                rules = changed(self.problem, random.choice(self.rules)[1], random)
            else:
                rules = some_rules(self.problem, random)
            rows = greedy(self.problem, rules)
            if rows is None:
                continue
            ticks = self.add(rows)
            if ticks is not None:
                self.rules.append((ticks, rules))
                self.rules.sort(key=lambda entry: entry[0])
                del self.rules[_POOL:]

    def anneal(self, budget: Budget, random: Random) -> None:
        """Local search from the best rows and from others of the pool in turn."""
        if not self.pool:
            return
        annealer = Annealer(self.objective, random)
        turn = 0
        rounds = 6
        while not self.closed and turn < rounds:
            start = self.pool[0][1]
            if turn % 2:
                start = random.choice(self.pool)[1]
            part = budget.share(1 / (rounds - turn))
            heat = (0.3, 1.0, 0.1)[turn % 3]
            self.add(annealer.run(start, part, self.target, heat))
            budget.give_back(part)
            turn += 1

    def found(self) -> Candidate | None:
        """The best rows as a candidate, simulated."""
        if not self.pool:
            return None
        return self.candidate(self.pool[0][1])

    def candidate(self, rows: Rows) -> Candidate:
        options = {"placement": self.name, "stages_per_rank": self.wish.parts}
        schedule = self.problem.to_schedule(rows, "searched")
        return self.wish.tried("searched", options, schedule)
