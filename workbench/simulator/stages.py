"""Costs of one model cut into other numbers of stages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..schedule import Schedule
from .costs import CostModel


def known_costs(costs: CostModel | None) -> CostModel:
    """The costs; without any, F = I = W = 1. Raises ValueError for what is no cost
    model."""
    if costs is None:
        return CostModel.uniform()
    if not isinstance(costs, CostModel):
        raise ValueError(
            f"costs must be a CostModel, got {costs!r}; "
            "CostModel.uniform(F=1, I=1, W=1) makes one"
        )
    return costs


def priced_for(schedule: Schedule, costs: CostModel) -> CostModel:
    """``for_stages`` of a schedule's stages, for all copies of the parameters."""
    priced = for_stages(costs, schedule.num_ranks, schedule.chain_length)
    return priced if schedule.copy_of is None else priced.of_stages(schedule.copy_of)


def for_stages(costs: CostModel, num_ranks: int, num_stages: int) -> CostModel:
    """Costs of a model cut into ``num_stages`` stages, from those of its pieces: a row
    each, in order, or one row for one of ``num_ranks`` equal ones.

    Raises ValueError where neither number is a multiple of the other, and for overlaps
    or jitter stage by stage that would have to be added up.
    """
    rows = costs.num_stages or num_ranks
    if rows == num_stages:
        return costs
    if num_stages % rows == 0:
        return _cut(costs, num_stages // rows)
    if rows % num_stages == 0:
        return _added(costs, rows // num_stages)
    raise ValueError(
        f"it has {num_stages} stages, which costs for {rows} cannot be cut or added to"
    )


def _cut(costs: CostModel, parts: int) -> CostModel:
    """Every stage in so many equal parts. A message inside is as large as the one that
    leaves."""
    changes: dict[str, Any] = {}
    if costs.overlap is not None:
        overlap = np.asarray(costs.overlap) / parts
        changes["overlap"] = (
            np.repeat(np.repeat(overlap, parts, 0), parts, 1)
            if overlap.ndim
            else float(overlap)
        )
    for name in ("message_bytes", "jitter"):
        value = np.asarray(getattr(costs, name))
        if value.ndim and (name == "message_bytes" or value.ndim == 2):
            changes[name] = np.repeat(value, parts, 0)
    times = costs.times / parts
    if costs.num_stages is not None:
        times = np.repeat(times, parts, 0)
    return replace(costs, times=times, **changes)


def _added(costs: CostModel, parts: int) -> CostModel:
    """So many neighbouring stages as one."""
    changes: dict[str, Any] = {}
    for name, value in (("overlap", costs.overlap), ("jitter", costs.jitter)):
        if isinstance(value, np.ndarray) and value.ndim == 2:
            raise ValueError(f"{name} given stage by stage cannot be added up")
    if costs.overlap is not None:
        changes["overlap"] = costs.overlap * parts
    if isinstance(costs.message_bytes, np.ndarray):
        changes["message_bytes"] = costs.message_bytes[parts - 1 :: parts]
    if costs.num_stages is None:
        return replace(costs, times=costs.times * parts, **changes)
    shape = (-1, parts, *costs.times.shape[1:])
    return replace(costs, times=costs.times.reshape(shape).sum(axis=1), **changes)
