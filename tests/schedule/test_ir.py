"""Actions and overlaps as text: parsing is the exact inverse of writing."""

from __future__ import annotations

import pickle
import re
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.schedule import (
    KIND_CODE,
    KINDS,
    Action,
    Kind,
    Overlap,
    Schedule,
    halves,
    parse,
)

HEADER = Path(__file__).parents[2] / "cython_kernels/src/runtime/kinds.h"
WHOLE_STAGE = ("REDUCE_GRAD", "OPT_STEP", "UNSHARD", "RESHARD")
NUMBERS = st.one_of(st.integers(0, 12), st.integers(0, 10**12))


@st.composite
def actions(draw: st.DrawFn) -> Action:
    kind = draw(st.sampled_from(KINDS))
    if str(kind) in WHOLE_STAGE:
        return Action(draw(NUMBERS), kind, -1)
    return Action(draw(NUMBERS), kind, draw(NUMBERS), draw(NUMBERS))


ITEMS = st.one_of(actions(), st.builds(Overlap, actions(), actions()))


@settings(deadline=None, max_examples=200)
@given(ITEMS)
def test_parse_undoes_str(item: Action | Overlap) -> None:
    assert parse(str(item)) == item


@settings(deadline=None, max_examples=400)
@given(st.text(alphabet="0123456789FIWBR.;()_SENDVRCOPLA ", max_size=24))
def test_what_parses_is_written_the_same(text: str) -> None:
    try:
        item = parse(text)
    except ValueError:
        return
    assert str(item) == text


@settings(deadline=None, max_examples=150)
@given(ITEMS, st.sampled_from([" ", "\n", "x", ".", ";", ")", ",", "\u0661", "F"]))
def test_junk_behind_an_action_is_refused(item: Action | Overlap, junk: str) -> None:
    with pytest.raises(ValueError, match="is no"):
        parse(f"{item}{junk}")
    with pytest.raises(ValueError, match="is no"):
        parse(f"{junk}{item}")


@pytest.mark.parametrize(
    "text",
    [
        "00F0",
        "01F0",
        "0F00",
        "0F01",
        "0F0.0",
        "0F0.01",
        "00OPT_STEP",
        "(00F1;1B0)OVERLAP_F_B",
        "(0F1;1B00)OVERLAP_F_B",
    ],
)
def test_leading_zeros_and_slice_zero_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no leading zeros"):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "F0",
        "0F",
        "0f0",
        "-1F0",
        "0F-1",
        "+0F0",
        "0F0.",
        "0OPT_STEP0",
        "0REDUCE_GRAD.1",
        "0X0",
        "0BW0",
        "\u0660F0",
        "(0F1;1B0)",
        "(0F1)OVERLAP_F_B",
        "(0F1;1B0;0F2)OVERLAP_F_B",
        "((0F1;1B0)OVERLAP_F_B;0F2)OVERLAP_F_B",
        "0F1;1B0",
    ],
)
def test_other_texts_are_refused_and_named(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        parse(text)


@pytest.mark.parametrize(
    ("text", "item"),
    [
        ("2F0", Action(2, Kind.F, 0)),
        ("2F0.1", Action(2, Kind.F, 0, 1)),
        ("10SEND_B11", Action(10, Kind.SEND_B, 11)),
        ("3OPT_STEP", Action(3, Kind.OPT_STEP, -1)),
        (
            "(0F1;1B0.2)OVERLAP_F_B",
            Overlap(Action(0, Kind.F, 1), Action(1, Kind.B, 0, 2)),
        ),
    ],
)
def test_known_spellings(text: str, item: Action | Overlap) -> None:
    assert parse(text) == item
    assert str(item) == text


def test_kind_codes_are_those_of_the_c_header() -> None:
    body = re.search(r"enum rk_kind\s*\{(.*?)\}", HEADER.read_text(), re.DOTALL)
    assert body is not None
    names = [name.strip() for name in body[1].split(",") if name.strip()]
    assert names.pop() == "RK_NUM_KINDS"
    assert {f"RK_{kind}": code for kind, code in KIND_CODE.items()} == {
        name: code for code, name in enumerate(names)
    }
    assert [KIND_CODE[kind] for kind in KINDS] == list(range(len(names)))


def test_halves_are_one_action_or_an_overlaps_two() -> None:
    first, second = Action(0, Kind.F, 1), Action(1, Kind.B, 0)
    assert halves(first) == (first,)
    assert halves(Overlap(first, second)) == (first, second)


def test_rows_may_be_texts_or_actions() -> None:
    texts = Schedule("t", [["0F0", "0B0"]], [0])
    assert texts.ranks == ((Action(0, Kind.F, 0), Action(0, Kind.B, 0)),)
    assert texts == Schedule("t", texts.ranks, (0,))
    assert (texts.num_stages, texts.num_microbatches, texts.num_ranks) == (1, 1, 1)


def test_a_placement_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="2 stages, but num_stages is 3"):
        Schedule("t", [["0F0"], []], [0, 1], num_stages=3)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"ranks": "0F0"}, "ranks must be a list of rows"),
        ({"ranks": ["0F0 0B0"]}, r"rank 0's row is '0F0 0B0'.*split\(\)"),
        ({"ranks": [Action(0, Kind.F, 0)]}, "rank 0's row is '0F0'"),
        ({"ranks": [[3]]}, "3 is neither an action nor its text"),
        ({"ranks": [[None]]}, "None is neither"),
        ({"stage_to_rank": 0}, "stage_to_rank must be a list"),
        ({"stage_to_rank": ["a"]}, r"stage_to_rank\[0\].*'a'"),
        ({"stage_to_rank": [0.5]}, r"stage_to_rank\[0\].*0.5"),
        ({"num_microbatches": -1}, "num_microbatches .*-1"),
        ({"num_microbatches": 1.5}, "num_microbatches .*1.5"),
        ({"num_slices": 0}, "num_slices .*at least 1, got 0"),
        ({"num_stages": -1}, "num_stages .*-1"),
    ],
)
def test_a_schedule_of_no_form_is_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Schedule(
            **{
                "name": "t",
                "ranks": [["0F0", "0B0"]],
                "stage_to_rank": [0],
                **fields,
            }
        )


