"""The supervisor of a queue: the process that starts its jobs and sees them end.

``python -m workbench.launcher.supervisor FOLDER``; ``Queue.start`` does that. It keeps all
it knows in the queue's files, so that another one can go on where it was killed.
"""

from __future__ import annotations

import fcntl
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from .jobs import OVER, TURN_SECONDS, Queue, QueuedJob, progress
from .keys import read_live
from .monitor import started_at
from .remote import read_summary

#: A supervisor with nothing to do ends after so long.
IDLE_SECONDS = 10.0
#: A run that was asked to stop has so long for the step under way and its folder.
STOP_SECONDS = 20.0


class Supervisor:
    """Works through one queue. Only one process at a time is (the lock file)."""

    def __init__(self, queue: Queue, lock: IO[str]) -> None:
        self.queue, self._lock = queue, lock
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._ending: dict[str, float] = {}  # jobs asked to stop, and until when
        self._busy = time.monotonic()

    def run(self) -> bool:
        """Until there has been nothing to do for a while, or the queue is stopped;
        whether it was stopped."""
        while time.monotonic() - self._busy < IDLE_SECONDS:
            if (self.queue.folder / "stop").exists():
                self._end_all()
                return True
            self.turn()
            time.sleep(TURN_SECONDS)
        return False

    def has_work(self) -> bool:
        """Is there a job to run, or something asked for?"""
        asked = [*(self.queue.folder / "jobs").glob("*.retry")]
        return bool(asked) or any(job.state not in OVER for job in self.queue.jobs())

    def turn(self) -> None:
        for job in self.queue.jobs():
            self._obey(job)
        jobs = self.queue.jobs()
        for job in jobs:
            if job.state == "running":
                self._look_at(job)
        jobs = self.queue.jobs()
        free = self.queue.slots - sum(j.ranks for j in jobs if j.state == "running")
        for job in jobs:
            if job.state != "waiting":
                continue
            if job.ranks > free:
                break  # it is its turn, and those behind it wait, too
            self._start(job)
            free -= job.ranks
        if any(job.state not in OVER for job in jobs):
            self._busy = time.monotonic()

    def _take(self, job: QueuedJob, what: str) -> bool:
        path = self.queue.folder / "jobs" / f"{job.id}.{what}"
        asked = path.exists()
        path.unlink(missing_ok=True)
        return asked

    def _obey(self, job: QueuedJob) -> None:
        if self._take(job, "retry") and job.state in OVER:
            job = replace(job, state="waiting", error=None)
            self.queue.write(job)
        if self._take(job, "cancel"):
            if job.state == "waiting":
                self.queue.write(replace(job, state="cancelled"))
            elif job.state == "running":
                self._ask_to_stop(job)

    def _start(self, job: QueuedJob) -> None:
        tries = job.tries + 1
        folder = self.queue.folder / "runs" / f"{job.id}-{tries}"
        source = self.queue.folder / "jobs" / f"{job.id}.toml"
        command = [sys.executable, "-m", "pipeline_workbench", "run", str(source)]
        command += ["--folder", str(folder), "--on", job.on, "--sample", "0"]
        old = Path(job.folder) if job.folder else None
        if old is not None and any((old / "checkpoints").glob("step-*")):
            command += ["--resume", str(old)]
        log = self.queue.folder / "runs" / f"{job.id}-{tries}.log"
        with log.open("ab") as output:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._children[child.pid] = child
        self.queue.write(
            replace(
                job,
                state="running",
                tries=tries,
                folder=str(folder),
                pid=child.pid,
                begun=started_at(child.pid),
                started=time.time(),
                ended=None,
            )
        )

    def _is_alive(self, job: QueuedJob) -> bool:
        child = self._children.get(job.pid or 0)
        if child is not None and child.poll() is not None:
            del self._children[child.pid]
            return False
        if job.pid is not None and started_at(job.pid) == job.begun:
            return True
        return _monitor(job) is not None  # its ranks go on without it

    def _look_at(self, job: QueuedJob) -> None:
        if self._is_alive(job):
            if time.monotonic() > self._ending.get(job.id, float("inf")):
                _signal(job, signal.SIGKILL)
            return
        asked = self._ending.pop(job.id, None) is not None
        self.queue.write(self._ended(job, asked))

    def _ended(self, job: QueuedJob, asked: bool) -> QueuedJob:
        folder = Path(job.folder or "")
        summary = read_summary(folder) or {}
        found = summary.get("state")
        told: Mapping[str, Any] = {
            **progress(job),
            "pid": None,
            "begun": None,
            "ended": time.time(),
        }
        if summary:
            told = {**told, "step": int(summary["steps_done"]), **_last_loss(folder)}
        job = replace(job, **told)
        if found == "finished":
            return replace(job, state="finished", error=None)
        if asked:
            return replace(job, state="cancelled", error=None)
        error = summary.get("error") or self._said(job)
        # One more try than retries, and what was retried by hand counts anew.
        state = "waiting" if job.tries <= job.retries else "failed"
        return replace(job, state=state, error=str(error))

    def _said(self, job: QueuedJob) -> str:
        log = self.queue.folder / "runs" / f"{job.id}-{job.tries}.log"
        lines = log.read_text(errors="replace").strip().splitlines()
        # What went wrong need not come last: the other lines are written in blocks.
        told = [line for line in lines if line.startswith("workbench: ")] or lines
        return told[-1] if told else "its process ended without a word"

    def _ask_to_stop(self, job: QueuedJob) -> None:
        if job.id not in self._ending:
            self._ending[job.id] = time.monotonic() + STOP_SECONDS
            _signal(job, signal.SIGINT)

    def _end_all(self) -> None:
        running = [job for job in self.queue.jobs() if job.state == "running"]
        cancelled = set(self._ending)
        for job in running:
            self._ask_to_stop(job)
        limit = time.monotonic() + STOP_SECONDS
        while any(map(self._is_alive, running)) and time.monotonic() < limit:
            time.sleep(TURN_SECONDS)
        for job in running:
            if self._is_alive(job):
                _signal(job, signal.SIGKILL)
            ended = self._ended(job, job.id in cancelled)
            if ended.state == "failed":
                # Nobody cancelled it: it waits for the queue to be started again.
                ended = replace(ended, state="waiting", error=None)
            self.queue.write(ended)
        (self.queue.folder / "stop").unlink(missing_ok=True)


