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
from workbench.engine import requests
from workbench.engine.build import Site, build
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

    def memory(self, with_loss: bool = True, processes: bool = False) -> MemoryPlan:
        plan = super().memory(with_loss, processes)
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
    """A built engine that runs steps and tells how long they took, unwatched. With a
    ``site`` it is that rank's alone, and must be connected to the others."""

    def __init__(self, job: wb.Job, site: Site | None = None) -> None:
        self.job = job
        self.built = build(job, site=site)
        fresh = {
            (i, n): values for i, n, values in initial_weights(job.model, job.seed)
        }
        for layer, name, view in self.built.weights():
            view[...] = fresh[layer, name]
        self.at = 0
        self.loss = float("nan")
        self._rates = np.full(job.steps, job.optimizer.lr, np.float32)

    def weights(self) -> dict[str, np.ndarray]:
        layers = self.job.model.layers
        views = self.built.weights()
        return {f"{layers[i].name}.{name}": view.copy() for i, name, view in views}

    def start(self, steps: int) -> None:
        """Starts the next steps and returns at once."""
        losses = np.zeros((steps, self.job.num_microbatches or 0))
        self._losses = losses
        span = (self.at, self.at + steps)
        requests.begin(
            self.built.engine,
            self.job,
            tables.TRAIN,
            span,
            losses,
            np.zeros(steps),
            self._rates,
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
