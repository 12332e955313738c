"""Pictures of schedules: well-formed, of one scale, small however large the schedule."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from workbench.schedule import SCHEDULES, Schedule, side_by_side
from workbench.schedule.draw import COLOURS, layout, tint
from workbench.simulator import CostModel, priced_for, simulate
from workbench.trace.palette import KIND_COLOURS

SVG = "{http://www.w3.org/2000/svg}"


def made(name: str, p: int, m: int) -> Schedule:
    return Schedule.make(name, num_ranks=p, num_microbatches=m)


def tree(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


def letters(root: ElementTree.Element) -> list[str]:
    return [str(t.text) for t in root.iter(f"{SVG}text")]


def test_every_action_has_a_box_its_letters_and_its_text() -> None:
    schedule = made("1f1b", 3, 4)
    root = tree(schedule._repr_svg_())
    titles = {t.text for t in root.iter(f"{SVG}title")}
    assert titles == {str(action) for _, _, action in schedule.walk()}
    assert len(list(root.iter(f"{SVG}rect"))) == 24
    assert letters(root).count("F0") == 3
    assert letters(root).count("rank 2") == 1


def test_letters_name_the_stage_where_ranks_have_several() -> None:
    rows = [["0F0", "1F0", "1I0", "0I0", "1W0", "0W0"]]
    root = tree(Schedule("two", rows, (0, 0))._repr_svg_())
    assert {"0F0", "1F0", "1I0", "0W0"} <= set(letters(root))


def test_colours_are_those_of_traces() -> None:
    assert {str(kind): c for kind, c in COLOURS.items()}.items() <= KIND_COLOURS.items()


def test_an_overlap_shares_its_row() -> None:
    rows = [["0F0", "(0F1;0B0)OVERLAP_F_B", "0B1"]]
    root = tree(Schedule("pair", rows, (0,))._repr_svg_())
    heights = [float(box.attrib["height"]) for box in root.iter(f"{SVG}rect")]
    assert sorted(heights) == [12, 12, 24, 24]


def test_side_by_side_has_one_scale_of_time() -> None:
    short, long = made("gpipe", 2, 2), made("gpipe", 4, 8)
    root = tree(side_by_side(short, long)._repr_svg_())
    boxes = [b for b in root.iter(f"{SVG}rect") if b.attrib["fill"] == COLOURS_F]
    assert len(boxes) == 2 * 2 + 4 * 8
    assert len({b.attrib["width"] for b in boxes}) == 1
    assert letters(root).count("gpipe") == 2
    tops = {float(b.attrib["y"]) for b in boxes}
    assert len(tops) == 2 + 4


COLOURS_F = KIND_COLOURS["F"]


def known(p: int, m: int) -> list[Schedule]:
    return [made(name, p, m) for name in SCHEDULES if name != "single"]


@pytest.mark.parametrize(("p", "m"), [(2, 4), (4, 8)])
def test_captions_say_what_a_simulation_of_equal_shares_says(p: int, m: int) -> None:
    schedules = known(p, m)
    text = str(side_by_side(*schedules)).splitlines()
    drawn = letters(tree(side_by_side(*schedules)._repr_svg_()))
    for schedule in schedules:
        trace = simulate(schedule, priced_for(schedule, CostModel.uniform()))
        bubble = 100 * trace.bubbles().bubble_fraction
        told = f": bubble {bubble:.1f} %, makespan {trace.makespan:.6g}"
        assert schedule.name + told in text
        assert schedule.name in drawn


def test_text_side_by_side_has_one_column_per_moment() -> None:
    """Cells stand where the simulation has the action begin, in all schedules alike."""
    schedules = known(4, 8)
    lines = iter(str(side_by_side(*schedules)).splitlines())
    per_column: set[float] = set()
    for schedule in schedules:
        assert next(lines).startswith(f"{schedule.name}: ")
        trace = simulate(schedule, priced_for(schedule, CostModel.uniform()))
        begins = dict(zip(map(str, trace.actions()), trace.start.tolist(), strict=True))
        for _ in range(schedule.num_ranks):
            body = next(lines).partition("| ")[2]
            for found in re.finditer(r"(\S+)&\S+|\d\S*", body):
                action = found.group(1) or found.group()
                begin = begins[action] * trace.tick
                if begin:
                    per_column.add(round(found.start() / begin, 6))
                else:
                    assert found.start() == 0
    assert len(per_column) == 1


@pytest.mark.parametrize("name", ["dualpipe", "chimera", "bitpipe", "zb_v"])
def test_stages_of_a_rank_and_copies_are_told_apart(name: str) -> None:
    for m in (8, 128):  # with letters, and without
        schedule = made(name, 4, m)
        root = tree(schedule._repr_svg_())
        fills: dict[str, set[str]] = {}
        for box in [*root.iter(f"{SVG}g"), *root.iter(f"{SVG}path")]:
            title, inner = box.find(f"{SVG}title"), box.find(f"{SVG}rect")
            kind = re.sub(r"[\d.]", "", str(title.text)) if title is not None else ""
            fill = (box if inner is None else inner).attrib["fill"]
            fills.setdefault(kind, set()).add(fill)
        stages = schedule.num_stages // schedule.num_ranks
        assert len(fills["F"]) == stages
        every = [fill for some in fills.values() for fill in some]
        # Only I and B, which both give a gradient, have a colour together.
        assert len(set(every)) == len(set(map(tuple, map(sorted, fills.values())))) * (
            stages
        )


def test_the_first_stage_has_the_kinds_own_colour_and_others_lighter_ones() -> None:
    for colour in COLOURS.values():
        tints = [tint(colour, number) for number in range(4)]
        assert tints[0] == colour and len(set(tints)) == 4
        light = [sum(int(t[i : i + 2], 16) for i in (1, 3, 5)) for t in tints]
        assert light == sorted(light)


def test_side_by_side_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        side_by_side()


def test_names_are_escaped() -> None:
    schedule = Schedule('a<b>&"c"', [["0F0", "0B0"]], (0,))
    assert 'a<b>&"c"' in letters(tree(side_by_side(schedule, schedule)._repr_svg_()))


def test_a_picture_of_many_actions_is_small_and_tells_its_colours() -> None:
    schedule = made("1f1b", 16, 256)
    text = schedule._repr_svg_()
    root = tree(text)
    assert len(text) < 40 * 2 * 16 * 256
    # One path per rank and kind, and a box per actions in it.
    paths = list(root.iter(f"{SVG}path"))
    assert len(paths) == 16 * 2
    assert sum(path.attrib["d"].count("M") for path in paths) == 2 * 16 * 256
    assert {"F", "B"} <= set(letters(root))


@pytest.mark.parametrize("name", ["gpipe", "1f1b"])
@pytest.mark.parametrize(("p", "m"), [(1, 3), (3, 1), (4, 4), (3, 8)])
def test_the_layout_starts_nothing_before_what_it_needs(
    name: str, p: int, m: int
) -> None:
    schedule = made(name, p, m)
    ends = {}
    starts = {}
    for row in layout(schedule):
        clock = 0
        for start, units, item in row:
            assert start >= clock
            clock = start + units
            starts[item], ends[item] = start, clock
    for _, _, action in schedule.walk():
        assert all(ends[n] <= starts[action] for n in schedule.dependencies(action))
    # F + B = 3 units: the makespan of both is (m + p - 1)(F + B).
    assert max(ends.values()) == 3 * (m + p - 1)


def test_a_broken_schedule_is_drawn_whole() -> None:
    schedule = Schedule("broken", [["0B0", "0F0"], ["1B0", "1B0", "7F3"]], (0, 1))
    drawn = str(schedule)
    assert re.findall(r"\d+[FB]\d+", drawn) == ["0B0", "0F0", "1B0", "1B0", "7F3"]
    tree(schedule._repr_svg_())


def test_an_empty_schedule_is_drawn() -> None:
    empty = Schedule("empty", [], ())
    assert str(empty) == ""
    tree(empty._repr_svg_())
