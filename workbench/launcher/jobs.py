"""Several jobs at once: a queue in a folder, and a small process that works through it.

``Queue`` reads and writes files only; the supervisor, a process of its own that outlives
the notebook's kernel, is the one that starts and ends runs. Jobs come one after another
as they were added: a large one at the head waits until there is room, and those behind it
wait with it. Priorities and dependences are Slurm's business.
"""

from __future__ import annotations

import fcntl
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

from ..checkpoint import write_text
from ..engine import Job
from .monitor import started_at

OVER = ("finished", "failed", "cancelled")
#: How often files are looked at.
TURN_SECONDS = 0.1
_ID = re.compile(r"\d{4}-[A-Za-z0-9._-]+")
_COLUMNS = ("id", "state", "ranks", "step", "loss", "tries")


@dataclass(frozen=True)
class QueuedJob:
    """One job of a queue, as it was when it was asked for. ``folder``: of its newest
    try, None before the first."""

    id: str
    ranks: int
    steps: int
    on: str = "threads"
    retries: int = 0
    state: str = "waiting"
    tries: int = 0
    step: int = 0
    loss: float | None = None
    error: str | None = None
    folder: str | None = None
    #: Of the newest try's process: its id, when it began (as the kernel counts), and
    #: when the try began and ended, in seconds since the epoch.
    pid: int | None = None
    begun: str | None = None
    started: float | None = None
    ended: float | None = None


