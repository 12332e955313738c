"""Figures: titles that name the source, and bars as long as the time they show."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from workbench.schedule import Schedule
from workbench.simulator import CostModel, simulate
from workbench.trace import WAIT_LANE, Trace, compare
from workbench.trace.report import PARTS

Build = Callable[..., Trace]
SOURCES = ("simulated", "measured", "assembled", "imported")
EVENTS = [
    (0, "0F0", 2, 5),
    (0, "0RECV_B0", 5, 9),
    (0, "0B0", 9, 15),
    (1, "1F0", 5, 7),
    (1, "1B0", 7, 9),
    (1, "1OPT_STEP", 9, 12),
]


def title(figure: Any) -> str:
    return str(figure.layout.title.text)


def lengths(figure: Any) -> dict[float, float]:
    """Sum of the bars in every row."""
    total: dict[float, float] = {}
    for bar in figure.data:
        for row, length in zip(bar.y, bar.x, strict=True):
            total[float(row)] = total.get(float(row), 0.0) + float(length)
    return total


@pytest.mark.parametrize("source", SOURCES)
def test_every_title_says_the_source(trace_of: Build, source: str) -> None:
    trace = trace_of(EVENTS, source=source, metadata={"schedule": "mine"})
    figures = (trace.figure(), trace.memory_figure(), trace.bubbles().figure())
    for figure in figures:
        assert f"({source})" in title(figure)
    assert all("mine" in title(figure) for figure in figures[:2])


def test_bars_of_a_rank_add_up_to_its_work(trace_of: Build) -> None:
    figure = trace_of(EVENTS, tick=0.5).figure()
    assert lengths(figure) == {0.0: 9 * 0.5, 1.0: 7 * 0.5}
    starts = sorted(float(b) for bar in figure.data for b in bar.base)
    assert starts == [0, 1.5, 2.5, 3.5, 3.5]


@pytest.mark.parametrize("name", ["gpipe", "1f1b"])
def test_bars_of_a_simulation_add_up_to_its_work(
    simulated_trace: Build, name: str
) -> None:
    trace = simulated_trace(name, 3, 5, F=[1, 2, 3], hop=0.5)
    work = trace.lane != WAIT_LANE
    for rank, total in lengths(trace.figure()).items():
        mask = work & (trace.rank == rank)
        wanted = float((trace.end - trace.start)[mask].sum()) * trace.tick
        assert total == pytest.approx(wanted)
    assert wanted == pytest.approx(5 * (3 + 2))


def test_one_kind_is_one_set_of_bars(trace_of: Build) -> None:
    names = [bar.name for bar in trace_of(EVENTS).figure().data]
    assert sorted(names) == ["B", "F", "OPT_STEP"]


def test_stacked_bars_are_the_whole_makespan(simulated_trace: Build) -> None:
    report = simulated_trace(hop=0.5).bubbles()
    figure = report.figure()
    assert [bar.name for bar in figure.data] == [p.replace("_", " ") for p in PARTS]
    assert figure.layout.barmode == "stack"
    total = np.sum([bar.y for bar in figure.data], axis=0)
    assert total == pytest.approx([100, 100, 100])
    idle = np.sum([bar.y for bar in figure.data[2:]]) / 3
    assert idle == pytest.approx(100 * report.bubble_fraction)
    assert f"{100 * report.bubble_fraction:.1f} %" in title(figure)


def test_memory_is_drawn_per_rank_at_the_end_of_actions(simulated_trace: Build) -> None:
    trace = simulated_trace("1f1b", 3, 4)
    figure = trace.memory_figure()
    assert [line.name for line in figure.data] == ["rank 0", "rank 1", "rank 2"]
    assert [max(line.y) for line in figure.data] == [3, 2, 1]
    assert all((np.diff(line.x) >= 0).all() for line in figure.data)
    assert figure.layout.yaxis.title.text == "microbatches in flight"


def test_measured_memory_is_in_mebibytes(trace_of: Build) -> None:
    figure = trace_of(EVENTS).memory_figure()
    assert figure.layout.yaxis.title.text == "MiB"


def test_a_comparison_draws_both_with_their_sources(simulated_trace: Build) -> None:
    a = simulated_trace("1f1b", 2, 3)
    b = simulated_trace("gpipe", 2, 3, F=2)
    figure = compare(a, b).figure()
    assert title(figure) == "simulated above simulated"
    rows = lengths(figure)
    assert rows[0.0] == rows[2.5] == pytest.approx(3 * 3)
    assert rows[1.0] == rows[3.5] == pytest.approx(3 * 4)
    labels = figure.layout.yaxis.ticktext
    assert {float(v) for v in figure.layout.yaxis.tickvals} == set(rows)
    assert labels == tuple(f"rank {r}, simulated" for r in (0, 1, 0, 1))


def test_an_empty_trace_has_empty_figures(trace_of: Build) -> None:
    trace = trace_of([])
    assert len(trace.figure().data) == 0
    assert len(trace.memory_figure().data) == 0
    assert "(measured)" in title(trace.bubbles().figure())


def test_the_svg_draws_every_action_as_long_as_it_was(trace_of: Build) -> None:
    drawn = trace_of(EVENTS)._repr_svg_()
    tree = ElementTree.fromstring(drawn)
    space = "{http://www.w3.org/2000/svg}"
    widths: dict[str, float] = {}
    for group in tree.iter(f"{space}g"):
        name, box = group.find(f"{space}title"), group.find(f"{space}rect")
        assert name is not None
        assert name.text is not None
        assert box is not None
        widths[name.text.split()[0]] = float(box.attrib["width"])
    assert set(widths) == {"0F0", "0B0", "1F0", "1B0", "1OPT_STEP"}
    unit = widths["0F0"] / 3
    told = {"0F0": 3, "0B0": 6, "1F0": 2, "1B0": 2, "1OPT_STEP": 3}
    for text, ticks in told.items():
        assert widths[text] == pytest.approx(ticks * unit, abs=0.02)
    assert re.search("measured, makespan 13 unit", drawn)


def test_the_svg_shows_both_halves_of_a_pair_and_its_stages() -> None:
    made = Schedule.make("dualpipe", num_ranks=4, num_microbatches=8)
    drawn = simulate(made, CostModel.uniform(overlap=2.5))._repr_svg_()
    space = "{http://www.w3.org/2000/svg}"
    boxes: list[tuple[float, ...]] = []
    texts = set()
    for group in ElementTree.fromstring(drawn).iter(f"{space}g"):
        box, letters = group.find(f"{space}rect"), group.find(f"{space}text")
        assert box is not None
        boxes.append(tuple(float(box.attrib[n]) for n in ("x", "y", "width", "height")))
        texts.add(letters.text if letters is not None else "")
    assert len(boxes) == sum(1 for _ in made.walk())
    assert {str(action) for _, _, action in made.walk()} == texts
    for i, (x, y, width, height) in enumerate(boxes):
        for left, top, wide, tall in boxes[:i]:
            across = min(x + width, left + wide) - max(x, left)
            down = min(y + height, top + tall) - max(y, top)
            assert across < 0.02 or down <= 0  # no box hides another


def test_the_svg_of_an_empty_trace_is_xml(trace_of: Build) -> None:
    tree = ElementTree.fromstring(trace_of([])._repr_svg_())
    assert tree.tag.endswith("svg")
