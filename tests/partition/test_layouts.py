"""Megatron's layout strings and torchtitan's module lists, both ways and strict."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.model import Model
from workbench.partition import Partition
from workbench.partition.layouts import check_layout, read_layout

MODEL = Model.gpt(num_layers=8, width=8, num_heads=2, vocab_size=16, context=4)
ROWS = Model.mlp(widths=[4, 4, 4])


@st.composite
def partitions(draw: st.DrawFn) -> Partition:
    blocks = draw(st.integers(1, 40))
    model = Model.llama(
        num_layers=blocks, width=8, num_heads=2, vocab_size=16, context=4
    )
    inner = draw(st.sets(st.integers(1, blocks + 1)))
    return Partition(model, [0, *sorted(inner), blocks + 2])


def expanded(text: str) -> list[str]:
    """Megatron's reading of a layout, in its two passes."""
    text = text.replace(",", "")
    for pattern in (r"\(([^)]+)\)\*(\d+)", r"(.)\*(\d+)"):
        text = re.sub(pattern, lambda found: found[1] * int(found[2]), text)
    return text.split("|")


# ---- Megatron ------------------------------------------------------------------------


@settings(deadline=None)
@given(partitions())
def test_reading_a_layout_undoes_writing_it(split: Partition) -> None:
    text = split.to_megatron_layout()
    assert Partition.from_megatron_layout(split.model, text) == split


@settings(deadline=None)
@given(partitions())
def test_megatron_reads_what_is_written_as_the_same_layers(split: Partition) -> None:
    stages = expanded(split.to_megatron_layout())
    assert [len(stage) for stage in stages] == [
        b - a for a, b in pairwise(split.boundaries)
    ]
    blocks = split.model.num_layers - 2
    assert "".join(stages) == "E" + "t" * blocks + "L"


PIECE = st.sampled_from(["E", "t", "m", "L", "|", "t*3", "|*2", "t*0", ",", "t*12"])
GROUP = st.builds(
    "({})*{}".format,
    st.lists(PIECE, min_size=1, max_size=4).map("".join),
    st.integers(0, 3),
)


@settings(deadline=None)
@given(st.lists(PIECE | GROUP, max_size=8).map("".join))
def test_any_layout_is_read_as_megatron_reads_it(text: str) -> None:
    stages = expanded(text)
    if set("".join(stages)) <= set("EtmL"):
        assert list(read_layout(text)) == stages
        return
    with pytest.raises(ValueError, match="cannot be read at"):
        read_layout(text)


def test_the_example_of_megatrons_manual() -> None:
    stages = read_layout("Et*3|(tt|)*29,m|L")
    assert stages == ("Ettt", *["tt"] * 29, "m", "L")
    check_layout(stages, num_layers=61, num_ranks=16, num_mtp_layers=1)


