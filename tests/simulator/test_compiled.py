"""One layout, many costs: each evaluation is the simulator's trace in short."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.schedule import Schedule, ScheduleError, halves
from workbench.simulator import Compiled, CostModel, simulate
from workbench.trace import WAIT_LANE, Trace

from .cases import models, schedules


def spans_of(trace: Trace) -> list[float]:
    found = []
    for rank in range(trace.num_ranks):
        own = trace.select((trace.rank == rank) & (trace.lane != WAIT_LANE))
        if len(own):
            found.append((own.end.max() - own.start.min()) * trace.tick)
    return found


def capacity_of(data: st.DataObject, schedule: Schedule) -> int | None:
    try:
        least = schedule.minimum_channel_capacity()
    except ScheduleError:  # overlaps may need more than any number
        return None
    return data.draw(st.sampled_from([None, least, least + 1]))


@settings(deadline=None, max_examples=200)
@given(st.data(), schedules())
def test_makespan_and_spans_are_the_traces(
    data: st.DataObject, schedule: Schedule
) -> None:
    capacity, optimizer = capacity_of(data, schedule), data.draw(st.booleans())
    compiled = Compiled(schedule, channel_capacity=capacity, optimizer=optimizer)
    for _ in range(2):  # what an evaluation leaves behind does not show
        model = data.draw(models(schedule))
        trace = simulate(
            schedule, model, channel_capacity=capacity, optimizer=optimizer
        )
        assert compiled.makespan(model) == trace.makespan
        spans = compiled.spans(model)
        assert spans.tolist() == spans_of(trace)
        assert spans.max(initial=0) == trace.span
        assert compiled.trace(model).end.tolist() == trace.end.tolist()


@settings(deadline=None, max_examples=100)
@given(st.data(), schedules())
def test_a_batch_is_one_by_one_to_the_bit(
    data: st.DataObject, schedule: Schedule
) -> None:
    capacity, optimizer = capacity_of(data, schedule), data.draw(st.booleans())
    compiled = Compiled(schedule, channel_capacity=capacity, optimizer=optimizer)
    many = data.draw(st.lists(models(schedule), max_size=19))
    assert compiled.batch(many).tolist() == [compiled.makespan(c) for c in many]
    assert compiled.batch_spans(many).tolist() == [
        compiled.spans(c).max(initial=0) for c in many
    ]


@settings(deadline=None, max_examples=100)
@given(st.data(), schedules(), st.integers(0, 2**32), st.integers(0, 20))
def test_many_times_are_that_many_models(
    data: st.DataObject, schedule: Schedule, seed: int, count: int
) -> None:
    compiled = Compiled(schedule, optimizer=data.draw(st.booleans()))
    model = data.draw(models(schedule))
    if model.times.ndim == 3:
        model = CostModel(np.ones((1, 6)), 0.5)
    rng = np.random.default_rng(seed)
    rows = (
        schedule.num_stages
        if np.ndim(model.jitter) == 2
        else data.draw(st.sampled_from([1, schedule.num_stages]))
    )
    times = rng.random((count, rows, 6)) * 10.0 ** rng.integers(-3, 9)
    from dataclasses import replace

    each = [replace(model, times=table) for table in times]
    assert compiled.batch(model, times).tolist() == compiled.batch(each).tolist()
    assert (
        compiled.batch_spans(model, times).tolist()
        == compiled.batch_spans(each).tolist()
    )


@settings(deadline=None, max_examples=60)
@given(st.data(), schedules())
def test_no_action_starts_before_its_rank_is_free_or_ends_early(
    data: st.DataObject, schedule: Schedule
) -> None:
    compiled = Compiled(schedule)
    model = data.draw(models(schedule, plain=True))
    start, ready, end, tick = compiled.times(model)
    graph, model = compiled.graph, model.for_slices(schedule.num_slices)
    for node in range(len(graph)):
        before = graph.previous[node]
        assert start[node] == (end[before] if before >= 0 else 0)
        assert ready[node] >= max(
            [start[node], *(end[d] for d, _ in graph.waits_for(node))]
        )
        step = graph.step(node)
        if step is not None and len(halves(step)) == 1:
            cost = round(model.seconds(halves(step)[0]) / tick)
            assert end[node] - ready[node] == cost


def test_two_scales_in_one_batch_keep_their_own_ticks() -> None:
    schedule = Schedule.make("1f1b", num_ranks=3, num_microbatches=5)
    compiled = Compiled(schedule)
    many = [CostModel.uniform(F=x, hop=x / 3) for x in (1e-6, 1.0, 1e7, 1e12, 1e300)]
    assert compiled.batch(many).tolist() == [
        simulate(schedule, c).makespan for c in many
    ]


def test_costs_that_do_not_fit_are_refused_by_every_way_in() -> None:
    schedule = Schedule.make("gpipe", num_ranks=2, num_microbatches=3)
    compiled = Compiled(schedule)
    wrong = {
        "3 stages": CostModel.uniform(F=[1, 2, 3]),
        "speed is for 3 ranks": CostModel.uniform(speed=np.ones(3)),
        "latency is for 1 ranks": CostModel.uniform(latency=np.ones((1, 1))),
        "2 microbatches": CostModel.uniform(F=np.ones((2, 2))),
        "message_bytes are for 3": CostModel.uniform(message_bytes=np.ones(3)),
        "add up": CostModel.uniform(F=1e308),
    }
    for told, model in wrong.items():
        for call in (
            compiled.makespan,
            compiled.spans,
            compiled.times,
            compiled.trace,
            lambda c: compiled.batch([CostModel.uniform(), c]),
        ):
            with pytest.raises(ValueError, match=told):
                call(model)
    with pytest.raises(ValueError, match="array of times"):
        compiled.batch(CostModel.uniform())
    with pytest.raises(ValueError, match="not with a list"):
        compiled.batch([CostModel.uniform()], np.ones((1, 1, 6)))
    with pytest.raises(ValueError, match=r"times must be \(k"):
        compiled.batch(CostModel.uniform(), np.ones((2, 6)))
    with pytest.raises(ValueError, match="3 stages"):
        compiled.batch(CostModel.uniform(), np.ones((4, 3, 6)))


def test_a_deadlock_is_refused_when_it_is_laid_out() -> None:
    schedule = Schedule.make("1f1b", num_ranks=2, num_microbatches=2)
    with pytest.raises(ScheduleError, match="circle"):
        Compiled(schedule, channel_capacity=0)


def test_nothing_takes_no_time() -> None:
    compiled = Compiled(())
    assert compiled.makespan(CostModel.uniform()) == 0
    assert compiled.batch([CostModel.uniform()] * 3).tolist() == [0, 0, 0]
    assert compiled.spans(CostModel.uniform()).tolist() == []
    assert len(compiled.trace(CostModel.uniform())) == 0
