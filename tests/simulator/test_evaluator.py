"""The evaluator of orders agrees with the simulator, whatever the order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.schedule import Action, Kind, Schedule, ScheduleError
from workbench.simulator import CostModel, Evaluator, simulate

from .cases import models, schedules, shuffled


@settings(deadline=None, max_examples=150)
@given(st.data(), schedules())
def test_its_makespan_is_the_simulators(
    data: st.DataObject, schedule: Schedule
) -> None:
    schedule.check()
    model = data.draw(models(schedule))
    evaluator = Evaluator(schedule, model)
    assert evaluator.makespan(evaluator.rows) == simulate(schedule, model).makespan
    ranks = range(schedule.num_ranks)
    assert evaluator.peaks.tolist() == [schedule.in_flight(r) for r in ranks]


@settings(deadline=None, max_examples=300)
@given(st.data(), shuffled())
def test_other_orders_take_what_they_simulate_to_or_are_refused(
    data: st.DataObject, pair: tuple[Schedule, Schedule]
) -> None:
    good, other = pair
    model = data.draw(models(good))
    evaluator = Evaluator(good, model)
    order = evaluator.order_of(other.ranks)
    found = evaluator.makespan(order)
    try:
        other.check()
    except ScheduleError:
        assert found in (-1, -2)
        return
    assert found == simulate(other, model).makespan
    assert evaluator.schedule_of(order) == other
    # What an order before it left behind does not show.
    assert evaluator.makespan(evaluator.rows) == simulate(good, model).makespan


@settings(deadline=None, max_examples=50)
@given(st.data(), shuffled())
def test_many_orders_are_taken_one_by_one(
    data: st.DataObject, pair: tuple[Schedule, Schedule]
) -> None:
    evaluator = Evaluator(pair[0], data.draw(models(pair[0])))
    orders = np.stack([evaluator.order_of(s.ranks) for s in (*pair, *pair)])
    alone, held = [], []
    for order in orders:
        alone.append(evaluator.makespan(order))
        held.append(evaluator.peaks.tolist())
    peaks = np.full((4, pair[0].num_ranks), np.nan)
    assert evaluator.makespans(orders, peaks).tolist() == alone
    for k in range(4):
        if alone[k] >= 0:
            assert peaks[k].tolist() == held[k]


@settings(deadline=None, max_examples=50)
@given(st.data(), schedules())
def test_times_are_those_of_the_trace(data: st.DataObject, schedule: Schedule) -> None:
    model = data.draw(models(schedule))
    evaluator = Evaluator(schedule, model)
    makespan, starts, ends = evaluator.times(evaluator.rows)
    trace = simulate(schedule, model)
    assert makespan == trace.makespan
    found = {
        action: (start * trace.tick, end * trace.tick)
        for action, start, end in zip(
            trace.actions(), trace.start.tolist(), trace.end.tolist(), strict=True
        )
        if action in evaluator.numbers
    }
    assert found == dict(
        zip(evaluator.actions, zip(starts, ends, strict=True), strict=True)
    )


TWO = Schedule(
    "two", [["0F0", "0F1", "0B0", "0B1"], ["1F0", "1B0", "1F1", "1B1"]], [0, 1]
)


def test_a_deadlock_and_crossed_messages_are_told_apart() -> None:
    evaluator = Evaluator(TWO, CostModel.uniform())
    # Rank 1 wants microbatch 1's forward, rank 0 the gradient of 0 before it sends it.
    assert evaluator.makespan([[0, 2, 1, 3], [6, 7, 4, 5]]) == -1
    assert evaluator.makespan([[0, 1, 2, 3], [6, 7, 4, 5]]) == -2
    assert evaluator.makespan([[2, 0, 1, 3], [4, 5, 6, 7]]) == -1
    assert evaluator.makespan([[0, 1, 2, 3], [4, 5, 6, 7]]) > 0


@pytest.mark.parametrize(
    "rows",
    [
        [0, 0, 1, 2, 4, 5, 6, 7],
        [0, 1, 2, 4, 3, 5, 6, 7],
        [0, 1, 2, 8, 4, 5, 6, 7],
        [~0, 1, 2, 3, 4, 5, 6, 7],
        [0, ~1, ~2, 3, 4, 5, 6, 7],
        [0, ~0, 1, 2, 4, 5, 6, 7],
        [0, 1, 2, ~9, 4, 5, 6, 7],
        [0, 1, 2, 3, ~4, 5, 6, 7],
        [0, 1, 2, 3, 4, 5, 6],
    ],
)
def test_what_is_no_order_is_refused(rows: list[int]) -> None:
    evaluator = Evaluator(TWO, CostModel.uniform())
    with pytest.raises(ValueError):
        evaluator.makespan(np.array(rows, np.int32))


def test_rows_of_wrong_lengths_and_foreign_actions_are_refused() -> None:
    evaluator = Evaluator(TWO, CostModel.uniform())
    with pytest.raises(
        ValueError, match=r"\[3, 5\] actions, but the ranks have \[4, 4\]"
    ):
        evaluator.makespan([[0, 1, 2], [3, 4, 5, 6, 7]])
    with pytest.raises(ValueError, match="0F7 is no action"):
        evaluator.order_of([[Action(0, Kind.F, 7)]])


def test_schedules_that_lack_or_repeat_an_action_are_refused() -> None:
    for row in ("1B0 1F1 1B1", "1F0 1F0 1B0 1F1 1B1"):
        broken = Schedule("broken", [TWO.ranks[0], row.split()], [0, 1], 2, 2)
        with pytest.raises(ScheduleError):
            Evaluator(broken, CostModel.uniform())
    with pytest.raises(ValueError, match="for 3 stages but schedule 'two' has 2"):
        Evaluator(TWO, CostModel.uniform(F=[1, 2, 3]))


def test_memory_is_what_its_kinds_say() -> None:
    # I gives back a quarter, W the rest.
    rows = [["0F0", "0F1", "0I0", "0F2", "0I1", "0W0", "0I2", "0W1", "0W2"]]
    memory = {Kind.F: 1.0, Kind.I: -0.25, Kind.W: -0.75}
    evaluator = Evaluator(
        Schedule("one", rows, [0]), CostModel.uniform(), memory=memory
    )
    evaluator.makespan(evaluator.rows)
    assert evaluator.peaks.tolist() == [2.75]
