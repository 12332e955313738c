"""What a cost model says: links, luck, microbatches, slices; and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.schedule import KIND_CODE, Action, Kind, Schedule
from workbench.simulator import Compiled, CostModel, Evaluator, simulate
from workbench.trace import COMPUTE_LANE, WAIT_LANE

from .cases import models, schedules


def jittered(count: int, **options: Any) -> np.ndarray:
    """Durations of that many forwards of stage 0."""
    costs = CostModel.uniform(**({"F": 2.0, "jitter": 0.3, "draw": 0} | options))
    zeros = np.zeros(count, np.int64)
    kinds = zeros + KIND_CODE[Kind.F]
    return costs.durations(zeros, kinds, np.arange(count), zeros)


# ---- luck ----------------------------------------------------------------------------


def test_jitter_has_the_mean_and_the_spread_it_says() -> None:
    found = jittered(200_000) / 2.0
    # Five standard errors of the mean and of the standard deviation.
    assert found.mean() == pytest.approx(1, abs=5 * 0.3 / 200_000**0.5)
    assert found.std() == pytest.approx(0.3, rel=0.02)
    logs = np.log(found)
    skew = ((logs - logs.mean()) ** 3).mean() / logs.std() ** 3
    assert abs(skew) < 0.03


def test_neighbours_draws_and_seeds_are_independent() -> None:
    base = jittered(50_000)
    others = [
        jittered(50_001)[1:],
        jittered(50_000, draw=1),
        jittered(50_000, seed=1),
        jittered(50_000, seed=1, draw=2),
    ]
    for other in others:
        assert abs(np.corrcoef(base, other)[0, 1]) < 0.03


@settings(deadline=None, max_examples=50)
@given(st.data(), schedules())
def test_luck_belongs_to_the_action_not_to_the_schedule(
    data: st.DataObject, schedule: Schedule
) -> None:
    jitter = data.draw(st.sampled_from([0.2, np.arange(6) / 8]))
    costs = CostModel.uniform(jitter=jitter, seed=7, draw=data.draw(st.integers(0, 5)))
    trace = simulate(schedule, costs, optimizer=False)
    assert costs.num_stages is None
    costs = costs.for_slices(schedule.num_slices)
    for action, lane, length in zip(
        trace.actions(), trace.lane, trace.end - trace.start, strict=True
    ):
        overlapped = not any(action in row for row in schedule.ranks)
        if lane != WAIT_LANE and not overlapped:
            assert length * trace.tick == pytest.approx(costs.seconds(action), abs=1e-9)


def test_a_draw_is_the_same_again_and_draws_differ() -> None:
    compiled = Compiled(Schedule.make("1f1b", num_ranks=4, num_microbatches=8))
    costs = CostModel.uniform(jitter=0.1, seed=3)
    first, again = compiled.batch(costs.draws(20)), compiled.batch(costs.draws(20))
    assert first.tolist() == again.tolist()
    assert len(set(first.tolist())) == 20
    assert compiled.batch(costs.draws(5)).tolist() == first[:5].tolist()
    other = compiled.batch(replace(costs, seed=4).draws(20))
    assert not set(other.tolist()) & set(first.tolist())
    # Without a draw the jitter does not show; without jitter a draw does not.
    assert compiled.makespan(costs) == compiled.makespan(CostModel.uniform())
    assert compiled.makespan(replace(costs, jitter=0, draw=1)) == compiled.makespan(
        costs
    )


def test_jitter_of_a_kind_leaves_the_others_alone() -> None:
    costs = CostModel.uniform(jitter=[0, 0, 0.5, 0, 0, 0], draw=0)
    assert costs.seconds(Action.parse("0F3")) == 1
    assert costs.seconds(Action.parse("0I3")) == 1
    assert costs.seconds(Action.parse("0W3")) != 1
    by_stage = CostModel.uniform(
        F=[1, 1], jitter=np.outer([0, 0.5], np.ones(6)), draw=0
    )
    assert by_stage.seconds(Action.parse("0B3")) == 2
    assert by_stage.seconds(Action.parse("1B3")) != 2


# ---- microbatches, slices, speeds, messages ------------------------------------------


def test_times_may_be_given_by_microbatch() -> None:
    costs = CostModel.uniform(F=[[1, 2, 3], [4, 5, 6]], I=[7, 8], W=0.5)
    wanted = {"0F2": 3, "1F0": 4, "0I1": 7, "1B2": 8.5, "1W1": 0.5, "0R1": 2}
    assert {t: costs.seconds(Action.parse(t)) for t in wanted} == wanted
    schedule = Schedule.make("gpipe", num_ranks=2, num_microbatches=3)
    # Rank 1: after 0F0 its three forwards, each longer than rank 0's next, its three B.
    trace = simulate(schedule, costs)
    assert trace.span == pytest.approx(1 + 4 + 5 + 6 + 3 * 8.5 + 7.5)


def test_slices_share_their_stages_time() -> None:
    costs = CostModel.uniform(F=8, I=4, W=2, overlap=6, message_bytes=20, optimizer=3)
    part = costs.for_slices(4)
    wanted = {"0F0": 2, "0F0.3": 2, "0I0.1": 1, "0B0.1": 1.5, "0R0": 2, "0OPT_STEP": 3}
    assert {t: part.seconds(Action.parse(t)) for t in wanted} == wanted
    assert part.overlap == 1.5 and part.message_bytes == 5
    assert costs.for_slices(1) is costs
    deep = CostModel.uniform(F=np.full((2, 3), 8.0), optimizer=3).for_slices(2)
    assert deep.seconds(Action.parse("1F2.1")) == 4
    assert deep.seconds(Action.parse("1OPT_STEP")) == 3


@pytest.mark.parametrize("weights", [None, [0.1, 0.2, 0.7]])
def test_a_sliced_step_does_the_same_work(weights: list[float] | None) -> None:
    costs = CostModel.uniform(F=1, I=2, W=3, slice_weights=weights)
    schedule = Schedule.make("seq_1f1b", num_ranks=2, num_microbatches=2, num_slices=3)
    whole = Schedule.make("1f1b", num_ranks=2, num_microbatches=2)
    for one in (schedule, whole):
        trace = simulate(one, costs)
        busy = (trace.end - trace.start)[trace.lane == COMPUTE_LANE].sum() * trace.tick
        assert busy == pytest.approx(2 * 2 * 6)
    batched = Compiled(schedule).batch(costs, times=np.stack([costs.times] * 2))
    assert batched.tolist() == [simulate(schedule, costs).makespan] * 2
    assert Evaluator(schedule, costs).makespan(
        Evaluator(schedule, costs).rows
    ) == pytest.approx(batched[0])
    wrong = CostModel.uniform(slice_weights=[0.5, 0.5])
    with pytest.raises(ValueError, match="for 2 slices, but the schedule has 3"):
        simulate(schedule, wrong)


def test_slices_weigh_what_they_are_said_to() -> None:
    costs = CostModel.uniform(F=2, I=4, slice_weights=[0.25, 0.75])
    wanted = {"0F0": 0.5, "0F0.1": 1.5, "0I0.1": 3, "0B0.1": 3.75}
    assert {t: costs.seconds(Action.parse(t)) for t in wanted} == wanted
    by_kind = np.ones((2, 6))
    by_kind[1, :3] = 3, 5, 1
    costs = CostModel.uniform(slice_weights=by_kind)
    wanted = {"0F0.1": 3, "0I0.1": 5, "0W0.1": 1, "0B0.1": 6, "0F0": 1, "0B0": 2}
    assert {t: costs.seconds(Action.parse(t)) for t in wanted} == wanted


@pytest.mark.parametrize(
    ("text", "told"), [("2F0", "2 stages"), ("0F3", "3 microb"), ("0F0.2", "2 slices")]
)
def test_costs_of_what_there_is_not_are_refused(text: str, told: str) -> None:
    costs = CostModel.uniform(F=np.ones((2, 3)), slice_weights=[1, 1])
    with pytest.raises(ValueError, match=f"{text}: the costs are for {told}"):
        costs.seconds(Action.parse(text))
    assert costs.seconds(Action.parse("1OPT_STEP")) == 0


@settings(deadline=None, max_examples=50)
@given(st.data(), schedules())
def test_a_link_matrix_of_one_number_is_a_hop(
    data: st.DataObject, schedule: Schedule
) -> None:
    plain = data.draw(models(schedule, plain=True))
    ranks = schedule.num_ranks
    weights = np.ones((schedule.num_slices, 6))
    weights[:, :4] /= schedule.num_slices  # all but the end of the step
    same = replace(
        plain,
        hop=99.0,
        latency=np.full((ranks, ranks), plain.hop),
        speed=np.ones(ranks),
        slice_weights=weights,
        overlap=None
        if plain.overlap is None
        else np.full((schedule.num_stages,) * 2, plain.overlap),
    )
    assert (
        simulate(schedule, same).end.tolist() == simulate(schedule, plain).end.tolist()
    )


def test_a_message_takes_its_bytes_over_the_bandwidth_longer() -> None:
    schedule = Schedule.make("gpipe", num_ranks=2, num_microbatches=1)
    costs = CostModel.uniform(
        bandwidth=np.array([[1, 4.0], [2, 1]]), message_bytes=[8.0, 100], hop=0.5
    )
    trace = simulate(schedule, costs)
    # 1 + (0.5 + 8/4) + 1 + 2 + (0.5 + 8/2) + 2: the gradient is as large as the output.
    assert trace.makespan == pytest.approx(1 + 2.5 + 3 + 4.5 + 2)
    carried = {
        str(a): b for a, b in zip(trace.actions(), trace.bytes.tolist(), strict=True)
    }
    messages = {"0SEND_F0": 8, "1RECV_F0": 8, "1SEND_B0": 8, "0RECV_B0": 8}
    assert carried == {**dict.fromkeys(["0F0", "1F0", "1B0", "0B0"], 0), **messages}


def test_blocking_sends_keep_their_rank() -> None:
    schedule = Schedule.make("gpipe", num_ranks=2, num_microbatches=3)
    free = CostModel.uniform(hop=2)
    # Rank 0 sends for two units after each of its forwards: 3 x (1 + 2) before rank 1
    # has the last; then that forward, three B of which two send, and one B.
    assert simulate(schedule, replace(free, blocking=True)).makespan == pytest.approx(
        9 + 1 + 2 + 2 + 2 + 2 + 2 + 2 + 2
    )
    assert simulate(schedule, free).makespan == pytest.approx(1 + 2 + 3 + 6 + 2 + 2)


def test_a_slow_rank_is_slow_in_everything() -> None:
    schedule = Schedule("two", [["0F0", "0B0"], ["1F0", "1B0"]], [0, 1])
    costs = CostModel.uniform(reduce=1, optimizer=1, speed=[1, 0.25])
    trace = simulate(schedule, costs)
    # 1, then on the slow rank F 4, B 8, reduce 4, meanwhile 2 + 1; both reduced: its step.
    assert trace.makespan == pytest.approx(1 + 12 + 4 + 4)


def test_overlap_prices_go_by_the_stages_of_the_pair() -> None:
    rows = [["0F0", "1F0", "(0F1;1B0)OVERLAP_F_B", "0B0", "1F1", "1B1", "0B1"]]
    prices = np.array([[9, 2.5], [7, 9]])
    costs = CostModel.uniform(overlap=prices)
    assert simulate(Schedule("o", rows, [0, 0]), costs).makespan == pytest.approx(
        2 + 2.5 + 2 + 1 + 2 + 2
    )
    turned = [[t.replace("(0F1;1B0)", "(1B0;0F1)") for t in rows[0]]]
    found = simulate(Schedule("o", turned, [0, 0]), costs)
    assert found.makespan == pytest.approx(2 + 2.5 + 2 + 1 + 2 + 2)


# ---- what is refused -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("overlap", np.ones((2, 3))),
        ("overlap", np.ones(2)),
        ("latency", 1.0),
        ("latency", np.ones((2, 3))),
        ("latency", np.full((2, 2), -1.0)),
        ("bandwidth", 0.0),
        ("bandwidth", np.zeros((2, 2))),
        ("bandwidth", np.inf),
        ("message_bytes", -1),
        ("message_bytes", np.ones((2, 2))),
        ("speed", 1.0),
        ("speed", [1.0, 0.0]),
        ("speed", [1.0, np.nan]),
        ("slice_weights", 1.0),
        ("slice_weights", np.ones((2, 5))),
        ("jitter", -0.1),
        ("jitter", np.ones(5)),
        ("jitter", np.ones((3, 6))),
        ("seed", -1),
        ("draw", -1),
    ],
)
def test_fields_that_are_no_costs_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        CostModel.uniform(F=[1, 2], **{name: value})


def test_times_of_other_shapes_are_refused() -> None:
    for shape in ((6,), (0, 6), (2, 6, 0), (2, 5), (2, 6, 3, 1)):
        with pytest.raises(ValueError, match="times must be"):
            CostModel(np.ones(shape))


def test_arrays_are_kept_as_they_were_given() -> None:
    speed = np.ones(2)
    costs = CostModel.uniform(speed=speed)
    speed[0] = 5
    assert costs.speed is not None
    assert costs.speed.tolist() == [1, 1]
    with pytest.raises(ValueError, match="read-only"):
        costs.speed[0] = 2
