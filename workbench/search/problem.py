"""The problem that the search solves: actions as numbers, times as whole ticks.

An action is ``(stage * kinds + kind) * m + microbatch``, where ``kinds`` is 3 (F, I, W)
or 2 (F, B). A row is a list of these numbers, one per rank. Costs do not depend on the
microbatch, so every kind of every stage may take its microbatches in ascending order:
handing the k-th start of a kind to microbatch k breaks no dependence and no memory
limit, and changes no time. Orders that differ in nothing else are one order here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import gcd

import numpy as np

from ..schedule import Action, Kind, Schedule, halves
from ..simulator import CostModel

Rows = list[list[int]]

#: One activation of a stage is this many units of memory where weights are given.
_FINE = 2**24
_SPLIT, _FUSED = (Kind.F, Kind.I, Kind.W), (Kind.F, Kind.B)


@dataclass(frozen=True)
class Problem:
    """Stages on ranks, with costs and a memory limit.

    ``weights[s]`` is what a microbatch in flight on stage s takes, ``capacity`` what a
    rank may hold (None: any amount), both whole numbers in one unit. ``split``: whether
    a backward is I and W, or B in one piece. ``down``: round times down to ticks, as
    lower bounds must (a B may be a tick shorter than its I and W rounded on their own).
    """

    costs: CostModel
    stage_to_rank: tuple[int, ...]
    num_ranks: int
    num_microbatches: int
    split: bool
    weights: tuple[int, ...]
    capacity: int | None
    down: bool = False

    @property
    def num_stages(self) -> int:
        return len(self.stage_to_rank)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return _SPLIT if self.split else _FUSED

    @property
    def num_tokens(self) -> int:
        """Pairs of a stage and a kind."""
        return self.num_stages * len(self.kinds)

    @property
    def size(self) -> int:
        return self.num_tokens * self.num_microbatches

    # ---- times -----------------------------------------------------------------------

    @cached_property
    def _ticks(self) -> tuple[list[int], list[int], float]:
        """(per token, per token the hop of its message, the length of a tick), as
        ``simulate`` rounds them."""
        costs, m = self.costs, self.num_microbatches
        plain, lags = [], []
        for stage in range(self.num_stages):
            for kind in self.kinds:
                plain.append(costs.seconds(Action(stage, kind, 0)))
                before = self._source(stage, kind)
                far = before is not None and self._apart(before, stage)
                lags.append(costs.hop if far else 0.0)
        total = (sum(plain) + 2 * sum(lags) + self.optimizer_seconds) * m
        if not total < np.inf:
            raise ValueError("the costs add up to more than a float can hold")
        tick = 1e-9
        while total / tick > 2**60:
            tick *= 10
        return (
            [self._rounded(t / tick) for t in plain],
            [self._rounded(t / tick) for t in lags],
            tick,
        )

    def _rounded(self, ticks: float) -> int:
        return int(ticks + 1e-6) if self.down else round(ticks)

    def _source(self, stage: int, kind: Kind) -> int | None:
        """The stage whose result an action of this kind waits for, besides its own."""
        if kind is Kind.F:
            return stage - 1 if stage else None
        if kind in (Kind.I, Kind.B):
            return stage + 1 if stage + 1 < self.num_stages else None
        return None

    def _apart(self, one: int, other: int) -> bool:
        return self.stage_to_rank[one] != self.stage_to_rank[other]

    @property
    def tick(self) -> float:
        """The length of a tick in the costs' unit; times here are in ``scale`` ticks."""
        return self._ticks[2]

    @cached_property
    def scale(self) -> int:
        """Ticks that every time is a multiple of: small numbers where costs are
        simple."""
        durations, lags, _ = self._ticks
        return max(1, gcd(*durations, *lags, *self._reduce_ticks))

    @cached_property
    def _reduce_ticks(self) -> list[int]:
        seconds = self.costs.seconds
        return [
            self._rounded(seconds(Action(s, Kind.REDUCE_GRAD, -1)) / self.tick)
            for s in range(self.num_stages)
        ]

    @cached_property
    def token_duration(self) -> list[int]:
        return [d // self.scale for d in self._ticks[0]]

    @cached_property
    def token_lag(self) -> list[int]:
        return [d // self.scale for d in self._ticks[1]]

    @cached_property
    def duration(self) -> list[int]:
        """Per action. The last W of a stage has its gradient's reduction in it: nothing
        else waits for a W. (The last B's result is sent before its reduction, which is
        left out there.)"""
        m = self.num_microbatches
        found = [d for d in self.token_duration for _ in range(m)]
        if self.split:
            for stage, extra in enumerate(self._reduce_ticks):
                found[self.action(stage, 2, m - 1)] += extra // self.scale
        return found

    @cached_property
    def lag(self) -> list[int]:
        """Per action, the hop of the message that it waits for."""
        return [d for d in self.token_lag for _ in range(self.num_microbatches)]

    @property
    def optimizer_seconds(self) -> float:
        """The longest rank's optimizer steps, which begin when every rank is done."""
        sums = [0.0] * self.num_ranks
        for stage, rank in enumerate(self.stage_to_rank):
            sums[rank] += self.costs.seconds(Action(stage, Kind.OPT_STEP, -1))
        return max(sums)

    def units(self, ticks: int) -> float:
        """Scaled ticks in the costs' unit, optimizer steps included."""
        tail = self._rounded(self.optimizer_seconds / self.tick)
        return float(ticks * self.scale + tail) * self.tick

    # ---- numbers of actions ----------------------------------------------------------

    def action(self, stage: int, kind: int, microbatch: int) -> int:
        return (stage * len(self.kinds) + kind) * self.num_microbatches + microbatch

    def about(self, action: int) -> tuple[int, int, int]:
        """(stage, kind, microbatch) of an action's number."""
        token, microbatch = divmod(action, self.num_microbatches)
        stage, kind = divmod(token, len(self.kinds))
        return stage, kind, microbatch

    @cached_property
    def message_from(self) -> list[int]:
        """Per action, the one on the neighbouring stage that it waits for, or -1."""
        found = []
        for action in range(self.size):
            stage, kind, microbatch = self.about(action)
            source = self._source(stage, self.kinds[kind])
            found.append(
                -1 if source is None else self.action(source, kind, microbatch)
            )
        return found

    @cached_property
    def waits(self) -> list[tuple[int, ...]]:
        """Per action, everything it waits for: data, and the microbatch before it."""
        found = []
        for action in range(self.size):
            _, kind, microbatch = self.about(action)
            needs = (
                [self.message_from[action]] if self.message_from[action] >= 0 else []
            )
            if kind:
                needs.append(action - self.num_microbatches)
            if microbatch:
                needs.append(action - 1)
            found.append(tuple(needs))
        return found

    @cached_property
    def rank_of(self) -> list[int]:
        per_stage = len(self.kinds) * self.num_microbatches
        return [rank for rank in self.stage_to_rank for _ in range(per_stage)]

    @cached_property
    def holds(self) -> list[int]:
        """Per action, by how much it changes what its rank holds."""
        found, last = [], len(self.kinds) - 1
        for action in range(self.size):
            stage, kind, _ = self.about(action)
            sign = (kind == 0) - (kind == last)
            found.append(sign * self.weights[stage])
        return found

    def fits(self, row: Sequence[int]) -> bool:
        """Whether a row stays within the memory limit."""
        return self.capacity is None or self.peak(row) <= self.capacity

    def peak(self, row: Sequence[int]) -> int:
        held = peak = 0
        for action in row:
            held += self.holds[action]
            peak = max(peak, held)
        return peak

    # ---- to schedules and back -------------------------------------------------------

    def to_schedule(self, rows: Rows, name: str) -> Schedule:
        return Schedule(
            name,
            [[self._named(action) for action in row] for row in rows],
            self.stage_to_rank,
            self.num_stages,
            self.num_microbatches,
        )

    def _named(self, action: int) -> Action:
        stage, kind, microbatch = self.about(action)
        return Action(stage, self.kinds[kind], microbatch)

    def from_schedule(self, schedule: Schedule) -> Rows | None:
        """The rows of a schedule with this placement; None where it has what rows
        cannot say (slices, copies) or splits backwards that must stay whole."""
        if schedule.num_slices > 1 or schedule.copy_of is not None:
            return None
        counts = [0] * self.num_tokens
        rows: Rows = []
        for entries in schedule.ranks:
            row: list[int] = []
            for item in entries:
                for action in halves(item):
                    for kind in self._parts(action.kind):
                        token = action.stage * len(self.kinds) + kind
                        row.append(token * self.num_microbatches + counts[token])
                        counts[token] += 1
            rows.append(row)
        return rows if all(c == self.num_microbatches for c in counts) else None

    def _parts(self, kind: Kind) -> tuple[int, ...]:
        if kind is Kind.B and self.split:
            return (1, 2)
        return (self.kinds.index(kind),) if kind in self.kinds else ()


def scaled(costs: CostModel, parts: int) -> CostModel:
    """The costs of one of ``parts`` equal stages that a rank's share is cut into."""
    if parts == 1:
        return costs
    overlap = None if costs.overlap is None else costs.overlap / parts
    return replace(costs, times=costs.times / parts, overlap=overlap)


def memory_units(
    activations: Sequence[float], limit: float | None
) -> tuple[tuple[int, ...], int | None]:
    """Weights of stages and the capacity as whole numbers.

    Equal stages count 1 each. Otherwise a unit is 2**-24 of a rank's activations, and
    a capacity is met to within rounding.
    """
    first = activations[0]
    if all(a == first for a in activations) and first > 0:
        whole = None if limit is None else int(limit / first + 1e-9)
        return (1,) * len(activations), whole
    weights = tuple(round(a * _FINE) for a in activations)
    slack = 1 << 10
    return weights, None if limit is None else int(limit * _FINE) + slack
