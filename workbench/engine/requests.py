"""Requests to a C engine: so many steps of a program, on the data of the job."""

from __future__ import annotations

import numpy as np

from cython_kernels import _runtime, tables

from .job import Job


def begin(
    engine: _runtime.Engine,
    job: Job,
    program: int,
    steps: tuple[int, int],
    losses: np.ndarray,
    norms: np.ndarray,
    rates: np.ndarray,
    origin: int,
) -> None:
    """Starts steps first..last-1 of ``tables.TRAIN`` or ``tables.EVALUATE``; returns at
    once.

    losses: (last - first, microbatches) and norms: (last - first,), float64, filled as
    steps end. rates: float32, by absolute step. origin: the clock's nanoseconds that
    count as zero in the events.
    """
    first, last = steps
    data = job.data
    training = program == tables.TRAIN
    inputs = data.train if training else data.held_out
    if job.model.is_language_model:
        targets, kind = inputs, inputs.dtype.itemsize
        windows = len(inputs) - job.model.context
    else:
        targets = data.train_targets if training else data.held_out_targets
        kind, windows = 0, len(inputs)
    # An evaluation reads samples at even distances over all of the held-out data.
    samples = (last - first) * (job.num_microbatches or 1) * job.microbatch_size
    stride = max(job.model.context, windows // samples)
    engine.start(
        program,
        first,
        last,
        inputs,
        targets,
        kind,
        windows,
        job.seed,
        int(not training),
        stride,
        rates,
        losses,
        norms,
        origin,
    )
