"""List scheduling: rows worked out from costs, placement and a memory limit.

Every rank takes, as soon as it is free, the best of what it may run, and never holds
more than its limit; what is "best" is a ``Rule``. Families whose order is found by a
computation (automatic zero bubble, V-shaped and wave schedules) try several rules and
keep the best row of rows.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Protocol

from .actions import Action, Kind, Overlap, Row, halves
from .ir import Schedule


class Costs(Protocol):
    """What is asked of a cost model: ``simulator.CostModel`` is one."""

    @property
    def hop(self) -> float: ...

    def seconds(self, action: Action) -> float: ...


@dataclass(frozen=True)
class Uniform:
    """Costs per stage that are the same for all."""

    F: float = 1.0
    I: float = 1.0
    W: float = 1.0
    hop: float = 0.0

    def seconds(self, action: Action) -> float:
        if action.kind is Kind.B:
            return self.I + self.W
        return {Kind.F: self.F, Kind.I: self.I, Kind.W: self.W}.get(action.kind, self.F)


@dataclass(frozen=True)
class Rule:
    """How a rank chooses.

    fill: a weight gradient goes into a gap that is at least this fraction of it.

    late_first: forwards of the rank's later stages before those of its earlier ones.

    alternate: a forward after every backward, where one may run, instead of backwards
    first.

    warmup: per rank, the forwards that its first stage runs before anything else is
    asked; None for as many as fit.

    order: per rank, the order of everything but the weight gradients, which then are
    all that is left to choose.

    due: per rank and microbatch, how late the backward of the rank's only stage may
    begin. A weight gradient may then also make it wait, but not beyond that.
    """

    fill: float = 1.0
    late_first: bool = True
    alternate: bool = False
    warmup: tuple[int, ...] | None = None
    order: Sequence[Sequence[Action]] | None = None
    due: Sequence[Sequence[float]] | None = None


@dataclass(frozen=True)
class Problem:
    """What is to be ordered. ``chains`` are the ways through the stages, one per copy
    of the parameters, each with its microbatches; ``limit`` is the most activations of
    a stage that a rank may hold, and ``kept`` the share of one that I leaves to W."""

    stage_to_rank: tuple[int, ...]
    num_ranks: int
    chains: tuple[tuple[range, range], ...]
    limit: Sequence[float]
    costs: Costs
    split: bool = True
    kept: float = 1.0


class _Stage:
    """One stage while rows are being laid: who comes next, and when."""

    def __init__(
        self, stage: int, chain: range, microbatches: range, depth: int, costs: Costs
    ) -> None:
        self.stage = stage
        self.before = stage - 1 if stage != chain[0] else -1
        self.after = stage + 1 if stage != chain[-1] else -1
        self.microbatches = microbatches
        #: Stages of the same rank that a microbatch still passes, this one included:
        #: so many places must be left for it to come through.
        self.needs = depth
        self.times = {
            k: costs.seconds(Action(stage, k, 0)) for k in Kind if k in "FIWB"
        }
        self.forwards = self.backwards = 0
        self.inputs: list[float] = [] if self.before >= 0 else [0.0] * len(microbatches)
        self.gradients: list[float] = []


class _Lists:
    """One run of the list scheduler."""

    def __init__(self, problem: Problem, rule: Rule) -> None:
        self.problem, self.rule = problem, rule
        count = problem.num_ranks
        self.home = problem.stage_to_rank
        self.clock = [0.0] * count
        self.held = [0.0] * count
        self.rows: list[list[Action]] = [[] for _ in range(count)]
        self.pending: list[list[Action]] = [[] for _ in range(count)]
        self.pending_head = [0] * count
        self.local: list[list[_Stage]] = [[] for _ in range(count)]
        self.stages: dict[int, _Stage] = {}
        for chain, microbatches in problem.chains:
            left = [0] * count
            for stage in reversed(chain):
                rank = self.home[stage]
                left[rank] += 1
                made = _Stage(stage, chain, microbatches, left[rank], problem.costs)
                self.stages[stage] = made
                self.local[rank].append(made)
        for stages in self.local:
            stages.sort(key=lambda s: s.needs)
        self.todo = sum(len(s.microbatches) for s in self.stages.values())
        self.full = Kind.I if problem.split else Kind.B

    def run(self) -> tuple[Row, ...] | None:
        """The rows, or None where the limit lets nothing go on."""
        awake = [(0.0, rank) for rank in range(self.problem.num_ranks)]
        asleep: set[int] = set()
        left = 2 * self.todo
        while awake:
            _, rank = heapq.heappop(awake)
            action, wake = self._choose(rank)
            if action is None:
                if wake < inf:
                    self.clock[rank] = wake
                    heapq.heappush(awake, (wake, rank))
                else:
                    asleep.add(rank)
                continue
            left -= action.kind is not Kind.W
            target = self._perform(rank, action)
            heapq.heappush(awake, (self.clock[rank], rank))
            if target in asleep:
                asleep.discard(target)
                # Woken now: it looks at what has arrived, or is to arrive.
                heapq.heappush(awake, (self.clock[target], target))
        if left:
            return None
        return tuple(tuple(row) for row in self.rows)

    # ---- what a rank does next -------------------------------------------------------

    def _next_backward(self, stage: _Stage) -> float:
        """When the next gradient of a stage is there, as far as is known."""
        number = stage.backwards
        if number >= len(stage.gradients):
            return inf
        return stage.gradients[number]

    def _next_forward(self, rank: int, stage: _Stage) -> float:
        number = stage.forwards
        if number >= len(stage.inputs):
            return inf
        if self.held[rank] + stage.needs > self.problem.limit[rank] + 1e-9:
            return inf
        return stage.inputs[number]

    def _choose(self, rank: int) -> tuple[Action | None, float]:
        """(action, _), or (None, when to look again)."""
        now = self.clock[rank]
        if self.rule.order is not None:
            return self._choose_in_order(rank, self.rule.order[rank])
        soonest = inf
        ready: list[tuple[tuple[float, ...], Action]] = []
        after_backward = bool(self.rows[rank]) and self.rows[rank][-1].kind is self.full
        forward_first = self.rule.alternate and after_backward
        warm = self._warming(rank)
        for position, stage in enumerate(self.local[rank]):
            arrival = inf if warm else self._next_backward(stage)
            soonest = min(soonest, arrival)
            if arrival <= now + 1e-12:
                microbatch = stage.microbatches[stage.backwards]
                key = (1.0 if forward_first else 0.0, arrival, float(position))
                ready.append((key, Action(stage.stage, self.full, microbatch)))
            arrival = self._next_forward(rank, stage)
            soonest = min(soonest, arrival)
            if arrival <= now + 1e-12:
                microbatch = stage.microbatches[stage.forwards]
                place = float(position if self.rule.late_first else -position)
                key = (0.5, place, arrival)
                ready.append((key, Action(stage.stage, Kind.F, microbatch)))
        if ready:
            return min(ready)[1], now
        return self._fill(rank, soonest)

    def _choose_in_order(
        self, rank: int, order: Sequence[Action]
    ) -> tuple[Action | None, float]:
        number = len(self.rows[rank]) - self.pending_head[rank]
        if number == len(order):
            return self._fill(rank, inf)
        action = order[number]
        stage = self.stages[action.stage]
        arrival = self._next_backward(stage)
        if action.kind is Kind.F:
            arrival = inf
            if self.held[rank] + 1 <= self.problem.limit[rank] + 1e-9:
                arrival = (*stage.inputs, inf)[stage.forwards]
        if arrival <= self.clock[rank] + 1e-12:
            return action, arrival
        return self._fill(rank, arrival)

    def _fill(self, rank: int, until: float) -> tuple[Action | None, float]:
        """A weight gradient for the wait until then, if there is one that fits."""
        now, weight = self.clock[rank], self._weight(rank)
        if weight is not None:
            lasts = self.stages[weight.stage].times[Kind.W]
            gap = until - now
            if until == inf or gap >= self.rule.fill * lasts - 1e-12:
                return weight, now
            if self.rule.due is not None and now + lasts <= self._due(rank):
                return weight, now
        return None, until

    def _due(self, rank: int) -> float:
        """How long the rank may leave its next backward alone; no time while there are
        forwards to come."""
        stage = self.local[rank][0]
        if self.rule.due is None or stage.forwards < len(stage.microbatches):
            return -inf
        return self.rule.due[rank][stage.microbatches[stage.backwards]]

    def _warming(self, rank: int) -> bool:
        """Whether the rank is still to run forwards only. The rule gives way where
        memory, or the end of the microbatches, does not let it go on."""
        if self.rule.warmup is None:
            return False
        first = self.local[rank][-1]
        wanted = min(self.rule.warmup[rank], len(first.microbatches))
        return (
            first.forwards < wanted
            and self.held[rank] + first.needs <= self.problem.limit[rank] + 1e-9
        )

    def _weight(self, rank: int) -> Action | None:
        head = self.pending_head[rank]
        return self.pending[rank][head] if head < len(self.pending[rank]) else None

    def _perform(self, rank: int, action: Action) -> int:
        """Runs an action; returns the rank that gets its result, or -1."""
        stage = self.stages[action.stage]
        self.rows[rank].append(action)
        self.clock[rank] += stage.times[action.kind]
        if action.kind is Kind.W:
            self.pending_head[rank] += 1
            self.held[rank] -= self.problem.kept
            return -1
        if action.kind is Kind.F:
            self.held[rank] += 1
            stage.forwards += 1
            if stage.after < 0:
                stage.gradients.append(self.clock[rank])
                return -1
            return self._deliver(rank, self.stages[stage.after].inputs, stage.after)
        stage.backwards += 1
        if action.kind is Kind.I:
            self.pending[rank].append(action._replace(kind=Kind.W))
            self.held[rank] -= 1 - self.problem.kept
        else:
            self.held[rank] -= 1
        if stage.before < 0:
            return -1
        return self._deliver(rank, self.stages[stage.before].gradients, stage.before)

    def _deliver(self, rank: int, to: list[float], stage: int) -> int:
        target = self.home[stage]
        hop = 0.0 if target == rank else self.problem.costs.hop
        to.append(self.clock[rank] + hop)
        return target


def rows(problem: Problem, rule: Rule) -> tuple[Row, ...] | None:
    """The rows that a rule gives, or None where it cannot go on within the limit."""
    return _Lists(problem, rule).run()


def without_weights(rows: Iterable[Iterable[Action | Overlap]]) -> list[list[Action]]:
    """What ``Rule.order`` takes: rows, less their weight gradients."""
    return [
        [a for item in row for a in halves(item) if a.kind is not Kind.W]
        for row in rows
    ]


def times(schedule: Schedule, costs: Costs) -> dict[Action, tuple[float, float]]:
    """(start, end) of every action when ranks run their rows in order, as soon as they
    can, with channels without limit, for rows that keep what is asked within a rank.
    What a deadlock holds up is missing."""
    found: dict[Action, tuple[float, float]] = {}
    price: dict[tuple[int, Kind], float] = {}
    #: Of what has run, by what needs it: when it ended, and on which rank.
    made: dict[tuple[int, bool, int, int], tuple[float, int]] = {}
    waiting: dict[tuple[int, bool, int, int], int] = {}
    position, clock = [0] * schedule.num_ranks, [0.0] * schedule.num_ranks
    length, hop, forward = schedule.chain_length, costs.hop, Kind.F
    awake = list(range(schedule.num_ranks))
    while awake:
        rank = awake.pop()
        row, now = schedule.ranks[rank], clock[rank]
        while position[rank] < len(row):
            actions = halves(row[position[rank]])
            start, missing = now, None
            for stage, kind, microbatch, part in actions:
                # One message each way is all that comes from other ranks.
                if kind is forward:
                    key = stage, True, microbatch, part
                    if not stage % length:
                        continue
                elif kind is Kind.I or kind is Kind.B:
                    key = stage, False, microbatch, part
                    if not (stage + 1) % length:
                        continue
                else:
                    continue
                if key not in made:
                    missing = key
                    break
                end, source = made[key]
                start = max(start, end if source == rank else end + hop)
            if missing is not None:
                waiting[missing] = rank
                break
            now = start
            for action in actions:
                about = action.stage, action.kind
                if about not in price:
                    price[about] = costs.seconds(action) / schedule.num_slices
                now += price[about]
            position[rank] += 1
            for action in actions:
                found[action] = start, now
                stage, kind, microbatch, part = action
                if kind is forward:
                    key = stage + 1, True, microbatch, part
                elif kind is Kind.I or kind is Kind.B:
                    key = stage - 1, False, microbatch, part
                else:
                    continue
                made[key] = now, rank
                if key in waiting:
                    awake.append(waiting.pop(key))
        clock[rank] = now
    return found


def measure(schedule: Schedule, costs: Costs) -> tuple[float, float]:
    """(span, makespan) of a schedule that keeps the rules."""
    found = times(schedule, costs)
    firsts, lasts = [], []
    for row in schedule.ranks:
        if row:
            firsts.append(found[halves(row[0])[0]][0])
            lasts.append(found[halves(row[-1])[-1]][1])
    span = max(end - start for start, end in zip(firsts, lasts, strict=True))
    return span, max(lasts) - min(firsts)


def best(schedules: Iterable[Schedule], costs: Costs) -> Schedule:
    """The schedule of the shortest span, of equals the shortest makespan; of equals
    again the first."""
    return min(schedules, key=lambda schedule: measure(schedule, costs))
