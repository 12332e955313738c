"""Simulation: when would every action run? Programs and costs in, a ``Trace`` out.

The graph is schedule's, the evaluation is in C (timeline.c); here costs become
durations and results become columns. Times are rounded to ticks of a billionth of the
cost model's unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cython_kernels import _timeline

from ..schedule import (
    DATA,
    KIND_CODE,
    Action,
    Graph,
    Kind,
    Overlap,
    Program,
    Schedule,
    ScheduleError,
    graph,
    halves,
)
from ..trace import COLUMNS, COMPUTE_LANE, OPTIMIZER_LANE, WAIT_LANE, Trace
from .costs import CostModel

_OPTIMIZER = (Kind.REDUCE_GRAD, Kind.OPT_STEP)
_COMMUNICATION = (Kind.SEND_F, Kind.RECV_F, Kind.SEND_B, Kind.RECV_B)


def _lane(kind: Kind) -> int:
    if kind in _OPTIMIZER:
        return OPTIMIZER_LANE
    return WAIT_LANE if kind in _COMMUNICATION else COMPUTE_LANE


def _cost(step: Action | Overlap | None, costs: CostModel) -> float:
    if step is None:
        return 0.0
    if isinstance(step, Overlap) and isinstance(costs.overlap, float):
        return costs.overlap
    return sum(costs.seconds(action) for action in halves(step))


def _tick(total: float) -> float:
    """A billionth of a unit, or coarser where int64 could not hold the sum of all
    costs."""
    if total == np.inf:
        raise ValueError("the costs add up to more than a float can hold")
    tick = 1e-9
    while total / tick > 2**60:
        tick *= 10
    return tick


def simulate(
    schedule: Schedule | Sequence[Program],
    costs: CostModel,
    *,
    channel_capacity: int | None = None,
    optimizer: bool | None = None,
) -> Trace:
    """The trace of one step under these costs; ``source="simulated"``, times in their
    unit.

    ``channel_capacity``: messages that may wait in a channel (None: any number; 0:
    rendezvous). ``optimizer``: whether the step ends with gradient reduction and
    optimizer step; by default when the costs have a price for it. ``live`` counts
    microbatches in flight on the rank.

    Raises ScheduleError when the programs deadlock or their messages do not match, and
    ValueError when costs and schedule have different numbers of stages or the costs add up to
    no finite number.
    """
    with_optimizer = costs.has_optimizer if optimizer is None else optimizer
    metadata: dict[str, object] = {"channel_capacity": channel_capacity}
    if isinstance(schedule, Schedule):
        if costs.num_stages not in (None, schedule.num_stages):
            raise ValueError(
                f"the costs are for {costs.num_stages} stages but schedule "
                f"{schedule.name!r} has {schedule.num_stages}"
            )
        programs = schedule.programs(with_optimizer)
        metadata |= {
            "schedule": schedule.name,
            "num_stages": schedule.num_stages,
            "num_microbatches": schedule.num_microbatches,
        }
    else:
        programs = tuple(schedule)
    metadata["num_ranks"] = len(programs)
    found = graph(programs, channel_capacity)
    return _trace(found, *_times(found, costs), costs.unit, metadata)


def _times(
    found: Graph, costs: CostModel
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """(start, ready, end) in ticks, and the tick."""
    price: dict[Action | Overlap | None, float] = {}
    plain = np.empty(len(found))
    for node in range(len(found)):
        step = found.step(node)
        # Costs depend on stage and kind alone: one look-up for all microbatches.
        key = step._replace(microbatch=0, slice=0) if isinstance(step, Action) else step
        if key not in price:
            price[key] = _cost(key, costs)
        plain[node] = price[key]
    kinds = np.asarray(found.dep_kind, np.int8)
    lags = np.where(kinds == DATA, costs.hop, 0.0)
    with np.errstate(over="ignore"):  # _tick names what is too much
        tick = _tick(float(plain.sum() + lags.sum()))
    previous, starts, deps = (
        np.asarray(c, np.int32) for c in (found.previous, found.dep_start, found.dep)
    )
    order = _timeline.topological_order(previous, starts, deps)
    if len(order) < len(found):
        raise ScheduleError(
            "the programs wait for each other in a circle; Schedule.check says where",
            "no deadlock",
        )
    duration = np.rint(plain / tick).astype(np.int64)
    lag = np.rint(lags / tick).astype(np.int64)
    times = _timeline.evaluate(order, previous, starts, deps, duration, lag)
    return (*times, tick)


def _live(steps: Sequence[Action | Overlap]) -> list[int]:
    """Microbatches in flight on a rank after every step: up at F, down at W or B."""
    held, counts = 0, []
    for step in steps:
        for action in halves(step):
            held += (action.kind is Kind.F) - (action.kind in (Kind.W, Kind.B))
        counts.append(held)
    return counts


def _trace(
    found: Graph,
    start: np.ndarray,
    ready: np.ndarray,
    end: np.ndarray,
    tick: float,
    unit: str,
    metadata: dict[str, object],
) -> Trace:
    rows: list[tuple[int, ...]] = []
    node = 0
    for program in found.programs:
        held = _live(program.steps)
        for number, step in enumerate(program.steps):
            begin, go, stop = int(start[node]), int(ready[node]), int(end[node])
            node += 1
            for action in halves(step):
                lane = _lane(action.kind)
                about = (program.rank, action.stage, KIND_CODE[action.kind])
                what = (action.microbatch, action.slice, 0)
                if action.kind is Kind.OPT_STEP and go > begin:
                    rows.append((*about, *what, begin, go, WAIT_LANE, 0, held[number]))
                first = begin if lane == WAIT_LANE else go
                rows.append((*about, *what, first, stop, lane, 0, held[number]))
    table = np.array(rows, np.int64).reshape(-1, len(COLUMNS)).T
    columns: dict[str, Any] = dict(zip(COLUMNS, table, strict=True))
    return Trace(**columns, tick=tick, unit=unit, source="simulated", metadata=metadata)
