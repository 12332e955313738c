"""Replicas, copies of the parameters, ZeRO-1 and tied embeddings over MPI: the same bits
as with threads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_mpi import mean, run_ranks, threads_outcome

import workbench as wb
from workbench.engine.build import Site, build
from workbench.memory.transfers import roots

pytest.importorskip("mpi4py", reason="the mpi extra is not installed")
pytestmark = pytest.mark.mpi


def jobs_on(ranks: int, data: wb.Data) -> dict[str, wb.Job]:
    size = dict(num_layers=4, width=32, num_heads=2, vocab_size=256, context=16)
    layouts = {
        2: [("1f1b", 2, 1, 2), ("single", 1, 2, 4), ("dualpipe", 2, 1, 2)],
        4: [("1f1b", 2, 2, 4), ("chimera", 2, 2, 8), ("zb_v", 2, 2, 2)],
        3: [("single", 1, 3, 6)],
    }
    jobs = {}
    for name, p, replicas, groups in layouts[ranks]:
        m = {3: 6}.get(ranks, 8)
        schedule = wb.Schedule.make(name, num_ranks=p, num_microbatches=m // replicas)
        for tied in (False, True):
            model = wb.Model.gpt(**size, tied=tied)
            job = wb.Job(
                model=model,
                partition=wb.Partition.balanced(
                    model, num_stages=schedule.chain_length, by="layers"
                ),
                schedule=schedule,
                data=data,
                microbatch_size=1,
                replicas=replicas,
                gradient_groups=groups,
                steps=3,
                evaluate=1,
                optimizer=wb.AdamW(lr=1e-2),
                clip=0.3,
            )
            for zero in (0, 1):
                key = f"{name}-{replicas}-{'tied' if tied else 'free'}-{zero}"
                jobs[key] = replace(job, zero=zero)
    return jobs


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_processes_and_threads_give_the_same_bits(
    ranks: int, tiny_data: wb.Data, tmp_path: Path
) -> None:
    jobs = jobs_on(ranks, tiny_data)
    found = run_ranks(tmp_path, jobs, ranks)
    for name, job in jobs.items():
        expected = threads_outcome(job, tmp_path / f"threads-{name}")
        got = found[name]
        assert got.get("state") == "finished", (name, got)
        assert got["hashes"] == expected["hashes"], name
        assert mean(got["losses"]) == expected["losses"], name
        assert got["norms"] == expected["norms"], name
        assert got["evaluations"] == expected["evaluations"], name


def test_the_arena_of_a_process_is_what_was_planned(tiny_data: wb.Data) -> None:
    for job in jobs_on(4, tiny_data).values():
        plan = job.memory(processes=True)
        for rank in range(4):
            arenas = build(replace(job, clock="wall"), site=Site(rank, 4)).arenas
            assert len(arenas[rank]) == plan.arena_bytes[rank]


@pytest.mark.parametrize("groups", range(1, 18))
def test_roots_are_whole_subtrees_and_as_large_as_can_be(groups: int) -> None:
    """Against the tree as it is walked: pairs at distance 1, 2, 4 ..."""
    for copies in (c for c in range(1, groups + 1) if groups % c == 0):
        own = groups // copies
        sums = [{g} for g in range(groups)]
        alive = [set(range(c * own, (c + 1) * own)) for c in range(copies)]
        distance = 1
        while distance < groups:
            for g in range(0, groups - distance, 2 * distance):
                both = sums[g] | sums[g + distance]
                for c in range(copies):
                    if both <= set(range(c * own, (c + 1) * own)):
                        alive[c].discard(g + distance)
                sums[g] = both
            distance *= 2
        assert [roots(c * own, own, groups) for c in range(copies)] == [
            sorted(a) for a in alive
        ]


def test_transfers_stay_within_arenas_and_do_not_share_memory(
    tiny_data: wb.Data,
) -> None:
    for job in jobs_on(4, tiny_data).values():
        plan = job.memory(processes=True)
        ends: dict[int, list[tuple[int, int]]] = {}
        for told in plan.transfers:
            size = 4 * told.size
            assert told.source != told.target
            assert 0 <= told.source_offset <= plan.arena_bytes[told.source] - size
            assert 0 <= told.target_offset <= plan.arena_bytes[told.target] - size
            parts = ends.setdefault(told.target, [])
            parts.append((told.target_offset, told.target_offset + size))
        for parts in ends.values():
            edges = np.array(sorted(parts))
            assert (edges[1:, 0] >= edges[:-1, 1]).all()


def test_a_stop_leaves_every_replica_at_the_same_step(
    tiny_data: wb.Data, tmp_path: Path
) -> None:
    job = replace(jobs_on(4, tiny_data)["1f1b-2-tied-1"], steps=3000, evaluate=0)
    orders = {"stop": {3: {5: "stop"}}}  # to a rank of the second replica
    found = run_ranks(tmp_path, {"stop": job}, 4, orders)["stop"]
    assert found["state"] == "stopped"
    done = len(found["losses"])
    assert 5 <= done < 3000
    whole = replace(job, steps=done, zero=0)
    expected = threads_outcome(whole, tmp_path / "threads")
    assert found["hashes"] == expected["hashes"]
    assert found["norms"] == expected["norms"]
