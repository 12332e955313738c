"""What the actions of a trace cost: ``CostModel.from_trace`` says how it is averaged."""

from __future__ import annotations

import warnings

import numpy as np

from ..schedule import KIND_CODE, KINDS, Kind
from ..trace import WAIT_LANE, Trace
from .costs import COLUMN, COSTED, Floats, Ints


def measured(trace: Trace, by_microbatch: bool) -> tuple[Floats, float, Floats | None]:
    """(times, hop, slice_weights) for a ``CostModel``; see ``CostModel.from_trace``."""
    if not len(trace):
        raise ValueError("the trace is empty: there is nothing to take costs from")
    if len(trace.steps) > 1:
        trace = trace.select(trace.step > 0)
    stages = int(trace.metadata.get("num_stages", trace.stage.max() + 1))
    slices = int(trace.slice.max(initial=0)) + 1
    usual = _usual(trace, stages, trace.slice, slices)
    missing = np.argwhere(np.isnan(usual[:, COLUMN[Kind.F]]))
    if len(missing):
        stage, part = missing[0].tolist()
        of_slice = f", slice {part}" if slices > 1 else ""
        raise ValueError(f"the trace has no forward of stage {stage}{of_slice}")
    usual = np.nan_to_num(usual)
    weights = _shares(usual) if slices > 1 else None
    times = usual.sum(axis=2)
    if by_microbatch:
        count = int(trace.microbatch.max()) + 1
        cell = np.maximum(trace.microbatch, 0) * slices + trace.slice
        found = _usual(trace, stages, cell, count * slices)
        found = found.reshape(*times.shape, count, slices)
        ends = found[:, COLUMN[Kind.REDUCE_GRAD] :]
        ends[:] = ends[:, :, :1]
        found = np.where(np.isnan(found), usual[:, :, None], found)
        times = found.sum(axis=3)
    return times, _hop(trace), weights


def _usual(trace: Trace, stages: int, cell: Ints, cells: int) -> Floats:
    """(stages, 6, cells): the median over steps of the mean duration within a step (of
    REDUCE_GRAD: the sum), nan for what there is not; ``cell`` says to which cell each
    event belongs."""
    busy = trace.lane != WAIT_LANE
    _, step = np.unique(trace.step[busy], return_inverse=True)
    shape = (stages, len(KINDS), cells, int(step.max(initial=0)) + 1)
    where = (trace.stage[busy], trace.kind[busy], cell[busy], step)
    at = np.ravel_multi_index(where, shape)
    length = (trace.end - trace.start)[busy].astype(np.float64)
    counts = np.bincount(at, minlength=np.prod(shape))
    # A stage's gradients may be added up in parts, as the other copies come.
    reduces = counts.reshape(shape)[:, KIND_CODE[Kind.REDUCE_GRAD]]
    np.minimum(reduces, 1, out=reduces)
    sums = np.bincount(at, weights=length, minlength=np.prod(shape))
    means = np.full(len(sums), np.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    with warnings.catch_warnings():  # of what there is not there is no median
        warnings.simplefilter("ignore", RuntimeWarning)
        found = np.nanmedian(means.reshape(shape), axis=3) * trace.tick
    half, forward = found[:, KIND_CODE[Kind.B]] / 2, found[:, KIND_CODE[Kind.F]]
    for kind, other in ((Kind.I, half), (Kind.W, half), (Kind.R, forward)):
        column = found[:, KIND_CODE[kind]]
        column[:] = np.where(np.isnan(column), other, column)
    return np.asarray(found[:, [KIND_CODE[kind] for kind in COSTED]])


def _shares(parts: Floats) -> Floats:
    """(slices, 6): what every slice of (stages, 6, slices) takes of its microbatch, over
    all stages. What ends a step is not cut."""
    sums = parts.sum(axis=0)
    whole = sums.sum(axis=1, keepdims=True)
    even = np.full_like(sums, 1 / sums.shape[1])
    shares = np.divide(sums, whole, out=even, where=whole > 0).T
    shares[:, COLUMN[Kind.REDUCE_GRAD] :] = 1.0
    return shares


def _hop(trace: Trace) -> float:
    """Median time a message was on its way while its receiver waited for it."""
    from ..trace.report import send_ends

    receives = trace.of_kind(Kind.RECV_F, Kind.RECV_B) & (trace.lane == WAIT_LANE)
    sent = send_ends(trace)[receives]
    waited = trace.start[receives] < sent
    # A receiver may be woken before its sender has noted that it is done.
    flight = np.maximum(trace.end[receives] - sent, 0)[waited]
    return float(np.median(flight)) * trace.tick if len(flight) else 0.0
