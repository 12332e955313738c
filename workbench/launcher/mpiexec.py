"""mpiexec in its two families: MPICH's hydra (Intel MPI's, too) and Open MPI's.

They differ in how hosts are named, in what of the environment they pass on, and in what
they refuse: Open MPI starts neither as root nor more ranks than cores unless told.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

_HOST = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(?::(\d+))?")
#: What Open MPI passes on to other hosts only when told, by how the names begin.
_PASSED_ON = ("PYTHON", "UCX_", "WORKBENCH_", "OMP_")
_SSH_OPTIONS = ("-o", "BatchMode=yes", "-o", "ServerAliveInterval=5")


#: Set within an allocation, whose nodes every mpiexec would take for the place to go to.
_ALLOCATIONS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")


class Mpiexec(NamedTuple):
    """One mpiexec: where it is, whose, and its version's first number (0: unknown)."""

    path: str
    family: Literal["hydra", "openmpi"]
    major: int
    version: str


class Host(NamedTuple):
    """A host and how many ranks it takes."""

    name: str
    ranks: int


def find_mpiexec() -> str:
    """mpiexec of this environment, else the system's. Raises ValueError."""
    own = Path(sys.executable).with_name("mpiexec")
    found = str(own) if own.is_file() else shutil.which("mpiexec")
    if found is None:
        raise ValueError(
            'there is no mpiexec: pip install "pipeline-workbench[mpi]" brings one'
        )
    return found


def family_of(path: str, said: str) -> Mpiexec:
    """Whose mpiexec it is by what ``mpiexec --version`` said. Raises ValueError for one
    that is neither hydra nor Open MPI."""
    is_open = re.search(r"Open MPI|OpenRTE|PRTE", said)
    is_hydra = re.search(r"HYDRA|Intel\(R\) MPI", said)
    if not is_open and not is_hydra:
        first = (said.strip().splitlines() or ["nothing"])[0]
        raise ValueError(
            f"{path} --version says {first!r}: known are the mpiexec of MPICH and Open "
            "MPI; with another MPI start the ranks yourself: "
            "mpiexec -n N workbench run job.toml"
        )
    found = re.search(r"(?:\)|Version:?)\s*(\d+)([\d.]*)", said)
    major, rest = (found[1], found[2]) if found else ("0", "")
    return Mpiexec(path, "openmpi" if is_open else "hydra", int(major), major + rest)


@functools.cache
def inspect(path: str) -> Mpiexec:
    """Asks a mpiexec for its version. Raises ValueError when it cannot be asked."""
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ValueError(f"{path} does not tell its version: {error}") from None
    return family_of(path, done.stdout + done.stderr)


def parse_hosts(text: str, size: int) -> list[Host]:
    """ "a:2,b:2" as hosts, cut to ``size`` ranks. Without slots the ranks are shared
    out evenly, in blocks: neighbours in the pipeline are near one another.

    Raises ValueError for what is no list of hosts, or too few slots.
    """
    found = [_HOST.fullmatch(part.strip()) for part in text.split(",")]
    if not all(found):
        raise ValueError(
            f'on="ssh:{text}": hosts are wanted as "ssh:hostA,hostB" or with the ranks '
            'that each takes, "ssh:hostA:2,hostB:2"; users and ports belong into ssh\'s '
            "own configuration"
        )
    parts = [(match[1], match[2]) for match in found if match]
    if len({name for name, _ in parts}) < len(parts):
        raise ValueError(f'on="ssh:{text}" names a host twice: give it slots, "a:2"')
    if any(slots for _, slots in parts):
        shares = [int(slots or 1) for _, slots in parts]
    else:
        base, more = divmod(size, len(parts))
        shares = [base + (i < more) for i in range(len(parts))]
    if sum(shares) < size:
        raise ValueError(
            f'on="ssh:{text}" has room for {sum(shares)} ranks, but the layout has '
            f"{size}: give more hosts or slots"
        )
    hosts, left = [], size
    for (name, _), share in zip(parts, shares, strict=True):
        if take := min(share, left):
            hosts.append(Host(name, take))
            left -= take
    return hosts


