"""List scheduling: rows built in time's order by rules of priority, under the limit.

A rule set is a handful of numbers; trying many of them gives schedules that look like
1F1B, ZB-H1, ZB-V or none with a name, whatever the costs are. The choice between what
could start soon is Giffler and Thompson's (1960), with a share of their window.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from .problem import Problem, Rows

_ORDERS = ((1, 0, 2), (0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 2, 1), (2, 1, 0))
_WINDOWS = (0.0, 0.0, 0.3, 0.6, 1.0)


@dataclass(frozen=True)
class Rules:
    """``order[kind]`` is the priority of F, I, W, smallest first; ``window`` how long a
    rank may wait for a better action, in its durations; ``deep`` prefers late stages
    (positive) or early ones among forwards; ``depth[r]`` caps forwards ahead of input
    gradients; ``pending[r]`` is how many W may wait before they come first; ``noise``
    blurs priorities."""

    order: tuple[int, int, int]
    window: float
    deep: float
    depth: tuple[int, ...]
    pending: tuple[int, ...]
    noise: float
    seed: int


def some_rules(problem: Problem, random: Random) -> Rules:
    """A random rule set that has a chance: depths fall with the rank or not at all."""
    p, m = problem.num_ranks, problem.num_microbatches
    v = max(1, problem.num_stages // p)
    slope = random.choice((0.0, 1.0, 1.0, 2.0))
    base = random.choice((1, 1, 2, v, v + 1, 2 * v, m * v))
    depth = tuple(max(v, round(base + slope * (p - 1 - r) * v)) for r in range(p))
    rise, least = random.choice((0, 1, 2)), random.choice((0, 1, 2, m * v, m * v))
    return Rules(
        order=random.choice(_ORDERS[:2] if random.random() < 0.8 else _ORDERS),
        window=random.choice(_WINDOWS),
        deep=random.choice((-1.0, 0.0, 1.0)),
        depth=depth,
        pending=tuple(least + rise * r for r in range(p)),
        noise=random.choice((0.0, 0.0, 0.2, 1.0)),
        seed=random.randrange(2**30),
    )


def changed(problem: Problem, rules: Rules, random: Random) -> Rules:
    """The rules with one number changed."""
    what = random.randrange(6)
    rank = random.randrange(problem.num_ranks)
    step = random.choice((-1, 1))
    if what == 0:
        depth = list(rules.depth)
        depth[rank] = max(1, depth[rank] + step)
        return replace(rules, depth=tuple(depth))
    if what == 1:
        pending = list(rules.pending)
        pending[rank] = max(0, pending[rank] + step)
        return replace(rules, pending=tuple(pending))
    if what == 2:
        return replace(rules, window=random.choice(_WINDOWS))
    if what == 3:
        return replace(rules, order=random.choice(_ORDERS))
    if what == 4:
        return replace(rules, deep=rules.deep + random.uniform(-1, 1))
    noise = random.choice((0.0, 0.2, 1.0))
    return replace(rules, noise=noise, seed=random.randrange(2**30))


class _Builder:
    """Rows while they grow. A rank's candidates are the next action of each of its
    tokens whose inputs are known; they are looked up again when one of these changes."""

    def __init__(self, problem: Problem, rules: Rules) -> None:
        p = problem.num_ranks
        self.problem, self.rules = problem, rules
        self.random = Random(rules.seed)
        self.kinds, self.m = len(problem.kinds), problem.num_microbatches
        self.count = [0] * problem.num_tokens
        self.end = [-1] * problem.size
        self.clock, self.held, self.ahead, self.waiting = ([0] * p for _ in range(4))
        self.rows: Rows = [[] for _ in range(p)]
        self.stages = [
            [s for s, home in enumerate(problem.stage_to_rank) if home == r]
            for r in range(p)
        ]
        self.reserve = self._reserves()
        self.options: list[list[tuple[int, int]]] = [[] for _ in range(p)]

    def _reserves(self) -> list[int]:
        """Memory that an F leaves free, so that a microbatch further on can pass the
        later stages of this rank; without it rows could lock each other out."""
        found = [0] * self.problem.num_stages
        for stages in self.stages:
            later = 0
            for stage in reversed(stages):
                found[stage] = later
                later += self.problem.weights[stage]
        return found

    def look(self, rank: int) -> None:
        """(earliest start, action) of everything that the rank could do next."""
        problem, end, clock = self.problem, self.end, self.clock[rank]
        found = []
        for stage in self.stages[rank]:
            for kind in range(self.kinds):
                token = stage * self.kinds + kind
                number = self.count[token]
                if number == self.m:
                    continue
                action = token * self.m + number
                if kind and end[action - self.m] < 0:
                    continue
                if not kind and not self._room(rank, stage):
                    continue
                start, need = clock, problem.message_from[action]
                if need >= 0:
                    if end[need] < 0:
                        continue
                    start = max(start, end[need] + problem.lag[action])
                found.append((start, action))
        self.options[rank] = found

    def _room(self, rank: int, stage: int) -> bool:
        capacity, weight = self.problem.capacity, self.problem.weights[stage]
        # A rank with several stages must let what is under way through.
        deep = self.ahead[rank] >= self.rules.depth[rank]
        if deep and stage == self.stages[rank][0]:
            return False
        if capacity is None:
            return True
        return self.held[rank] + weight + self.reserve[stage] <= capacity

    def _score(self, rank: int, action: int) -> float:
        stage, kind, _ = self.problem.about(action)
        rules = self.rules
        score = float(rules.order[kind])
        if kind == 2 and self.waiting[rank] > rules.pending[rank]:
            score = -1.0
        if kind == 0:
            score -= 0.3 * rules.deep * self.stages[rank].index(stage)
        elif kind == 1:
            # The gradient that is furthest from the first stage has most before it.
            score -= 0.01 * stage
        if rules.noise:
            score += rules.noise * self.random.random()
        return score

    def choose(self) -> tuple[int, int, int] | None:
        """(rank, start, action) to be done next; None when nothing can."""
        rank = start = -1
        for r, options in enumerate(self.options):
            if options:
                soonest = min(options)[0]
                if rank < 0 or soonest < start:
                    rank, start = r, soonest
        if rank < 0:
            return None
        options, duration = self.options[rank], self.problem.duration
        shortest = min(s + duration[a] for s, a in options) - start
        limit = start + self.rules.window * shortest
        near = [(s, a) for s, a in options if s <= limit]
        if len(near) > 1:
            near.sort(key=lambda option: (self._score(rank, option[1]), option))
        return rank, *near[0]

    def do(self, rank: int, start: int, action: int) -> None:
        problem = self.problem
        stage, kind, microbatch = problem.about(action)
        self.count[stage * self.kinds + kind] += 1
        self.end[action] = self.clock[rank] = start + problem.duration[action]
        self.rows[rank].append(action)
        self.held[rank] += problem.holds[action]
        self.ahead[rank] += (kind == 0) - (kind == 1)
        self.waiting[rank] += (kind == 1) - (kind == 2)
        self.look(rank)
        for neighbour in (stage - 1, stage + 1):
            if 0 <= neighbour < problem.num_stages:
                home = problem.stage_to_rank[neighbour]
                if home != rank:
                    self.look(home)


def greedy(problem: Problem, rules: Rules) -> Rows | None:
    """Rows by these rules; None where they leave microbatches stuck."""
    builder = _Builder(problem, rules)
    for rank in range(problem.num_ranks):
        builder.look(rank)
    for _ in range(problem.size):
        choice = builder.choose()
        if choice is None:
            return None
        builder.do(*choice)
    return builder.rows
