"""Memory over time against a walk that asks, instant by instant, who is still held."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.schedule import Action, Kind, Schedule
from workbench.simulator import (
    CostModel,
    Evaluator,
    deltas,
    memory_over_time,
    simulate,
)
from workbench.trace import WAIT_LANE, Trace

from .cases import schedules

CONVENTIONS = ("backward", "weight", "split")


def intervals(
    trace: Trace, convention: str, fraction: float, checkpoint: float
) -> list[tuple[int, int, int, int, float]]:
    """(rank, stage, from, to, how much) of everything that is held, in ticks."""
    work = trace.select(trace.lane != WAIT_LANE)
    when = {
        action: (rank, start, end)
        for action, rank, start, end in zip(
            work.actions(),
            work.rank.tolist(),
            work.start.tolist(),
            work.end.tolist(),
            strict=True,
        )
    }
    found = []
    for action, (rank, start, _) in when.items():
        if action.kind is not Kind.F:
            continue
        ends = {k: when.get(action._replace(kind=k)) for k in (Kind.B, Kind.I, Kind.W)}
        full, early, late = ends[Kind.B], ends[Kind.I], ends[Kind.W]
        if full is not None:
            parts = [(full[2], 1.0)]
        else:
            assert early is not None and late is not None
            share = {"backward": 1.0, "weight": 0.0, "split": fraction}[convention]
            parts = [(early[2], share), (late[2], 1 - share)]
        again = when.get(action._replace(kind=Kind.R))
        for until, share in parts:
            if again is None:
                found.append((rank, action.stage, start, until, share))
            else:
                found.append((rank, action.stage, start, until, share * checkpoint))
                rest = share * (1 - checkpoint)
                found.append((rank, action.stage, again[1], until, rest))
    return found


@settings(deadline=None, max_examples=150)
@given(st.data(), schedules())
def test_it_holds_what_has_begun_and_is_not_freed(
    data: st.DataObject, schedule: Schedule
) -> None:
    convention = data.draw(st.sampled_from(CONVENTIONS))
    fraction, checkpoint = (data.draw(st.sampled_from([0, 0.25, 1])) for _ in range(2))
    sizes = data.draw(
        st.none()
        | st.lists(
            st.integers(0, 5),
            min_size=schedule.num_stages,
            max_size=schedule.num_stages,
        )
    )
    numbers = st.integers(1, 4)
    f, i, w, r = (data.draw(numbers) for _ in range(4))
    trace = simulate(schedule, CostModel.uniform(F=f, I=i, W=w, R=r, hop=0.5))
    memory = memory_over_time(
        trace,
        convention=convention,
        fraction=fraction,
        sizes=sizes,
        checkpoint=checkpoint,
    )
    held = intervals(trace, convention, fraction, checkpoint)
    moments = np.unique(np.concatenate([trace.start, trace.end]))
    middles = (moments[:-1] + moments[1:]) // 2
    most = np.zeros(schedule.num_ranks)
    for moment in middles.tolist():
        wanted = np.zeros(schedule.num_ranks)
        for rank, stage, low, high, share in held:
            if low <= moment < high:
                size = 1 if sizes is None else sizes[stage]
                wanted[rank] += share * size / schedule.num_slices
        assert memory.at(moment * trace.tick) == pytest.approx(wanted)
        most = np.maximum(most, wanted)
    assert memory.peak == pytest.approx(most)
    assert memory.at(2 * trace.makespan) == pytest.approx(0)


@settings(deadline=None, max_examples=60)
@given(st.data(), schedules(overlaps=False))
def test_the_evaluator_finds_the_same_peaks(
    data: st.DataObject, schedule: Schedule
) -> None:
    options = {"convention": data.draw(st.sampled_from(CONVENTIONS)), "fraction": 0.25}
    actions = [action for _, _, action in schedule.walk()]
    costs = CostModel.uniform(R=0.5)
    evaluator = Evaluator(schedule, costs, memory=deltas(actions, **options))
    evaluator.makespan(evaluator.rows)
    memory = memory_over_time(schedule, costs=costs, **options)
    assert evaluator.peaks.tolist() == pytest.approx(memory.peak.tolist())


@pytest.mark.parametrize("name", ["gpipe", "1f1b"])
@pytest.mark.parametrize(("p", "m"), [(1, 3), (3, 2), (4, 8)])
def test_where_no_backward_is_split_all_conventions_are_in_flight(
    name: str, p: int, m: int
) -> None:
    schedule = Schedule.make(name, num_ranks=p, num_microbatches=m)
    wanted = [schedule.in_flight(rank) for rank in range(p)]
    for convention in CONVENTIONS:
        memory = memory_over_time(schedule, convention=convention)
        assert memory.peak.tolist() == wanted


def test_the_three_conventions_by_hand() -> None:
    rows = [["0F0", "0F1", "0I0", "0F2", "0I1", "0W0", "0W1", "0I2", "0W2"]]
    schedule = Schedule("by hand", rows, [0])

    def peak(convention: str, fraction: float = 0.5) -> float:
        found = memory_over_time(schedule, convention=convention, fraction=fraction)
        return float(found.peak[0])

    # In flight behind each action, at I: 1 2 1 2 1 1 1 0 0; at W: 1 2 2 3 3 2 1 1 0.
    assert peak("backward") == 2
    assert peak("weight") == 3
    assert peak("split") == 2.5
    assert peak("split", 0.25) == 2.75


def test_what_makes_no_sense_is_refused() -> None:
    schedule = Schedule.make("gpipe", num_ranks=2, num_microbatches=2)
    trace = simulate(schedule, CostModel.uniform())
    with pytest.raises(ValueError, match="backward, weight, split"):
        memory_over_time(schedule, convention="never")
    for name in ("fraction", "checkpoint"):
        for value in (-0.1, 1.1, float("nan")):
            with pytest.raises(ValueError, match=name):
                memory_over_time(schedule, **{name: value})
    wrong: Sequence[object] = ([1.0], 3.0, np.ones((2, 2)))
    for sizes in wrong:
        with pytest.raises(ValueError, match="one number per stage"):
            memory_over_time(schedule, sizes=sizes)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="own times"):
        memory_over_time(trace, costs=CostModel.uniform())


def test_an_empty_trace_holds_nothing() -> None:
    assert memory_over_time(simulate((), CostModel.uniform())).peak.tolist() == []
    assert deltas([]).tolist() == []
    assert deltas([Action(0, Kind.F, 0)]).tolist() == [1]
