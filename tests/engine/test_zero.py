"""ZeRO-1: the same bits with each optimizer state kept once."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

import workbench as wb
from workbench.engine.build import build

MICROBATCHES, GROUPS = 8, 4
SIZE = dict(num_layers=4, width=32, num_heads=2, vocab_size=256, context=16)


def job_of(
    data: wb.Data, name: str, ranks: int, replicas: int, zero: int, **fields: Any
) -> wb.Job:
    model = wb.Model.gpt(**SIZE, tied=fields.pop("tied", False))
    schedule = wb.Schedule.make(
        name, num_ranks=ranks, num_microbatches=MICROBATCHES // replicas
    )
    split = wb.Partition.balanced(model, num_stages=schedule.chain_length, by="layers")
    settings: dict[str, Any] = dict(
        microbatch_size=1,
        gradient_groups=GROUPS,
        steps=4,
        evaluate=0,
        optimizer=wb.AdamW(lr=1e-2),
        clip=0.3,
    )
    return wb.Job(
        model=model,
        partition=split,
        schedule=schedule,
        data=data,
        replicas=replicas,
        zero=zero,
        **settings | fields,
    )


def outcome(job: wb.Job, folder: Path) -> tuple[str, bytes, bytes]:
    run = wb.launch(job, folder=folder).wait(60)
    assert run.state == "finished"
    return run.weights_hash(), run.losses.tobytes(), run.gradient_norms.tobytes()


@pytest.mark.parametrize("clock", ["wall", "virtual"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    ("name", "ranks", "replicas"),
    [("1f1b", 2, 1), ("1f1b", 2, 2), ("single", 1, 4), ("dualpipe", 2, 2),
     ("interleaved_1f1b", 2, 2), ("zb_v", 2, 4)],
)  # fmt: skip
def test_sharded_states_do_not_change_a_bit(
    name: str,
    ranks: int,
    replicas: int,
    tied: bool,
    clock: str,
    tiny_data: wb.Data,
    tmp_path: Path,
) -> None:
    found = {
        outcome(
            job_of(tiny_data, name, ranks, replicas, zero, clock=clock, tied=tied),
            tmp_path / str(zero),
        )
        for zero in (0, 1)
    }
    assert len(found) == 1


@pytest.mark.parametrize("optimizer", [wb.AdamW(lr=1e-2), wb.SGD(lr=0.1, momentum=0.9)])
def test_pause_and_resume_keep_the_shards(
    optimizer: Any, tiny_data: wb.Data, tmp_path: Path
) -> None:
    def job(zero: int) -> wb.Job:
        return job_of(tiny_data, "1f1b", 2, 2, zero, steps=20, optimizer=optimizer)

    straight = outcome(job(0), tmp_path / "a")
    run = wb.launch(job(1), folder=tmp_path / "b")
    for _ in range(3):
        run.pause()
        if run.state == "finished":
            break
        run.resume()
    run.wait(60)
    found = (run.weights_hash(), run.losses.tobytes(), run.gradient_norms.tobytes())
    assert found == straight


@pytest.mark.parametrize("replicas", [2, 4])
@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_a_rank_keeps_its_share_of_the_states(
    replicas: int, kind: str, tiny_data: wb.Data
) -> None:
    optimizer = wb.AdamW() if kind == "adamw" else wb.SGD(lr=0.1, momentum=0.9)
    plans = []
    for zero in (0, 1):
        job = job_of(tiny_data, "1f1b", 2, replicas, zero, optimizer=optimizer)
        plan, built = job.memory(), build(job)
        assert [len(arena) for arena in built.arenas] == list(plan.arena_bytes)
        plans.append(plan)
    for rank in range(2):  # the ranks of one pipeline
        full = plans[0].classes[rank]
        shares = [plans[1].classes[rank + 2 * k] for k in range(replicas)]
        # A block of 4096 elements is not divided, and what is kept is aligned.
        block = 4096 * 4 * (2 if kind == "adamw" else 1)
        for share in shares:
            assert share["optimizer"] <= full["optimizer"] / replicas + 2 * block
            others = set(full) - {"optimizer"}
            assert all(share[name] == full[name] for name in others)
        assert sum(share["optimizer"] for share in shares) == full["optimizer"]


def test_every_element_has_one_owner(tiny_data: wb.Data) -> None:
    """Also of tied parameters, which the first and the last stage hold."""
    job = job_of(tiny_data, "dualpipe", 2, 2, 1, tied=True)
    plan, built = job.memory(), build(job)
    length = job.partition.num_stages
    for holders in built.parameters:
        slot = plan.stages[holders[0].stage].tapes.parameters[holders[0].parameter]
        owners = [0] * slot.size
        for copy in range(built.copies):
            for stage, number in holders:
                for piece in plan.stages[stage + copy * length].updates:
                    if piece.parameter == number:
                        assert piece.begin % 4096 == 0
                        for i in range(piece.begin, piece.begin + piece.size):
                            owners[i] += 1
        assert owners == [1] * slot.size


def test_optimizer_states_lie_apart(tiny_data: wb.Data) -> None:
    for zero in (0, 1):
        plan = job_of(tiny_data, "bitpipe", 2, 2, zero, tied=True).memory()
        for rank in range(4):
            parts = sorted(
                (begin, begin + 4 * piece.size)
                for stage in plan.stages
                if stage.rank == rank
                for piece in stage.updates
                for begin in piece.states
            )
            for (_, end), (begin, _) in itertools.pairwise(parts):
                assert end <= begin
            used = sum(end - begin for begin, end in parts)
            assert used <= plan.classes[rank]["optimizer"] < used + 64 * len(parts) + 1


@pytest.mark.parametrize("optimizer", [wb.AdamW(lr=1e-2), wb.SGD(lr=0.1, momentum=0.9)])
def test_the_shards_together_are_the_whole_state(
    optimizer: Any, tiny_data: wb.Data, tmp_path: Path
) -> None:
    found = []
    for name, replicas, zero in (("1f1b", 1, 0), ("chimera", 2, 1), ("1f1b", 2, 0)):
        job = job_of(tiny_data, name, 2, replicas, zero, optimizer=optimizer, tied=True)
        run = wb.launch(job, folder=tmp_path / f"{name}{zero}{replicas}").wait(60)
        whole: dict[tuple[int, str, str], dict[int, bytes]] = {}
        for state in run._built.states():
            parts = whole.setdefault((state.layer, state.name, state.part), {})
            assert state.begin not in parts
            parts[state.begin] = state.values.tobytes()
        joined = {
            key: b"".join(part for _, part in sorted(parts.items()))
            for key, parts in whole.items()
        }
        moments = 2 if isinstance(optimizer, wb.AdamW) else 1
        assert sum(map(len, joined.values())) == 4 * moments * job.model.params
        found.append(joined)
        copies = len(list(run._built.states(of_all_holders=True)))
        assert copies >= len(list(run._built.states()))
    assert found[0] == found[1] == found[2]
    assert any(any(values) for values in found[0].values())
