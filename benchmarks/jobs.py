"""The jobs that are measured, and an engine stepped without anything around it.

Refuses nothing: the jobs' own checks do. The other files time what these do.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

import workbench as wb
from cython_kernels import tables
from workbench.engine.build import build
from workbench.memory import MemoryPlan
from workbench.model import SliceTapes, initial_weights

PRESET = "byte-gpt-3.7m"
MICROBATCHES, MICROBATCH_SIZE = 8, 2
LEARNING_RATE, BETAS, WEIGHT_DECAY, EPSILON, CLIP = 1e-3, (0.9, 0.95), 0.1, 1e-8, 1.0
SEED = 0


def main_job(num_stages: int = 1, **fields: Any) -> wb.Job:
    """The main job's model and batch over stages, one rank each, in one thread each."""
    model = wb.Model.preset(PRESET)
    name = "1f1b" if num_stages > 1 else "single"
    options = {} if num_stages > 1 else {"num_stages": 1}
    settings: dict[str, Any] = {
        "data": wb.Data.text(),
        "microbatch_size": MICROBATCH_SIZE,
        "optimizer": wb.AdamW(
            lr=LEARNING_RATE, betas=BETAS, eps=EPSILON, weight_decay=WEIGHT_DECAY
        ),
        "learning_rate": wb.Constant(),
        "clip": CLIP,
        "steps": 100_000,
        "seed": SEED,
        "clock": "wall",
        "threads_per_rank": 1,
        "evaluate": 0,
    }
    return wb.Job(
        model=model,
        partition=wb.Partition.balanced(model, num_stages=num_stages, by="flops"),
        schedule=wb.Schedule.make(
            name, num_ranks=num_stages, num_microbatches=MICROBATCHES, **options
        ),
        **(settings | fields),
    )


class EmptyTapes(wb.Job):
    """A job whose stages do nothing: what is left is the engine itself."""

    def memory(self, with_loss: bool = True) -> MemoryPlan:
        plan = super().memory(with_loss)
        stages = tuple(
            replace(s, tapes=replace(s.tapes, slices=(SliceTapes((), (), ()),)))
            for s in plan.stages
        )
        return replace(plan, stages=stages)


def empty_job(num_stages: int, num_microbatches: int) -> wb.Job:
    """Empty tapes over stages, one rank each; a parameter or two, so that the
    optimizer's actions are there as well."""
    model = wb.Model.mlp(widths=[1] * (num_stages + 1))
    rows = np.zeros((16, 1), np.float32)
    name = "1f1b" if num_stages > 1 else "single"
    options = {} if num_stages > 1 else {"num_stages": 1}
    return EmptyTapes(
        model=model,
        partition=wb.Partition(model, boundaries=list(range(num_stages + 1))),
        schedule=wb.Schedule.make(
            name, num_ranks=num_stages, num_microbatches=num_microbatches, **options
        ),
        data=wb.Data.arrays(rows, rows),
        microbatch_size=1,
        steps=1_000_000,
        clock="wall",
        threads_per_rank=1,
        evaluate=0,
    )


class Stepper:
    """A built engine that runs steps and tells how long they took, unwatched."""

    def __init__(self, job: wb.Job) -> None:
        self.job = job
        self.built = build(job)
        fresh = initial_weights(job.model, job.seed)
        for (_, _, view), (_, _, values) in zip(
            self.built.weights(), fresh, strict=True
        ):
            view[...] = values
        self.at = 0
        self.loss = float("nan")
        self._rates = np.full(job.steps, job.optimizer.lr, np.float32)

    def weights(self) -> dict[str, np.ndarray]:
        layers = self.job.model.layers
        views = self.built.weights()
        return {f"{layers[i].name}.{name}": view.copy() for i, name, view in views}

    def start(self, steps: int) -> None:
        """Starts the next steps and returns at once."""
        job, data = self.job, self.job.data
        losses = np.zeros((steps, job.num_microbatches or 0))
        text = data.is_text
        self._losses = losses
        self.built.engine.start(
            tables.TRAIN,
            self.at,
            self.at + steps,
            data.train,
            data.train_targets,
            data.train.itemsize if text else 0,
            len(data.train) - (job.model.context if text else 0),
            job.seed,
            0,
            job.model.context if text else 1,
            self._rates,
            losses,
            np.zeros(steps),
            0,
        )

    def finish(self) -> None:
        self.built.engine.finish()
        if self.built.engine.error is not None:
            raise RuntimeError(f"the engine failed: {self.built.engine.error}")
        self.at += len(self._losses)
        self.loss = float(self._losses[-1].mean())

    def run(self, steps: int) -> float:
        """Seconds that the next steps take, from the call to the last rank's end."""
        begin = time.perf_counter()
        self.start(steps)
        self.finish()
        return time.perf_counter() - begin

    @property
    def actions_per_step(self) -> int:
        """Rows of all ranks' programs, sends and receives among them."""
        return sum(len(steps) for steps in self.built.programs)
