"""Models: sizes by closed forms, mistakes named, weights counted from seeds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import workbench as wb
from workbench.model import PRESETS, emit_stage, initial_values, initial_weights


def test_gpt_has_the_parameters_that_its_shapes_give() -> None:
    layers, c, v, t = 8, 192, 256, 128
    model = wb.Model.preset("byte-gpt-3.7m")
    block = 12 * c * c + 13 * c  # four products with biases, two norms
    assert model.params == layers * block + v * c + t * c + 2 * c + v * c
    assert model.num_layers == layers + 2


def test_llama_405b_has_its_published_number_of_parameters() -> None:
    """405,853,388,800: Grattafiori et al. 2024, as counted from the released shapes."""
    assert wb.Model.preset("llama-3-405b").params == 405_853_388_800
    assert wb.Model.preset("llama-3-8b").params == 8_030_261_248


def test_forward_flops_are_two_per_weight_and_token_plus_attention() -> None:
    model = wb.Model.gpt(
        num_layers=3, width=64, num_heads=4, vocab_size=100, context=32
    )
    weights = 3 * 12 * 64 * 64 + 100 * 64
    attention = 3 * 2 * 32 * 32 * 64  # two products, causal half
    assert model.flops == 2 * 32 * weights + attention


@pytest.mark.parametrize("name", PRESETS)
def test_config_builds_the_same_model_again(name: str) -> None:
    model = wb.Model.preset(name)
    assert wb.Model.from_config(model.config) == model


@pytest.mark.parametrize(
    ("make", "options", "says"),
    [
        (wb.Model.gpt, {"width": 100, "num_heads": 3}, "nearest number of heads"),
        (wb.Model.gpt, {"num_layers": 0}, "num_layers must be"),
        (wb.Model.gpt, {"context": 1.5}, "context must be"),
        (wb.Model.llama, {"num_kv_heads": 3}, "not a multiple"),
        (wb.Model.llama, {"width": 12, "num_heads": 4}, "even head size"),
    ],
)
def test_impossible_shapes_are_named(
    make: Any, options: dict[str, Any], says: str
) -> None:
    good = {"num_layers": 2, "width": 16, "num_heads": 4, "context": 8}
    with pytest.raises(ValueError, match=says):
        make(**{**good, **options})


def test_unknown_models_are_named() -> None:
    with pytest.raises(ValueError, match="did you mean 'gpt2-124m'"):
        wb.Model.preset("gpt2")
    with pytest.raises(ValueError, match="unknown kind of model"):
        wb.Model.from_config({"kind": "rnn"})
    with pytest.raises(ValueError, match="does not describe a gpt model"):
        wb.Model.from_config({"kind": "gpt", "depth": 3})
    with pytest.raises(ValueError, match="at least|needs an input"):
        wb.Model.mlp(widths=[3])
    with pytest.raises(ValueError, match="no weights at"):
        wb.Model.from_safetensors("nowhere")


def test_initial_weights_are_normal_and_depend_on_place_and_seed_alone() -> None:
    model = wb.Model.gpt(num_layers=2, width=64, num_heads=2, context=32)
    fresh = {(i, n): v for i, n, v in initial_weights(model, 3)}
    again = {(i, n): v for i, n, v in initial_weights(model, 3)}
    assert all((fresh[k] == again[k]).all() for k in fresh)
    other = {(i, n): v for i, n, v in initial_weights(model, 4)}
    token = fresh[0, "token"]
    assert not (token == other[0, "token"]).any()
    assert not (fresh[1, "qkv.weight"] == fresh[2, "qkv.weight"]).any()
    assert abs(token.mean()) < 4 * 0.02 / token.size**0.5
    assert token.std() == pytest.approx(0.02, rel=0.03)
    # Kurtosis of a normal is 3; of a sum of eight uniform numbers 3 - 1.2 / 8.
    kurtosis = ((token / token.std()) ** 4).mean()
    assert kurtosis == pytest.approx(3 - 1.2 / 8, abs=0.1)


def test_one_element_does_not_depend_on_how_many_there_are() -> None:
    long = wb.model.Parameter("w", (1000,), 1.0)
    short = wb.model.Parameter("w", (10,), 1.0)
    first = initial_values(short, 1, 2, 3)
    assert (initial_values(long, 1, 2, 3)[:10] == first).all()


@pytest.mark.parametrize("slices", [1, 4])
def test_tapes_do_not_depend_on_the_layers_that_share_a_stage(slices: int) -> None:
    """The calls of a layer, places of memory aside, are the same alone and together."""
    model = wb.Model.gpt(num_layers=3, width=16, num_heads=2, context=8)
    layers = list(enumerate(model.layers))

    def shape(calls: Any) -> list[Any]:
        return [(call.op, call.sizes, call.scalars) for call in calls]

    whole = emit_stage(layers, 2, 4, num_slices=slices).slices
    parts = [
        emit_stage(
            [layer],
            2,
            4,
            is_first=layer[0] == 0,
            is_last=layer[0] == 4,
            num_slices=slices,
        ).slices
        for layer in layers
    ]
    for j in range(slices):
        forward = [call for part in parts for call in shape(part[j].forward)]
        assert shape(whole[j].forward) == forward
        for name in ("backward_input", "backward_weight"):
            back = reversed(parts)
            calls = [c for part in back for c in shape(getattr(part[j], name))]
            assert shape(getattr(whole[j], name)) == calls


def test_saved_memory_of_stages_adds_up_to_that_of_the_model() -> None:
    model = wb.Model.gpt(num_layers=4, width=16, num_heads=2, context=8)
    layers = list(enumerate(model.layers))
    whole = emit_stage(layers, 2, 4)
    left = emit_stage(layers[:3], 2, 4, is_last=False)
    right = emit_stage(layers[3:], 2, 4, is_first=False)
    # What crosses the border is a channel's buffer instead of saved memory.
    assert whole.saved_bytes == left.saved_bytes + right.saved_bytes + right.input_bytes
    assert whole.param_bytes == left.param_bytes + right.param_bytes
    assert left.output_bytes == right.input_bytes
    assert np.isclose(whole.scratch_bytes, max(left.scratch_bytes, right.scratch_bytes))
