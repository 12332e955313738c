"""search_splits: boundaries and order together."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import pytest

import workbench as wb

#: Eight layers, an embedding that is cheap and a head that is not.
FORWARD = [0.2, 1.0, 1.0, 1.4, 1.0, 0.8, 1.0, 2.4]
LAYERS = wb.CostModel.uniform(
    F=FORWARD, I=FORWARD, W=[0.7 * f for f in FORWARD], hop=0.1
)


def split_search(**options: Any) -> wb.SearchResult:
    settings = dict(num_ranks=3, num_microbatches=5, iterations=4000, exact=False)
    return wb.search_splits(LAYERS, **(settings | options))


def staged(boundaries: tuple[int, ...]) -> wb.CostModel:
    rows = [LAYERS.times[a:b].sum(axis=0) for a, b in pairwise(boundaries)]
    return wb.CostModel(rows, LAYERS.hop)


def test_the_split_is_a_partition_and_its_costs_are_the_stages() -> None:
    found = split_search()
    boundaries = found.boundaries
    assert boundaries is not None
    assert boundaries[0] == 0 and boundaries[-1] == len(FORWARD)
    assert all(a < b for a, b in pairwise(boundaries))
    again = wb.simulate(found.schedule.check(), staged(boundaries))
    assert again.makespan == pytest.approx(found.makespan)
    assert str(list(boundaries)) in str(found)


@pytest.mark.parametrize("objective", ["makespan", "span"])
def test_no_split_beats_the_bound_and_few_beat_the_result(objective: str) -> None:
    found = split_search(objective=objective, seed=2)
    values = []
    for inner in combinations(range(1, len(FORWARD)), 2):
        costs = staged((0, *inner, len(FORWARD)))
        one = wb.search_schedules(
            costs,
            num_ranks=3,
            num_microbatches=5,
            iterations=40,
            exact=False,
            objective=objective,
            families=["zb_h1", "zb_h2"],
        )
        values.append(one.value)
        assert found.lower_bound <= one.value
        assert found.lower_bound <= one.lower_bound * (1 + 1e-9)
    assert found.value <= min(values) * (1 + 1e-9)


def test_more_layers_on_a_stage_take_more_memory() -> None:
    found = split_search(memory_limit=2)
    assert found.boundaries is not None
    share = 3 / len(FORWARD)
    for rank in range(3):
        layers = found.boundaries[rank + 1] - found.boundaries[rank]
        assert found.schedule.in_flight(rank) * layers * share <= 2 * (1 + 1e-9)


def test_two_stages_per_rank() -> None:
    found = split_search(num_ranks=2, stages_per_rank=2, iterations=500)
    assert found.schedule.num_stages == 4
    assert found.lower_bound <= found.makespan


def test_the_same_seed_gives_the_same_split() -> None:
    one, two = (split_search(iterations=600, seed=4) for _ in range(2))
    assert one.boundaries == two.boundaries
    assert one.schedule == two.schedule


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (dict(num_ranks=9), "9 stages are more than the 8 layers"),
        (dict(layer_activations=[1, 2]), "layer_activations must be 8 numbers"),
        (dict(layer_activations=[0] * 8), "layer_activations must be 8 numbers"),
        (dict(seconds=-2), "seconds must be 0 or more"),
        (dict(objective="x"), "objective must be one of"),
    ],
)
def test_bad_input_is_named(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        split_search(**options)


def test_one_row_is_no_list_of_layers() -> None:
    with pytest.raises(ValueError, match="a row for every layer"):
        wb.search_splits(wb.CostModel.uniform(), num_ranks=2, num_microbatches=2)
