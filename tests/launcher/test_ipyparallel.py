"""Ranks on the engines of an ipyparallel cluster that somebody has already."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import workbench as wb

ipyparallel = pytest.importorskip(
    "ipyparallel", reason="ipyparallel is not installed (the test extra)"
)
pytestmark = [pytest.mark.mpi, pytest.mark.slow]

MakeJob = Callable[..., wb.Job]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    # ipyparallel looks for mpiexec on the path, where an environment that is not
    # activated does not have it.
    path, interrupt = os.environ["PATH"], signal.getsignal(signal.SIGINT)
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{path}"
    made = ipyparallel.Cluster(n=2, engines="mpi", log_level=40)
    made.start_and_connect_sync().close()
    yield made
    made.stop_cluster_sync()
    os.environ["PATH"] = path
    signal.signal(signal.SIGINT, interrupt)


@pytest.fixture
def client(cluster: Any) -> Iterator[Any]:
    made = cluster.connect_client_sync()
    yield made
    made.close()


def test_engines_give_the_bits_of_threads_again_and_again(
    cluster: Any, client: Any, make_job: MakeJob, tmp_path: Path
) -> None:
    job = make_job([0, 3, 6], "1f1b", 4, steps=20)
    threads = wb.launch(job, folder=tmp_path / "threads").wait(60)
    pids = []
    for name, place in (("cluster", cluster), ("client", client)):
        run = wb.launch(job, on=place, folder=tmp_path / name).wait(90)
        assert run.weights_hash() == threads.weights_hash()
        pids.append([rank["pid"] for rank in run.ranks])
    # The same engines, by their ranks, and they live on.
    assert pids[0] == pids[1]
    assert all(os.path.exists(f"/proc/{pid}") for pid in pids[0])  # noqa: PTH110


def test_engines_that_cannot_run_the_job_are_refused(
    client: Any, make_job: MakeJob, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"3 ranks .* 2 engines"):
        wb.launch(make_job([0, 2, 4, 6]), on=client, folder=tmp_path / "many")
    run = wb.launch(
        make_job([0, 3, 6], steps=1_000_000), on=client, folder=tmp_path / "long"
    )
    limit = time.monotonic() + 60
    while not run.steps_done and time.monotonic() < limit:
        time.sleep(0.02)
    with pytest.raises(ValueError, match="are busy"):
        wb.launch(make_job([0, 3, 6]), on=client, folder=tmp_path / "second")
    run.stop(30)
    assert run.state == "stopped"


def test_engines_that_die_are_told(
    client: Any, make_job: MakeJob, tmp_path: Path
) -> None:
    """The last test of this cluster."""
    run = wb.launch(
        make_job([0, 3, 6], steps=1_000_000), on=client, folder=tmp_path / "run"
    )
    limit = time.monotonic() + 60
    while not run.steps_done and time.monotonic() < limit:
        time.sleep(0.02)
    os.kill(run.ranks[1]["pid"], signal.SIGKILL)
    with pytest.raises(wb.RunError, match=r"ranks 0, 1 died|rank [01] "):
        run.wait(60)