@pytest.mark.parametrize(
    ("copy_of", "route", "told"),
    [
        ((0,), (0, 1), "copy_of is"),
        ((0, 1, 0), (0, 1), "copy_of is"),
        ((0, 1, 1, 0), (0, 1), "copy_of is"),
        ((1, 0, 1, 0), (0, 1), "copy_of is"),
        (None, (0, 1), "copy_of is"),
        ((0, 1, 0, 1), None, "route is"),
        ((0, 1, 0, 1), (0,), "route is"),
        ((0, 1, 0, 1), (0, 2), "route is"),
        ((0, 1, 0, 1), (0, -1), r"route\[1\]"),
    ],
)
def test_copies_and_routes_of_no_form_are_refused(
    copy_of: tuple[int, ...] | None, route: tuple[int, ...] | None, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        Schedule("t", [[]], (0,) * 4, num_microbatches=2, copy_of=copy_of, route=route)


def test_a_microbatch_passes_the_chain_of_its_copy() -> None:
    three = Schedule(
        "t", [[]], (0,) * 6, num_microbatches=3, copy_of=(0, 1) * 3, route=(2, 0, 1)
    )
    assert [list(three.chain(k)) for k in range(3)] == [[4, 5], [0, 1], [2, 3]]
    assert [three.stage_before(s) for s in range(6)] == [-1, 0, -1, 2, -1, 4]
    assert [three.stage_after(s) for s in range(6)] == [1, -1, 3, -1, 5, -1]


def test_kinds_given_as_texts_become_kinds() -> None:
    row: list[Any] = [Action(0, "F", 0), Action(0, "B", 0)]  # type: ignore[arg-type]
    schedule = Schedule("t", [row], (0,)).check()
    assert all(type(a.kind) is Kind for _, _, a in schedule.walk())


def test_a_schedule_is_a_value() -> None:
    schedule = Schedule.make("1f1b", num_ranks=3, num_microbatches=4).check()
    copied = pickle.loads(pickle.dumps(schedule))
    assert copied == schedule
    assert hash(copied) == hash(schedule)
    assert replace(schedule) == schedule
    assert replace(schedule, name="other") != schedule
    with pytest.raises(FrozenInstanceError):
        schedule.name = "other"  # type: ignore[misc]
    assert "0x" not in repr(schedule)
