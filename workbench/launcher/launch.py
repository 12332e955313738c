"""Where ranks run. ``launch`` takes a job and a place and gives a running ``Run``."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal, overload

from pipeline_workbench.monitor import HUB_KEYS

from ..checkpoint import RunFolder, find_checkpoint
from ..engine import Job, Run
from .remote import RemoteRun


@overload
def launch(
    job: Job,
    *,
    on: Literal["threads"] = "threads",
    folder: str | Path | None = None,
    start: bool = True,
    resume: str | Path | None = None,
) -> Run: ...
@overload
def launch(
    job: Job, *, on: Any, folder: str | Path | None = None, **options: Any
) -> RemoteRun: ...
def launch(
    job: Job,
    *,
    on: Any = "threads",
    folder: str | Path | None = None,
    start: bool = True,
    resume: str | Path | None = None,
    **options: Any,
) -> Run | RemoteRun:
    """Runs a job and returns at once with its handle.

    ``on="threads"``: the ranks are native threads of this process. ``on="mpi"``: they
    are processes of this machine, started by mpiexec and watched over by a process of
    their own, so that they go on when this one ends. ``on="ssh:hostA,hostB"``: the same
    on other machines, by ssh (``"ssh:hostA:2,hostB:2"``: so many ranks each).
    ``on="slurm"``: through srun, or with ``batch=True`` through sbatch. ``on`` an
    ipyparallel ``Cluster`` or ``Client``: its engines are the ranks. ``folder`` is the
    run's own folder (default: a new one under ``runs/``).


    ``options`` of all places with processes: ``host``, the address of this machine that
    the ranks report to, and ``ports``, the two that they report to (default: free ones);
    ``python``, as it is called there; ``environment``, more for the ranks'. Of ssh:
    ``ssh``, such as ``"ssh -F file"``; ``iface``, the interface to talk over; ``wdir``,
    the folder to start in. Of Slurm: ``nodes``, ``ntasks_per_node``, ``partition``,
    ``time``, ``account``, ``threads`` (cores per rank), ``mpi`` (srun's ``--mpi``),
    ``extra`` (more words for srun or sbatch), ``batch``, ``check`` (False:
    submits what Slurm says it could not start now).

    ``resume``: a run's folder or a checkpoint, to go on from there, on any layout.

    Raises ValueError for a place that there is not, an option that it has not, or a
    missing program, and MemoryError when the job does not fit.
    """
    if on == "threads":
        if options:
            raise ValueError(f"threads have no options {', '.join(options)}")
        state = None if resume is None else find_checkpoint(resume)
        run = Run(job, RunFolder.create(folder, name=job.name), state)
        return run.start() if start else run
    if resume is not None:
        options["resume"] = resume
    return _launch_processes(job, on, folder, options)


def _free_ports(host: str) -> tuple[int, int]:
    """Two ports that nobody listens on now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    holders = [socket.socket(family) for _ in range(2)]
    try:
        for holder in holders:
            holder.bind((host, 0))
        one, other = (holder.getsockname()[1] for holder in holders)
        return one, other
    finally:
        for holder in holders:
            holder.close()


def _host_of(on: Any, options: dict[str, Any]) -> str:
    """The address that the ranks report to; a launcher over ssh is told it, too."""
    from . import places

    asked = options.pop("host", None)
    if not isinstance(on, str) or not places.is_elsewhere(on):
        return str(asked or "127.0.0.1")
    host = str(asked or places.reachable_address())
    options["host"] = host
    return host


def _ports_of(asked: Any, host: str) -> tuple[int, int]:
    """The two ports that the collector listens on."""
    if asked is None:
        return _free_ports(host)
    ports = tuple(asked) if isinstance(asked, list | tuple) else ()
    if len(set(ports)) != 2 or not all(
        isinstance(port, int) and 0 < port < 65536 for port in ports
    ):
        raise ValueError(
            f"ports={asked!r}: two different ports are wanted, such as (5801, 5802)"
        )
    return ports


def _launch_processes(
    job: Job, on: Any, folder: str | Path | None, options: dict[str, Any]
) -> RemoteRun:
    # Only now: a run on threads needs neither MPI nor sockets.
    from ..engine.worker import check_resume, for_processes
    from . import ipp, places
    from .keys import Keys
    from .rank import KEYS, STREAM

    job = for_processes(job)
    resume = options.pop("resume", None)
    if resume is not None:  # told now if it cannot be; each rank reads it for itself
        check_resume(job, find_checkpoint(resume))
        resume = str(Path(resume).resolve())
    host = _host_of(on, options)
    ports = _ports_of(options.pop("ports", None), host)
    keys = Keys.new()
    address = f"{host}:{ports[0]}:{ports[1]}"
    env = {STREAM: address, KEYS: keys.for_clients().to_text()}
    size = job.executed.num_ranks
    engines = ipp.Engines(on, size) if ipp.is_cluster(on) else None
    where = RunFolder.create(folder, name=job.name)
    plan: dict[str, Any] = {"host": host, "ports": ports, "env": {}, "resume": resume}
    if engines is not None:
        plan |= {"on": "ipyparallel", "argv": None}
    else:
        try:
            command = places.command(on, size, where.path, env, **options)
        except ValueError:
            where.path.rmdir()  # nothing has been written yet
            raise
        told = {name: v for name, v in command.env.items() if name not in env}
        plan |= {"on": on, "argv": command.argv, "env": told}
        plan["hello_seconds"] = command.hello_seconds
    where.write_text("job.toml", job.to_toml())
    where.write_text("launch.json", json.dumps(plan, indent=2) + "\n")
    with (where.path / "monitor.log").open("ab") as log:
        monitor = subprocess.Popen(
            [sys.executable, "-m", "pipeline_workbench", "monitor", str(where.path)],
            env={**os.environ, **env, HUB_KEYS: keys.to_text()},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    run = RemoteRun(job, where, address, keys.for_clients(), monitor)
    if engines is not None:
        asked = engines.start(address, keys.for_clients().to_text())
        ipp.follow(engines, asked, run)
    return run
