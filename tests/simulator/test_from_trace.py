"""Costs taken from traces: nothing is lost where nothing differs, and no more than said
where it does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.schedule import Action, Kind, Schedule
from workbench.simulator import CostModel, simulate
from workbench.trace import Trace

from .cases import schedules


def measured(*rows: tuple[int, str, int, float, float]) -> Trace:
    """A trace of (step, kind, microbatch, start, end) of one stage on one rank."""
    names = ("step", "kind", "microbatch", "start", "end")
    return Trace.from_rows(
        [dict(zip(names, row, strict=True), rank=0, stage=0) for row in rows]
    )


def test_costs_are_means_within_steps_and_medians_over_them() -> None:
    rows = []
    for step, (slow, scale) in enumerate([(9, 50), (4, 1), (4, 1), (4, 40), (4, 1)]):
        at = 1000.0 * step
        rows += [
            (step, "F", 0, at, at + scale),
            (step, "F", 1, at + 100, at + 100 + slow * scale),
            (step, "B", 0, at + 500, at + 503),
            (step, "B", 1, at + 510, at + 515),
        ]
    costs = CostModel.from_trace(measured(*rows))
    # The first step and the disturbed one do not count; of 1 and 4 the mean does.
    assert costs.times[0] == pytest.approx([2.5, 2, 2, 2.5, 0, 0])
    apart = CostModel.from_trace(measured(*rows), by_microbatch=True)
    assert apart.times[0, :3] == pytest.approx(
        np.array([[1, 4], [1.5, 2.5], [1.5, 2.5]])
    )
    only = CostModel.from_trace(measured(*rows[:4]))
    assert only.times[0, 0] == pytest.approx(250)


def test_split_backwards_are_known_apart_and_beside_whole_ones() -> None:
    rows = [(0, "F", k, 10 * k, 10 * k + 1) for k in range(2)]
    rows += [(0, "I", 0, 30, 32), (0, "W", 0, 32, 35), (0, "B", 1, 40, 47)]
    costs = CostModel.from_trace(measured(*rows))
    assert costs.times[0, 1:3] == pytest.approx([2, 3])
    apart = CostModel.from_trace(measured(*rows), by_microbatch=True)
    assert apart.seconds(Action.parse("0B1")) == pytest.approx(7)
    assert apart.seconds(Action.parse("0B0")) == pytest.approx(5)


@settings(deadline=None, max_examples=60)
@given(st.data(), schedules(overlaps=False))
def test_costs_taken_from_any_schedules_trace_simulate_to_the_same_times(
    data: st.DataObject, schedule: Schedule
) -> None:
    """Where durations of a stage and kind do not differ nothing is lost, split or full,
    recomputed, sliced, in two copies."""
    stages, slices = schedule.num_stages, schedule.num_slices
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    times = rng.integers(1, 9, (stages, 6)).astype(float)
    weights = rng.integers(1, 9, (slices, 6)) / 8 if data.draw(st.booleans()) else None
    if weights is not None:
        weights[:, 4:] = 1
        weights[:, :4] /= weights[:, :4].sum(axis=0)
        weights[:, 2] = weights[:, 1]  # of a full backward I and W have one share
    given = CostModel(times, slice_weights=weights if slices > 1 else None)
    first = simulate(schedule, given)
    missing = [
        stage for stage in range(stages) if not len(first.durations(Kind.F, stage))
    ]
    if missing:
        with pytest.raises(ValueError, match=f"no forward of stage {missing[0]}"):
            CostModel.from_trace(first)
        return
    again = simulate(schedule, CostModel.from_trace(first), optimizer=True)
    assert again.start * again.tick == pytest.approx(first.start * first.tick, abs=1e-6)
    assert again.end * again.tick == pytest.approx(first.end * first.tick, abs=1e-6)


def test_one_copys_costs_are_the_others() -> None:
    schedule = Schedule.make("dualpipe", num_ranks=2, num_microbatches=4)
    costs = CostModel.uniform(
        F=[1, 2], I=[3, 4], W=5, message_bytes=[6, 7], overlap=[[1, 2], [3, 4]]
    )
    both = costs.of_stages(schedule.copy_of or ())
    assert both.times.tolist() == [*costs.times.tolist()] * 2
    assert np.asarray(both.message_bytes).tolist() == [6, 7, 6, 7]
    assert np.asarray(both.overlap)[3].tolist() == [3, 4, 3, 4]
    back = both.of_stages(range(2))
    assert back.times.tolist() == costs.times.tolist()
    assert simulate(schedule, both).makespan > 0
    uniform = CostModel.uniform()
    assert uniform.of_stages([5, 6]) is uniform
    for wrong in ([0, 2], [-1], []):
        with pytest.raises(ValueError, match="stages must be from 0 to 1, got"):
            costs.of_stages(wrong)


def test_a_receive_noted_before_its_send_is_a_hop_of_nothing() -> None:
    schedule = Schedule.make("1f1b", num_ranks=2, num_microbatches=3)
    trace = simulate(schedule, CostModel.uniform(hop=0.25))
    assert CostModel.from_trace(trace).hop == pytest.approx(0.25)
    sends = trace.of_kind(Kind.SEND_F, Kind.SEND_B)
    late = replace(trace, end=trace.end + np.where(sends, int(0.5 / trace.tick), 0))
    assert CostModel.from_trace(late).hop == 0
