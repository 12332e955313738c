"""Several jobs at once: never more ranks than slots, and nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import workbench as wb
from workbench.launcher.jobs import QueuedJob
from workbench.launcher.monitor import started_at

MakeJob = Callable[..., wb.Job]
ENDLESS = 1_000_000


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[wb.Queue]:
    made = wb.Queue(tmp_path / "queue", slots=4)
    yield made
    made.stop()


def until(met: Callable[[], bool], what: str, seconds: float = 90.0) -> None:
    limit = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < limit, what
        time.sleep(0.05)


def sizes(make_job: MakeJob, steps: int) -> dict[str, wb.Job]:
    one = make_job([0, 6], "single", 4, steps=steps)
    two = make_job([0, 3, 6], "1f1b", 4, steps=steps)
    return {"one": one, "two": two}


def most_at_once(jobs: list[QueuedJob]) -> int:
    """Ranks that ran at the same time, by when the tries began and ended."""
    changes = []
    for job in jobs:
        assert job.started is not None and job.ended is not None
        changes += [(job.started, job.ranks), (job.ended, -job.ranks)]
    ranks = peak = 0
    # A start counts before an end of the same moment.
    for _, change in sorted(changes, key=lambda c: (c[0], -c[1])):
        ranks += change
        peak = max(peak, ranks)
    return peak


def test_seven_jobs_on_four_ranks_all_end_as_if_run_alone(
    queue: wb.Queue, make_job: MakeJob, tmp_path: Path
) -> None:
    made = sizes(make_job, steps=40)
    order = ["two", "one", "two", "one", "one", "two", "one"]
    for size in order:
        queue.add(made[size], name=size)
    jobs = queue.wait(120)
    assert [job.state for job in jobs] == ["finished"] * 7
    assert 2 <= most_at_once(jobs) <= 4
    # First come, first served.
    assert sorted(jobs, key=lambda j: j.started or 0) == jobs
    alone = {
        size: wb.launch(job, folder=tmp_path / size).wait(60).weights_hash()
        for size, job in made.items()
    }
    for job, size in zip(jobs, order, strict=True):
        told = json.loads((Path(job.folder or "") / "summary.json").read_text())
        assert told["weights_sha256"] == alone[size]
        assert job.step == 40 and job.loss is not None and job.tries == 1
    table = repr(queue)
    assert table.count("finished") == 7 and "0003-two" in table
    assert "<td>0007-one</td>" in queue._repr_html_()


def test_it_goes_on_after_its_supervisor_was_killed(
    queue: wb.Queue, make_job: MakeJob
) -> None:
    made = sizes(make_job, steps=300)
    for _ in range(4):
        queue.add(made["two"])
    until(lambda: sum(j.state == "running" for j in queue.jobs()) == 2, "none began")
    before = {job.id: job.pid for job in queue.jobs() if job.state == "running"}
    supervisor = queue.supervisor()
    assert supervisor is not None
    os.kill(supervisor, signal.SIGKILL)
    until(lambda: started_at(supervisor) is None, "it lives")
    queue.start()
    assert queue.supervisor() not in (None, supervisor)
    jobs = queue.wait(120)
    assert [job.state for job in jobs] == ["finished"] * 4
    # Those that ran were found again, not begun a second time.
    assert all(job.tries == 1 for job in jobs if job.id in before)
    assert most_at_once(jobs) <= 4


def test_waiting_and_running_jobs_can_be_cancelled(
    queue: wb.Queue, make_job: MakeJob
) -> None:
    made = sizes(make_job, steps=ENDLESS)
    running = queue.add(make_job([0, 1, 2, 4, 6], "1f1b", 4, steps=ENDLESS))
    waiting = queue.add(made["one"])
    until(lambda: queue.job(running).step > 5, "it does not begin")
    assert queue.job(waiting).state == "waiting"
    pid = queue.job(running).pid
    queue.cancel(waiting)
    queue.cancel(running)
    jobs = {job.id: job for job in queue.wait(60)}
    assert jobs[waiting].state == jobs[running].state == "cancelled"
    assert jobs[waiting].tries == 0
    assert pid is not None and started_at(pid) is None
    # It stopped at the end of a step: its folder is whole.
    told = json.loads((Path(jobs[running].folder or "") / "summary.json").read_text())
    assert told["state"] == "stopped" and told["steps_done"] == jobs[running].step


@pytest.mark.mpi
@pytest.mark.parametrize("on", ["threads", "mpi"])
def test_a_killed_job_is_tried_again_from_its_checkpoint(
    queue: wb.Queue, make_job: MakeJob, tmp_path: Path, on: str
) -> None:
    if on == "mpi":
        pytest.importorskip("mpi4py", reason="the mpi extra is not installed")
    job = make_job([0, 3, 6], "1f1b", 4, steps=800, checkpoint_every=20)
    added = queue.add(job, retries=1, on=on)

    def folder() -> Path:
        return Path(queue.job(added).folder or "nowhere")

    until(lambda: any((folder() / "checkpoints").glob("step-*")), "no checkpoint")
    if on == "mpi":
        run = wb.attach(folder())
        assert isinstance(run, wb.RemoteRun)
        until(lambda: len(run.ranks) == 2, "no ranks")
        os.kill(run.ranks[1]["pid"], signal.SIGKILL)
    else:
        pid = queue.job(added).pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    ended = queue.wait(120)[0]
    assert (ended.state, ended.tries) == ("finished", 2)
    from dataclasses import replace

    whole = wb.launch(replace(job, checkpoint_every=0), folder=tmp_path / "whole")
    again = wb.attach(ended.folder or "")
    assert again.weights_hash() == whole.wait(60).weights_hash()


def test_stop_leaves_no_process_and_starting_goes_on(
    queue: wb.Queue, make_job: MakeJob
) -> None:
    added = queue.add(sizes(make_job, ENDLESS)["two"])
    until(lambda: queue.job(added).step > 5, "it does not begin")
    pids = [queue.job(added).pid, queue.supervisor()]
    queue.stop()
    assert queue.supervisor() is None and None not in pids
    until(lambda: all(started_at(pid or 0) is None for pid in pids), "one is left")
    assert queue.job(added).state == "waiting"
    queue.start()
    until(lambda: queue.job(added).state == "running", "it does not go on")
    queue.cancel(added)
    assert queue.wait(60)[0].state == "cancelled"


def test_a_job_that_cannot_run_says_why(queue: wb.Queue, make_job: MakeJob) -> None:
    added = queue.add(sizes(make_job, 5)["one"], on="mars")
    job = queue.wait(60)[0]
    assert job.state == "failed" and "mars" in (job.error or "")
    queue.retry(added)
    until(lambda: queue.job(added).tries == 2, "it is not tried again")
    assert queue.wait(60)[0].state == "failed"


def test_mistakes_are_told_by_name(make_job: MakeJob, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="slots=0"):
        wb.Queue(tmp_path / "none", slots=0)
    with pytest.raises(ValueError, match="slots=4"):
        wb.Queue(tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("x")
    with pytest.raises(ValueError, match="something else"):
        wb.Queue(tmp_path / "other", slots=2)
    queue = wb.Queue(tmp_path / "queue", slots=2)
    assert wb.Queue(tmp_path / "queue").slots == 2
    with pytest.raises(ValueError, match="2 slots, not 3"):
        wb.Queue(tmp_path / "queue", slots=3)
    with pytest.raises(ValueError, match="3 ranks.*at most 2"):
        queue.add(make_job([0, 2, 4, 6]))
    with pytest.raises(ValueError, match="no job file"):
        queue.add(tmp_path / "missing.toml")
    with pytest.raises(ValueError, match="name="):
        queue.add(make_job([0, 3, 6]), name="../up")
    with pytest.raises(ValueError, match="there are none"):
        queue.cancel("0001-x")
    assert queue.jobs() == [] and queue.supervisor() is None
