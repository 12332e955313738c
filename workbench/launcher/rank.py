"""One rank's process: what mpiexec, srun or a batch script starts N times.

``serve`` is started for a run that somebody launched: it finds the collector by its
environment and gets the job from it. ``together`` is ``workbench run`` under mpiexec or
srun: every process reads the job file itself, and rank 0's is the collector, too.
"""

from __future__ import annotations

import os
import platform
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline_workbench.rank import RANK_PIPE

from ..checkpoint import CheckpointState, RunFolder, find_checkpoint
from ..engine import Job, RunError
from ..engine.mpi import World, wrong_size
from ..engine.observed import Observed
from ..engine.worker import about, for_processes, work
from .collector import Collector
from .stream import Keys, Reporter

STREAM, KEYS = "WORKBENCH_STREAM", "WORKBENCH_KEYS"
#: Seconds that a rank waits for its job, and, when the run has failed, for the collector
#: to have heard all ranks' last words.
JOB_SECONDS, LAST_WORDS_SECONDS = 30.0, 3.0

FAILED = 3  # exit status of a rank whose run has failed


def _wait_for(reporter: Reporter, what: str, seconds: float) -> dict[str, Any] | None:
    """The next command of that name; earlier ones of another are dropped."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        for command in reporter.commands():
            if command.get("do") == what:
                return command
        time.sleep(0.005)
    return None


def serve() -> int:
    """A rank of a launched run; returns the process's exit status."""
    address, keys = os.environ.get(STREAM), os.environ.get(KEYS)
    if not address or not keys:
        raise ValueError(
            f"a rank is started by a launcher, which sets {STREAM} and {KEYS}; to train "
            "a job file by hand: mpiexec -n N workbench run job.toml"
        )
    world = World()
    reporter = _introduce(world, address, Keys.from_text(keys))
    command = _wait_for(reporter, "job", JOB_SECONDS)
    if command is None:
        reporter.close()
        raise RunError(
            f"rank {world.rank} got no job within {JOB_SECONDS:g} s from {address}",
            world.rank,
        )
    return _work(
        world, reporter, lambda: Job.from_toml(command["toml"]), command.get("resume")
    )


def _resume(path: str | None) -> CheckpointState | None:
    """Every rank reads the checkpoint for itself. Raises ValueError where it cannot."""
    return None if path is None else find_checkpoint(path)


def serve_engine(address: str, keys: str) -> str:
    """A rank in an engine of ipyparallel, which lives on whatever happens; returns the
    run's state. Raises what the rank failed with."""
    world = World()
    reporter = _introduce(world, address, Keys.from_text(keys))
    try:
        command = _wait_for(reporter, "job", JOB_SECONDS)
        if command is None:
            raise RunError(f"rank {world.rank} got no job from {address}", world.rank)
        job = for_processes(Job.from_toml(command["toml"]))
        state = work(job, world, reporter, _resume(command.get("resume")))
        reporter.tell("bye", {"events": reporter.numbered})
        return state
    finally:
        reporter.close()


def tell_death(rank: int, address: str, keys: str, pid: int, number: int) -> None:
    """The rank's process was killed by this signal; the one beside it tells so."""
    reporter = Reporter(address, Keys.from_text(keys), rank)
    reporter.tell("killed", {"pid": pid, "signal": number})
    # Once this process ends too, the launcher ends all others, a collector among them.
    _wait_for(reporter, "bye", LAST_WORDS_SECONDS)
    reporter.close(0.5)


def _introduce(world: World, address: str, keys: Keys) -> Reporter:
    """A reporter that has said hello. The process beside this one learns of it, too."""
    told = keys.for_clients()
    pipe = os.environ.pop(RANK_PIPE, None)
    if pipe is not None:
        os.write(int(pipe), f"{world.rank} {address} {told.to_text()}".encode())
        os.close(int(pipe))
    reporter = Reporter(address, told, world.rank)
    reporter.tell("hello", about(world))
    return reporter


def main() -> int:
    """``serve`` as a command: mistakes are told without a traceback."""
    try:
        return serve()
    except (ValueError, MemoryError, RunError, OSError) as error:
        print(f"workbench: {error}", file=sys.stderr, flush=True)
        return 2


