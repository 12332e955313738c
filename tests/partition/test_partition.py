"""Splits: boundaries that hold every layer once, and largest stages that are least."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations, pairwise
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.model import Model
from workbench.partition import Partition, in_flight, layer_memory, split_evenly

COSTS = st.one_of(
    st.integers(0, 12), st.floats(0, 1e6, allow_nan=False, allow_subnormal=False)
)
ROWS = st.lists(COSTS, min_size=1, max_size=9)


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.gpt(num_layers=8, width=32, num_heads=4, vocab_size=64, context=16)


def all_splits(num_layers: int, num_stages: int) -> list[tuple[int, ...]]:
    inner = combinations(range(1, num_layers), num_stages - 1)
    return [(0, *middle, num_layers) for middle in inner]


def rank(costs: list[list[float]], bounds: tuple[int, ...]) -> tuple[Any, ...]:
    """What is minimised, exactly: largest stage, sum of squares, boundaries."""
    sums = [
        sum(map(Fraction, costs[s][begin:end]), Fraction(0))
        for s, (begin, end) in enumerate(pairwise(bounds))
    ]
    return max(sums), sum(x * x for x in sums), bounds


@given(ROWS, st.data())
def test_no_split_is_better_nor_equal_and_earlier(
    row: list[float], data: st.DataObject
) -> None:
    num_stages = data.draw(st.integers(1, len(row)))
    costs = [row] * num_stages
    best = min(all_splits(len(row), num_stages), key=lambda b: rank(costs, b))
    assert split_evenly(costs) == best


@given(st.data())
def test_costs_may_depend_on_the_stage(data: st.DataObject) -> None:
    num_layers = data.draw(st.integers(1, 7))
    num_stages = data.draw(st.integers(1, num_layers))
    row = st.lists(COSTS, min_size=num_layers, max_size=num_layers)
    costs = data.draw(st.lists(row, min_size=num_stages, max_size=num_stages))
    best = min(all_splits(num_layers, num_stages), key=lambda b: rank(costs, b))
    assert split_evenly(costs) == best


@given(ROWS, st.integers(-30, 30), st.data())
def test_the_unit_of_the_costs_does_not_matter(
    row: list[float], power: int, data: st.DataObject
) -> None:
    num_stages = data.draw(st.integers(1, len(row)))
    scaled = [cost * 2.0**power for cost in row]
    assert split_evenly([scaled] * num_stages) == split_evenly([row] * num_stages)


@given(st.integers(1, 40), st.data())
def test_an_even_split_differs_by_at_most_one_layer(
    num_layers: int, data: st.DataObject
) -> None:
    num_stages = data.draw(st.integers(1, num_layers))
    bounds = split_evenly([[1] * num_layers] * num_stages)
    sizes = [end - begin for begin, end in pairwise(bounds)]
    assert max(sizes) - min(sizes) <= 1 and sum(sizes) == num_layers
    assert sizes == sorted(sizes)


# ---- by hand -------------------------------------------------------------------------


def test_every_layer_lies_in_exactly_one_stage(model: Model) -> None:
    split = Partition(model, boundaries=[0, 3, 5, 7, 10])
    assert split.num_stages == 4
    held = [layer for s in range(4) for layer in split.stage_layers(s)]
    assert held == list(model.layers)
    assert [split.stage_of(i) for i in range(10)] == [0, 0, 0, 1, 1, 2, 2, 3, 3, 3]
    assert list(split.stage(1)) == [3, 4]
    assert sum(split.stage_params(s) for s in range(4)) == model.params
    assert sum(split.stage_flops(s) for s in range(4)) == model.flops


@pytest.mark.parametrize(
    ("boundaries", "told"),
    [
        ([0, 3, 5, 7, 9], "skip layer 9: the last must be 10"),
        ([0, 3, 5, 7], "skip layers 7 to 9"),
        ([2, 5, 10], "skip layers 0 to 1: the first must be 0"),
        ([-1, 5, 10], "begin before layer 0"),
        ([0, 3, 3, 10], "leave stage 1 empty"),
        ([0, 5, 3, 10], "go back from 5 to 3"),
        ([0, 5, 12], "past"),
        ([0], "no stage"),
        ([], "no stage"),
        (None, "None"),
        ("0 5 10", "list"),
        ([0, 2.5, 10], r"2\.5"),
        ([0, True, 10], "True"),
        (range(12), "11 stages are more than the model's 10 layers"),
    ],
)
def test_boundaries_that_go_astray_are_explained(
    model: Model, boundaries: Any, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        Partition(model, boundaries)


def test_there_is_no_stage_or_layer_outside(model: Model) -> None:
    split = Partition(model, [0, 5, 10])
    for bad in (-1, 2):
        with pytest.raises(ValueError, match=rf"no stage {bad}; stages are 0\.\.1"):
            split.stage(bad)
    with pytest.raises(ValueError, match="no layer 10"):
        split.stage_of(10)


# ---- balanced ------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["layers", "params", "flops"])
@pytest.mark.parametrize("num_stages", [1, 2, 3, 4, 10])
def test_the_measures_largest_stage_is_the_least_possible(
    model: Model, by: str, num_stages: int
) -> None:
    measure = {
        "layers": lambda layer: 1,
        "params": lambda layer: layer.params,
        "flops": lambda layer: layer.flops,
    }[by]
    row = [measure(layer) for layer in model.layers]
    split = Partition.balanced(model, num_stages, by=by)
    least = min(
        max(sum(row[a:b]) for a, b in pairwise(bounds))
        for bounds in all_splits(len(row), num_stages)
    )
    assert max(split.costs) == least
    assert split.imbalance == pytest.approx(least * num_stages / sum(row))
    assert split == Partition(model, split.boundaries)


def test_given_times_decide(model: Model) -> None:
    times = [9, *[1] * 8, 1]
    split = Partition.balanced(model, num_stages=2, by="time", times=times)
    assert split.boundaries == (0, 1, 10) and split.imbalance == 1.0


class Action(NamedTuple):
    stage: int
    kind: str
    microbatch: int
    slice: int = 0


class Order(NamedTuple):
    """As much of a schedule as is asked of one."""

    ranks: tuple[tuple[Any, ...], ...]
    num_stages: int


def one_forward_one_backward(stages: int, microbatches: int) -> Order:
    ranks = []
    for s in range(stages):
        warmup = min(stages - s - 1, microbatches)
        order = [Action(s, "F", k) for k in range(warmup)]
        for k in range(microbatches):
            if warmup + k < microbatches:
                order.append(Action(s, "F", warmup + k))
            order += [Action(s, "I", k), Action(s, "W", k)]
        ranks.append(tuple(order))
    return Order(tuple(ranks), stages)


def test_microbatches_in_flight_are_those_between_f_and_w() -> None:
    assert in_flight(one_forward_one_backward(4, 8)) == (4, 3, 2, 1)
    assert in_flight(one_forward_one_backward(4, 2)) == (2, 2, 2, 1)
    pair = (Action(0, "F", 1), Action(0, "B", 0))
    overlapped = Order(((Action(0, "F", 0), pair, Action(0, "B", 1)),), 1)
    assert in_flight(overlapped) == (2,)


def test_memory_gives_early_stages_of_1f1b_fewer_layers(model: Model) -> None:
    schedule = one_forward_one_backward(3, 6)
    split = Partition.balanced(
        model, 3, by="memory", schedule=schedule, microbatch_size=8
    )
    sizes = layer_memory(model, 8)
    held = in_flight(schedule)

    def largest(bounds: tuple[int, ...]) -> int:
        return max(
            sum(sizes[i].state + held[s] * sizes[i].activations for i in range(a, b))
            for s, (a, b) in enumerate(pairwise(bounds))
        )

    least = min(largest(bounds) for bounds in all_splits(10, 3))
    assert largest(split.boundaries) == least == max(split.costs)
    assert len(split.stage(0)) < len(split.stage(2))


def test_layer_memory_counts_training_state_and_grows_with_the_microbatch(
    model: Model,
) -> None:
    one, two = layer_memory(model, 1), layer_memory(model, 2)
    for layer, small, large in zip(model.layers, one, two, strict=True):
        assert small.state == large.state == 16 * layer.params
        assert small.activations < large.activations <= 2 * small.activations


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"num_stages": 11}, "11 stages are more than the model's 10 layers"),
        ({"num_stages": 0}, "num_stages .* got 0"),
        ({"num_stages": 2.0}, r"got 2\.0"),
        ({"num_stages": 2, "by": "size"}, "'size' is no measure; there are layers"),
        ({"num_stages": 2, "by": "time"}, "needs times"),
        ({"num_stages": 2, "by": "time", "times": [1.0]}, "1 entries .* 10 layers"),
        ({"num_stages": 2, "by": "time", "times": [-1.0] * 10}, r"times\[0\] .*-1\.0"),
        ({"num_stages": 2, "by": "time", "times": [float("nan")] * 10}, "finite"),
        ({"num_stages": 2, "by": "memory"}, "needs schedule"),
        (
            {"num_stages": 2, "by": "memory", "schedule": Order((), 3)},
            "num_stages is 2 but the schedule has 3",
        ),
    ],
)
def test_what_a_measure_lacks_is_told(
    model: Model, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        Partition.balanced(model, **options)


def test_layers_without_kernels_have_no_known_memory() -> None:
    experts = Model.moe(
        num_layers=2,
        width=16,
        num_heads=2,
        context=8,
        num_experts=4,
        experts_per_token=2,
        expert_hidden=8,
    )
    with pytest.raises(ValueError, match="no known activations"):
        layer_memory(experts)
    assert Partition.balanced(experts, 2, by="params").num_stages == 2


# ---- how it looks --------------------------------------------------------------------


def test_it_prints_and_draws_itself_without_addresses(model: Model) -> None:
    split = Partition.balanced(model, num_stages=4)
    assert repr(split) == f"Partition({list(split.boundaries)})"
    for text in (str(split), split._repr_html_()):
        assert "0x" not in text
        assert all(layer.name in text for layer in model.layers)
    assert split._repr_html_().count("<tr>") == 1 + 4


def test_a_huge_model_is_split_at_once() -> None:
    split = Partition.balanced(Model.preset("llama-3-405b"), num_stages=16)
    assert split.num_stages == 16 and split.imbalance < 1.02
