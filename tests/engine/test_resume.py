"""A run that goes on from a checkpoint ends with the bits of one that never stopped."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import workbench as wb
from workbench.checkpoint import find_checkpoint

MakeJob = Callable[..., wb.Job]
#: Layouts of four microbatches in two gradient groups.
LAYOUTS = {
    "single": ([0, 6], "single", {}),
    "1f1b on 3": ([0, 1, 4, 6], "1f1b", {}),
    "zb_h1 on 2": ([0, 5, 6], "zb_h1", {"clock": "virtual"}),
    "replicas": ([0, 3, 6], "1f1b", {"replicas": 2}),
    "zero": ([0, 2, 6], "gpipe", {"replicas": 2, "zero": 1}),
}


def layout(make_job: MakeJob, name: str, **fields: object) -> wb.Job:
    boundaries, schedule, more = LAYOUTS[name]
    microbatches = 4 // int(more.get("replicas", 1))  # type: ignore[call-overload]
    settings = {"steps": 12, "gradient_groups": 2, "clip": 0.5, **more, **fields}
    rate = wb.WarmupCosine(warmup=4)
    return make_job(boundaries, schedule, microbatches, learning_rate=rate, **settings)


@pytest.fixture(scope="module")
def whole() -> dict[str, object]:
    return {}


@pytest.mark.parametrize("after", LAYOUTS)
@pytest.mark.parametrize("before", LAYOUTS)
def test_any_layout_goes_on_from_any_other(
    make_job: MakeJob, tmp_path: Path, before: str, after: str, whole: dict[str, object]
) -> None:
    if not whole:
        run = wb.launch(layout(make_job, "single"), folder=tmp_path / "whole").wait(60)
        whole |= {"hash": run.weights_hash(), "losses": run.losses.tobytes()}
    first = layout(make_job, before, checkpoint_every=5)
    run = wb.launch(first, folder=tmp_path / "first").wait(60)
    assert run.weights_hash() == whole["hash"], "checkpoints change nothing"
    names = sorted(p.name for p in (tmp_path / "first" / "checkpoints").iterdir())
    assert names == ["step-00000005", "step-00000010"]
    for step in (5, 10):
        start = tmp_path / "first" / "checkpoints" / f"step-{step:08d}"
        second = layout(make_job, after)
        again = wb.launch(second, folder=tmp_path / f"from-{step}", resume=start)
        again.wait(60)
        assert again.weights_hash() == whole["hash"]
        assert again.losses.tobytes() == whole["losses"]


def test_a_checkpoint_is_written_when_it_is_asked_for_and_at_a_stop(
    make_job: MakeJob, tmp_path: Path
) -> None:
    job = layout(make_job, "1f1b on 3", steps=100_000)
    run = wb.launch(job, folder=tmp_path / "run")
    while run.steps_done < 3:
        time.sleep(0.01)
    run.checkpoint()
    asked_at = run.steps_done
    while run.steps_done < asked_at + 10:
        time.sleep(0.01)
    run.stop()
    found = find_checkpoint(tmp_path / "run")
    assert asked_at <= found.step < run.steps_done
    every = replace(job, checkpoint_every=100_000)
    run = wb.launch(every, folder=tmp_path / "every")
    while run.steps_done < 3:
        time.sleep(0.01)
    run.stop()
    assert find_checkpoint(tmp_path / "every").step == run.steps_done


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seed": 1}, "seed: 0 there, 1 here"),
        ({"optimizer": wb.SGD(lr=0.1)}, "optimizer"),
        ({"learning_rate": wb.Constant()}, "learning rates"),
        ({"gradient_groups": 4}, "gradient_groups: 2 there, 4 here"),
        ({"clip": None}, "clip"),
        ({"steps": 3}, "more steps|learning rates"),
    ],
)
def test_another_job_is_refused_with_the_difference(
    make_job: MakeJob, tmp_path: Path, change: dict[str, object], says: str
) -> None:
    job = layout(make_job, "single", checkpoint_every=5)
    wb.launch(job, folder=tmp_path / "run").wait(60)
    with pytest.raises(ValueError, match=says):
        wb.launch(
            replace(job, **change), folder=tmp_path / "other", resume=tmp_path / "run"
        )
    with pytest.raises(ValueError, match="no checkpoint to go on from"):
        wb.launch(job, folder=tmp_path / "third", resume=tmp_path / "nowhere")


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_to_the_same_end(
    make_job: MakeJob, tmp_path: Path
) -> None:
    """SIGKILL at random moments, checkpoints every two steps: the state is always
    readable, and in the end the bits are those of a run that was left alone."""
    job = layout(make_job, "zb_h1 on 2", steps=400, checkpoint_every=2)
    job.to_toml(tmp_path / "job.toml")
    expected = wb.launch(
        replace(job, checkpoint_every=0), folder=tmp_path / "whole"
    ).wait(120)
    command = [sys.executable, "-m", "pipeline_workbench", "run"]
    command += [str(tmp_path / "job.toml"), "--sample", "0"]
    dice, resume, furthest = random.Random(3), [], 0
    for attempt in range(6):
        folder = tmp_path / f"try-{attempt}"
        process = subprocess.Popen(
            [*command, "--folder", str(folder), *resume],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        limit = time.monotonic() + 60
        while not (folder / "checkpoints").is_dir() and time.monotonic() < limit:
            time.sleep(0.002)
        time.sleep(dice.uniform(0, 0.25))
        process.send_signal(signal.SIGKILL)
        process.wait()
        names = [p.name for p in (folder / "checkpoints").iterdir()]
        if not any(name.startswith("step-") for name in names):
            continue  # killed inside the very first save: there is nothing yet
        found = find_checkpoint(folder)
        assert found.step >= furthest
        furthest, resume = found.step, ["--resume", str(folder)]
    last = tmp_path / "last"
    subprocess.run(
        [*command, "--folder", str(last), *resume], check=True, capture_output=True
    )
    ended = wb.attach(last)
    assert ended.weights_hash() == expected.weights_hash()
    assert ended.losses.tobytes() == expected.losses.tobytes()
    assert furthest > 0
