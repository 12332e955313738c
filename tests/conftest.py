"""Small jobs for tests that run the engine."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import workbench as wb


@pytest.fixture(scope="session")
def tiny_data() -> wb.Data:
    return wb.Data.synthetic(vocab_size=64, size=20_000, seed=3)


@pytest.fixture(scope="session")
def tiny_model() -> wb.Model:
    return wb.Model.gpt(num_layers=4, width=16, num_heads=2, vocab_size=64, context=16)


@pytest.fixture
def make_job(tiny_model: wb.Model, tiny_data: wb.Data) -> Callable[..., wb.Job]:
    """make_job(boundaries=..., schedule=..., **fields): a job on the tiny model."""

    def make(
        boundaries: list[int] | None = None,
        schedule: str = "1f1b",
        num_microbatches: int = 4,
        model: wb.Model | None = None,
        **fields: Any,
    ) -> wb.Job:
        model = model or tiny_model
        boundaries = boundaries or [0, 2, 4, 6]
        stages = len(boundaries) - 1
        options = {"num_stages": stages} if schedule == "single" else {}
        ranks = 1 if schedule == "single" else stages
        made = wb.Schedule.make(
            schedule, num_ranks=ranks, num_microbatches=num_microbatches, **options
        )
        settings: dict[str, Any] = dict(
            data=tiny_data,
            microbatch_size=2,
            steps=3,
            evaluate=0,
            optimizer=wb.AdamW(lr=1e-2),
        )
        settings.update(fields)
        partition = wb.Partition(model, boundaries=boundaries)
        return wb.Job(model=model, partition=partition, schedule=made, **settings)

    return make


@pytest.fixture
def interrupts() -> Iterator[None]:
    """An interrupt is a KeyboardInterrupt. Libraries leave handlers of their own behind,
    and whoever starts the tests in the background may have it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
