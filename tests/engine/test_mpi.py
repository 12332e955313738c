"""Ranks as processes over MPI: the same bits as threads, and one decision for all."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import workbench as wb

pytest.importorskip("mpi4py", reason="the mpi extra is not installed")
pytestmark = pytest.mark.mpi

SCRIPT = Path(__file__).with_name("mpi_ranks.py")
MPIEXEC = Path(sys.executable).with_name("mpiexec")

MakeJob = Callable[..., wb.Job]


def run_ranks(
    folder: Path,
    jobs: Mapping[str, wb.Job],
    ranks: int,
    orders: Mapping[str, Mapping[int, Mapping[int, str]]] | None = None,
) -> dict[str, dict[str, Any]]:
    """What came of each job; ``orders[name][rank]`` are commands by step."""
    for name, job in jobs.items():
        job.to_toml(folder / f"{name}.toml")
        for rank, asked in (orders or {}).get(name, {}).items():
            (folder / f"{name}.orders{rank}").write_text(json.dumps(asked))
    command = [str(MPIEXEC), "-n", str(ranks), sys.executable, str(SCRIPT), str(folder)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in jobs}


def threads_outcome(job: wb.Job, folder: Path) -> dict[str, Any]:
    run = wb.launch(job, folder=folder).wait(60)
    assert run.state == "finished"
    return {
        "hashes": {
            name: hashlib.sha256(values.tobytes()).hexdigest()
            for name, values in run.weights().items()
        },
        "losses": [float(x).hex() for x in run.losses],
        "norms": [float(x).hex() for x in run.gradient_norms],
        "evaluations": [float(x).hex() for x in run.evaluations.values()],
    }


def mean(rows: list[list[str]]) -> list[str]:
    """As ``Run.losses``: microbatches added in ascending order."""
    means = []
    for row in rows:
        total = 0.0
        for value in row:
            total += float.fromhex(value)
        means.append((total / len(row)).hex())
    return means


SPLITS = {2: [0, 1, 6], 3: [0, 2, 5, 6], 4: [0, 1, 2, 4, 6]}
CHAINS = {2: [0, 1, 3, 4, 6], 3: [0, 1, 2, 3, 4, 5, 6]}


def jobs_on(ranks: int, make_job: MakeJob) -> dict[str, wb.Job]:
    """One and two stages per rank, capacities, slices, recompute: over one layout."""
    plain = {"steps": 3, "evaluate": 2, "clip": 0.5}
    split = SPLITS[ranks]
    jobs = {
        f"{name}-{capacity}": make_job(
            split, name, 4, channel_capacity=capacity, **plain
        )
        for name, capacity in (
            ("gpipe", 0),
            ("1f1b", 1),
            ("1f1b", 3),
            ("zb_h1", 1),
            ("1f1b_recompute", 2),
        )
    }
    if ranks in CHAINS:
        model, data = jobs["gpipe-0"].model, jobs["gpipe-0"].data
        for name in ("zb_v", "interleaved_1f1b"):
            schedule = wb.Schedule.make(name, num_ranks=ranks, num_microbatches=6)
            partition = wb.Partition(model, boundaries=CHAINS[ranks])
            jobs[name] = wb.Job(
                model=model, partition=partition, schedule=schedule, data=data, **plain
            )
        sliced = wb.Schedule.make("seq_1f1b", num_ranks=ranks, num_microbatches=4)
        jobs["seq_1f1b"] = replace(jobs["1f1b-1"], schedule=sliced)
    return jobs


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_processes_and_threads_give_the_same_bits(
    ranks: int, make_job: MakeJob, tmp_path: Path
) -> None:
    jobs = jobs_on(ranks, make_job)
    found = run_ranks(tmp_path, jobs, ranks)
    for name, job in jobs.items():
        expected = threads_outcome(job, tmp_path / f"threads-{name}")
        got = found[name]
        assert got["state"] == "finished", (name, got)
        assert got["hashes"] == expected["hashes"], name
        assert mean(got["losses"]) == expected["losses"], name
        assert got["norms"] == expected["norms"], name
        assert got["evaluations"] == expected["evaluations"], name
        # Every rank holds its own stages only, and recorded all that it did.
        assert sum(got["holders"]) == len(expected["hashes"])
        steps = [len(p.steps) for p in job.schedule.programs(optimizer=True)]
        assert all(
            count >= job.steps * least
            for count, least in zip(got["num_events"], steps, strict=True)
        )


def test_what_one_rank_is_asked_all_ranks_do_at_the_same_step(
    make_job: MakeJob, tmp_path: Path
) -> None:
    job = make_job([0, 3, 6], "1f1b", 4, steps=4000)
    # Rank 1 alone is told to stop; the pause reaches both, in different steps.
    orders = {
        "stop": {1: {5: "stop"}},
        "pause": {0: {3: "pause", 9: "resume"}, 1: {7: "pause", 9: "resume"}},
    }
    found = run_ranks(tmp_path, {"stop": job}, 2, orders)["stop"]
    assert found["state"] == "stopped"
    done = len(found["losses"])
    assert 5 <= done < 4000
    # Stopped after so many steps, the weights are those of a run of that length.
    whole = replace(job, steps=done)
    assert found["hashes"] == threads_outcome(whole, tmp_path / "threads")["hashes"]


def test_ranks_that_differ_are_told_apart_before_training(
    make_job: MakeJob, tmp_path: Path
) -> None:
    job = make_job([0, 3, 6], "1f1b", 4)
    jobs = {"job": job, "data": job, "size": make_job([0, 2, 4, 6], "1f1b", 4)}
    replace(job, seed=9).to_toml(tmp_path / "job.rank1")
    other = wb.Data.synthetic(vocab_size=64, size=20_000, seed=4)
    replace(job, data=other).to_toml(tmp_path / "data.rank1")
    found = run_ranks(tmp_path, jobs, 2)
    assert all("rank 1 on" in e and "another job" in e for e in found["job"]["error"])
    assert all("another training data" in e for e in found["data"]["error"])
    assert all("3 ranks" in e and "-n 3" in e for e in found["size"]["error"])


def test_a_loss_that_is_not_finite_ends_all_ranks_alike(
    make_job: MakeJob, tmp_path: Path
) -> None:
    job = make_job([0, 3, 6], "1f1b", 4, optimizer=wb.SGD(lr=1e30), clip=None, steps=50)
    errors = run_ranks(tmp_path, {"nan": job}, 2)["nan"]["error"]
    assert len(errors) == 2
    steps = {error.split(":")[1].strip() for error in errors}
    assert len(steps) == 1 and "step" in steps.pop()
    assert all("not finite" in error for error in errors)


def test_the_arena_of_a_process_is_what_was_planned(make_job: MakeJob) -> None:
    from workbench.engine.build import Site, build

    job = make_job([0, 1, 5, 6], "1f1b", 4, clock="wall")
    plan, here = job.memory(processes=True), job.memory()
    for rank in range(3):
        arenas = build(job, site=Site(rank, 3)).arenas
        sizes = [len(arena) for arena in arenas]
        assert sizes[rank] == plan.arena_bytes[rank]
        assert sum(sizes) == sizes[rank]
    # Messages have buffers at both ends, so nobody needs less than with threads.
    assert np.all(np.array(plan.arena_bytes) > np.array(here.arena_bytes))
    assert all(
        channel.source_buffers >= channel.capacity + 1 for channel in plan.channels
    )
