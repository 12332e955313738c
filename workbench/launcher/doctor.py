"""What of the launchers' needs is here, and how to get what is not."""

from __future__ import annotations

import importlib.util
import re
import shutil
import socket
import subprocess
from importlib import metadata

from . import mpiexec, places

_EXTRA = 'pip install "pipeline-workbench[mpi]"'


def _version(program: str, option: str) -> str:
    """The version that a program tells, or what it says in its place."""
    try:
        done = subprocess.run(
            [program, option], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    said = done.stdout + done.stderr
    found = re.search(r"\d+(?:\.\d+)+\w*", said)
    return found[0] if found else (said.strip().splitlines() or ["?"])[-1]


def _program(name: str, option: str, how: str) -> str:
    path = shutil.which(name)
    return how if path is None else f"{_version(path, option)}, {path}"


def _package(name: str, how: str) -> str:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        return how
    return f"{metadata.version(name)}, {spec.origin.removesuffix('/__init__.py')}"


def _mpi() -> str:
    try:
        found = mpiexec.inspect(mpiexec.find_mpiexec())
    except ValueError as error:
        return str(error)
    name = "MPICH" if found.family == "hydra" else "Open MPI"
    return f"{name} {found.version}, {found.path}"


def _address() -> str:
    try:
        return places.reachable_address()
    except ValueError:
        return (
            f"{socket.gethostname()!r} stands for none that other machines reach: "
            "launching over ssh and Slurm needs host="
        )


def launchers() -> dict[str, str]:
    """By name: version and path of what launching needs, or how to get it."""
    return {
        "mpi": _mpi(),
        "mpi4py": _package("mpi4py", f"not found: {_EXTRA}"),
        "slurm": _program(
            "srun",
            "--version",
            "not found: there on a cluster's login node (Debian: slurm-client)",
        ),
        "ssh": _program("ssh", "-V", "not found (Debian: openssh-client)"),
        "ipyparallel": _package("ipyparallel", "not found: pip install ipyparallel"),
        "address": _address(),
    }
