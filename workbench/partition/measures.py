"""What a stage is measured by: layers, parameters, FLOPs, given times, or memory.

Each measure gives the cost of every layer in every stage; only memory depends on the
stage, since the schedule decides how many microbatches a stage holds at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from ..model import Layer, Model, emit_stage

MEASURES = ("layers", "params", "flops", "time", "memory")

_FLOAT = 4
_TRAINING_STATE = 4  # parameter, gradient, and AdamW's two moments


class ScheduleLike(Protocol):
    """What is asked of a schedule: actions have a stage, kind and microbatch."""

    @property
    def num_stages(self) -> int: ...

    @property
    def ranks(self) -> Sequence[Sequence[Any]]: ...


class LayerMemory(NamedTuple):
    """Bytes of one layer. state: weights, gradients, optimizer; activations: per
    microbatch in flight, the layer's input among them."""

    state: int
    activations: int


def layer_memory(model: Model, microbatch_size: int = 1) -> tuple[LayerMemory, ...]:
    """The bytes of every layer alone under AdamW, activations for one microbatch.

    Raises ValueError for a layer that has no kernels, whose activations are not known.
    """
    if microbatch_size < 1:
        raise ValueError(f"microbatch_size must be at least 1, got {microbatch_size}")
    last = model.num_layers - 1
    sizes = []
    for index, layer in enumerate(model.layers):
        if not layer.executable:
            raise ValueError(
                f'layer {layer.name!r} has no known activations; balance by "params" '
                'or "flops"'
            )
        alone = emit_stage(
            [(index, layer)],
            microbatch_size,
            1,
            is_first=index == 0,
            is_last=index == last,
        )
        activations = alone.saved_bytes + alone.input_bytes
        sizes.append(LayerMemory(_FLOAT * _TRAINING_STATE * layer.params, activations))
    return tuple(sizes)


def in_flight(schedule: ScheduleLike) -> tuple[int, ...]:
    """For each stage, the most microbatches held at once from F to W or B."""
    held: list[set[tuple[int, int]]] = [set() for _ in range(schedule.num_stages)]
    peak = [0] * schedule.num_stages
    for step in (step for rank in schedule.ranks for step in rank):
        for action in (step,) if hasattr(step, "kind") else step:
            key = (action.microbatch, action.slice)
            if action.kind == "F":
                held[action.stage].add(key)
            elif action.kind in ("W", "B"):
                held[action.stage].discard(key)
            peak[action.stage] = max(peak[action.stage], len(held[action.stage]))
    return tuple(peak)


def stage_costs(
    model: Model,
    num_stages: int,
    by: str,
    times: Sequence[float] | None,
    schedule: ScheduleLike | None,
    microbatch_size: int,
) -> list[list[float]]:
    """costs[stage][layer] under a measure. Raises ValueError for an unknown one, and
    when what it needs is missing or does not fit the model."""
    layers: Sequence[Layer] = model.layers
    if by == "memory":
        return _memory_costs(model, num_stages, schedule, microbatch_size)
    row: list[float]
    if by == "layers":
        row = [1] * len(layers)
    elif by == "params":
        row = [layer.params for layer in layers]
    elif by == "flops":
        row = [layer.flops for layer in layers]
    elif by == "time":
        row = _checked_times(model, times)
    else:
        raise ValueError(f"by={by!r} is no measure; there are {', '.join(MEASURES)}")
    return [row] * num_stages


def _checked_times(model: Model, times: Sequence[float] | None) -> list[float]:
    if times is None:
        raise ValueError(
            'by="time" needs times=: the seconds of every layer, in layer order'
        )
    row = [float(time) for time in times]
    if len(row) != model.num_layers:
        raise ValueError(
            f"times has {len(row)} entries but the model has {model.num_layers} "
            "layers; give one for each, embedding and head among them"
        )
    for index, time in enumerate(row):
        if not (math.isfinite(time) and time >= 0):
            raise ValueError(
                f"times[{index}] must be finite and not negative, got {time!r}"
            )
    return row


def _memory_costs(
    model: Model, num_stages: int, schedule: ScheduleLike | None, microbatch_size: int
) -> list[list[float]]:
    if schedule is None:
        raise ValueError(
            'by="memory" needs schedule=: it decides how many microbatches a stage '
            "holds"
        )
    if schedule.num_stages != num_stages:
        raise ValueError(
            f"num_stages is {num_stages} but the schedule has {schedule.num_stages} "
            "stages; make them equal"
        )
    sizes = layer_memory(model, microbatch_size)
    return [
        [size.state + held * size.activations for size in sizes]
        for held in in_flight(schedule)
    ]