def test_a_compressed_layout_is_short() -> None:
    model = Model.preset("llama-3-405b")
    split = Partition(model, [0, 7, *range(14, 127, 7), 128])
    assert split.to_megatron_layout(num_ranks=19) == "Et*6|(t*7|)*17tL"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("E((t)*2|)*4L", r"at '\(\(t\)\*2\|\)\*4L': parentheses do not nest"),
        ("E(tt|L", "hold a text and are repeated"),
        ("E(tt)|L", "hold a text and are repeated"),
        ("Ett)*4L", r"at '\)\*4L': no parenthesis is open"),
        ("Et**4L", "after one letter"),
        ("Et*2*4L", "after one letter"),
        ("*4", "after one letter"),
        ("Et*L", "takes a whole number"),
        ("Et*-4L", "takes a whole number"),
        ("Et tL", "' ' is no letter"),
        ("EttX", "'X' is no letter"),
        ("Ed*8L", "'d' is no letter"),
        ("E(tx)*4L", r"at 'x\)\*4L': 'x' is no letter"),
        ("Et*99999999999L", "more than 1,000,000 layers at 't"),
        ("E((t*99999)*9999", "parentheses do not nest"),
        ("E(t*99999)*9999L", "more than 1,000,000 layers"),
    ],
)
def test_a_wrong_text_names_place_and_rule(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Partition.from_megatron_layout(MODEL, text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "E must stand exactly once, but stands 0 times"),
        ("t*8L", "E must stand exactly once"),
        ("Et*4|Et*4L", "E must stand exactly once, but stands 2 times"),
        ("Et*8", "L must stand exactly once, but stands 0"),
        ("tE|t*7L", "the first layer must be E, but is t"),
        ("Et*7L|t", "the last layer must be L, but is t"),
        ("Et*7|L", r"7 transformer layers \(t\), but the model has 8"),
        ("Et*8|m|L", r"1 layers for multi-token prediction \(m\), but the model has 0"),
        ("Et*4||t*4L", "stage 1 is empty: Megatron allows that"),
        ("|Et*8L", "stage 0 is empty"),
    ],
)
def test_a_layout_that_breaks_a_rule_names_it(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Partition.from_megatron_layout(MODEL, text)


@pytest.mark.parametrize(
    ("stages", "told"),
    [
        (["Et", "m", "t", "L"], "every t must stand before the first m"),
        (["Ett", "m", "m", "L"], "one stage, but stands in"),
        (["Ett", "m", "", "L"], "stage 1 is followed by stage 3"),
        (["Et", "t", "m", "L"], "must not stand on rank 0, but stage 2"),
    ],
)
def test_megatrons_rules_for_multi_token_prediction(
    stages: list[str], told: str
) -> None:
    count = "".join(stages).count("m")
    with pytest.raises(ValueError, match=told):
        check_layout(stages, num_layers=2, num_ranks=2, num_mtp_layers=count)


def test_stages_must_fill_the_ranks() -> None:
    text = "Ett|tt|ttttL"
    with pytest.raises(ValueError, match="3 stages are not a multiple of num_ranks 2"):
        Partition.from_megatron_layout(MODEL, text, num_ranks=2)
    split = Partition.from_megatron_layout(MODEL, text, num_ranks=3)
    with pytest.raises(ValueError, match="not a multiple of num_ranks 2"):
        split.to_megatron_layout(num_ranks=2)
    with pytest.raises(ValueError, match="num_ranks must be a whole number"):
        split.to_megatron_layout(num_ranks=0)


def test_a_layout_is_text() -> None:
    with pytest.raises(ValueError, match="a layout is a text"):
        Partition.from_megatron_layout(MODEL, [["E"], ["t"]])  # type: ignore[arg-type]


# ---- torchtitan ----------------------------------------------------------------------


def test_torchtitans_names_by_hand() -> None:
    split = Partition(MODEL, [0, 2, 9, 10])
    middle = [f"layers.{i}" for i in range(1, 8)]
    assert split.to_torchtitan() == [
        ["tok_embeddings", "layers.0"],
        middle,
        ["norm", "output"],
    ]


@settings(deadline=None)
@given(partitions())
def test_reading_torchtitans_names_undoes_writing_them(split: Partition) -> None:
    modules = split.to_torchtitan()
    assert Partition.from_torchtitan(split.model, modules) == split
    renamed = [[n.replace("output", "lm_head") for n in part] for part in modules]
    assert Partition.from_torchtitan(split.model, renamed) == split


LAYERS = [f"layers.{i}" for i in range(8)]


@pytest.mark.parametrize(
    ("modules", "told"),
    [
        ([["tok_embeddings", *LAYERS], ["norm"]], "no stage has output"),
        (
            [["tok_embeddings", *LAYERS[:5]], ["norm", "output"]],
            "no stage has layers.5",
        ),
        (
            [["tok_embeddings", *LAYERS, "layers.8"], ["norm", "output"]],
            "stage 0: no module 'layers.8'; there are tok_embeddings, layers.0 to layers.7",
        ),
        (
            [["tok_embeddings", *LAYERS], ["layers.7", "norm", "output"]],
            "stage 1: layers.7 lies in stage 0 already",
        ),
        (
            [["tok_embeddings", *LAYERS, "norm"], ["output"]],
            "norm lies in stage 0 and output in stage 1; here they are one layer",
        ),
        (
            [["tok_embeddings", *LAYERS[4:]], [*LAYERS[:4], "norm", "output"]],
            "layers.4 lies in stage 0, but what comes before it in stage 1",
        ),
        ([["tok_embeddings", *LAYERS], [], ["norm", "output"]], "stage 1 is empty"),
        (["tok_embeddings"], "stage 0 must be a list of names"),
        ("tok_embeddings", "give a list of names per stage"),
        ([], "no stage has tok_embeddings"),
    ],
)
def test_wrong_module_lists_are_named(modules: list[list[str]], told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        Partition.from_torchtitan(MODEL, modules)


def test_models_of_rows_have_neither() -> None:
    split = Partition(ROWS, [0, 1, 2])
    for action in (split.to_megatron_layout, split.to_torchtitan):
        with pytest.raises(ValueError, match="is for language models"):
            action()
    with pytest.raises(ValueError, match="is for language models"):
        Partition.from_megatron_layout(ROWS, "EL")
    with pytest.raises(ValueError, match="is for language models"):
        Partition.from_torchtitan(ROWS, [])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ett|ttL", "mean E, the embedding"),
        ("EtT|ttL", "mean t"),
        ("Ett|ttl", "mean L"),
    ],
)
def test_a_letter_of_the_wrong_case_is_told(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        read_layout(text)


@pytest.mark.parametrize("modules", [None, "norm", 3])
def test_what_is_no_list_of_modules_is_refused(modules: Any) -> None:
    model = Model.gpt(num_layers=1, width=8, num_heads=2, vocab_size=8, context=4)
    with pytest.raises(ValueError, match="list of names per stage.*got"):
        Partition.from_torchtitan(model, modules)
