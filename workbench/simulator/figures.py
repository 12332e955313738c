"""Schedules drawn to the scale of their costs, one below the other."""

from __future__ import annotations

from typing import Any

from ..schedule import Schedule
from ..trace import Trace
from ..trace.figures import timelines
from .costs import CostModel
from .simulate import simulate
from .stages import known_costs, priced_for


def schedule_figure(*shown: Schedule | Trace, costs: CostModel | None = None) -> Any:
    """A Plotly figure of schedules, simulated, and of traces, on one axis of time.

    costs: as for ``compare_schedules``: of the model's pieces, or of one rank's share
    (by default F = I = W = 1), cut or added up to each schedule's stages. Lighter bars
    are of a rank's later stages, or its other copy of the parameters. Raises ValueError
    without anything to show, and for costs that do not fit.
    """
    if not shown:
        raise ValueError("nothing to draw: give at least one schedule or trace")
    costs = known_costs(costs)
    return timelines([_trace(one, costs) for one in shown])


def _trace(one: Schedule | Trace, costs: CostModel) -> Trace:
    if isinstance(one, Trace):
        return one
    if not isinstance(one, Schedule):
        raise ValueError(f"give schedules or traces one by one, not {one!r}")
    return simulate(one, priced_for(one, costs))