def write_wrapper(folder: Path, ssh: str) -> Path:
    """A script that launchers take for ssh: they allow it no arguments of its own.

    It never asks for a password, as nobody would see the question, and it ends by
    itself when the host is gone: mpiexec forgets it. Raises ValueError when there is no
    such program.
    """
    words = shlex.split(ssh)
    if not words or shutil.which(words[0]) is None:
        raise ValueError(
            f"ssh={ssh!r}: there is no such program; Debian's package is openssh-client"
        )
    path = folder / "ssh.sh"
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o700)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(f'#!/bin/sh\nexec {shlex.join([*words, *_SSH_OPTIONS])} "$@"\n')
    return path


def _open_mpi_env(mpi: Mpiexec) -> dict[str, str]:
    """What makes Open MPI start as other MPIs do: as root, too, on busy cores, and
    without binding a rank's threads to one core."""
    env = {}
    if os.geteuid() == 0:
        env["OMPI_ALLOW_RUN_AS_ROOT"] = env["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1"
    if mpi.major >= 5:
        env["PRTE_MCA_rmaps_default_mapping_policy"] = ":oversubscribe"
        env["PRTE_MCA_hwloc_default_binding_policy"] = "none"
    else:
        env["OMPI_MCA_rmaps_base_oversubscribe"] = "1"
        env["OMPI_MCA_hwloc_base_binding_policy"] = "none"
    return env


def _passed_on(env: Mapping[str, str]) -> list[str]:
    """-x NAME for what other hosts need; the values never stand in arguments."""
    names = {*env, *(n for n in os.environ if n.startswith(_PASSED_ON))}
    names -= {"WORKBENCH_HUB_KEYS"}
    own = ("OMPI_", "PRTE_", "PMIX_")
    return [w for n in sorted(names) if not n.startswith(own) for w in ("-x", n)]


def local(
    mpi: Mpiexec, size: int, rank: Sequence[str], env: Mapping[str, str]
) -> tuple[list[str], dict[str, str]]:
    """argv and environment for ``size`` ranks on this machine, within an allocation of
    several nodes, too."""
    is_allocated = any(name in os.environ for name in _ALLOCATIONS)
    argv, more = [mpi.path], {}
    if mpi.family == "openmpi":
        more = _open_mpi_env(mpi)
        if is_allocated:
            own = "PRTE_MCA_" if mpi.major >= 5 else "OMPI_MCA_"
            more |= {f"{own}ras": "^slurm,tm,lsf", f"{own}plm": "^slurm,tm,lsf"}
    elif is_allocated:
        argv += ["-rmk", "user", "-launcher", "fork"]
    return [*argv, "-n", str(size), *rank], {**env, **more}


def over_ssh(
    mpi: Mpiexec,
    hosts: Sequence[Host],
    rank: Sequence[str],
    env: Mapping[str, str],
    *,
    wrapper: Path,
    host: str,
    iface: str | None = None,
    wdir: str | None = None,
) -> tuple[list[str], dict[str, str]]:
    """argv and environment for ranks on other hosts.

    host: this machine's address, as the others reach it. iface: the network interface
    (hydra) or subnet (Open MPI) that the launcher and the ranks talk over.
    """
    size = sum(entry.ranks for entry in hosts)
    named = ",".join(f"{entry.name}:{entry.ranks}" for entry in hosts)
    place = [] if wdir is None else ["-wdir", wdir]
    if mpi.family == "hydra":
        talk = ["-iface", iface] if iface else ["-localhost", host]
        launcher = ["-launcher", "ssh", "-launcher-exec", str(wrapper)]
        argv = [mpi.path, *launcher, *talk, "-hosts", named, *place]
        return [*argv, "-n", str(size), *rank], dict(env)
    env = {**env, **_open_mpi_env(mpi)}
    if mpi.major >= 5:
        agent = ["--prtemca", "plm_ssh_agent", str(wrapper)]
        agent += ["--prtemca", "plm_ssh_no_tree_spawn", "1"]
        agent += ["--map-by", "slot:OVERSUBSCRIBE"]
        talk = ["--prtemca", "prte_if_include", iface] if iface else []
    else:
        agent = ["--mca", "plm_rsh_agent", str(wrapper)]
        agent += ["--mca", "plm_rsh_no_tree_spawn", "1", "--map-by", "slot"]
        talk = ["--mca", "oob_tcp_if_include", iface] if iface else []
    if iface:
        talk += ["--mca", "btl_tcp_if_include", iface]
    argv = [mpi.path, "--host", named, *agent, *talk, *_passed_on(env), *place]
    return [*argv, "-n", str(size), *rank], env
