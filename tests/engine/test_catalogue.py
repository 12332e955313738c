"""Every schedule of the catalogue trains, and to the same bits as one rank does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import workbench as wb

STEPS = 5

#: name -> (ranks, microbatches, options); at least three shapes each.
SHAPES: dict[str, list[tuple[int, int, dict[str, Any]]]] = {
    "gpipe": [(1, 2, {}), (2, 4, {}), (4, 6, {})],
    "1f1b": [(2, 3, {}), (3, 6, {}), (4, 4, {})],
    "eager_1f1b": [(2, 4, {}), (3, 6, {}), (4, 4, {})],
    "interleaved_1f1b": [
        (2, 4, {}),
        (2, 6, {"stages_per_rank": 3}),
        (3, 8, {}),
        (2, 6, {"group_size": 3}),
    ],
    "looped_bfs": [(2, 4, {}), (3, 3, {}), (2, 6, {"stages_per_rank": 4})],
    "zb_h1": [(2, 4, {}), (3, 6, {}), (4, 8, {})],
    "zb_h2": [(2, 4, {}), (3, 6, {}), (4, 8, {})],
    "zb_auto": [(2, 4, {}), (3, 6, {"memory_limit": 6}), (4, 8, {"memory_limit": 5})],
    "interleaved_zb": [(2, 4, {}), (3, 6, {}), (2, 4, {"stages_per_rank": 3})],
    "zb_v": [(2, 4, {}), (3, 6, {}), (4, 4, {})],
    "zb_v_greedy": [(2, 4, {}), (3, 6, {}), (4, 8, {"memory_limit": 3})],
    "v_half": [(2, 4, {}), (3, 6, {}), (4, 8, {})],
    "v_min": [(2, 4, {}), (3, 6, {}), (4, 8, {})],
    "1f1b_v": [(2, 4, {}), (3, 6, {}), (4, 8, {})],
    "dualpipe": [(2, 4, {}), (2, 6, {}), (4, 8, {})],
    "dualpipe_v": [(2, 4, {}), (3, 6, {}), (4, 8, {})],
    "chimera": [(2, 2, {}), (4, 4, {}), (4, 8, {})],
    "hanayo": [(2, 4, {}), (3, 3, {}), (2, 4, {"num_waves": 2})],
    "bitpipe": [(2, 4, {}), (4, 4, {}), (4, 8, {})],
    "seq_1f1b": [(2, 4, {}), (3, 6, {"num_slices": 4}), (4, 4, {"num_slices": 8})],
    "1f1b_recompute": [(2, 4, {}), (3, 6, {}), (4, 4, {})],
}
CASES = [
    pytest.param(name, *shape, id=f"{name}-{shape[0]}-{shape[1]}-{i}")
    for name, shapes in SHAPES.items()
    for i, shape in enumerate(shapes)
]


@pytest.fixture(scope="module")
def model() -> wb.Model:
    """Ten layers: enough for ten stages."""
    return wb.Model.gpt(num_layers=8, width=8, num_heads=2, vocab_size=64, context=8)


@pytest.fixture(scope="module")
def known() -> dict[object, tuple[str, bytes, bytes]]:
    return {}


def trained(
    model: wb.Model, data: wb.Data, schedule: wb.Schedule, folder: Path, **fields: Any
) -> tuple[str, bytes, bytes]:
    split = wb.Partition.balanced(model, num_stages=schedule.chain_length, by="layers")
    job = wb.Job(
        model=model,
        partition=split,
        schedule=schedule,
        data=data,
        microbatch_size=2,
        steps=STEPS,
        evaluate=0,
        optimizer=wb.AdamW(lr=1e-2),
        **fields,
    )
    run = wb.launch(job, folder=folder).wait(60)
    assert run.state == "finished"
    return run.weights_hash(), run.losses.tobytes(), run.gradient_norms.tobytes()


def test_every_schedule_is_trained_with_here() -> None:
    assert set(SHAPES) | {"single"} == set(wb.SCHEDULES)
    assert all(len(shapes) >= 3 for shapes in SHAPES.values())


@pytest.mark.parametrize("clock", ["wall", "virtual"])
@pytest.mark.parametrize(("name", "ranks", "microbatches", "options"), CASES)
def test_same_bits_as_one_rank(
    name: str,
    ranks: int,
    microbatches: int,
    options: dict[str, Any],
    clock: str,
    model: wb.Model,
    tiny_data: wb.Data,
    known: dict[object, tuple[str, bytes, bytes]],
    tmp_path: Path,
) -> None:
    schedule = wb.Schedule.make(
        name, num_ranks=ranks, num_microbatches=microbatches, **options
    )
    groups, slices = schedule.num_copies, schedule.num_slices
    key = (microbatches, groups, slices)
    if key not in known:
        # On one rank 1F1B is one microbatch after another, slice by slice.
        one = wb.Schedule.make(
            "seq_1f1b",
            num_ranks=1,
            num_microbatches=microbatches,
            num_slices=slices,
        )
        folder = tmp_path / "one"
        known[key] = trained(model, tiny_data, one, folder, gradient_groups=groups)
    found = trained(
        model,
        tiny_data,
        schedule,
        tmp_path / "run",
        gradient_groups=groups,
        clock=clock,
    )
    assert found == known[key]


@pytest.mark.parametrize("kind", ["gpt", "llama"])
@pytest.mark.parametrize("slices", [2, 4])
def test_slices_train_as_the_whole_sequences_do(
    kind: str, slices: int, tiny_data: wb.Data, tmp_path: Path
) -> None:
    """The sums are in another order, so losses agree in all but their last digits."""
    make = wb.Model.gpt if kind == "gpt" else wb.Model.llama
    model = make(num_layers=2, width=16, num_heads=4, vocab_size=64, context=16)
    losses = []
    for k in (1, slices):
        schedule = wb.Schedule.make(
            "seq_1f1b", num_ranks=2, num_microbatches=4, num_slices=k
        )
        job = wb.Job(
            model=model,
            partition=wb.Partition.balanced(model, num_stages=2),
            schedule=schedule,
            data=tiny_data,
            microbatch_size=2,
            steps=STEPS,
            evaluate=2,
            optimizer=wb.SGD(lr=0.1),
        )
        run = wb.launch(job, folder=tmp_path / str(k)).wait(60)
        losses.append([*run.losses.ravel(), *run.evaluations.values()])
    assert losses[1] == pytest.approx(losses[0], rel=2e-6)
    assert losses[0][0] != losses[0][-1]
