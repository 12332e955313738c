"""Where processes run: the launcher's command for a place, and its last words."""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from . import mpiexec, slurm

__all__ = ["Command", "Death", "command", "last_words", "reachable_address"]

#: What ranks are started with besides Python: `workbench.launcher.rank` explains it.
_RANK = ("-m", "pipeline_workbench", "rank")
_SLURM_OPTIONS = (
    *("nodes", "ntasks_per_node", "partition", "time", "account"),
    *("threads", "mpi", "extra", "batch", "poll_seconds", "check"),
)


class Command(NamedTuple):
    """What to start, and with what in its environment. ``hello_seconds``: how long the
    ranks may take to say hello; None where they may have to wait in a queue."""

    argv: list[str]
    env: dict[str, str]
    hello_seconds: float | None = 120.0


class Death(NamedTuple):
    """What a launcher says of a process that ended badly; None for what it does not."""

    rank: int | None = None
    host: str | None = None
    pid: int | None = None
    signal: int | None = None
    exit: int | None = None


def is_elsewhere(on: str) -> bool:
    """Whether the ranks of a place are on other machines."""
    return on == "slurm" or on.startswith("ssh:")


def reachable_address() -> str:
    """This machine's address as others reach it: what its own name stands for.

    Raises ValueError when that is loopback only, or nothing.
    """
    name = socket.gethostname()
    try:
        told = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        told = []
    addresses = [str(entry[4][0]) for entry in told]
    outside = [
        a for a in addresses if not a.startswith(("127.", "fe80:")) and a != "::1"
    ]
    if not outside:
        known = ", ".join(dict.fromkeys(addresses)) or "nothing"
        raise ValueError(
            f"ranks on other machines report to this one, but its name {name!r} stands "
            f"for {known}: say by which address they reach it, host="
            '"192.0.2.7" (ip address shows them)'
        )
    return min(outside, key=lambda a: ":" in a)


def _refuse_others(on: str, options: Mapping[str, Any], known: tuple[str, ...]) -> None:
    if unknown := set(options) - set(known):
        raise ValueError(
            f"unknown options of on={on!r}: {', '.join(sorted(unknown))}; known are "
            f"{', '.join(known)}"
        )


def command(
    on: str, size: int, folder: Path, env: Mapping[str, str], **options: Any
) -> Command:
    """The command that starts ``size`` ranks on a place, each with ``env``.

    Files that the launcher needs are written into ``folder``. Raises ValueError for a
    place that there is not, an option that it does not have, or a missing program.
    """
    common = ("python", "environment")
    env = {**env, **{k: str(v) for k, v in options.pop("environment", {}).items()}}
    rank = [str(options.pop("python", sys.executable)), *_RANK]
    if on == "mpi":
        _refuse_others(on, options, common)
        mpi = mpiexec.inspect(mpiexec.find_mpiexec())
        return Command(*mpiexec.local(mpi, size, rank, env))
    if on.startswith("ssh:"):
        _refuse_others(on, options, ("ssh", "host", "iface", "wdir", *common))
        hosts = mpiexec.parse_hosts(on.removeprefix("ssh:"), size)
        mpi = mpiexec.inspect(mpiexec.find_mpiexec())
        wrapper = mpiexec.write_wrapper(folder, str(options.pop("ssh", "ssh")))
        options.setdefault("host", "127.0.0.1")
        told = mpiexec.over_ssh(mpi, hosts, rank, env, wrapper=wrapper, **options)
        return Command(*told)
    if on == "slurm":
        return _slurm(size, folder, env, rank, options, common)
    raise ValueError(
        f'on={on!r}: there is no such place; "threads", "mpi", "ssh:hostA,hostB" and '
        '"slurm" are'
    )


def _slurm(
    size: int,
    folder: Path,
    env: dict[str, str],
    rank: list[str],
    options: dict[str, Any],
    common: tuple[str, ...],
) -> Command:
    options.pop("host", None)
    _refuse_others("slurm", options, (*_SLURM_OPTIONS, *common))
    batch, every = options.pop("batch", False), options.pop("poll_seconds", 2.0)
    check = options.pop("check", True)
    options.setdefault("mpi", _srun_mpi())
    per_node = options.pop("ntasks_per_node", None)
    layout = slurm.Layout(size, ranks_per_node=per_node, **options)
    slurm.need("srun")
    if batch:
        slurm.need("sbatch")
    if check:
        slurm.check_fit(layout)
    name = f"workbench-{folder.name}"
    if batch:
        argv = slurm.batch(layout, name, rank, folder, float(every))
    else:
        argv = slurm.direct(layout, name, rank)
    return Command(argv, env, None)


def _srun_mpi() -> str:
    """How srun is to introduce ranks to one another, by the MPI that is here: Open MPI
    knows PMIx only."""
    try:
        family = mpiexec.inspect(mpiexec.find_mpiexec()).family
    except ValueError:  # srun needs none
        return "pmi2"
    return "pmix" if family == "openmpi" else "pmi2"


_HYDRA = re.compile(r"PID (\d+) RUNNING AT (\S+)\s*\n.*?EXIT CODE: (\d+)", re.DOTALL)
_OPEN_SIGNAL = re.compile(
    r"process rank (\d+) with PID (\d+) on node (\S+) exited\s+on\s+signal (\d+)"
)
_OPEN_EXIT = re.compile(
    r"Process name: \[\S+[,@\]]\s?(\d+)\]\s*\n\s*Exit code:\s*(\d+)"
)


def last_words(on: str, text: str) -> list[Death]:
    """The deaths that a launcher's output tells of, the first one first."""
    if on == "slurm":
        found = [
            Death(rank, host, None, number, status)
            for rank, host, number, status in slurm.deaths(text)
        ]
        return [_by_shell(death) for death in found]
    found = []
    for pid, host, code in _HYDRA.findall(text):
        number = int(code)
        killed = number if f"(signal {number})" in text else None
        found.append(Death(None, host, int(pid), killed, number))
    for rank, pid, host, number in _OPEN_SIGNAL.findall(text):
        found.append(Death(int(rank), host, int(pid) or None, int(number)))
    for rank, code in _OPEN_EXIT.findall(text):
        found.append(Death(int(rank), exit=int(code)))
    return [_by_shell(death) for death in found]


def _by_shell(death: Death) -> Death:
    """A status of 128 and more is a shell's way, and ours, to tell of a signal."""
    if death.signal is None and death.exit is not None and 128 < death.exit < 193:
        return death._replace(signal=death.exit - 128)
    return death
