"""Jobs: checked when made, the same from TOML, every mistake named with its fix."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import workbench as wb

MakeJob = Callable[..., wb.Job]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"microbatch_size": 0}, "microbatch_size must be a whole number"),
        ({"microbatch_size": 2.5}, "microbatch_size must be a whole number"),
        ({"steps": 0}, "steps must be"),
        ({"seed": -1}, "seed must be"),
        ({"seed": 2**63}, "seed must be below"),
        ({"clip": 0.0}, "clip must be positive"),
        ({"clock": "sundial"}, '"wall" or "virtual"'),
        ({"wait_limit": 0}, "wait_limit"),
        ({"threads_per_rank": 0}, "threads_per_rank"),
        ({"channel_capacity": -1}, "channel_capacity"),
        ({"gradient_groups": 3}, "does not divide"),
        ({"precision": "fp64"}, "precision='fp64' cannot be run"),
        ({"replicas": 2}, "make gradient_groups a multiple of 2, not 1"),
        ({"replicas": 0}, "replicas must be a whole number"),
    ],
)
def test_wrong_fields_are_named_with_the_fix(
    make_job: MakeJob, fields: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        make_job(**fields)


def test_rendezvous_that_would_deadlock_is_refused(make_job: MakeJob) -> None:
    with pytest.raises(wb.ScheduleError, match="deadlock") as caught:
        make_job(channel_capacity=0)
    assert caught.value.rule == "no deadlock"
    assert "ERROR HERE" in str(caught.value)


def test_microbatches_must_be_the_schedule_s(make_job: MakeJob) -> None:
    job = make_job(num_microbatches=4)
    with pytest.raises(ValueError, match="make the schedule with num_microbatches=5"):
        dataclasses.replace(job, num_microbatches=5)


def test_split_and_schedule_must_have_the_same_stages(
    tiny_model: wb.Model, tiny_data: wb.Data
) -> None:
    with pytest.raises(ValueError, match="num_stages=4"):
        wb.Job(
            model=tiny_model,
            partition=wb.Partition(tiny_model, boundaries=[0, 3, 6]),
            schedule=wb.Schedule.make("1f1b", num_ranks=4, num_microbatches=4),
            data=tiny_data,
        )


def test_gradients_out_of_order_are_refused(
    tiny_model: wb.Model, tiny_data: wb.Data
) -> None:
    rows = [["0F0", "0F1", "0B1", "0B0"]]
    schedule = wb.Schedule(name="mine", ranks=rows, stage_to_rank=[0])
    schedule.check()
    with pytest.raises(ValueError, match="ascending microbatch order"):
        wb.Job(
            model=tiny_model,
            partition=wb.Partition(tiny_model, boundaries=[0, 6]),
            schedule=schedule,
            data=tiny_data,
        )


def test_expert_layers_can_be_planned_but_not_trained(tiny_data: wb.Data) -> None:
    model = wb.Model.moe(
        num_layers=1,
        width=16,
        num_heads=2,
        vocab_size=64,
        context=16,
        num_experts=4,
        experts_per_token=2,
        expert_hidden=32,
    )
    with pytest.raises(ValueError, match="no kernels for expert layers"):
        wb.Job(
            model=model,
            partition=wb.Partition(model, boundaries=[0, 3]),
            schedule=wb.Schedule.make("single", num_ranks=1, num_microbatches=1),
            data=tiny_data,
        )


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (wb.Data.synthetic(vocab_size=300, size=5000, seed=0), "vocab_size"),
        (wb.Data.synthetic(vocab_size=64, size=17, seed=0), "context 16 is longer"),
        (wb.Data.arrays(np.ones((9, 3), "f"), np.ones((9, 1), "f")), "token stream"),
    ],
)
def test_data_that_does_not_suit_the_model_is_refused(
    make_job: MakeJob, data: wb.Data, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        make_job(data=data)


def test_toml_gives_the_same_job_and_the_same_bits(
    make_job: MakeJob, tmp_path: Path
) -> None:
    job = make_job(
        [0, 1, 4, 6],
        "gpipe",
        steps=4,
        clip=None,
        gradient_groups=2,
        learning_rate=wb.WarmupCosine(warmup=2),
    )
    path = tmp_path / "job.toml"
    text = job.to_toml(path)
    again = wb.Job.from_toml(path)
    assert again.to_toml() == text
    assert again.partition.boundaries == job.partition.boundaries
    assert again.schedule.ranks == job.schedule.ranks
    first = wb.launch(job, folder=tmp_path / "a").wait(60)
    second = wb.launch(again, folder=tmp_path / "b").wait(60)
    assert first.weights_hash() == second.weights_hash()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("format = 1", "format = 99"), "format is 99"),
        (("steps = 3", "setps = 3"), "unknown entries: setps"),
        (('kind = "gpt"', 'kind = "gtp"'), "unknown kind of model 'gtp'"),
        (("0F0", "0X0"), "no action"),
        (("[optimizer]", "[optimiser]"), "lacks optimizer"),
        (("steps = 3", "steps = = 3"), "not TOML"),
    ],
)
def test_a_broken_job_file_says_what_is_wrong(
    make_job: MakeJob, change: tuple[str, str], says: str
) -> None:
    text = make_job().to_toml()
    assert change[0] in text
    with pytest.raises(ValueError, match=says):
        wb.Job.from_toml(text.replace(*change))


@pytest.mark.parametrize("place", ["moon", "MPI", ""])
def test_places_that_are_not_there_are_refused(
    make_job: MakeJob, place: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="no such place"):
        wb.launch(make_job(), on=place, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_virtual_clock_is_chosen_where_ranks_outnumber_cores(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.engine import cores

    monkeypatch.setattr(cores, "usable", lambda: 2)
    assert make_job([0, 3, 6]).chosen_clock == "wall"
    assert make_job([0, 2, 4, 6]).chosen_clock == "virtual"
    assert make_job([0, 2, 4, 6]).chosen_threads == 1
    assert make_job([0, 2, 4, 6], microbatch_size=512).chosen_threads == 2
    assert make_job([0, 3, 6], threads_per_rank=2).chosen_clock == "virtual"


def test_a_quota_counts_and_not_only_the_affinity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.engine import cores

    for quota, expected in (("150000 100000", 1.5), ("max 100000", None)):
        (tmp_path / "cpu.max").write_text(quota)
        assert cores._cgroup_quota(tmp_path) == expected
    monkeypatch.setattr(cores, "_cgroup_quota", lambda: 0.5)
    assert cores.usable() == 1


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        (wb.AdamW, {"lr": -1.0}, "lr must be in"),
        (wb.AdamW, {"lr": "3e-4"}, "lr must be in"),
        (wb.AdamW, {"betas": (0.9, 1.0)}, r"betas\[1\]"),
        (wb.AdamW, {"betas": (0.9,)}, "two numbers"),
        (wb.AdamW, {"eps": 0.0}, "eps must be positive"),
        (wb.SGD, {"momentum": 1.0}, "momentum must be in"),
        (wb.WarmupCosine, {"warmup": -1}, "warmup"),
        (wb.WarmupCosine, {"final": 2.0}, "fraction"),
    ],
)
def test_wrong_optimizer_settings_are_named(
    kind: Any, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        kind(**options)


def test_learning_rate_rises_falls_and_ends_at_its_floor() -> None:
    factors = wb.WarmupCosine(warmup=4, final=0.1).factors(20)
    assert factors[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert (np.diff(factors[4:]) < 0).all()
    assert factors[4] == pytest.approx(1.0)
    assert factors[-1] == pytest.approx(0.1)
    assert (wb.Constant().factors(5) == 1).all()
