"""Runs whose ranks are processes: what a notebook sees of them, however they end."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import workbench as wb
from workbench.checkpoint import find_checkpoint
from workbench.launcher.monitor import started_at
from workbench.schedule import KIND_CODE, Kind

pytest.importorskip("mpi4py", reason="the mpi extra is not installed")
pytestmark = pytest.mark.mpi

MakeJob = Callable[..., wb.Job]
ENDLESS = 1_000_000


@pytest.fixture
def launched(tmp_path: Path) -> Iterator[Callable[..., wb.RemoteRun]]:
    """Launches over MPI; whatever a test leaves running is ended."""
    runs: list[wb.RemoteRun] = []

    def launch(job: wb.Job, name: str = "run") -> wb.RemoteRun:
        runs.append(wb.launch(job, on="mpi", folder=tmp_path / name))
        return runs[-1]

    yield launch
    for run in runs:
        if run.state not in ("finished", "stopped", "failed"):
            run.abort()
        assert run._monitor is not None
        run._monitor.wait(20)


def until(met: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    limit = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < limit, what
        time.sleep(0.02)


def begun(run: wb.RemoteRun, steps: int = 5) -> dict[int, int]:
    """Waits for some steps; the process of each rank."""
    until(lambda: run.steps_done >= steps or run.error is not None, "no step came")
    assert run.error is None, run.error
    return {rank["rank"]: rank["pid"] for rank in run.ranks}


def all_gone(pids: dict[int, int], run: wb.RemoteRun) -> None:
    assert run._monitor is not None
    run._monitor.wait(20)
    until(
        lambda: all(started_at(pid) is None for pid in pids.values()),
        "a rank is left behind",
    )


def test_processes_give_the_bits_of_threads_and_their_folder_tells_all(
    make_job: MakeJob, launched: Callable[..., wb.RemoteRun], tmp_path: Path
) -> None:
    fields = {"steps": 30, "evaluate": 2, "clip": 0.5, "clock": "wall"}
    job = make_job([0, 1, 4, 6], "1f1b", 4, **fields)
    run = launched(job).wait(60)
    threads = wb.launch(job, folder=tmp_path / "threads").wait(60)
    assert run.state == "finished" and run.steps_done == 30
    assert run.weights_hash() == threads.weights_hash()
    assert run.losses.tobytes() == threads.losses.tobytes()
    assert run.gradient_norms.tobytes() == threads.gradient_norms.tobytes()
    assert run.evaluations == threads.evaluations
    # Every event of every rank has come, in the same order of actions.
    assert run.events_dropped == 0
    ours, theirs = run.trace, threads.trace
    assert ours.source == "measured" and ours.num_ranks == 3
    for rank in range(3):
        mine, other = ours.rank == rank, theirs.rank == rank
        for column in ("step", "stage", "kind", "microbatch"):
            assert sorted(getattr(ours, column)[mine]) == sorted(
                getattr(theirs, column)[other]
            )
    # The folder is what a run on threads leaves, and attaching reads it back.
    names = {path.name for path in run.folder.iterdir()}
    assert {path.name for path in threads.folder.iterdir()} <= names
    assert "live.json" not in names
    again = wb.attach(run.folder)
    assert isinstance(again, wb.SavedRun)
    assert again.weights_hash() == run.weights_hash()
    assert again.losses.tobytes() == run.losses.tobytes()
    assert again.report.bubble_fraction == run.report.bubble_fraction


def test_clocks_that_are_hours_off_are_set_and_the_rest_is_told(
    make_job: MakeJob,
    launched: Callable[..., wb.RemoteRun],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORKBENCH_FAKE_SKEW", "7200000000000,60")
    begin = time.monotonic_ns()
    run = launched(make_job([0, 3, 6], "1f1b", 4, steps=200)).wait(60)
    took = time.monotonic_ns() - begin
    residual = run.trace.metadata["clock_residual_ns"]
    assert 0 < residual < 50_000_000
    assert "clocks within" in run.title
    trace = run.trace
    assert trace.start.min() >= -residual and trace.end.max() <= took + residual
    # What stage 0 has not ended, stage 1 cannot have begun, as far as clocks are known.
    forward = KIND_CODE[Kind.F]
    ends, starts = (
        {
            (int(step), int(microbatch)): int(at)
            for step, microbatch, at in zip(
                trace.step[rows], trace.microbatch[rows], times[rows], strict=True
            )
        }
        for stage, times in ((0, trace.end), (1, trace.start))
        for rows in [(trace.kind == forward) & (trace.stage == stage)]
    )
    assert len(ends) == len(starts) == 200 * 4
    assert all(starts[key] >= ends[key] - 2 * residual for key in ends)


def test_pause_resume_and_stop_come_to_all_ranks(
    make_job: MakeJob, launched: Callable[..., wb.RemoteRun], tmp_path: Path
) -> None:
    job = make_job([0, 3, 6], "1f1b", 4, steps=ENDLESS)
    run = launched(job)
    begun(run)
    run.pause(30)
    assert run.state == "paused"
    held = run.steps_done
    time.sleep(0.3)
    assert run.steps_done == held
    run.resume()
    until(lambda: run.steps_done > held, "it does not go on")
    run.stop(30).wait(10)
    assert run.state == "stopped"
    whole = replace(job, steps=run.steps_done)
    threads = wb.launch(whole, folder=tmp_path / "threads").wait(60)
    assert run.weights_hash() == threads.weights_hash()


def test_a_killed_rank_is_named_with_its_signal_and_nothing_is_left(
    make_job: MakeJob, launched: Callable[..., wb.RemoteRun]
) -> None:
    run = launched(make_job([0, 2, 4, 6], "1f1b", 4, steps=ENDLESS))
    pids = begun(run)
    os.kill(pids[1], signal.SIGKILL)
    with pytest.raises(wb.RunError, match=r"rank 1 \(stage 1, host .*signal 9") as told:
        run.wait(30)
    assert told.value.args and " in step " in str(told.value)
    for other in (0, 2):
        assert f"rank {other} was in step" in str(told.value)
    all_gone(pids, run)
    summary = json.loads((run.folder / "summary.json").read_text())
    assert summary["state"] == "failed" and "signal 9" in summary["error"]
    assert summary["steps_done"] >= 5


def test_after_a_kill_it_goes_on_from_its_checkpoint_on_any_layout(
    make_job: MakeJob, launched: Callable[..., wb.RemoteRun], tmp_path: Path
) -> None:
    fields = {"gradient_groups": 2, "clip": 0.5}
    endless = make_job([0, 3, 6], "1f1b", 4, steps=ENDLESS, **fields)
    run = launched(replace(endless, checkpoint_every=10))
    pids = begun(run)
    root = run.folder / "checkpoints"
    until(lambda: root.is_dir() and any(root.glob("step-*")), "no checkpoint came")
    os.kill(pids[0], signal.SIGKILL)
    with pytest.raises(wb.RunError, match="rank 0"):
        run.wait(30)
    step = find_checkpoint(run.folder).step
    job = replace(endless, steps=step + 5)
    whole = wb.launch(job, folder=tmp_path / "whole").wait(60)
    half = make_job([0, 2, 6], "zb_h1", 2, replicas=2, zero=1, steps=step + 5, **fields)
    for name, again, place in (("same", job, "mpi"), ("other", half, "mpi")):
        ended = wb.launch(again, on=place, folder=tmp_path / name, resume=run.folder)
        ended.wait(60)
        assert ended.weights_hash() == whole.weights_hash()
        assert ended.losses.tobytes() == whole.losses.tobytes()
    elsewhere = replace(job, seed=1)
    with pytest.raises(ValueError, match="another job's"):
        wb.launch(elsewhere, on="mpi", folder=tmp_path / "no", resume=run.folder)


def test_a_stopped_rank_is_told_apart_from_those_that_wait_for_it(
    make_job: MakeJob, launched: Callable[..., wb.RemoteRun]
) -> None:
    run = launched(make_job([0, 2, 4, 6], "1f1b", 4, steps=ENDLESS))
    pids = begun(run)
    os.kill(pids[2], signal.SIGSTOP)
    with pytest.raises(wb.RunError, match="rank 2 .* has not been heard of") as told:
        run.wait(60)
    assert "waits for rank" in str(told.value)
    all_gone(pids, run)


def test_a_launcher_that_is_killed_takes_its_ranks_along(
    make_job: MakeJob, launched: Callable[..., wb.RemoteRun]
) -> None:
    run = launched(make_job([0, 3, 6], "1f1b", 4, steps=ENDLESS))
    pids = begun(run)
    assert run._monitor is not None
    found = subprocess.run(
        ["pgrep", "-P", str(run._monitor.pid)], capture_output=True, text=True
    )
    os.kill(int(found.stdout.split()[0]), signal.SIGKILL)
    with pytest.raises(wb.RunError, match="mpiexec"):
        run.wait(30)
    all_gone(pids, run)


@pytest.mark.slow
@pytest.mark.parametrize("is_paused", [False, True])
def test_ranks_end_when_nobody_watches_over_them_any_more(
    make_job: MakeJob, launched: Callable[..., wb.RemoteRun], is_paused: bool
) -> None:
    run = launched(make_job([0, 3, 6], "1f1b", 4, steps=ENDLESS))
    pids = begun(run)
    if is_paused:
        run.pause(30)
    assert run._monitor is not None
    run._monitor.kill()
    with pytest.raises(wb.RunError, match="watches over .* was killed by signal 9"):
        run._over.wait(30)  # a paused run's wait() comes back at once
        run.wait(30)
    all_gone(pids, run)


def test_the_run_outlives_the_process_that_launched_it(
    make_job: MakeJob, tmp_path: Path
) -> None:
    job = make_job([0, 3, 6], "1f1b", 4, steps=ENDLESS)
    job.to_toml(tmp_path / "job.toml")
    script = (
        "import sys, workbench as wb\n"
        "job = wb.Job.from_toml(sys.argv[1])\n"
        "wb.launch(job, on='mpi', folder=sys.argv[2])\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "job.toml")]
    subprocess.run([*command, str(tmp_path / "run")], check=True, timeout=60)
    until(lambda: (tmp_path / "run" / "live.json").exists(), "no live.json")
    live = tmp_path / "run" / "live.json"
    assert stat.S_IMODE(live.stat().st_mode) == 0o600
    keys = json.loads(live.read_text())["keys"]
    run, second = wb.attach(tmp_path / "run"), wb.attach(tmp_path / "run")
    assert isinstance(run, wb.RemoteRun) and isinstance(second, wb.RemoteRun)
    pids = begun(run)
    assert begun(second) == pids
    # Its secret is in nobody's arguments and in no other file.
    arguments = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True)
    assert all(key not in arguments.stdout for key in keys.split(":") if key)
    for path in (tmp_path / "run").iterdir():
        text = path.read_text(errors="replace") if path != live else ""
        assert all(key not in text for key in keys.split(":") if key), path
    run.stop(30).wait(10)
    until(lambda: second.state == "stopped", "the other viewer heard nothing")
    assert np.array_equal(run.losses, second.losses)
    until(lambda: all(started_at(p) is None for p in pids.values()), "left behind")


def test_an_interrupt_gives_the_prompt_back_and_stops_the_run(
    make_job: MakeJob, launched: Callable[..., wb.RemoteRun], interrupts: None
) -> None:
    import threading

    run = launched(make_job([0, 3, 6], "1f1b", 4, steps=ENDLESS))
    pids = begun(run)
    timer = threading.Timer(0.3, lambda: signal.raise_signal(signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        run.wait(60)
    until(lambda: run.state == "stopped", "the run goes on")
    all_gone(pids, run)


def test_mistakes_are_told_where_they_are_made(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job([0, 3, 6], "1f1b", 4)
    with pytest.raises(ValueError, match="no such place"):
        wb.launch(job, on="mars", folder=tmp_path / "a")
    with pytest.raises(ValueError, match="virtual"):
        wb.launch(make_job(clock="virtual"), on="mpi", folder=tmp_path / "b")
    with pytest.raises(ValueError, match="no run 'nowhere'"):
        wb.attach("nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no run that has ended"):
        wb.attach(tmp_path / "empty")


def test_what_a_launcher_says_when_it_fails_is_passed_on(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    false = tmp_path / "mpiexec"
    said = "[ $1 = --version ] && echo HYDRA build details && exit"
    false.write_text(f"#!/bin/sh\n{said}\necho no such host as mars >&2\nexit 7\n")
    false.chmod(0o755)
    monkeypatch.setattr("workbench.launcher.mpiexec.find_mpiexec", lambda: str(false))
    run = wb.launch(make_job([0, 3, 6]), on="mpi", folder=tmp_path / "run")
    with pytest.raises(wb.RunError, match=r"status 7(.|\n)*no such host as mars"):
        run.wait(60)


def test_workbench_run_under_mpiexec_is_one_run(
    make_job: MakeJob, tmp_path: Path
) -> None:
    job = make_job([0, 2, 4, 6], "zb_h1", 4, steps=20)
    job.to_toml(tmp_path / "job.toml")
    mpiexec = Path(sys.executable).with_name("mpiexec")
    run = [sys.executable, "-m", "pipeline_workbench", "run"]

    def start(ranks: int, *more: str) -> subprocess.CompletedProcess[str]:
        command = [str(mpiexec), "-n", str(ranks), *run, *more]
        return subprocess.run(command, capture_output=True, text=True, timeout=90)

    job_file, folder = str(tmp_path / "job.toml"), tmp_path / "run"
    done = start(3, job_file, "--folder", str(folder), "--sample", "0")
    assert done.returncode == 0, done.stderr
    threads = wb.launch(job, folder=tmp_path / "threads").wait(60)
    # One rank concludes, for all.
    assert done.stdout.count(threads.weights_hash()) == 1
    assert wb.attach(folder).weights_hash() == threads.weights_hash()
    wrong = start(2, job_file, "--folder", str(tmp_path / "other"))
    assert wrong.returncode == 2 and "mpiexec -n 3" in wrong.stderr
    assert not (tmp_path / "other").exists()
