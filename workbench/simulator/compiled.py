"""Compiled: a schedule laid out once and evaluated under many costs, in C.

The graph, its order and the place of every cost in a vector are found once; a call then
fills the vector and runs one loop without branches (program.h), for eight vectors at
once where there are many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from cython_kernels import _timeline

from ..schedule import Graph, Kind, Program, Schedule, ScheduleError, graph, halves
from ..trace import Trace
from .costs import COSTED, CostModel, checked_times, cut
from .events import Events
from .keys import Asked, Floats, Ints, Keys

#: Costs that a batch holds at a time, in numbers.
_CHUNK = 1 << 21
_BUSY = frozenset((*COSTED, Kind.B))


class Compiled:
    """A schedule, or programs, ready to be evaluated under any number of cost models.

    channel_capacity: messages that may wait in a channel (None: any number; 0:
    rendezvous). optimizer: whether a schedule's step ends with gradient reduction and
    optimizer step.

    Raises ScheduleError when the programs deadlock or their messages do not match.
    Every method that takes costs raises ValueError where they do not fit the schedule,
    or add up to no finite number. One object serves one thread at a time.
    """

    def __init__(
        self,
        schedule: Schedule | Sequence[Program],
        *,
        channel_capacity: int | None = None,
        optimizer: bool = False,
    ) -> None:
        programs = (
            schedule.programs(optimizer)
            if isinstance(schedule, Schedule)
            else tuple(schedule)
        )
        self.metadata: dict[str, object] = {"channel_capacity": channel_capacity}
        if isinstance(schedule, Schedule):
            self.metadata |= {
                "schedule": schedule.name,
                "num_stages": schedule.num_stages,
                "num_microbatches": schedule.num_microbatches,
            }
        self.metadata["num_ranks"] = self.num_ranks = len(programs)
        self._schedule = schedule if isinstance(schedule, Schedule) else None
        self.graph: Graph = graph(programs, channel_capacity)
        self._table = (
            np.asarray(self.graph.previous, np.int32),
            np.asarray(self.graph.dep_start, np.int32),
            np.asarray(self.graph.dep, np.int32),
        )
        self._order = _timeline.topological_order(*self._table)
        if len(self._order) < len(self.graph):
            raise ScheduleError(
                "the programs wait for each other in a circle; Schedule.check says where",
                "no deadlock",
            )
        self._asked = Asked.of(self.graph)
        self._known_keys: dict[tuple[bool, bool], Keys] = {}
        self._programs: dict[Keys, _timeline.Program] = {}

    def __len__(self) -> int:
        """Steps of all programs, communication included."""
        return len(self.graph)

    @property
    def num_actions(self) -> int:
        """Actions that cost something: compute, gradient reduction, optimizer steps."""
        return len(self._asked.actions)

    # ---- laying out ------------------------------------------------------------------

    @cached_property
    def _ends(self) -> tuple[Ints, Ints, Ints]:
        """By rank that does something: its last node; by rank at work: the first and
        the last node at work."""
        lasts, first_busy, last_busy, base = [], [], [], 0
        for program in self.graph.programs:
            busy = [
                base + i
                for i, step in enumerate(program.steps)
                if halves(step)[0].kind in _BUSY
            ]
            base += len(program.steps)
            lasts += [base - 1] if program.steps else []
            first_busy += busy[:1]
            last_busy += busy[-1:]
        return (
            np.array(lasts, np.int64),
            np.array(first_busy, np.int64),
            np.array(last_busy, np.int64),
        )

    def _keys(self, costs: CostModel) -> Keys:
        kind = costs.by_action, costs.blocking
        if kind not in self._known_keys:
            self._known_keys[kind] = self._asked.keys(*kind)
        return self._known_keys[kind]

    def _laid_out(self, keys: Keys) -> _timeline.Program:
        if keys not in self._programs:
            self._programs[keys] = _timeline.Program(
                self._order,
                *self._table,
                keys.node,
                keys.edge,
                len(keys),
                np.concatenate(self._ends),
            )
        return self._programs[keys]

    @cached_property
    def _size(self) -> dict[str, int]:
        fields = np.array(self._asked.actions, np.int64).reshape(-1, 5)
        stages, microbatches = (fields[:, [1, 3]].max(axis=0, initial=-1) + 1).tolist()
        if self._schedule is not None:
            stages = self._schedule.num_stages
        return {
            "num_stages": stages,
            "num_ranks": self.num_ranks,
            "num_microbatches": microbatches,
        }

    @cached_property
    def _num_slices(self) -> int:
        if self._schedule is not None:
            return self._schedule.num_slices
        return 1 + max((action[-1] for action in self._asked.actions), default=0)

    def _fitted(self, costs: CostModel) -> CostModel:
        """The costs of the actions there are."""
        size = self._size
        if self._num_slices > 1 or costs.slice_weights is not None:
            costs = costs.for_slices(self._num_slices)
        if costs.plain and len(costs.times) in (1, size["num_stages"]):
            return costs  # the common case, quickly
        if self._schedule is not None:
            costs.fits(f"schedule {self._schedule.name!r}", **size)
            return costs
        # Programs may be of some stages only: more costs than stages are no mistake.
        most = max(size["num_stages"], costs.num_stages or 0)
        costs.fits("the last program", **(size | {"num_stages": most}))
        return costs

    def _ticks(self, costs: CostModel) -> tuple[Floats, float, Keys]:
        costs = self._fitted(costs)
        keys = self._keys(costs)
        ticks = np.empty(len(keys))
        return ticks, keys.fill(costs, self.num_ranks, ticks), keys

    # ---- evaluating ------------------------------------------------------------------

    def makespan(self, costs: CostModel) -> float:
        """When the last rank ends, in the unit of the costs: ``simulate``'s makespan, to
        the bit."""
        ticks, tick, keys = self._ticks(costs)
        return self._laid_out(keys).run_latest(ticks) * tick

    def spans(self, costs: CostModel) -> Floats:
        """By rank with work: from the start of its first to the end of its last, in the
        unit of the costs. Their maximum is ``Trace.span``."""
        ticks, tick, keys = self._ticks(costs)
        ends = self._laid_out(keys).run(ticks)
        return self._spans(ends, ticks, keys) * tick

    def _spans(self, ends: Floats | Ints, ticks: Floats, keys: Keys) -> Floats:
        """(..., ranks) in ticks, from ends (..., asked) and costs (..., keys)."""
        lasts, first, _ = self._ends
        begins, stops = np.split(ends[..., len(lasts) :], 2, axis=-1)
        return np.asarray(stops - begins + ticks[..., keys.node[first]])

    def times(self, costs: CostModel) -> tuple[Ints, Ints, Ints, float]:
        """(start, ready, end, tick) of every node of ``graph``: when its rank came to
        it, when what it waits for had come, and when it was done; in ticks."""
        ticks, tick, keys = self._ticks(costs)
        whole = ticks.astype(np.int64)
        start, ready, end = _timeline.evaluate_again(
            self._order, *self._table, whole[keys.node], whole[keys.edge]
        )
        return start, ready, end, tick

    def batch(
        self, costs: Sequence[CostModel] | CostModel, times: Floats | None = None
    ) -> Floats:
        """(k,): the makespan under every one of k cost models, eight evaluated at a
        time; each is what ``makespan`` says of it, to the bit.

        Or, faster where they are many, under one model whose ``times`` are each of an
        array (k, stages or 1, 6).
        """
        lasts = len(self._ends[0])
        return self._batch(
            costs, times, lambda ends, *_: ends[:, :lasts].max(axis=1, initial=0)
        )

    def batch_spans(
        self, costs: Sequence[CostModel] | CostModel, times: Floats | None = None
    ) -> Floats:
        """(k,): as batch, the longest of the ranks' spans."""
        return self._batch(
            costs, times, lambda *told: self._spans(*told).max(axis=1, initial=0)
        )

    def _batch(
        self,
        costs: Sequence[CostModel] | CostModel,
        times: Floats | None,
        of: Callable[[Floats, Floats, Keys], Floats],
    ) -> Floats:
        if isinstance(costs, CostModel):
            if times is None:
                raise ValueError(
                    "give a list of cost models, or one and an array of times"
                )
            times = checked_times(times)
            if costs.plain and len(times):
                return self._batch_times(costs, times, of)
            costs = [replace(costs, times=table) for table in times]
        elif times is not None:
            raise ValueError("times go with one cost model, not with a list of them")
        found = np.empty(len(costs))
        for members, table, tick, keys, program in self._groups(costs):
            found[members] = of(program.run_many(table), table, keys) * tick
        return found

    def _batch_times(
        self,
        costs: CostModel,
        times: Floats,
        of: Callable[[Floats, Floats, Keys], Floats],
    ) -> Floats:
        self._fitted(replace(costs, times=times[0]))
        if self._num_slices > 1:
            times = times / cut(self._num_slices, times.ndim - 1)
            costs = costs.for_slices(self._num_slices)
        keys = self._keys(costs)
        program = self._laid_out(keys)
        found = np.empty(len(times))
        step = self._at_a_time(keys)
        for at in range(0, len(times), step):
            some = times[at : at + step]
            table = np.empty((len(some), len(keys)))
            tick = keys.fill_many(costs, some, table)
            found[at : at + step] = of(program.run_many(table), table, keys) * tick
        return found

    def _groups(
        self, costs: Sequence[CostModel]
    ) -> Iterator[tuple[list[int], Floats, Floats, Keys, _timeline.Program]]:
        """(which models, their costs in ticks, ticks, keys, program), a few models of
        one kind at a time."""
        kinds: dict[tuple[bool, bool], list[int]] = {}
        costs = [self._fitted(model) for model in costs]
        for i, model in enumerate(costs):
            kinds.setdefault((model.by_action, model.blocking), []).append(i)
        for members in kinds.values():
            keys = self._keys(costs[members[0]])
            program = self._laid_out(keys)
            step = self._at_a_time(keys)
            for at in range(0, len(members), step):
                some = members[at : at + step]
                table, tick = np.empty((len(some), len(keys))), np.empty(len(some))
                for row, i in enumerate(some):
                    tick[row] = keys.fill(costs[i], self.num_ranks, table[row])
                yield some, table, tick, keys, program

    @staticmethod
    def _at_a_time(keys: Keys) -> int:
        return max(8, _CHUNK // len(keys) // 8 * 8)

    def trace(self, costs: CostModel) -> Trace:
        """The trace of one step under these costs (see ``simulate``)."""
        start, ready, end, tick = self.times(costs)
        fitted = self._fitted(costs)
        return self._events.trace(start, ready, end, tick, fitted, self.metadata)

    @cached_property
    def _events(self) -> Events:
        return Events.of(self.graph)
