"""What is left without a kernel: HTML that is small, honest and harmless."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import workbench as wb
from workbench.ui import static_html
from workbench.ui.freeze import busy_share, picture

from .live_source import LiveSource


def pipeline(ranks: int, microbatches: int) -> wb.Trace:
    schedule = wb.Schedule.make("1f1b", num_ranks=ranks, num_microbatches=microbatches)
    return wb.simulate(schedule, wb.CostModel.uniform(hop=0.1))


def test_a_run_freezes_to_small_html_without_scripts(
    tmp_path: Path, make_job: Callable[..., wb.Job]
) -> None:
    run = wb.launch(make_job(steps=30), folder=tmp_path / "r").wait(60)
    html = static_html(run)
    assert "<svg" in html
    assert "finished, step 30 of 30" in html
    assert f"{run.losses[-1]:.4f} after step 30" in html
    assert "<script" not in html
    assert len(html) < 200_000


def test_a_trace_freezes_too() -> None:
    html = static_html(pipeline(4, 8))
    assert "simulated" in html
    assert "makespan 34.6 unit" in html
    assert html.count("<rect") == 64


@pytest.mark.parametrize(("ranks", "microbatches"), [(4, 1000), (64, 256), (600, 8)])
def test_a_picture_is_bounded_however_many_actions(
    ranks: int, microbatches: int
) -> None:
    svg = picture(pipeline(ranks, microbatches))
    assert len(svg) < 500_000
    assert svg.count(">rank ") == ranks
    assert "share of time busy" in svg


def test_a_source_without_a_trace_of_its_own_freezes_from_its_events() -> None:
    html = static_html(LiveSource(seconds=0.0))
    assert "waiting for the first step" in html
    source = LiveSource(seconds=2.0, clock=iter([0.0] + [9.0] * 100).__next__)
    html = static_html(source)
    assert "measured" in html
    assert "steps 11 to 12" in html


def test_names_are_escaped() -> None:
    html = static_html(LiveSource(seconds=0.0))
    assert "a &lt;made-up&gt; pipeline" in html
    assert "<made-up>" not in html


def area(path: str) -> float:
    """The area between a band's upper and lower steps."""
    found = re.fullmatch(r"M([\d.-]+),([\d.-]+)((?:V[\d.-]+H[\d.-]+)+)Z", path)
    assert found, path
    x, y = float(found[1]), float(found[2])
    total = 0.0
    for up, along in re.findall(r"V([\d.-]+)H([\d.-]+)", found[3]):
        y, before = float(up), x
        x = float(along)
        total -= y * (x - before)
    return total


def test_the_painted_area_is_the_time_at_work() -> None:
    trace = pipeline(4, 1000)
    svg = picture(trace)
    painted = sum(area(path) for path in re.findall(r'<path d="([^"]+)"', svg))
    share = painted / (4 * 1000 * 24)
    assert share == pytest.approx(1 - trace.bubbles().bubble_fraction, abs=0.005)


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=12),
    st.lists(st.integers(-10, 300), min_size=2, max_size=9, unique=True),
)
def test_shares_are_exact(steps: list[tuple[int, int]], cuts: list[int]) -> None:
    start, end, now = [], [], 0
    for idle, busy in steps:
        start.append(now + idle)
        now += idle + busy
        end.append(now)
    edges = np.array(sorted(cuts))
    found = busy_share(np.array(start, int), np.array(end, int), edges)
    instants = [
        [any(a <= t < b for a, b in zip(start, end, strict=True)) for t in range(x, y)]
        for x, y in pairwise(edges)
    ]
    np.testing.assert_allclose(found, [np.mean(row) for row in instants], atol=1e-12)
