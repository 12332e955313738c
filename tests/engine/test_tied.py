"""Tied embeddings: one parameter, held by the first stage and the last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import workbench as wb
from workbench.checkpoint import load_weights
from workbench.engine.build import build

SIZE = dict(num_layers=4, width=16, num_heads=2, vocab_size=64, context=16)


def job_of(
    data: wb.Data,
    name: str,
    ranks: int,
    boundaries: list[int],
    replicas: int = 1,
    **fields: Any,
) -> wb.Job:
    model = wb.Model.gpt(**SIZE, tied=fields.pop("tied", True))
    schedule = wb.Schedule.make(name, num_ranks=ranks, num_microbatches=4 // replicas)
    settings: dict[str, Any] = dict(
        microbatch_size=2,
        gradient_groups=2,
        steps=4,
        evaluate=0,
        optimizer=wb.AdamW(lr=1e-2),
    )
    return wb.Job(
        model=model,
        partition=wb.Partition(model, boundaries=boundaries),
        schedule=schedule,
        data=data,
        replicas=replicas,
        **settings | fields,
    )


@pytest.mark.parametrize("clock", ["wall", "virtual"])
@pytest.mark.parametrize(
    ("name", "ranks", "boundaries", "replicas"),
    [("1f1b", 2, [0, 3, 6], 1), ("1f1b", 3, [0, 1, 5, 6], 1),
     ("zb_v", 2, [0, 1, 3, 5, 6], 1), ("1f1b", 2, [0, 5, 6], 2),
     ("dualpipe", 2, [0, 2, 6], 1), ("single", 1, [0, 6], 2)],
)  # fmt: skip
def test_layouts_do_not_change_a_bit(
    name: str,
    ranks: int,
    boundaries: list[int],
    replicas: int,
    clock: str,
    tiny_data: wb.Data,
    tmp_path: Path,
) -> None:
    one = job_of(tiny_data, "single", 1, [0, 6], clock="wall")
    other = job_of(tiny_data, name, ranks, boundaries, replicas, clock=clock)
    runs = [
        wb.launch(job, folder=tmp_path / str(i)).wait(60)
        for i, job in enumerate((one, other))
    ]
    assert runs[0].weights_hash() == runs[1].weights_hash()
    assert runs[0].losses.tobytes() == runs[1].losses.tobytes()
    norms = [run.gradient_norms.tobytes() for run in runs]
    assert norms[0] == norms[1]


def test_a_tied_parameter_counts_once() -> None:
    tied, free = (wb.Model.gpt(**SIZE, tied=flag) for flag in (True, False))
    assert free.params - tied.params == SIZE["vocab_size"] * SIZE["width"]
    assert wb.Model.from_config(tied.config) == tied
    # Radford et al. 2019, as counted for the published weights.
    assert wb.Model.preset("gpt2-124m").params == 124_439_808


def test_weights_files_hold_it_once_and_come_back(
    tiny_data: wb.Data, tmp_path: Path
) -> None:
    job = job_of(tiny_data, "1f1b", 2, [0, 3, 6])
    run = wb.launch(job, folder=tmp_path / "run").wait(60)
    saved = load_weights(tmp_path / "run" / "weights.safetensors")
    assert "embedding.token" in saved
    assert "head.weight" not in saved
    assert sum(values.size for values in saved.values()) == job.model.params
    model = wb.Model.from_safetensors(tmp_path / "run")
    again = wb.Job(
        model=model,
        partition=wb.Partition(model, boundaries=[0, 2, 6]),
        schedule=wb.Schedule.make("gpipe", num_ranks=2, num_microbatches=4),
        data=tiny_data,
        evaluate=0,
        steps=1,
    )
    started = wb.launch(again, folder=tmp_path / "again", start=False)
    assert started.weights_hash() == run.weights_hash()
    assert wb.Job.from_toml(again.to_toml()) == again


def test_both_holders_are_planned_for(tiny_data: wb.Data) -> None:
    def parameters(tied: bool) -> list[int]:
        job = job_of(tiny_data, "1f1b", 2, [0, 3, 6], tied=tied)
        assert [len(arena) for arena in build(job).arenas] == list(
            job.memory().arena_bytes
        )
        return [c["parameters"] for c in job.memory().classes]

    assert parameters(True) == parameters(False)


def test_a_tie_to_nothing_is_refused() -> None:
    model = wb.Model.gpt(**SIZE)
    from workbench.model import Head

    for target in ("embedding.tokens", "embedding.position", "head.weight"):
        head = Head("head", 64, 16, 16, tied_to=target)
        with pytest.raises(ValueError, match="tied to"):
            wb.Model(model.config, (*model.layers[:-1], head))


def test_generation_uses_the_tied_rows(tiny_data: wb.Data, tmp_path: Path) -> None:
    """The logits of a tied model are those of a free one that has the rows twice."""
    size = SIZE | {"vocab_size": 256}
    texts = []
    tied = wb.Model.gpt(**size, tied=True)
    free = wb.Model.gpt(**size)
    first = None
    for model in (tied, free):
        job = wb.Job(
            model=model,
            partition=wb.Partition(model, boundaries=[0, 3, 6]),
            schedule=wb.Schedule.make("1f1b", num_ranks=2, num_microbatches=2),
            data=tiny_data,
            steps=1,
            evaluate=0,
        )
        run = wb.launch(job, folder=tmp_path / str(model.params), start=False)
        views = {
            f"{model.layers[i].name}.{name}": view
            for i, name, view in run._built.weights()
        }
        first = first or {name: view * 20 for name, view in views.items()}
        for name, view in views.items():
            view[...] = first.get(name, first["embedding.token"])
        texts.append(run.generate("abc", 20, seed=1))
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 1
