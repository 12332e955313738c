"""A run under the virtual clock is what the simulator says of its own durations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import workbench as wb
from workbench.schedule import Kind, Program, halves
from workbench.trace import WAIT_LANE

#: name -> (ranks, microbatches, options).
SHAPES: dict[str, tuple[int, int, dict[str, Any]]] = {
    "gpipe": (4, 6, {}),
    "1f1b": (3, 5, {}),
    "interleaved_1f1b": (2, 6, {"stages_per_rank": 3}),
    "zb_h1": (4, 6, {}),
    "zb_v": (3, 6, {}),
    "v_min": (2, 4, {}),
    "dualpipe": (4, 8, {}),
    "dualpipe_v": (2, 6, {}),
    "chimera": (4, 4, {}),
    "hanayo": (2, 4, {}),
    "bitpipe": (2, 4, {}),
    "seq_1f1b": (2, 4, {"num_slices": 4}),
    "1f1b_recompute": (3, 5, {}),
}


def executed(
    schedule: wb.Schedule, data: wb.Data, folder: Path, steps: int = 1, **fields: Any
) -> wb.Run:
    model = wb.Model.gpt(num_layers=8, width=8, num_heads=2, vocab_size=64, context=8)
    job = wb.Job(
        model=model,
        partition=wb.Partition.balanced(
            model, num_stages=schedule.chain_length, by="layers"
        ),
        schedule=schedule,
        data=data,
        steps=steps,
        clock="virtual",
        gradient_groups=schedule.num_copies * fields.get("replicas", 1),
        evaluate=0,
        **fields,
    )
    return wb.launch(job, folder=folder).wait(60)


def as_run(schedule: wb.Schedule) -> tuple[Program, ...]:
    """An overlap's halves one after the other, slices told as microbatches."""

    def told(action: wb.Action) -> wb.Action:
        stage, kind, microbatch, part = action
        if microbatch < 0:
            return action
        return wb.Action(stage, kind, microbatch * schedule.num_slices + part)

    return tuple(
        Program(p.rank, tuple(told(a) for step in p.steps for a in halves(step)))
        for p in schedule.programs()
    )


def times(trace: wb.Trace) -> dict[tuple[int, wb.Action, bool], tuple[int, int]]:
    """(rank, action, is it a wait) -> (start, end) in ticks from the first start;
    waits without length left out."""
    first = trace.start.min()
    return {
        (int(rank), action, bool(lane == WAIT_LANE)): (int(a - first), int(b - first))
        for rank, action, lane, a, b in zip(
            trace.rank, trace.actions(), trace.lane, trace.start, trace.end, strict=True
        )
        if lane != WAIT_LANE or b > a
    }


@pytest.mark.parametrize("capacity", [None, 4])
@pytest.mark.parametrize("name", SHAPES)
def test_own_durations_give_the_run_back_to_the_nanosecond(
    name: str, capacity: Any, tiny_data: wb.Data, tmp_path: Path
) -> None:
    ranks, microbatches, options = SHAPES[name]
    schedule = wb.Schedule.make(
        name, num_ranks=ranks, num_microbatches=microbatches, **options
    )
    run = executed(schedule, tiny_data, tmp_path, channel_capacity=capacity)
    trace = run.trace
    trace = replace(
        trace,
        microbatch=np.where(
            trace.microbatch < 0,
            -1,
            trace.microbatch * schedule.num_slices + trace.slice,
        ),
        slice=np.zeros_like(trace.slice),
    )
    costs = wb.CostModel.from_trace(trace, by_microbatch=True)
    assert costs.hop == 0
    again = wb.simulate(as_run(schedule), costs, channel_capacity=run.job.capacity)
    assert (again.tick, trace.tick) == (1e-9, 1e-9)
    assert times(again) == times(trace)
    assert again.makespan == trace.makespan


@pytest.mark.parametrize("zero", [0, 1])
@pytest.mark.parametrize("name", ["1f1b", "interleaved_1f1b", "chimera"])
def test_replicas_are_predicted_by_their_own_durations(
    name: str, zero: int, tiny_data: wb.Data, tmp_path: Path
) -> None:
    schedule = wb.Schedule.make(name, num_ranks=2, num_microbatches=4)
    run = executed(schedule, tiny_data, tmp_path, replicas=2, zero=zero)
    costs = wb.CostModel.from_trace(run.trace, by_microbatch=True)
    ran = run.job.executed
    again = wb.simulate(as_run(ran), costs, channel_capacity=run.job.capacity)
    assert times(again) == times(run.trace)
    report = run.trace.bubbles()
    assert len(report.ranks) == ran.num_ranks
    # Adding gradients up takes time, on every rank of every replica.
    reduces = run.trace.of_kind(Kind.REDUCE_GRAD)
    assert set(run.trace.stage[reduces]) == set(range(ran.num_stages))


def test_overlaps_take_the_sum_of_their_halves(
    tiny_data: wb.Data, tmp_path: Path
) -> None:
    """The engine runs the halves one after the other; all the rest is as if they ran
    together for as long."""
    schedule = wb.Schedule.make("dualpipe_v", num_ranks=2, num_microbatches=6)
    assert any(len(halves(item)) == 2 for row in schedule.ranks for item in row)
    run = executed(schedule, tiny_data, tmp_path)
    costs = wb.CostModel.from_trace(run.trace, by_microbatch=True)
    again = wb.simulate(schedule, costs, channel_capacity=run.job.capacity)
    assert again.makespan == run.trace.makespan


def test_costs_of_a_run_fit_every_schedule_of_its_stages(
    tiny_data: wb.Data, tmp_path: Path
) -> None:
    schedule = wb.Schedule.make("zb_h1", num_ranks=2, num_microbatches=4)
    costs = wb.CostModel.from_trace(executed(schedule, tiny_data, tmp_path, 3).trace)
    for name in ("gpipe", "1f1b_recompute", "seq_1f1b", "dualpipe", "chimera"):
        other = wb.Schedule.make(name, num_ranks=2, num_microbatches=4)
        here = costs.of_stages(other.copy_of) if other.copy_of else costs
        makespan = wb.simulate(other, here, optimizer=False).makespan
        work = costs.times[:, :3].sum() * 4
        rounding = 1e-9 * sum(1 for _ in other.walk())  # each action, to a tick
        # No rank is done before its share of the work is, nor all after all of it.
        again = costs.times[:, 3].sum() * 4 if name == "1f1b_recompute" else 0.0
        assert work / 2 <= makespan + rounding
        assert makespan <= work + again + rounding


def test_messages_take_no_time_under_the_virtual_clock(
    tiny_data: wb.Data, tmp_path: Path
) -> None:
    schedule = wb.Schedule.make("1f1b", num_ranks=3, num_microbatches=4)
    # Room for all messages: a send that waits for room lasts as long as it waits.
    trace = executed(schedule, tiny_data, tmp_path, 2, channel_capacity=4).trace
    sends = trace.of_kind(Kind.SEND_F, Kind.SEND_B)
    assert sends.any()
    assert (trace.end[sends] == trace.start[sends]).all()
    assert trace.bubbles().share("exposed_communication") == 0
