"""Ranks on other hosts, over ssh and Slurm: the same bits, and failures in words."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import workbench as wb
from workbench.launcher.keys import read_live

from .hosts import Hosts, Slurm, sh, until

pytestmark = [pytest.mark.cluster, pytest.mark.mpi]

MakeJob = Callable[..., wb.Job]
#: MPICH exchanges UCX's addresses, 4 kB with whatever lies in memory behind them, in
#: lines that Slurm's pmi2 (22.05) now and then cuts; libfabric's are a few bytes.
SHORT = {"MPIR_CVAR_CH4_NETMOD": "ofi", "FI_PROVIDER": "tcp", "FI_TCP_IFACE": "eth0"}
OVER = ("finished", "stopped", "failed")


@pytest.fixture
def launch(hosts: Hosts, tmp_path: Path) -> Iterator[Callable[..., wb.RemoteRun]]:
    """wb.launch with what these hosts need; ends what a failed test leaves."""
    begun: list[wb.RemoteRun] = []

    def start(job: wb.Job, on: str, **options: Any) -> wb.RemoteRun:
        if on == "ssh":
            on = "ssh:" + ",".join(hosts.names)
            options["ssh"] = hosts.ssh
        else:
            options["environment"] = SHORT
        options.setdefault("host", hosts.address)
        begun.append(wb.launch(job, on=on, folder=tmp_path / "run", **options))
        return begun[-1]

    yield start
    for run in begun:
        if run.state not in OVER:
            run.abort()
        run._monitor.wait(20)


def threads_hash(job: wb.Job, folder: Path, known: dict[str, str]) -> str:
    if "hash" not in known:
        known["hash"] = wb.launch(job, folder=folder).wait(60).weights_hash()
    return known["hash"]


def arguments() -> bytes:
    """Those of all processes, on all hosts."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes())
        except OSError:
            continue
    return b"\n".join(found)


