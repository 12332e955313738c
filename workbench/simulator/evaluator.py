"""Evaluator: the makespan of one order of a schedule's actions after another.

What search asks for thousands of times a second. Everything that does not depend on the
order is laid out once, by action (orders.h); asking for an order then builds nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from cython_kernels import _timeline

from ..schedule import (
    KIND_CODE,
    Action,
    Kind,
    Overlap,
    Schedule,
    halves,
    in_flight_changes,
)
from .costs import CostModel
from .ticks import in_ticks, tick_for

Floats = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int32]
Ints = npt.NDArray[np.int64]

_GRADIENTS = (Kind.W, Kind.B)


class Evaluator:
    """Makespans of orders of one schedule's actions, with channels without limit.

    The actions are numbered: ``actions[i]`` is number i, ``numbers`` the way back; rank
    after rank, as the schedule has them. An order is one int32 array of all numbers, the
    ranks' rows behind one another (``rows`` is the schedule's own, rank r's part is
    ``rows[row_start[r]:row_start[r + 1]]``), or a list with one row per rank. An action
    that runs together with the one before it, as the second of an ``Overlap``, is
    written as ~number. ::

        evaluator = Evaluator(schedule, costs)
        order = evaluator.rows.copy()
        order[[3, 4]] = order[[4, 3]]
        evaluator.makespan(order)

    costs: as for ``simulate``, whose makespan is the same to the bit. memory: what every
    kind, or every action by number, takes (or, negative, gives back) of its rank's
    memory, such as ``deltas(schedule_actions)``; ``peaks`` then says after each call the
    most that every rank held, by default activations in flight.

    One object serves one thread at a time. Raises ValueError where costs and schedule
    do not fit, and ScheduleError for a schedule in which an action lacks what it needs.
    """

    def __init__(
        self,
        schedule: Schedule,
        costs: CostModel,
        *,
        optimizer: bool | None = None,
        memory: Mapping[Kind, float] | npt.ArrayLike | None = None,
    ) -> None:
        costs = costs.for_slices(schedule.num_slices)
        costs.fits(
            f"schedule {schedule.name!r}",
            num_stages=schedule.num_stages,
            num_ranks=schedule.num_ranks,
            num_microbatches=schedule.num_microbatches,
        )
        self._schedule = schedule
        self.costs = costs
        self.actions: tuple[Action, ...] = tuple(a for _, _, a in schedule.walk())
        self.numbers = {action: i for i, action in enumerate(self.actions)}
        counts = [sum(len(halves(i)) for i in row) for row in schedule.ranks]
        self.row_start = np.cumsum([0, *counts])
        with_optimizer = costs.has_optimizer if optimizer is None else optimizer
        if len(self.numbers) < len(self.actions):
            schedule.check()  # says which action there is twice
        self._orders = self._tables(counts, with_optimizer, memory)
        self.rows = self.order_of(schedule.ranks)

    # ---- the tables ------------------------------------------------------------------

    def _tables(
        self,
        counts: Sequence[int],
        optimizer: bool,
        memory: Mapping[Kind, float] | npt.ArrayLike | None,
    ) -> _timeline.Orders:
        schedule, costs, n = self._schedule, self.costs, len(self.actions)
        rank = np.repeat(np.arange(len(counts)), counts)
        stage, microbatch, part = (
            np.array([getattr(a, name) for a in self.actions], np.int64)
            for name in ("stage", "microbatch", "slice")
        )
        kind = np.array([KIND_CODE[a.kind] for a in self.actions], np.int64)
        forward = kind == KIND_CODE[Kind.F]
        gradient = np.isin(kind, [KIND_CODE[k] for k in _GRADIENTS])
        starts, needs, remote, receiver = self._needs()
        sends = receiver >= 0
        factor = costs.factors(schedule.num_ranks)
        price = costs.durations(stage, kind, microbatch, part) * factor[rank]
        flight = np.zeros(n)
        flight[sends] = costs.flights(
            rank[sends], receiver[sends], stage[sends], forward[sends]
        )
        ended = np.unique(stage[gradient]) if optimizer else np.empty(0, np.int64)
        home = np.asarray(schedule.stage_to_rank, np.int64)
        reduce, update = (
            costs.durations(
                ended, np.full_like(ended, KIND_CODE[k]), ended * 0 - 1, ended * 0
            )
            * factor[home[ended]]
            for k in (Kind.REDUCE_GRAD, Kind.OPT_STEP)
        )
        everything = (price, flight, reduce, update)
        with np.errstate(over="ignore"):  # tick_for names what is too much
            self._tick = tick_for(float(sum(part.sum() for part in everything)))
        flown, reduced = in_ticks(flight, self._tick), np.zeros(len(home), np.int64)
        reduced[ended] = in_ticks(reduce, self._tick)
        updates = np.full(schedule.num_ranks, -1, np.int64)
        updates[home[ended]] = 0
        np.add.at(updates, home[ended], in_ticks(update, self._tick))
        return _timeline.Orders(
            schedule.num_ranks,
            schedule.num_stages,
            rank,
            stage,
            np.where(sends, 2 * stage + ~forward, -1),
            remote,
            starts,
            needs,
            in_ticks(price, self._tick),
            flown if costs.blocking else 0 * flown,
            0 * flown if costs.blocking else flown,
            self._memory(memory),
            forward,
            gradient,
            self._pairs(factor[home]),
            reduced if optimizer else None,
            updates if optimizer else None,
        )

    def _memory(
        self, memory: Mapping[Kind, float] | npt.ArrayLike | None
    ) -> npt.ArrayLike:
        """By action, what it takes or gives back."""
        if memory is None:
            rows = self._schedule.ranks
            return [float(c) for row in rows for _, c in in_flight_changes(row)]
        if isinstance(memory, Mapping):
            return [memory.get(action.kind, 0.0) for action in self.actions]
        return memory

    def _needs(self) -> tuple[list[int], list[int], Ints, Ints]:
        """Needs on the own rank in CSR form; by action the one of another rank that it
        needs, and the rank that takes its message; -1 for none."""
        home = self._schedule.stage_to_rank
        remote, receiver = np.full((2, len(self.actions)), -1, np.int64)
        starts, needs = [0], []
        for i, action in enumerate(self.actions):
            for need in self._schedule.dependencies(action):
                number = self.numbers.get(need)
                if number is None:
                    self._schedule.check()  # draws where it is
                    raise ValueError(f"{action} needs {need}, which is not there")
                if home[need.stage] == home[action.stage]:
                    needs.append(number)
                else:
                    remote[i], receiver[number] = number, home[action.stage]
            starts.append(len(needs))
        return starts, needs, remote, receiver

    def _pairs(self, factor: Floats) -> Ints | None:
        """(stages, stages) ticks of an overlap, or None; on the rank of the forward."""
        grid = np.indices((len(factor), len(factor))).reshape(2, -1)
        priced = self.costs.pairs(grid[0], grid[1])
        if priced is None:
            return None
        ticks = in_ticks(priced * factor[grid[0]], self._tick)
        return ticks.reshape(len(factor), len(factor))

    # ---- orders ----------------------------------------------------------------------

    def order_of(self, rows: Iterable[Iterable[Action | Overlap]]) -> Ids:
        """The order of rows of actions, such as ``Schedule.ranks``. Raises ValueError
        for an action that is none of the schedule's."""
        found: list[int] = []
        for row in rows:
            for item in row:
                first, *second = halves(item)
                try:
                    found.append(self.numbers[first])
                    found += [~self.numbers[other] for other in second]
                except KeyError as error:
                    raise ValueError(
                        f"{error.args[0]} is no action of schedule "
                        f"{self._schedule.name!r}"
                    ) from None
        return np.array(found, np.int32)

    def schedule_of(self, order: Ids | Sequence[Ids], name: str = "") -> Schedule:
        """The schedule with its actions in this order. Raises ValueError for what is no
        order of them."""
        flat = self._flat(order)
        self._orders.walk(flat)  # refuses what is no order, unless it deadlocks
        rows: list[list[Action | Overlap]] = []
        for start, stop in zip(self.row_start[:-1], self.row_start[1:], strict=True):
            row: list[Action | Overlap] = []
            for number in flat[start:stop].tolist():
                if number >= 0:
                    row.append(self.actions[number])
                    continue
                last = row.pop()
                if not isinstance(last, Action):
                    raise ValueError("an overlap is of two actions, not of three")
                row.append(Overlap(last, self.actions[~number]))
            rows.append(row)
        told = self._schedule
        return Schedule(
            name or told.name,
            rows,
            told.stage_to_rank,
            told.num_stages,
            told.num_microbatches,
            told.num_slices,
            told.copy_of,
            told.route,
        )

    def _flat(self, order: Ids | Sequence[Ids]) -> Ids:
        if isinstance(order, np.ndarray):
            return order
        sizes = [len(row) for row in order]
        if sizes != np.diff(self.row_start).tolist():
            raise ValueError(
                f"rows of {sizes} actions, but the ranks have "
                f"{np.diff(self.row_start).tolist()}"
            )
        return np.concatenate([np.asarray(row, np.int32) for row in order])

    # ---- what they take --------------------------------------------------------------

    def makespan(self, order: Ids | Sequence[Ids]) -> float:
        """The makespan of an order, in the unit of the costs; -1.0 where ranks wait for
        each other, or an action stands before one of its own rank that it needs; -2.0
        where a channel's messages would be taken in another order than they are sent.

        Raises ValueError unless every rank's row has each of its actions once.
        """
        flat = order if isinstance(order, np.ndarray) else self._flat(order)
        ticks = self._orders.walk(flat)
        return ticks * self._tick if ticks >= 0 else float(ticks)

    def makespans(self, orders: Ids, peaks: Floats | None = None) -> Floats:
        """As makespan, for every row of an array (k, actions); (k,). ``peaks``: a
        (k, ranks) array of doubles that is filled with each one's peaks."""
        ticks = self._orders.walk_many(orders, peaks)
        return np.where(ticks >= 0, ticks * self._tick, ticks)

    def times(self, order: Ids | Sequence[Ids]) -> tuple[float, Floats, Floats]:
        """(makespan, starts, ends): when every action runs, by number, in the unit of
        the costs; they mean nothing where the makespan is negative."""
        ticks = self._orders.walk_times(self._flat(order))
        span = ticks * self._tick if ticks >= 0 else float(ticks)
        starts, ends = self._orders.start, self._orders.end
        tick = np.float64(self._tick)
        return span, np.asarray(starts * tick), np.asarray(ends * tick)

    @property
    def peaks(self) -> Floats:
        """(ranks,): the most memory every rank held in the last call's order; a view
        that the next call writes over."""
        return self._orders.peak
