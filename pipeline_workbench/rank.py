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

#: What the child calls so that it does not outlive its parent; Linux only.
_PR_SET_PDEATHSIG = 1
#: Where the child writes which rank it is: a file descriptor's number.
RANK_PIPE = "WORKBENCH_RANK_PIPE"
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


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
    """Tells the collector how the rank ended, if it had got as far as to be one."""
    os.set_blocking(pipe, False)
    try:
        told = os.read(pipe, 16)
    except BlockingIOError:
        told = b""
    if told.isdigit():
        from workbench.launcher.rank import tell_death

        tell_death(int(told), child, os.WTERMSIG(status))


def main() -> int:
    """What a launcher starts once for each rank; returns the exit status."""
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _die_with_parent(parent)
        os.environ[RANK_PIPE] = str(writing)
        from workbench.launcher.rank import main as rank

        return rank()
    os.close(writing)
    status = _wait(child)
    if os.WIFEXITED(status):
        return os.WEXITSTATUS(status)
    _tell(child, reading, status)
    return 128 + os.WTERMSIG(status)
