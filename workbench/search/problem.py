"""The problem that the search solves: actions as numbers, times as whole ticks.

An action is ``(stage * kinds + kind) * m + microbatch``, where ``kinds`` is 3 (F, I, W)
or 2 (F, B). A row is a list of these numbers, one per rank. Where costs do not depend on
the microbatch, every kind of every stage may take its microbatches in ascending order:
handing the k-th start of a kind to microbatch k breaks no dependence and no memory
limit, and changes no time. Orders that differ in nothing else are one order here. (Where
costs do depend on it, this is a choice.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ..schedule import KIND_CODE, Action, Kind, Schedule, halves
from ..simulator import CostModel
from ..simulator.ticks import tick_for

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

    def _source(self, stage: int, kind: Kind) -> int | None:
        """The stage whose result an action of this kind waits for, besides its own."""
        if kind is Kind.F:
            return stage - 1 if stage else None
        if kind in (Kind.I, Kind.B):
            return stage + 1 if stage + 1 < self.num_stages else None
        return None

    @cached_property
    def _seconds(self) -> tuple[list[float], list[float], list[float]]:
        """In the costs' unit: per action its duration and the hop of the message that
        it waits for; per stage its gradient's reduction."""
        costs, m = self.costs, self.num_microbatches
        stage, kind, microbatch = (np.array(c) for c in zip(*self._fields, strict=True))
        home = np.array(self.stage_to_rank)
        factor = costs.factors(self.num_ranks)[home]
        codes = np.array([KIND_CODE[k] for k in self.kinds])[kind]
        plain = costs.durations(stage, codes, microbatch, 0 * stage) * factor[stage]
        source = np.array(self.message_from) // (m * len(self.kinds))
        lags = np.zeros(self.size)
        far = (source >= 0) & (home[source] != home[stage])
        if far.any():
            sender, receiver = home[source[far]], home[stage[far]]
            lags[far] = costs.flights(sender, receiver, source[far], kind[far] == 0)
        stages = np.arange(self.num_stages)
        reduce = np.full(self.num_stages, KIND_CODE[Kind.REDUCE_GRAD])
        reduced = costs.durations(stages, reduce, 0 * stages - 1, 0 * stages) * factor
        return plain.tolist(), lags.tolist(), reduced.tolist()

    @cached_property
    def tick(self) -> float:
        """The length of a tick in the costs' unit: ``simulate``'s."""
        plain, lags, reduced = self._seconds
        return tick_for(sum(plain) + sum(lags) + sum(reduced) + self.optimizer_seconds)

    def _ticks(self, seconds: float) -> int:
        ticks = seconds / self.tick
        return int(ticks + 1e-6) if self.down else round(ticks)

    @cached_property
    def duration(self) -> list[int]:
        """Per action, in ticks. The last W of a stage has its gradient's reduction in
        it: nothing else waits for a W. (The last B's result is sent before its
        reduction, which is left out there.)"""
        found = [*self.plain_ticks]
        if self.split:
            for stage, extra in enumerate(self._seconds[2]):
                last = self.action(stage, 2, self.num_microbatches - 1)
                found[last] += self._ticks(extra)
        return found

    @cached_property
    def plain_ticks(self) -> list[int]:
        """Per action, in ticks, without any reduction."""
        return [self._ticks(d) for d in self._seconds[0]]

    @cached_property
    def lag(self) -> list[int]:
        """Per action, the hop of the message that it waits for, in ticks."""
        return [self._ticks(d) for d in self._seconds[1]]

    @property
    def optimizer_seconds(self) -> float:
        """The longest rank's optimizer steps, which begin when every rank is done."""
        sums = [0.0] * self.num_ranks
        factor = self.costs.factors(self.num_ranks)
        for stage, rank in enumerate(self.stage_to_rank):
            step = self.costs.seconds(Action(stage, Kind.OPT_STEP, -1))
            sums[rank] += step * factor[rank]
        return max(sums)

    @cached_property
    def by_microbatch(self) -> bool:
        """Whether one kind of one stage costs more for some microbatches."""
        m, plain = self.num_microbatches, self._seconds[0]
        tokens = (plain[i : i + m] for i in range(0, self.size, m))
        return any(max(token) > min(token) for token in tokens)

    def units(self, ticks: int) -> float:
        """Ticks in the costs' unit, optimizer steps included."""
        return float(ticks + self._ticks(self.optimizer_seconds)) * self.tick

    # ---- numbers of actions ----------------------------------------------------------

    def action(self, stage: int, kind: int, microbatch: int) -> int:
        return (stage * len(self.kinds) + kind) * self.num_microbatches + microbatch

    def about(self, action: int) -> tuple[int, int, int]:
        """(stage, kind, microbatch) of an action's number."""
        token, microbatch = divmod(action, self.num_microbatches)
        stage, kind = divmod(token, len(self.kinds))
        return stage, kind, microbatch

    @cached_property
    def _fields(self) -> list[tuple[int, int, int]]:
        return [self.about(action) for action in range(self.size)]

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