def _last_loss(folder: Path) -> dict[str, float]:
    try:
        columns = np.genfromtxt(folder / "losses.csv", delimiter=",", skip_header=1)
        return {"loss": float(np.atleast_2d(columns)[-1, 1])}
    except (OSError, ValueError, IndexError):
        return {}


def _signal(job: QueuedJob, number: int) -> None:
    """To the run's own process; a kill, to all of its group."""
    assert job.pid is not None
    try:
        if number == signal.SIGKILL:
            os.killpg(job.pid, number)
        else:
            os.kill(job.pid, number)
    except ProcessLookupError:
        pass
    if (monitor := _monitor(job)) is not None:
        try:
            os.kill(monitor, signal.SIGTERM)
        except ProcessLookupError:
            pass


def _monitor(job: QueuedJob) -> int | None:
    """The process of this machine that watches over the job's ranks, where they are
    processes, too."""
    try:
        live = read_live(job.folder or "")
    except (OSError, ValueError):
        return None
    here = live["host"] == platform.node() and started_at(int(live["pid"])) is not None
    return int(live["pid"]) if here else None


def main() -> int:
    """Works through the queue in the folder given, unless another process does."""
    queue = Queue(sys.argv[1])
    # Runs are cancelled by it, and inherit whether it is heard.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    while True:
        with (queue.folder / "lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return 0  # there is one already
            lock.seek(0)
            lock.truncate()
            lock.write(str(os.getpid()))
            lock.flush()
            supervisor = Supervisor(queue, lock)
            if supervisor.run():
                return 0
        # What was added while this one ended, nobody else has been started for.
        if not supervisor.has_work():
            return 0


if __name__ == "__main__":
    sys.exit(main())
