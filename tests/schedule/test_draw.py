"""Pictures of schedules: well-formed, of one scale, small however large the schedule."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from workbench.schedule import Schedule, side_by_side
from workbench.schedule.draw import COLOURS, layout
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
    root = tree(side_by_side(short, long))
    boxes = [b for b in root.iter(f"{SVG}rect") if b.attrib["fill"] == COLOURS_F]
    assert len(boxes) == 2 * 2 + 4 * 8
    assert len({b.attrib["width"] for b in boxes}) == 1
    assert letters(root).count("gpipe") == 2
    tops = {float(b.attrib["y"]) for b in boxes}
    assert len(tops) == 2 + 4


COLOURS_F = KIND_COLOURS["F"]


def test_side_by_side_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        side_by_side()


def test_names_are_escaped() -> None:
    schedule = Schedule('a<b>&"c"', [["0F0", "0B0"]], (0,))
    assert 'a<b>&"c"' in letters(tree(side_by_side(schedule, schedule)))


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
