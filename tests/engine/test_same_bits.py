"""The promise of docs/numerics.md: the same job gives the same bits, however it is laid
out."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import workbench as wb

#: Splits of the tiny model's six layers, even and uneven, for 1 to 4 stages.
SPLITS = (
    [0, 6],
    [0, 3, 6],
    [0, 1, 6],
    [0, 5, 6],
    [0, 2, 4, 6],
    [0, 1, 5, 6],
    [0, 1, 2, 4, 6],
)
LAYOUTS = [
    (split, schedule, clock, threads)
    for split, schedule, clock, threads in itertools.product(
        SPLITS, ("gpipe", "1f1b", "single"), ("wall", "virtual"), (1, 2)
    )
]


def outcome(job: wb.Job, folder: Path) -> tuple[str, bytes, bytes]:
    run = wb.launch(job, folder=folder).wait(60)
    assert run.state == "finished"
    return run.weights_hash(), run.losses.tobytes(), run.gradient_norms.tobytes()


@pytest.fixture(scope="module")
def baseline(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[object, tuple[str, bytes, bytes]]:
    return {}


@pytest.mark.parametrize("num_microbatches", [1, 3, 4])
@pytest.mark.parametrize(("split", "schedule", "clock", "threads"), LAYOUTS)
def test_layout_does_not_change_a_bit(
    make_job: Callable[..., wb.Job],
    baseline: dict[object, tuple[str, bytes, bytes]],
    tmp_path: Path,
    split: list[int],
    schedule: str,
    clock: str,
    threads: int,
    num_microbatches: int,
) -> None:
    if num_microbatches not in baseline:
        job = make_job([0, 6], "single", num_microbatches, clock="wall")
        baseline[num_microbatches] = outcome(job, tmp_path / "baseline")
    job = make_job(
        split, schedule, num_microbatches, clock=clock, threads_per_rank=threads
    )
    assert outcome(job, tmp_path / "run") == baseline[num_microbatches]


@pytest.mark.parametrize("capacity", [1, 2, 5])
def test_channel_capacity_does_not_change_a_bit(
    make_job: Callable[..., wb.Job], tmp_path: Path, capacity: int
) -> None:
    first = outcome(make_job(), tmp_path / "a")
    assert outcome(make_job(channel_capacity=capacity), tmp_path / "b") == first


@pytest.mark.parametrize("groups", [2, 4])
def test_gradient_groups_are_part_of_the_job_and_free_of_the_layout(
    make_job: Callable[..., wb.Job], tmp_path: Path, groups: int
) -> None:
    one = outcome(make_job([0, 6], "single", gradient_groups=groups), tmp_path / "a")
    split = outcome(
        make_job([0, 1, 4, 6], "gpipe", gradient_groups=groups), tmp_path / "b"
    )
    assert one == split


def test_pause_and_resume_do_not_change_a_bit(
    make_job: Callable[..., wb.Job], tmp_path: Path
) -> None:
    straight = outcome(make_job(steps=30), tmp_path / "a")
    run = wb.launch(make_job(steps=30), folder=tmp_path / "b")
    for _ in range(3):
        run.pause()
        if run.state == "finished":
            break
        run.resume()
    run.wait(60)
    assert run.state == "finished"
    found = (run.weights_hash(), run.losses.tobytes(), run.gradient_norms.tobytes())
    assert found == straight


@pytest.mark.parametrize("field", ["seed", "microbatch_size", "optimizer"])
def test_what_belongs_to_the_job_does_change_the_weights(
    make_job: Callable[..., wb.Job], tmp_path: Path, field: str
) -> None:
    other = {"seed": 1, "microbatch_size": 3, "optimizer": wb.AdamW(lr=2e-2)}[field]
    changed = outcome(make_job(**{field: other}), tmp_path / "b")
    assert changed[0] != outcome(make_job(), tmp_path / "a")[0]


def test_llama_and_mlp_keep_their_bits_too(
    make_job: Callable[..., wb.Job], tmp_path: Path
) -> None:
    llama = wb.Model.llama(
        num_layers=4, width=16, num_heads=4, num_kv_heads=2, vocab_size=64, context=16
    )
    rows = np.random.default_rng(0).standard_normal((200, 5), dtype=np.float32)
    arrays = wb.Data.arrays(rows, rows[:, :2] * 2)
    mlp = wb.Model.mlp(widths=[5, 8, 8, 8, 8, 8, 2])
    for model, extra in (
        (llama, {}),
        (mlp, {"data": arrays, "optimizer": wb.SGD(lr=0.1)}),
    ):
        found = {
            outcome(
                make_job(split, name, model=model, clock=clock, **extra),
                tmp_path / f"{model.config['kind']}-{i}",
            )
            for i, (split, name, clock) in enumerate(
                [
                    ([0, 6], "single", "wall"),
                    ([0, 2, 6], "1f1b", "wall"),
                    ([0, 1, 3, 6], "gpipe", "virtual"),
                ]
            )
        }
        assert len(found) == 1
