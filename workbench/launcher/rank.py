"""One rank's process: what mpiexec, srun or a batch script starts N times.

``serve`` is started for a run that somebody launched: it finds the collector by its
environment and gets the job from it. ``host`` is ``workbench run`` under mpiexec: every
process reads the job file itself, and the first one is the collector, too.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline_workbench.rank import RANK_PIPE

from ..engine import Job, RunError
from ..engine.mpi import World
from ..engine.worker import about, for_processes, work
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
    pipe = os.environ.pop(RANK_PIPE, None)
    if pipe is not None:
        os.write(int(pipe), str(world.rank).encode())
        os.close(int(pipe))
    reporter = Reporter(address, Keys.from_text(keys), world.rank)
    reporter.tell("hello", about(world))
    command = _wait_for(reporter, "job", JOB_SECONDS)
    if command is None:
        reporter.close()
        raise RunError(
            f"rank {world.rank} got no job within {JOB_SECONDS:g} s from {address}",
            world.rank,
        )
    return _work(world, reporter, lambda: Job.from_toml(command["toml"]))


def tell_death(rank: int, pid: int, number: int) -> None:
    """The rank's process was killed by this signal; the one beside it tells so."""
    address, keys = os.environ.get(STREAM), os.environ.get(KEYS)
    if address and keys:
        reporter = Reporter(address, Keys.from_text(keys), rank)
        reporter.tell("killed", {"pid": pid, "signal": number})
        reporter.close(LAST_WORDS_SECONDS)


def main() -> int:
    """``serve`` as a command: mistakes are told without a traceback."""
    try:
        return serve()
    except (ValueError, MemoryError, RunError, OSError) as error:
        print(f"workbench: {error}", file=sys.stderr, flush=True)
        return 2


def _work(world: World, reporter: Reporter, make: Callable[[], Job]) -> int:
    """Trains and tells. A failure ends all processes of the world, but not before the
    collector has heard this one out."""
    try:
        try:
            job = make()
        except (ValueError, OSError) as error:
            body = {"rank": world.rank, "text": str(error), "error": "ValueError"}
            reporter.tell("failed", body)
            raise
        work(for_processes(job), world, reporter)
    except (ValueError, MemoryError, RunError, OSError) as error:
        print(f"workbench: {error}", file=sys.stderr, flush=True)
        _wait_for(reporter, "bye", LAST_WORDS_SECONDS)
        reporter.close(0.5)
        world.abort(FAILED)
    reporter.tell("bye")
    reporter.close()
    return 0


def load(world: World, path: str | Path, resume: str | None = None) -> Job:
    """The job of a file that every process reads for itself.

    Raises ValueError on all ranks alike when one of them cannot read it.
    """
    job, wrong = None, None
    try:
        job = for_processes(Job.from_toml(Path(path)))
    except (ValueError, OSError) as error:
        wrong = f"{error}"
    told = world.gather([os.uname().nodename, wrong], "read the job file")
    for rank, (host, problem) in enumerate(told):
        if problem is not None:
            raise ValueError(f"rank {rank} on {host}: {problem}")
    assert job is not None
    return job