class Queue:
    """A queue of jobs in a folder of its own, of which at most ``slots`` ranks run at a
    time.

    Raises ValueError for fewer than one slot, for another number than the queue has,
    and for a folder that holds something else.
    """

    def __init__(self, folder: str | Path, slots: int | None = None) -> None:
        self.folder = Path(folder).resolve()
        about = self.folder / "queue.json"
        if slots is not None and (not isinstance(slots, int) or slots < 1):
            raise ValueError(
                f"slots={slots!r}: a queue runs at least one rank at a time"
            )
        if about.is_file():
            self.slots = int(json.loads(about.read_text(encoding="utf-8"))["slots"])
            if slots not in (None, self.slots):
                raise ValueError(
                    f"the queue {self.folder} has {self.slots} slots, not {slots}; leave "
                    "slots out, or make another queue"
                )
            return
        if self.folder.is_dir() and any(self.folder.iterdir()):
            raise ValueError(f"{self.folder} holds something else than a queue")
        if slots is None:
            raise ValueError(
                f"there is no queue in {self.folder}; to make one say how many ranks may "
                "run at a time, slots=4"
            )
        self.slots = slots
        (self.folder / "jobs").mkdir(parents=True)
        (self.folder / "runs").mkdir()
        write_text(about, json.dumps({"slots": slots}) + "\n")

    # ---- for people ------------------------------------------------------------------

    def add(
        self,
        job: Job | str | Path,
        name: str | None = None,
        *,
        on: str = "threads",
        retries: int = 0,
    ) -> str:
        """Adds a job or a job file; returns its id. It is run as soon as its ranks have
        room, and tried again ``retries`` times when it fails, from its last checkpoint.

        Raises ValueError for a file that is no job, for more ranks than the queue has
        slots, and for a name that is no plain file name.
        """
        if not isinstance(retries, int) or retries < 0:
            raise ValueError(
                f"retries={retries!r} must be a whole number of at least 0"
            )
        made = job if isinstance(job, Job) else Job.from_toml(Path(job))
        ranks = made.executed.num_ranks
        if ranks > self.slots:
            raise ValueError(
                f"the job has {ranks} ranks, but this queue runs at most {self.slots} at "
                "a time; make a queue with more slots, or take another layout"
            )
        number = 1 + max((int(i[:4]) for i in self._ids()), default=0)
        identity = f"{number:04d}-{name or made.name or 'job'}"
        if not _ID.fullmatch(identity):
            raise ValueError(
                f"name={name!r} must be made of letters, digits, '.', '_' and '-'"
            )
        made.to_toml(self.folder / "jobs" / f"{identity}.toml")
        self.write(QueuedJob(identity, ranks, made.steps, on, retries))
        self.start()
        return identity

    def jobs(self) -> list[QueuedJob]:
        """All jobs, in the order in which they were added."""
        return [self._read(identity) for identity in self._ids()]

    def job(self, identity: str) -> QueuedJob:
        """One job. Raises ValueError, which names the known ones, for another id."""
        known = self._ids()
        if identity not in known:
            raise ValueError(
                f"there is no job {identity!r} in this queue; there are "
                f"{', '.join(known) or 'none'}"
            )
        return self._read(identity)

    def cancel(self, identity: str) -> None:
        """A waiting job is not started; a running one stops at the end of its step."""
        if self.job(identity).state not in OVER:
            self._ask(identity, "cancel")

    def retry(self, identity: str) -> None:
        """Has a job that is over run again, from its last checkpoint if there is one."""
        job = self.job(identity)
        if job.state not in OVER:
            raise ValueError(f"job {identity} is {job.state}: it is not over yet")
        self._ask(identity, "retry")

    def _ask(self, identity: str, what: str) -> None:
        write_text(self.folder / "jobs" / f"{identity}.{what}", "")
        self.start()

    def wait(self, timeout: float | None = None) -> list[QueuedJob]:
        """Until all jobs are over, or ``timeout`` seconds have passed."""
        limit = None if timeout is None else time.monotonic() + timeout
        while True:
            jobs = self.jobs()
            asked = any((self.folder / "jobs").glob("*.retry"))
            if not asked and all(job.state in OVER for job in jobs):
                return jobs
            if limit is not None and time.monotonic() >= limit:
                return jobs
            self.start()
            time.sleep(TURN_SECONDS)

    def stop(self, timeout: float = 60.0) -> None:
        """Ends the supervisor and what it runs; jobs that were running are tried again
        when the queue is started anew."""
        if self.supervisor() is None:
            return
        write_text(self.folder / "stop", "")
        limit = time.monotonic() + timeout
        while self.supervisor() is not None and time.monotonic() < limit:
            time.sleep(TURN_SECONDS / 2)

    def start(self) -> None:
        """Starts the supervisor, if there is none."""
        if self.supervisor() is not None:
            return
        (self.folder / "stop").unlink(missing_ok=True)
        with (self.folder / "supervisor.log").open("ab") as log:
            subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "workbench.launcher.supervisor",
                    str(self.folder),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        limit = time.monotonic() + 20
        while self.supervisor() is None and time.monotonic() < limit:
            time.sleep(0.02)

    def supervisor(self) -> int | None:
        """The process that works through the queue, or None."""
        try:
            with (self.folder / "lock").open("r+") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    # One that has only just got the lock has not written who it is.
                    pid = int(lock.read() or 0)
                    return pid if started_at(pid) is not None else None
        except (OSError, ValueError):
            pass
        return None

    # ---- files -----------------------------------------------------------------------

    def _ids(self) -> list[str]:
        names = sorted(path.stem for path in (self.folder / "jobs").glob("*.json"))
        return [name for name in names if _ID.fullmatch(name)]

    def _read(self, identity: str) -> QueuedJob:
        path = self.folder / "jobs" / f"{identity}.json"
        job = QueuedJob(**json.loads(path.read_text(encoding="utf-8")))
        return replace(job, **progress(job)) if job.state == "running" else job

    def write(self, job: QueuedJob) -> None:
        """Notes a job's state; only ``add`` and the supervisor do."""
        text = json.dumps(asdict(job), indent=1) + "\n"
        write_text(self.folder / "jobs" / f"{job.id}.json", text)

    # ---- shown -----------------------------------------------------------------------

    def _rows(self) -> Iterator[tuple[str, ...]]:
        for job in self.jobs():
            loss = "" if job.loss is None else f"{job.loss:.4f}"
            step = f"{job.step} of {job.steps}"
            yield job.id, job.state, str(job.ranks), step, loss, str(job.tries)

    def __repr__(self) -> str:
        rows = [_COLUMNS, *self._rows()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True))
            for row in rows
        ]
        head = f"Queue({self.folder.name}, {self.slots} ranks at a time)"
        return "\n".join([head, *(line.rstrip() for line in lines)])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in _COLUMNS)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
            for row in self._rows()
        )
        return (
            f"<table><caption>{escape(self.folder.name)}: {self.slots} ranks at a time"
            f"</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        )

    def watch(self) -> None:
        """Shows the table under the cell and keeps it up to date until all jobs are
        over; outside a notebook it is printed once."""
        import importlib

        importlib.import_module("workbench.ui.queue").watch(self)


def progress(job: QueuedJob) -> dict[str, Any]:
    """Step and loss of a job that runs, from its run's folder."""
    try:
        text = (Path(job.folder or "") / "progress.json").read_text(encoding="utf-8")
        told = json.loads(text)
        return {"step": int(told["step"]), "loss": told["loss"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
