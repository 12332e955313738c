"""Simulation: when would every action run? Programs and costs in, a ``Trace`` out.

The graph is schedule's, the evaluation is in C (``Compiled``). Times are rounded to
ticks of a billionth of the cost model's unit, or coarser where a step takes millions of
units.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..schedule import Program, Schedule
from ..trace import Trace
from .compiled import Compiled
from .costs import CostModel


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
    no finite number. For many costs of one schedule, keep a ``Compiled``.
    """
    with_optimizer = costs.has_optimizer if optimizer is None else optimizer
    compiled = Compiled(
        schedule, channel_capacity=channel_capacity, optimizer=with_optimizer
    )
    return compiled.trace(costs)
