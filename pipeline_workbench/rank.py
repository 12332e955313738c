"""One rank, and beside it a process that sees how it ends.

A launcher knows little of how a process died, and some name the wrong one. So the
process that the launcher starts forks before it imports anything large: the child is the
rank, the parent waits for it, and when it was killed tells the collector by which signal.
Standard library only, until there is something to tell.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

#: What the child calls so that it does not outlive its parent; Linux only.
_PR_SET_PDEATHSIG = 1
#: Where the child writes which rank it is, and of which stream: a descriptor's number.
RANK_PIPE = "WORKBENCH_RANK_PIPE"
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def launched_by() -> str | None:
    """The launcher that started this process as one rank of several, by what it left in
    the environment: "mpiexec" or "srun"; None where nobody did."""
    told = os.environ
    in_step = "SLURM_STEP_ID" in told and "SLURM_PROCID" in told
    several = int(told.get("SLURM_STEP_NUM_TASKS", "1")) > 1
    if int(told.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        return "mpiexec"
    if int(told.get("PMI_SIZE", "1")) > 1:
        return "srun" if in_step and several else "mpiexec"
    return "srun" if in_step and several else None


def _die_with_parent(parent: int) -> None:
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has gone already
        os._exit(1)


def _wait(child: int) -> int:
    """The child's wait status; signals on the way are its."""

    def forward(number: int, _: object) -> None:
        try:
            os.kill(child, number)
        except ProcessLookupError:
            pass

    for number in _FORWARDED:
        signal.signal(number, forward)
    return os.waitpid(child, 0)[1]


def _tell(child: int, pipe: int, status: int) -> None:
    """Tells the collector how the rank ended, if it had got as far as to have one."""
    os.set_blocking(pipe, False)
    try:
        told = os.read(pipe, 1 << 12).decode().split()
    except BlockingIOError:
        return
    if len(told) == 3:
        from workbench.launcher.rank import tell_death

        rank, address, keys = told
        name = signal.Signals(os.WTERMSIG(status)).name
        print(
            f"workbench: rank {rank} was killed by {name}", file=sys.stderr, flush=True
        )
        tell_death(int(rank), address, keys, child, os.WTERMSIG(status))


def main(run: Callable[[], int]) -> int:
    """What a launcher starts once for each rank: ``run`` in a child; returns the exit
    status."""
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _die_with_parent(parent)
        os.environ[RANK_PIPE] = str(writing)
        return run()
    os.close(writing)
    status = _wait(child)
    if os.WIFEXITED(status):
        return os.WEXITSTATUS(status)
    _tell(child, reading, status)
    return 128 + os.WTERMSIG(status)
