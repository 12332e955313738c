"""What a checkpoint holds of a run, taken from its arenas and put back into them.

Everything goes by layer and parameter name, so it does not matter how the stages were
cut, how many replicas there were, or who kept which part of the optimizer's state.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ..checkpoint import CheckpointState
from . import optimizers
from .built import Built
from .job import Job


class Piece(NamedTuple):
    """Some elements of a tensor of a checkpoint: ``begin`` and on, flat."""

    part: str
    name: str
    begin: int
    values: np.ndarray


def identity(job: Job) -> dict[str, Any]:
    """All that the bits of a run depend on, as plain values (docs/numerics.md)."""
    return {
        "model": json.loads(json.dumps(dict(job.model.config))),
        "weights": job.model.weights,
        "data": job.data.sha256,
        "seed": job.seed,
        "microbatch_size": job.microbatch_size,
        "num_microbatches": job.num_microbatches,
        "gradient_groups": job.gradient_groups,
        "num_slices": job.schedule.num_slices,
        "precision": job.precision,
        "optimizer": json.loads(json.dumps(optimizers.to_dict(job.optimizer))),
        "clip": job.clip,
    }


def rates_hash(rates: np.ndarray, step: int) -> str:
    """Of the learning rates before a step."""
    return hashlib.sha256(rates[:step].tobytes()).hexdigest()


def _key(job: Job, layer: int, name: str) -> str:
    return f"{job.model.layers[layer].name}.{name}"


def pieces(built: Built, job: Job) -> Iterator[Piece]:
    """Copies of what is in this process: over all processes every element once."""
    for layer, name, view in built.weights():
        yield Piece("param", _key(job, layer, name), 0, view.reshape(-1).copy())
    for state in built.states():
        key = _key(job, state.layer, state.name)
        yield Piece(state.part, key, state.begin, state.values.copy())


class Assembly:
    """A checkpoint that is put together piece by piece."""

    def __init__(self, job: Job, step: int) -> None:
        self._shapes = {
            f"{layer.name}.{parameter.name}": parameter.shape
            for layer in job.model.layers
            for parameter in layer.parameters
            if parameter.tied_to is None
        }
        self.state = CheckpointState(step, identity(job))

    def add(self, piece: Piece) -> None:
        tensors = self.state.tensors.setdefault(piece.part, {})
        if piece.name not in tensors:
            tensors[piece.name] = np.zeros(self._shapes[piece.name], np.float32)
        flat = tensors[piece.name].reshape(-1)
        flat[piece.begin : piece.begin + len(piece.values)] = piece.values

    def finish(
        self, losses: np.ndarray, norms: np.ndarray, rates: np.ndarray
    ) -> CheckpointState:
        """losses: (steps, microbatches), norms: (steps,), of the steps so far."""
        step = self.state.step
        self.state.identity["rates"] = rates_hash(rates, step)
        self.state.tensors["history"] = {
            "losses": losses[:step].copy(),
            "norms": norms[:step].copy(),
        }
        order = list(self._shapes)
        for part, tensors in self.state.tensors.items():
            if part != "history":
                self.state.tensors[part] = {
                    n: tensors[n] for n in order if n in tensors
                }
        return self.state


def check(state: CheckpointState, job: Job, rates: np.ndarray) -> None:
    """Raises ValueError, naming every difference, when the job would not go on with the
    bits that the checkpoint's would have had."""
    told = dict(state.identity)
    mine = {**identity(job), "rates": rates_hash(rates, state.step)}
    names = {"rates": "learning rates of the steps before"}
    wrong = [
        f"{names.get(key, key)}: {told.get(key)!r} there, {mine.get(key)!r} here"
        for key in mine
        if told.get(key) != mine[key]
    ]
    if wrong:
        raise ValueError(
            f"the checkpoint of step {state.step} is another job's; they differ in\n  "
            + "\n  ".join(wrong)
        )
    if state.step > job.steps:
        raise ValueError(
            f"the checkpoint is of step {state.step}, but the job ends at {job.steps}; "
            "give it more steps"
        )


def restore(built: Built, job: Job, state: CheckpointState) -> None:
    """Puts into this process's arenas what they hold of the checkpoint."""
    for layer, name, view in built.held():
        view[...] = state.tensors["param"][_key(job, layer, name)].reshape(view.shape)
    for part in built.states(of_all_holders=True):
        whole = state.tensors[part.part][_key(job, part.layer, part.name)].reshape(-1)
        part.values[...] = whole[part.begin : part.begin + len(part.values)]
