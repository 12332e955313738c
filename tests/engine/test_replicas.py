"""Data parallel x pipeline: the same bits for any number of replicas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import workbench as wb
from workbench.engine.build import build
from workbench.schedule import replicate
from workbench.trace import WAIT_LANE

MICROBATCHES, GROUPS = 8, 4

#: (schedule, ranks, replicas, boundaries); the tiny model has six layers.
CASES = [
    ("single", 1, 2, [0, 6]),
    ("single", 1, 4, [0, 6]),
    ("1f1b", 2, 2, [0, 1, 6]),
    ("1f1b", 3, 2, [0, 2, 3, 6]),
    ("1f1b", 2, 4, [0, 4, 6]),
    ("zb_h1", 2, 2, [0, 5, 6]),
    ("interleaved_1f1b", 2, 2, [0, 1, 2, 5, 6]),
    ("v_half", 2, 2, [0, 1, 3, 5, 6]),
    ("1f1b_recompute", 2, 4, [0, 3, 6]),
    ("dualpipe", 2, 1, [0, 2, 6]),
    ("dualpipe", 2, 2, [0, 2, 6]),
    ("chimera", 2, 2, [0, 5, 6]),
    ("bitpipe", 2, 2, [0, 1, 2, 4, 6]),
]


def job_of(
    model: wb.Model,
    data: wb.Data,
    name: str,
    ranks: int,
    replicas: int,
    boundaries: list[int],
    **fields: Any,
) -> wb.Job:
    schedule = wb.Schedule.make(
        name, num_ranks=ranks, num_microbatches=MICROBATCHES // replicas
    )
    settings: dict[str, Any] = dict(
        microbatch_size=2,
        gradient_groups=GROUPS,
        steps=3,
        evaluate=0,
        optimizer=wb.AdamW(lr=1e-2),
        clip=0.3,
    )
    return wb.Job(
        model=model,
        partition=wb.Partition(model, boundaries=boundaries),
        schedule=schedule,
        data=data,
        replicas=replicas,
        **settings | fields,
    )


def outcome(job: wb.Job, folder: Path) -> tuple[str, bytes, bytes]:
    run = wb.launch(job, folder=folder).wait(60)
    assert run.state == "finished"
    return run.weights_hash(), run.losses.tobytes(), run.gradient_norms.tobytes()


@pytest.fixture(scope="module")
def known() -> dict[object, tuple[str, bytes, bytes]]:
    return {}


@pytest.mark.parametrize("clock", ["wall", "virtual"])
@pytest.mark.parametrize(("name", "ranks", "replicas", "boundaries"), CASES)
def test_replicas_do_not_change_a_bit(
    name: str,
    ranks: int,
    replicas: int,
    boundaries: list[int],
    clock: str,
    tiny_model: wb.Model,
    tiny_data: wb.Data,
    known: dict[object, tuple[str, bytes, bytes]],
    tmp_path: Path,
) -> None:
    if not known:
        one = job_of(tiny_model, tiny_data, "single", 1, 1, [0, 6])
        known["one"] = outcome(one, tmp_path / "one")
    job = job_of(tiny_model, tiny_data, name, ranks, replicas, boundaries, clock=clock)
    assert job.executed.num_ranks == ranks * replicas
    assert outcome(job, tmp_path / "run") == known["one"]


@pytest.mark.parametrize(
    ("groups", "replicas", "microbatches"), [(3, 3, 6), (6, 2, 12), (6, 3, 6)]
)
def test_trees_over_numbers_of_groups_that_are_no_powers_of_two(
    groups: int,
    replicas: int,
    microbatches: int,
    tiny_model: wb.Model,
    tiny_data: wb.Data,
    tmp_path: Path,
) -> None:
    found = []
    for count in (1, replicas):
        schedule = wb.Schedule.make(
            "1f1b", num_ranks=2, num_microbatches=microbatches // count
        )
        job = wb.Job(
            model=tiny_model,
            partition=wb.Partition(tiny_model, boundaries=[0, 2, 6]),
            schedule=schedule,
            data=tiny_data,
            microbatch_size=1,
            replicas=count,
            gradient_groups=groups,
            steps=3,
            evaluate=0,
        )
        found.append(outcome(job, tmp_path / str(count)))
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["1f1b", "dualpipe", "seq_1f1b", "v_min", "bitpipe"])
@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_a_replicated_schedule_keeps_every_rule(name: str, replicas: int) -> None:
    one = wb.Schedule.make(name, num_ranks=2, num_microbatches=4)
    many = replicate(one, replicas)
    capacity = max(1, one.minimum_channel_capacity())
    many.check(channel_capacity=capacity)
    assert many.num_ranks == 2 * replicas
    assert many.chain_length == one.chain_length
    assert many.num_copies == one.num_copies * replicas
    # Side by side: as long as one alone, and with the same idle share.
    costs = wb.CostModel.uniform(F=1.0, I=1.0, W=1.0, hop=0.1)
    both = [wb.simulate(s, costs.of_stages(s.copy_of) if s.copy_of else costs)
            for s in (one, many)]  # fmt: skip
    assert both[0].makespan == both[1].makespan
    shares = [trace.bubbles().bubble_fraction for trace in both]
    assert shares[0] == pytest.approx(shares[1])


def test_every_rank_s_memory_is_as_planned(
    tiny_model: wb.Model, tiny_data: wb.Data
) -> None:
    one = job_of(tiny_model, tiny_data, "1f1b", 2, 1, [0, 2, 6])
    job = job_of(tiny_model, tiny_data, "1f1b", 2, 2, [0, 2, 6])
    plan, built = job.memory(), build(job)
    assert [len(arena) for arena in built.arenas] == list(plan.arena_bytes)
    # A replica holds its own groups' gradients only, and all else as one alone does.
    for rank, classes in enumerate(plan.classes):
        alone = one.memory().classes[rank % 2]
        assert 2 * classes["gradients"] == alone["gradients"]
        assert classes["parameters"] == alone["parameters"]
        assert classes["optimizer"] == alone["optimizer"]


def test_a_measured_trace_tells_the_schedule_that_ran(
    tiny_model: wb.Model, tiny_data: wb.Data, tmp_path: Path
) -> None:
    job = job_of(tiny_model, tiny_data, "dualpipe", 2, 2, [0, 2, 6], clock="virtual")
    run = wb.launch(job, folder=tmp_path).wait(60)
    found, ran = run.trace.schedule(), job.executed
    assert (found.copy_of, found.route) == (ran.copy_of, ran.route)
    assert found.stage_to_rank == ran.stage_to_rank
    found.check()


@pytest.mark.parametrize("clock", ["wall", "virtual"])
@pytest.mark.parametrize("zero", [0, 1])
@pytest.mark.parametrize("tied", [False, True])
def test_all_holders_end_with_the_same_weights(
    tied: bool, zero: int, clock: str, tiny_data: wb.Data, tmp_path: Path
) -> None:
    model = wb.Model.gpt(
        num_layers=4, width=16, num_heads=2, vocab_size=64, context=16, tied=tied
    )
    job = job_of(model, tiny_data, "chimera", 2, 2, [0, 2, 6], zero=zero, clock=clock)
    built = wb.launch(job, folder=tmp_path).wait(60)._built
    length = job.partition.num_stages
    for holders in built.parameters:
        for copy in range(built.copies):
            for stage, number in holders:
                held = built._view("param", stage + copy * length, number)
                assert np.array_equal(held, built._view("param", *holders[0]))


@pytest.mark.parametrize("clock", ["wall", "virtual"])
def test_adding_gradients_up_shows_on_every_rank_and_all_time_is_told(
    clock: str, tiny_model: wb.Model, tiny_data: wb.Data, tmp_path: Path
) -> None:
    boundaries = [0, 1, 2, 5, 6]
    job = job_of(
        tiny_model, tiny_data, "interleaved_1f1b", 2, 2, boundaries, clock=clock, zero=1
    )
    run = wb.launch(job, folder=tmp_path).wait(60)
    trace = run.trace
    reduces = trace.of_kind(wb.Kind.REDUCE_GRAD) & (trace.lane != WAIT_LANE)
    for step in trace.steps:
        found = trace.select(reduces & (trace.step == step))
        assert set(found.stage) == set(range(8))
        # Once for what is a copy's own, and at most once more for its share of the rest.
        assert len(found) <= 2 * 8
    report = trace.bubbles()
    for row in report.ranks:
        assert sum(row.values()) == round(report.makespan / report.tick)
