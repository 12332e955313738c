"""Where processes run: the launcher's command for a place, and its last words."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple


class Command(NamedTuple):
    """What to start, and with what in its environment."""

    argv: list[str]
    env: dict[str, str]


class Death(NamedTuple):
    """What a launcher says of a process that ended badly; None for what it does not."""

    rank: int | None = None
    host: str | None = None
    pid: int | None = None
    signal: int | None = None
    exit: int | None = None


def find_mpiexec() -> str:
    """mpiexec of this environment, else the system's. Raises ValueError."""
    own = Path(sys.executable).with_name("mpiexec")
    found = str(own) if own.is_file() else shutil.which("mpiexec")
    if found is None:
        raise ValueError(
            'there is no mpiexec: pip install "pipeline-workbench[mpi]" brings one'
        )
    return found


def command(
    on: str, size: int, folder: Path, env: Mapping[str, str], **options: Any
) -> Command:
    """The command that starts ``size`` ranks on a place, each with ``env``."""
    if on != "mpi":
        raise ValueError(f'on={on!r}: there is no such place; "threads" and "mpi" are')
    if options:
        raise ValueError(f"unknown options of on={on!r}: {', '.join(options)}")
    rank = [sys.executable, "-m", "pipeline_workbench", "rank"]
    return Command([find_mpiexec(), "-n", str(size), *rank], dict(env))


_HYDRA = re.compile(r"PID (\d+) RUNNING AT (\S+)\s*\n.*?EXIT CODE: (\d+)", re.DOTALL)


def last_words(on: str, text: str) -> list[Death]:
    """The deaths that a launcher's output tells of, the first one first."""
    found = []
    for pid, host, code in _HYDRA.findall(text):
        number = int(code)
        killed = number if f"(signal {number})" in text else None
        found.append(Death(None, host, int(pid), killed, number))
    return found
