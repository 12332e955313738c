"""CostModel: what an action costs, per stage and kind, and what a message costs."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ..schedule import KIND_CODE, KINDS, Action, Kind
from ..trace import Trace
from .noise import lognormal, normal

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Cost = float | Sequence[float] | Floats

#: Columns of ``CostModel.times``.
COSTED = (Kind.F, Kind.I, Kind.W, Kind.R, Kind.REDUCE_GRAD, Kind.OPT_STEP)
COLUMN = {kind: i for i, kind in enumerate(COSTED)}

#: Column of ``times`` by kind code; B, the sum of two, and what is free come behind.
_FULL, _FREE = len(COSTED), len(COSTED) + 1
_OF_CODE = np.array(
    [_FULL if kind is Kind.B else COLUMN.get(kind, _FREE) for kind in KINDS]
)


@dataclass(frozen=True, eq=False)
class CostModel:
    """Costs in any unit of time.

    times: (stages, 6) for F, I, W, R, REDUCE_GRAD, OPT_STEP, or (stages, 6,
    microbatches) where microbatches differ (REDUCE_GRAD and OPT_STEP, which have none,
    then cost what the last column says); a model with one row holds for every stage. A
    full backward B costs I + W.

    Where a schedule cuts sequences into slices, these share their stage's time, and a
    message its bytes: each of k slices takes 1/k of it, or its row of
    ``slice_weights``, (slices,) or (slices, 6), which hold for schedules with just so
    many slices and are no matter to those without. With causal attention later slices
    weigh more.

    overlap: what an F and a backward run together cost (None: their sum); a number, or
    (stages, stages) by the stage of the F and the stage of the backward.

    ``hop`` is the latency of a message between two ranks, on one rank there is none.
    ``latency``, (ranks, ranks) by sender and receiver, takes its place where links
    differ. With ``bandwidth``, bytes per unit of time, a number or (ranks, ranks), a
    message of stage s's output takes ``message_bytes[s]`` / bandwidth longer, and so
    does the gradient that comes back for it; a number holds for all stages. Messages of
    one link do not slow each other. The sender is not blocked by any of it, unless
    ``blocking``.

    ``speed``, (ranks,): a rank of speed 0.5 takes twice as long for everything.

    ``jitter`` is the standard deviation of the log-normal factor of mean 1 that every
    action's cost is multiplied by: a number, (6,) or (stages, 6). It shows only in a
    model of one ``draw``: ``costs.draws(100)`` gives a hundred, told apart by the draw's
    number and, between models, by ``seed``. The factor is a function of seed, draw and
    action alone: schedules can be compared under the same luck.

    Raises ValueError for shapes that do not fit and for what is no cost.
    """

    times: Floats
    hop: float = 0.0
    overlap: float | Floats | None = None
    unit: str = "unit"
    latency: Floats | None = None
    bandwidth: float | Floats | None = None
    message_bytes: float | Floats = 0.0
    blocking: bool = False
    speed: Floats | None = None
    slice_weights: Floats | None = None
    jitter: float | Floats = 0.0
    seed: int = 0
    draw: int | None = None

    def __post_init__(self) -> None:
        times = _costs("times", self.times)
        if times.ndim not in (2, 3) or times.shape[1] != len(COSTED) or not times.size:
            raise ValueError(
                f"times must be (stages, {len(COSTED)}) or (stages, {len(COSTED)}, "
                f"microbatches), got {times.shape}"
            )
        object.__setattr__(self, "times", times)
        self._set("hop", ())
        self._set("overlap", (), (None, None))
        self._set("latency", (None, None))
        self._set("bandwidth", (), (None, None))
        self._set("message_bytes", (), (None,))
        self._set("speed", (None,))
        self._set("slice_weights", (None,), (None, len(COSTED)))
        self._set("jitter", (), (len(COSTED),), (len(times), len(COSTED)))
        for name in ("overlap", "latency", "bandwidth"):
            value = getattr(self, name)
            if isinstance(value, np.ndarray) and value.shape[0] != value.shape[1]:
                raise ValueError(f"{name} must be square, got {value.shape}")
        for name in ("bandwidth", "speed"):
            value = getattr(self, name)
            if value is not None and not np.all(np.asarray(value) > 0):
                raise ValueError(f"{name} must be above 0, got {value!r}")
        for name in ("seed", "draw"):
            number = getattr(self, name)
            if number is not None and operator.index(number) < 0:
                raise ValueError(f"{name} must not be negative, got {number!r}")

    def _set(self, name: str, *shapes: tuple[int | None, ...]) -> None:
        """Stores a field as a float or a frozen array of one of the shapes; None in a
        shape stands for any length."""
        value = getattr(self, name)
        if value is None:
            return
        if type(value) in (int, float) and () in shapes and 0 <= value < np.inf:
            object.__setattr__(self, name, float(value))  # the common case, quickly
            return
        array = _costs(name, value)
        for shape in shapes:
            if len(shape) == array.ndim and all(
                want in (None, got)
                for want, got in zip(shape, array.shape, strict=True)
            ):
                break
        else:
            raise ValueError(f"{name} has the shape {array.shape}; see CostModel")
        object.__setattr__(self, name, array if array.ndim else float(array))

    # ---- making one ------------------------------------------------------------------

    @classmethod
    def uniform(
        cls,
        *,
        F: Cost = 1.0,
        I: Cost = 1.0,
        W: Cost = 1.0,
        R: Cost | None = None,
        hop: float = 0.0,
        overlap: float | Floats | None = None,
        reduce: Cost = 0.0,
        optimizer: Cost = 0.0,
        **more: Any,
    ) -> CostModel:
        """Costs per stage: a number for all stages, one number per stage, or an array
        (stages, microbatches).

        R defaults to F; ``more`` are CostModel's other fields. Raises ValueError for
        negative costs or lists of different lengths.
        """
        columns = [np.asarray(c, np.float64) for c in (F, I, W, F if R is None else R)]
        columns += [np.asarray(c, np.float64) for c in (reduce, optimizer)]
        deep = any(c.ndim == 2 for c in columns)
        shaped = [c[:, None] if deep and c.ndim == 1 else c for c in columns]
        try:
            rows = np.broadcast_arrays(*(np.atleast_1d(c) for c in shaped))
        except ValueError:
            lengths = [c.shape[0] if c.ndim else 1 for c in columns]
            raise ValueError(
                f"F, I, W, R, reduce and optimizer have {lengths} entries; give one number, "
                "or one per stage"
            ) from None
        return cls(np.stack(rows, axis=1), hop, overlap, **more)

    @classmethod
    def from_trace(cls, trace: Trace, *, by_microbatch: bool = False) -> CostModel:
        """The durations in a trace, per stage and kind, in the trace's unit: means over
        a step's microbatches, and of these the median over steps. ``by_microbatch``
        keeps the microbatches apart.

        A mean, since a makespan adds durations up: the median of durations, which are
        skewed, predicts too little. A median, since what disturbs one step is no cost.
        A run's first step, which meets cold caches, is left out where there are others.

        A trace of full backwards says nothing of I against W, so each gets half of B;
        where a stage has I and W beside B, a B is priced as their sum. Without an R it
        costs what F does. The slices of a microbatch are added up, and their shares, per
        kind and over all stages, become ``slice_weights``.

        The hop is the median time from a send's end to its receive's end where the
        receiver was waiting, 0 for threads that hand pointers over. A trace of two
        copies of the parameters has a row for every stage of either copy; see
        ``of_stages``. Raises ValueError for a trace in which a stage has no forward.
        """
        from .measured import measured

        times, hop, weights = measured(trace, by_microbatch)
        return cls(times, hop, None, trace.unit, slice_weights=weights)

    def of_stages(self, stages: Sequence[int]) -> CostModel:
        """The model whose stage s costs what stage ``stages[s]`` does here:
        ``costs.of_stages(schedule.copy_of)`` prices both copies of the parameters from
        one, ``costs.of_stages(range(n))`` keeps the first of them.

        Raises ValueError for a stage that there is not.
        """
        count = len(self.times)
        if count == 1:
            return self
        wanted = [operator.index(stage) for stage in stages]
        beyond = [stage for stage in wanted if not 0 <= stage < count]
        if beyond or not wanted:
            told = f"got {beyond[0]}" if beyond else "got none"
            raise ValueError(f"stages must be from 0 to {count - 1}, {told}")
        more: dict[str, Any] = {}
        if isinstance(self.overlap, np.ndarray):
            more["overlap"] = self.overlap[np.ix_(wanted, wanted)]
        if isinstance(self.message_bytes, np.ndarray):
            more["message_bytes"] = self.message_bytes[wanted]
        if isinstance(self.jitter, np.ndarray) and self.jitter.ndim == 2:
            more["jitter"] = self.jitter[wanted]
        return replace(self, times=self.times[wanted], **more)

    def draws(self, count: int) -> tuple[CostModel, ...]:
        """The model under ``count`` different lucks, draws 0 to count - 1."""
        found: list[CostModel] = []
        for number in range(count):
            # One copy is checked, the others share its arrays.
            model = replace(self, draw=number) if not found else copy(found[0])
            object.__setattr__(model, "draw", number)
            found.append(model)
        return tuple(found)

    # ---- what it says ----------------------------------------------------------------

    @property
    def num_stages(self) -> int | None:
        """Stages it is for; None when one row holds for every stage."""
        return None if len(self.times) == 1 else len(self.times)

    @property
    def has_optimizer(self) -> bool:
        """Whether the step's end costs anything."""
        return bool(self.times[:, COLUMN[Kind.REDUCE_GRAD] :].any())

    @property
    def by_action(self) -> bool:
        """Whether actions of one stage and kind may differ in cost."""
        noisy = self.draw is not None and bool(np.any(self.jitter))
        return noisy or self.times.ndim == 3 or self.slice_weights is not None

    @cached_property
    def plain(self) -> bool:
        """Whether times, hop and one price for all overlaps say everything."""
        special = (self.latency, self.bandwidth, self.speed)
        return (
            all(value is None for value in special)
            and not isinstance(self.overlap, np.ndarray)
            and not isinstance(self.message_bytes, np.ndarray)
            and not self.blocking
            and not self.by_action
        )

    def for_slices(self, num_slices: int) -> CostModel:
        """What a schedule with so many sequence slices costs, action by action: times,
        overlaps and messages of slices in place of those of microbatches.

        Raises ValueError where ``slice_weights`` are for another number of slices.
        """
        if num_slices == 1:
            if self.slice_weights is None:
                return self
            return replace(self, slice_weights=None)
        overlap = None if self.overlap is None else self.overlap / num_slices
        sizes = self.message_bytes / num_slices
        if self.slice_weights is not None:
            if len(self.slice_weights) != num_slices:
                raise ValueError(
                    f"slice_weights are for {len(self.slice_weights)} slices, but the "
                    f"schedule has {num_slices}"
                )
            return replace(self, overlap=overlap, message_bytes=sizes)
        times = self.times / cut(num_slices, self.times.ndim)
        return replace(self, times=times, overlap=overlap, message_bytes=sizes)

    def seconds(self, action: Action) -> float:
        """The cost of an action on a rank of speed 1, in ``unit``; 0.0 for
        communication. Of an action of a slice, ask the model that ``for_slices`` gives.

        Raises ValueError for a stage, microbatch or slice the model has no number for.
        """
        stage, kind, microbatch, part = action
        table, fields = self._table, (stage, KIND_CODE[kind], microbatch, part)
        told = (stage, microbatch, part)
        names = ("stages", "microbatches", "slices")
        for name, at, count in zip(
            names, told, np.array(table.shape)[[0, 2, 3]], strict=True
        ):
            if count > 1 and not (0 <= at < count or at == -1 != stage):
                raise ValueError(f"{action}: the costs are for {count} {name}")
        return float(self.durations(*(np.array([field]) for field in fields))[0])

    @cached_property
    def _table(self) -> Floats:
        """(stages, 8, microbatches, slices): what actions cost, with a column each for
        I + W and for what is free; an axis along which all are alike has length 1."""
        weights = np.ones((1, 1)) if self.slice_weights is None else self.slice_weights
        weights = np.broadcast_to(weights.T, (len(COSTED), len(weights)))
        times = self.times if self.times.ndim == 3 else self.times[:, :, None]
        return _with_full(times[:, :, :, None] * weights[:, None, :], add=True)

    @cached_property
    def _jitters(self) -> Floats:
        """(stages, 8) or (1, 8); a B takes the mean of I's and W's."""
        jitter = np.atleast_2d(np.asarray(self.jitter))
        return _with_full(
            np.broadcast_to(jitter, (len(jitter), len(COSTED))), add=False
        )

    def durations(
        self, stage: Ints, kind: Ints, microbatch: Ints, part: Ints
    ) -> Floats:
        """The costs of many actions on ranks of speed 1, as arrays of one length;
        ``kind`` as codes of KIND_CODE. What ``seconds`` says of one."""
        table, column = self._table, _OF_CODE[kind]
        at = [
            0 if count == 1 else index
            for count, index in zip(
                np.array(table.shape)[[0, 2, 3]], (stage, microbatch, part), strict=True
            )
        ]
        found = table[at[0], column, at[1], at[2]]
        if self.draw is None or not np.any(self.jitter):
            return np.asarray(found)
        jitters = self._jitters
        spread = jitters[0 if len(jitters) == 1 else stage, column]
        luck = normal(self.seed, self.draw, stage, kind, microbatch, part)
        return np.asarray(found * lognormal(spread, luck))

    def factors(self, num_ranks: int) -> Floats:
        """(ranks,): what a cost is multiplied by on every rank."""
        return np.ones(num_ranks) if self.speed is None else 1 / self.speed

    def flights(
        self, sender: Ints, receiver: Ints, stage: Ints, forward: npt.NDArray[np.bool_]
    ) -> Floats:
        """How long messages take from rank to rank, as arrays of one length. ``stage``
        sends: its output where ``forward``, else the gradient of its input."""
        if self.latency is None:
            found = np.full(sender.shape, self.hop)
        else:
            found = self.latency[sender, receiver]
        if self.bandwidth is None:
            return found
        sizes, rates = np.asarray(self.message_bytes), np.asarray(self.bandwidth)
        size = sizes[np.where(forward, stage, stage - 1)] if sizes.ndim else sizes
        return np.asarray(
            found + size / (rates[sender, receiver] if rates.ndim else rates)
        )

    def pairs(self, forward: Ints, backward: Ints) -> Floats | None:
        """What the overlaps of two stages' actions cost on ranks of speed 1; None: the
        sum of both."""
        if self.overlap is None:
            return None
        if isinstance(self.overlap, float):
            return np.full(forward.shape, self.overlap)
        return np.asarray(self.overlap[forward, backward])

    def fits(
        self,
        what: str,
        *,
        num_stages: int,
        num_ranks: int,
        num_microbatches: int,
    ) -> None:
        """Raises ValueError where the model has too few or too many numbers for
        ``what``, a schedule or programs of this size."""
        by_stage = (
            ("the costs are", self.times),
            ("overlap is", self.overlap),
            ("message_bytes are", self.message_bytes),
        )
        for name, value in by_stage:
            count = len(value) if isinstance(value, np.ndarray) else 1
            if count not in (1, num_stages):
                raise ValueError(
                    f"{name} for {count} stages but {what} has {num_stages}"
                )
        for name in ("latency", "bandwidth", "speed"):
            value = getattr(self, name)
            if np.ndim(value) and len(value) != num_ranks:
                raise ValueError(
                    f"{name} is for {len(value)} ranks but {what} has {num_ranks}"
                )
        if self.times.ndim == 3 and self.times.shape[2] < num_microbatches:
            raise ValueError(
                f"the costs are for {self.times.shape[2]} microbatches but {what} has "
                f"{num_microbatches}"
            )

    def __repr__(self) -> str:
        stages = self.num_stages or "any number of"
        return f"CostModel({stages} stages, hop={self.hop:g}, unit={self.unit!r})"

    def _repr_html_(self) -> str:
        times = self.times if self.times.ndim == 2 else self.times.mean(axis=2)
        head = "".join(f"<th>{kind}</th>" for kind in COSTED)
        body = "".join(
            f"<tr><td>{'all' if len(times) == 1 else stage}</td>"
            + "".join(f"<td>{value:.6g}</td>" for value in row)
            + "</tr>"
            for stage, row in enumerate(times)
        )
        return (
            f"<table><thead><tr><th>stage</th>{head}</tr></thead><tbody>{body}</tbody>"
            f"<caption>costs in {self.unit}, hop {self.hop:.6g}</caption></table>"
        )


