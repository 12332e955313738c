"""Watching over a launched run, in a process of its own that outlives the notebook's
kernel: collects, ends what must be ended, and leaves nothing running."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..checkpoint import RunFolder
from ..engine import Job
from . import places
from .collector import LINGER_SECONDS, Collector
from .keys import Keys
from .roll import Member

#: For all ranks to say hello, unless the launch says otherwise: a queue may hold a job
#: back, so Slurm's have no limit.
HELLO_SECONDS = 120.0
#: Between the launcher's end and the verdict: what ranks said last is still on its way.
_GRACE_SECONDS = 0.4
_TAIL = 30  # lines of the launcher's output in an error


def started_at(pid: int) -> str | None:
    """When a process of this machine began, in the kernel's own unit; None if it is not
    there. A pid alone may have been given to another process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]


class Remains:
    """The processes of this machine that belong to a run, to be ended with it."""

    def __init__(self) -> None:
        self._known: dict[int, str] = {}

    def note(self, member: Member) -> None:
        if member.pid is None or member.pid in self._known:
            return
        begun = started_at(member.pid) if member.host == platform.node() else None
        if begun is not None:
            self._known[member.pid] = begun

    def has_gone(self, member: Member) -> bool:
        """A process of this machine that was there and is not any more."""
        begun = None if member.pid is None else self._known.get(member.pid)
        return begun is not None and started_at(member.pid or 0) != begun

    def alive(self) -> list[int]:
        return [pid for pid, begun in self._known.items() if started_at(pid) == begun]

    def kill(self, seconds: float = 2.0) -> list[int]:
        """Kills what is left; returns what was still there after that."""
        limit = time.monotonic() + seconds
        while (left := self.alive()) and time.monotonic() < limit:
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.02)
        return left


class Monitor:
    """One launched run: its launcher's process, and what its ranks tell."""

    def __init__(
        self,
        folder: Path,
        plan: Mapping[str, Any],
        keys: Keys,
        launcher: subprocess.Popen[bytes] | None,
    ) -> None:
        self.plan, self.launcher, self.folder = plan, launcher, folder
        self.remains = Remains()
        self.wishes = self._told = 0  # signals that came, and that were passed on
        self.begun = time.monotonic()
        self.ended_at: float | None = None
        self.collector = Collector(
            Job.from_toml(folder / "job.toml"),
            RunFolder(folder),
            host=plan["host"],
            ports=(plan["ports"][0], plan["ports"][1]),
            keys=keys,
        )
        self.collector.has_gone = self.remains.has_gone
        self.collector.give_job(plan.get("resume"))

    @property
    def name(self) -> str:
        argv = self.plan["argv"]
        return "the cluster" if argv is None else Path(argv[0]).name

    def output(self) -> str:
        """The launcher's output, as far as an error needs it."""
        try:
            text = (self.folder / "ranks.log").read_text(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.strip().splitlines()[-_TAIL:])

    def interrupt(self, *_: object) -> None:
        """A signal asks the run to stop at the end of its step; the next, at once."""
        self.wishes += 1

    def _obey(self) -> None:
        if self.wishes and not self._told:
            self.collector.hub.tell({"do": "stop"})
        if self.wishes > 1 and self._told < 2:
            self.collector.hub.tell({"do": "abort"})
            self.collector.fail("the run was aborted by a signal")
        self._told = min(self.wishes, 2)

    def follow(self) -> None:
        """Until the run is over."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.interrupt)
        while not self.collector.is_over:
            self.collector.turn()
            self._obey()
            for member in self.collector.members:
                self.remains.note(member)
            self._look_at_launcher()
            self._look_for_late_ranks()

    def _look_at_launcher(self) -> None:
        if self.launcher is None or self.launcher.poll() is None:
            return
        now = time.monotonic()
        if self.ended_at is None:
            self.ended_at = now
        if now - self.ended_at < _GRACE_SECONDS:
            return
        members = self.collector.members
        if not all(member.is_over for member in members):
            self._explain(self.launcher.returncode)

    def _explain(self, status: int) -> None:
        """Why the launcher ended before the ranks had."""
        collector, text = self.collector, self.output()
        by_pid = {m.pid: m for m in collector.members if m.pid is not None}
        if status < 0 and by_pid:
            collector.fail(
                f"the launcher ({self.name}) was killed by signal {-status}; its ranks "
                "were ended",
            )
            return
        for death in places.last_words(self.plan["on"], text):
            member = None if death.pid is None else by_pid.get(death.pid)
            if member is None and death.rank is not None:
                member = collector.members[death.rank]
            if member is None or member.pid is None:
                continue  # it never began: the launcher's own words tell more
            if not member.is_over:
                collector.killed(member.rank, death.signal, death.exit)
                return
        when = "before all ranks had begun" if self._missing() else "before the run had"
        collector.fail(
            f"the launcher ({self.name}) ended with status {status} {when}. It said:\n"
            f"{text or '(nothing)'}"
        )

    def _missing(self) -> list[int]:
        return [m.rank for m in self.collector.members if m.pid is None]

    def _look_for_late_ranks(self) -> None:
        limit = self.plan.get("hello_seconds", HELLO_SECONDS)
        late = limit is not None and time.monotonic() - self.begun > limit
        if late and (missing := self._missing()):
            names = ", ".join(map(str, missing))
            self.collector.fail(
                f"rank {names} said nothing within {limit:g} s of the launch. "
                f"{self.name} said:\n{self.output() or '(nothing)'}"
            )

    def goes_on(self) -> bool:
        """Are the run's processes still about to end by themselves?"""
        launcher = self.launcher
        if launcher is None:
            return False
        return launcher.poll() is None or bool(self.remains.alive())

    def close(self) -> None:
        """Leaves nothing running."""
        launcher = self.launcher
        if launcher is not None:  # else the ranks are engines, and live on
            if launcher.poll() is None:
                _end_group(launcher)
            if left := self.remains.kill():
                print(f"still there after SIGKILL: {left}", flush=True)
        self.collector.hub.close()


def _end_group(launcher: subprocess.Popen[bytes]) -> None:
    """Asks the launcher to end, which lets it clean up on other hosts; then kills it."""
    for number, seconds in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 2.0)):
        try:
            os.killpg(launcher.pid, number)
            launcher.wait(seconds)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def watch(
    folder: Path,
    plan: Mapping[str, Any],
    keys: str,
    launcher: subprocess.Popen[bytes] | None,
    failure: str | None,
) -> int:
    """What the monitor's process does once the ranks have been started; returns its
    exit status. ``failure``: why they could not be."""
    monitor = Monitor(folder, plan, Keys.from_text(keys), launcher)
    try:
        if failure is not None:
            monitor.collector.fail(failure)
        monitor.follow()
        failed = monitor.collector.run.state == "failed"
        monitor.collector.linger(monitor.goes_on, 1.0 if failed else LINGER_SECONDS)
    except Exception as error:
        monitor.collector.give_up(error)
        raise
    finally:
        monitor.close()
    return 0 if monitor.collector.run.state in ("finished", "stopped") else 1
