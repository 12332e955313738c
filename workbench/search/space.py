"""One placement of the stages, and everything found in it so far."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from random import Random

from ..schedule import Schedule
from .bounds import lower_bound
from .budget import Budget
from .catalogue import Candidate, Wish
from .evaluate import Objective
from .greedy import Rules, changed, greedy, some_rules
from .improve import Annealer
from .problem import Problem, Rows

#: How many of the best rows are kept to go on from.
_POOL = 8
#: About how long a list schedule takes to build, in seconds per action.
_BUILT = 3e-5
#: Larger orders are timed only, as candidates: a trace takes a second.
_LARGE = 5000


class Space:
    """The orders of one placement. Values are in the costs' unit."""

    def __init__(
        self,
        wish: Wish,
        problem: Problem,
        name: str,
        objective: str,
        rough: bool = False,
    ) -> None:
        self.wish, self.problem, self.name = wish, problem, name
        if problem.costs.has_optimizer:
            # Ranks wait for each other at the step's end, and the first stage's rank
            # begins at once: its span is the makespan.
            objective = "makespan"
        self.goal = objective
        self.bound = lower_bound(problem, objective, rough)
        self.proven = False
        self.pool: list[tuple[float, Rows]] = []
        self.rules: list[tuple[float, Rules]] = []

    @cached_property
    def objective(self) -> Objective:
        """What is made small; laid out when the first order is timed."""
        return Objective(self.problem, self.goal)

    def raise_bound(self, value: float) -> None:
        """Takes a bound that was proven elsewhere."""
        self.bound = max(self.bound, value)

    @property
    def target(self) -> float:
        """A value that cannot be made smaller."""
        return self.bound * (1 + 1e-12)

    @property
    def best(self) -> float:
        """The best value so far, or infinity."""
        return self.pool[0][0] if self.pool else float("inf")

    @property
    def closed(self) -> bool:
        """Whether nothing better is possible here."""
        return bool(self.pool) and (self.proven or self.pool[0][0] <= self.target)

    def add(self, rows: Rows) -> float | None:
        """Takes rows into the pool if they run and fit; returns their value."""
        value = self.objective.value(self.objective.order(rows))
        if value < 0:
            return None
        if all(rows != known for _, known in self.pool):
            self.pool.append((value, rows))
            self.pool.sort(key=lambda entry: entry[0])
            del self.pool[_POOL:]
        return value

    def seed(self, schedules: Sequence[Schedule]) -> None:
        """Begins with schedules of the catalogue that have this placement."""
        for schedule in schedules:
            if schedule.stage_to_rank == self.problem.stage_to_rank:
                rows = self.problem.from_schedule(schedule)
                if rows is not None:
                    self.add(rows)

    def build(self, budget: Budget, random: Random) -> None:
        """List schedules by random rules, and by good ones with a number changed."""
        takes = _BUILT * self.problem.size
        while not self.closed and budget.left > takes and budget.more():
            if len(self.rules) > 3 and random.random() < 0.6:
                rules = changed(self.problem, random.choice(self.rules)[1], random)
            else:
                rules = some_rules(self.problem, random)
            rows = greedy(self.problem, rules)
            if rows is None:
                continue
            value = self.add(rows)
            if value is not None:
                self.rules.append((value, rules))
                self.rules.sort(key=lambda entry: entry[0])
                del self.rules[_POOL:]

    def anneal(self, budget: Budget, random: Random) -> None:
        """Local search from the best rows and from others of the pool in turn."""
        if not self.pool:
            return
        annealer = Annealer(self.objective, random)
        rounds = 6 if self.problem.size < 200 else 3
        for turn in range(rounds):
            if self.closed:
                break
            start = self.pool[0][1]
            if turn % 2:
                start = random.choice(self.pool)[1]
            part = budget.share(1 / (rounds - turn))
            heat = (0.6, 0.3, 0.1)[turn % 3]
            self.add(annealer.run(start, part, self.target, heat))
            budget.give_back(part)

    def found(self, count: int) -> list[Candidate]:
        """The best orders as candidates, simulated."""
        options = {"placement": self.name, "stages_per_rank": self.wish.parts}
        return [
            self.wish.tried(
                "searched",
                options,
                self.problem.to_schedule(rows, "searched"),
                quick=self.problem.size > _LARGE,
            )
            for _, rows in self.pool[:count]
        ]