def _work(
    world: World,
    reporter: Reporter,
    make: Callable[[], Job],
    resume: str | None = None,
    before_end: Callable[[], object] = lambda: None,
) -> int:
    """Trains and tells. A failure ends all processes of the world, but not before the
    collector has heard this one out, and ``before_end`` has returned."""
    try:
        try:
            job, checkpoint = make(), _resume(resume)
        except (ValueError, OSError) as error:
            body = {"rank": world.rank, "text": str(error), "error": "ValueError"}
            reporter.tell("failed", body)
            raise
        work(for_processes(job), world, reporter, checkpoint)
    except (ValueError, MemoryError, RunError, OSError) as error:
        print(f"workbench: {error}", file=sys.stderr, flush=True)
        _wait_for(reporter, "bye", LAST_WORDS_SECONDS)
        reporter.close(0.5)
        before_end()
        world.abort(FAILED)
    reporter.tell("bye", {"events": reporter.numbered})
    reporter.close()
    before_end()
    return 0


# ---- without a monitor: mpiexec -n N workbench run job.toml --------------------------


def _address(hosts: Sequence[str], asked: str | None) -> str:
    """Where rank 0 listens: loopback if all ranks are here. Raises ValueError."""
    if asked is not None:
        return asked
    if len(set(hosts)) == 1:
        return "127.0.0.1"
    try:
        found = socket.gethostbyname(hosts[0])
    except OSError:
        found = "127.0.0.1"
    if found.startswith("127."):
        raise ValueError(
            f"ranks are on {len(set(hosts))} hosts, but {hosts[0]} knows itself only as "
            f"{found}: tell the address that the others reach it by, --host ADDRESS"
        )
    return found


class _Host:
    """Rank 0's collector, turned by a thread."""

    def __init__(self, job: Job, folder: str | Path | None, address: str) -> None:
        where = RunFolder.create(folder, name=job.name)
        self.collector = Collector(job, where, host=address)
        self.thread = threading.Thread(target=self._turn, name="collector", daemon=True)
        self.thread.start()

    def _turn(self) -> None:
        while not self.collector.is_over:
            self.collector.turn()
        self.collector.linger(lambda: False, 2.0)

    def join(self) -> None:
        """Until the folder is written and told; a rank that never came is not waited
        for."""
        self.thread.join(10.0)
        self.collector.hub.close()


def together(
    make: Callable[[], Job],
    folder: str | Path | None,
    host: str | None = None,
    watch: Callable[[Observed], object] | None = None,
    resume: str | None = None,
) -> tuple[int, Path | None]:
    """This process's rank of a job that mpiexec or srun has started N times; returns
    its exit status and, on rank 0, the run's folder. ``watch`` is called there, in a
    thread, with the run.

    Raises ValueError on all ranks alike when one of them cannot make the job.
    """
    world = World()
    job = _agreed(world, make)
    hosts = world.gather(platform.node(), "tell their hosts")
    mine: _Host | None = None
    told: list[str | None] = [None, None, None]
    if world.rank == 0:
        try:
            mine = _Host(job, folder, _address(hosts, host))
            keys = mine.collector.hub.keys.for_clients().to_text()
            told = [mine.collector.hub.address, keys, None]
        except (ValueError, OSError, RuntimeError) as error:
            told[2] = str(error)
    address, keys, problem = world.gather(told, "hear of rank 0's collector")[0]
    if problem is not None:
        raise ValueError(f"rank 0 on {hosts[0]}: {problem}")
    reporter = _introduce(world, address, Keys.from_text(keys))
    if mine is None:
        return _work(world, reporter, lambda: job, resume), None
    if watch is not None:
        threading.Thread(target=watch, args=(mine.collector.run,), daemon=True).start()
    status = _work(world, reporter, lambda: job, resume, mine.join)
    return status, mine.collector.run.folder


def _agreed(world: World, make: Callable[[], Job]) -> Job:
    """The job, made on every rank; ValueError on all when one of them cannot."""
    job, wrong = None, None
    try:
        job = for_processes(make())
        if world.size != job.executed.num_ranks:
            raise ValueError(wrong_size(world.size, job.executed.num_ranks))
    except (ValueError, OSError) as error:
        wrong = str(error)
    told = world.gather([platform.node(), wrong], "read the job")
    for rank, (node, problem) in enumerate(told):
        if problem is not None:
            raise ValueError(f"rank {rank} on {node}: {problem}")
    assert job is not None
    return job