class Watch(threading.Thread):
    """Looks at all processes' arguments for as long as a run goes on."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seen: set[bytes] = set()
        self.over = threading.Event()
        self.start()

    def run(self) -> None:
        while not self.over.wait(0.05):
            self.seen.update(arguments().split(b"\n"))

    def stop(self) -> bytes:
        self.over.set()
        self.join()
        return b"\n".join(self.seen)


def hosts_of(run: wb.RemoteRun) -> list[str]:
    return [rank["host"] for rank in run.ranks]


@pytest.mark.parametrize(
    ("on", "options"),
    [
        ("ssh", {}),
        ("slurm", {"nodes": 2}),
        ("slurm", {"nodes": 2, "batch": True, "poll_seconds": 0.2}),
    ],
    ids=["ssh", "srun", "sbatch"],
)
def test_the_same_bits_as_threads_and_no_key_in_any_arguments(
    on: str,
    options: dict[str, Any],
    launch: Callable[..., wb.RemoteRun],
    slurm: Slurm,
    job: MakeJob,
    tmp_path: Path,
    of_threads: dict[str, str],
) -> None:
    watch = Watch()
    run = launch(job(), on, **options)
    live = tmp_path / "run" / "live.json"
    until(live.exists, "the collector")
    keys = read_live(live.parent)["keys"]
    run.wait(60)
    seen = watch.stop()
    assert run.weights_hash() == threads_hash(job(), tmp_path / "t", of_threads)
    assert hosts_of(run) == ["host1", "host1", "host2", "host2"]
    assert b"pipeline_workbench" in seen  # it did look
    files = [p for p in (tmp_path / "run").iterdir() if p.name != "live.json"]
    for secret in (keys.client_secret, keys.server_public):
        assert secret.encode() not in seen
        assert not [p.name for p in files if secret.encode() in p.read_bytes()]


def begin(run: wb.RemoteRun) -> dict[int, int]:
    """Waits until it trains; the process of each rank."""
    until(lambda: run.steps_done >= 3 or run.state in OVER, "training", 40)
    assert run.state == "running", run.error
    return {rank["rank"]: rank["pid"] for rank in run.ranks}


def failure_within(run: wb.RemoteRun, seconds: float) -> str:
    until(lambda: run.state in OVER, "the failure", seconds)
    assert run.state == "failed"
    return str(run.error)


def gone(hosts: Hosts, pids: dict[int, int], seconds: float = 15) -> None:
    """Nothing of the run is left on the hosts."""
    until(lambda: not hosts.processes() & set(pids.values()), "the end", seconds)


@pytest.mark.parametrize("on", ["ssh", "slurm"])
def test_a_killed_rank_is_named_with_its_host(
    on: str,
    launch: Callable[..., wb.RemoteRun],
    slurm: Slurm,
    hosts: Hosts,
    job: MakeJob,
) -> None:
    run = launch(job(steps=1_000_000), on)
    pids = begin(run)
    os.kill(pids[2], signal.SIGKILL)
    said = failure_within(run, 3.0)
    assert said.startswith("rank 2 (stage 2, host host2) was killed by signal 9")
    gone(hosts, pids)


def test_a_link_that_goes_down_is_found_by_silence(
    launch: Callable[..., wb.RemoteRun], hosts: Hosts, job: MakeJob
) -> None:
    run = launch(job(steps=1_000_000), "ssh")
    pids = begin(run)
    hosts.link("host2", "down")
    try:
        said = failure_within(run, 5.0)
    finally:
        hosts.link("host2", "up")
    gone(hosts, pids)  # those that were behind the link, too
    assert "host host2" in said
    assert "has not been heard of" in said


def test_a_slow_link_changes_no_bit(
    launch: Callable[..., wb.RemoteRun],
    hosts: Hosts,
    job: MakeJob,
    tmp_path: Path,
    of_threads: dict[str, str],
) -> None:
    for name in hosts.names:
        hosts.shape(name, "20mbit")
    try:
        run = launch(job(), "ssh").wait(60)
    finally:
        for name in hosts.names:
            hosts.shape(name, None)
    assert run.weights_hash() == threads_hash(job(), tmp_path / "t", of_threads)


def test_what_the_cluster_cannot_hold_is_refused_in_slurms_words(
    launch: Callable[..., wb.RemoteRun], slurm: Slurm, job: MakeJob
) -> None:
    said = "4 ranks .*--nodes=4 .*Requested node configuration is not available"
    with pytest.raises(ValueError, match=said):
        launch(job(), "slurm", ntasks_per_node=1)
    with pytest.raises(ValueError, match=r"--partition=gpus.*nvalid partition"):
        launch(job(), "slurm", partition="gpus")


def test_an_aborted_batch_job_leaves_the_queue(
    launch: Callable[..., wb.RemoteRun], slurm: Slurm, hosts: Hosts, job: MakeJob
) -> None:
    run = launch(job(steps=1_000_000), "slurm", batch=True, poll_seconds=0.2)
    pids = begin(run)
    run.abort()
    gone(hosts, pids)
    until(lambda: not in_queue(slurm), "the queue")


@pytest.mark.parametrize("batch", [False, True], ids=["srun", "sbatch"])
def test_an_aborted_job_does_not_wait_in_the_queue(
    batch: bool, launch: Callable[..., wb.RemoteRun], slurm: Slurm, job: MakeJob
) -> None:
    run = launch(job(), "slurm", batch=batch, extra=["--begin=now+1hour"])
    until(lambda: in_queue(slurm), "a job in the queue")
    assert run.state == "starting"
    run.abort()
    until(lambda: not in_queue(slurm), "the end of the job")


@pytest.mark.parametrize(
    ("on", "options", "said"),
    [
        ("ssh:host1,host2", {"python": "/no/python"}, "No such file or directory"),
        ("ssh:host1,nohost", {}, "Could not resolve hostname nohost"),
        (
            "ssh:host1,host2",
            {"ssh": " -o PubkeyAuthentication=no"},
            "Permission denied",
        ),
        ("slurm", {"python": "/no/python"}, "No such file or directory"),
    ],
    ids=["python", "host", "key", "slurm"],
)
def test_ranks_that_cannot_start_are_told_of_in_the_launchers_words(
    on: str,
    options: dict[str, Any],
    said: str,
    launch: Callable[..., wb.RemoteRun],
    slurm: Slurm,
    hosts: Hosts,
    job: MakeJob,
) -> None:
    if on != "slurm":
        options = {**options, "ssh": hosts.ssh + options.get("ssh", "")}
    run = launch(job(), on, **options)
    assert re.search(said, failure_within(run, 15.0))


def submit(job: wb.Job, folder: Path) -> tuple[str, Path]:
    """The number of the job's batch script, as a user would submit it, and the file
    with its output."""
    command = folder / "bin" / "workbench"  # as an installation has it
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m pipeline_workbench "$@"\n')
    command.chmod(0o755)
    output, script = folder / "it said", folder / "train.sh"
    setup = [f"export PATH={command.parent}:$PATH", f"cd {folder}"]
    setup += [f"export {name}={value}" for name, value in SHORT.items()]
    wb.slurm_script(job, nodes=2, time=5, setup=setup, output=str(output), path=script)
    return sh("sbatch", "--parsable", str(script)).strip(), output


def in_queue(slurm: Slurm) -> bool:
    states = "--states=PENDING,RUNNING,COMPLETING"
    return bool(slurm.ask("squeue", "--noheader", states))


def test_a_batch_script_ends_with_the_same_bits(
    slurm: Slurm,
    job: MakeJob,
    tmp_path: Path,
    of_threads: dict[str, str],
) -> None:
    output = submit(job(), tmp_path)[1]
    until(lambda: not in_queue(slurm), "the job", 40)
    wanted = threads_hash(job(), tmp_path / "t", of_threads)
    said = output.read_text()
    assert f"weights sha256 {wanted}" in said, said


def test_slurms_warning_ends_a_batch_script_with_its_step(
    slurm: Slurm, job: MakeJob, tmp_path: Path
) -> None:
    number, output = submit(job(steps=1_000_000), tmp_path)
    until(lambda: output.is_file() and "loss" in output.read_text(), "training", 40)
    sh("scancel", "--batch", "--signal=TERM", number)  # as 60 s before the time limit
    until(lambda: not in_queue(slurm), "the end of the job", 20)
    said = output.read_text()
    assert ": stopped after" in said, said
    assert "weights sha256" in said
