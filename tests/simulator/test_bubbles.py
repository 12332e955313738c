"""Both bubble figures and both spans, with several stages per rank, by brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.schedule import Schedule
from workbench.simulator import CostModel, simulate
from workbench.trace import WAIT_LANE

from .cases import models, schedules


@settings(deadline=None, max_examples=150)
@given(st.data(), schedules())
def test_the_figures_are_what_counting_every_tick_gives(
    data: st.DataObject, schedule: Schedule
) -> None:
    whole = st.integers(0, 4)
    hop = data.draw(whole)
    f, i, w = (data.draw(whole) * schedule.num_slices for _ in range(3))
    trace = simulate(schedule, CostModel.uniform(F=f, I=i, W=w, hop=hop))
    ranks, length = schedule.num_ranks, round(trace.makespan)
    busy = np.zeros((ranks, length), bool)
    for rank, lane, start, end in zip(
        trace.rank.tolist(),
        trace.lane.tolist(),
        np.rint(trace.start * trace.tick).astype(int).tolist(),
        np.rint(trace.end * trace.tick).astype(int).tolist(),
        strict=True,
    ):
        if lane != WAIT_LANE:
            busy[rank, start:end] = True
    report = trace.bubbles()
    total, idle = busy.size, int((~busy).sum())
    assert report.makespan == trace.makespan == pytest.approx(length)
    assert report.bubble_fraction == pytest.approx(idle / total if total else 0)
    if busy.any():
        assert report.bubble_ratio == pytest.approx(idle / busy.sum())
    for rank, row in enumerate(report.ranks):
        assert sum(row.values()) * trace.tick == pytest.approx(length)
        worked = (row["compute"] + row["recompute"]) * trace.tick
        assert worked == pytest.approx(busy[rank].sum())
    if f and i + w:  # otherwise a rank may begin or end with what takes no time
        spans = []
        for row in busy:
            at = np.flatnonzero(row)
            spans.append(at[-1] - at[0] + 1 if len(at) else 0)
        assert report.span == trace.span == pytest.approx(max(spans))


@settings(deadline=None, max_examples=60)
@given(st.data(), schedules())
def test_span_never_exceeds_makespan_nor_falls_below_a_ranks_work(
    data: st.DataObject, schedule: Schedule
) -> None:
    trace = simulate(schedule, data.draw(models(schedule)))
    report = trace.bubbles()
    assert trace.span <= trace.makespan
    most = max(row["compute"] + row["recompute"] for row in report.ranks)
    assert trace.span >= most * trace.tick * (1 - 1e-12)


def loop(p: int, v: int, m: int) -> Schedule:
    rows = [
        [f"{s}F{k}" for s in range(r, p * v, p) for k in range(m)]
        + [f"{s}B{k}" for s in reversed(range(r, p * v, p)) for k in range(m)]
        for r in range(p)
    ]
    return Schedule("loop", rows, [s % p for s in range(p * v)])


@pytest.mark.parametrize(("p", "v", "m"), [(2, 2, 2), (4, 2, 4), (4, 3, 8), (3, 4, 5)])
def test_looped_stages_divide_the_bubble(p: int, v: int, m: int) -> None:
    """Breadth-first loops idle (p - 1)(F + B) stage times (arXiv 2211.05953, m >= p)."""
    trace = simulate(loop(p, v, m), CostModel.uniform(F=1, I=1, W=1))
    assert trace.makespan == pytest.approx(3 * (m * v + p - 1))
    assert trace.bubbles().bubble_ratio == pytest.approx((p - 1) / (m * v))
    # Rank 0 begins first and ends last.
    assert trace.span == pytest.approx(trace.makespan)
