"""Hosts and a Slurm for the session, and the job that all of these tests run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import workbench as wb

from .hosts import Hosts, Slurm, why_not


@pytest.fixture(scope="session")
def hosts() -> Iterator[Hosts]:
    """Two hosts with sshd; the ranks' messages between them go over the network, where
    MPICH would find that they share a machine's memory."""
    pytest.importorskip("mpi4py", reason="the mpi extra is not installed")
    if reason := why_not():
        pytest.skip(reason)
    made = Hosts(2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UCX_TLS", "tcp,self")
        try:
            made.up()
            yield made
        finally:
            made.close()


@pytest.fixture(scope="session")
def slurm(hosts: Hosts) -> Iterator[Slurm]:
    made = Slurm(hosts)
    try:
        made.up()
        yield made
    finally:
        made.close()


@pytest.fixture
def job(make_job: Callable[..., wb.Job]) -> Callable[..., wb.Job]:
    """Four ranks, two on each host."""

    def make(**fields: Any) -> wb.Job:
        return make_job(boundaries=[0, 1, 3, 4, 6], **{"steps": 4, **fields})

    return make


@pytest.fixture(scope="session")
def of_threads() -> dict[str, str]:
    """weights_hash of the threads' run, kept for the session."""
    return {}