def cut(num_slices: int, ndim: int) -> Floats:
    """What ``times`` of ``ndim`` axes are divided by: a step's end is not cut."""
    whole = (Kind.REDUCE_GRAD, Kind.OPT_STEP)
    cut = np.array([1.0 if kind in whole else num_slices for kind in COSTED])
    return cut[:, None] if ndim == 3 else cut


def checked_times(values: Any) -> Floats:
    """(k, rows, 6): many ``times``. Raises ValueError for what is none."""
    times = _costs("times", values)
    if times.ndim != 3 or times.shape[2] != len(COSTED) or not times.shape[1]:
        raise ValueError(
            f"times must be (k, stages or 1, {len(COSTED)}), got {times.shape}"
        )
    return np.ascontiguousarray(times)


def _costs(name: str, value: Any) -> Floats:
    """A frozen array of floats. Raises ValueError unless all are durations."""
    array = np.array(value, dtype=np.float64)
    if not np.isfinite(array).all() or (array < 0).any():
        told = f", got {value!r}" if array.ndim == 0 else ""
        what = "costs" if name == "times" else name
        raise ValueError(f"{what} must be finite and not negative{told}")
    array.flags.writeable = False
    return array


def _with_full(table: Floats, add: bool) -> Floats:
    """The table with two columns more: for B, from I's and W's, and zeros."""
    full = table[:, [COLUMN[Kind.I]]] + table[:, [COLUMN[Kind.W]]]
    full = full if add else full / 2
    wide = np.concatenate([table, full, np.zeros_like(full)], axis=1)
    wide.flags.writeable = False
    return np.asarray(wide)
