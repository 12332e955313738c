"""The self-contained timeline page, opened from a file as a person would."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import workbench as wb
from workbench.schedule import KIND_CODE, Kind
from workbench.trace import Trace

pytestmark = pytest.mark.browser

#: Mean colour of a rank's row, from the canvas's own pixels.
ROW = """([rank]) => {
  const canvas = document.querySelector('canvas');
  const ratio = window.devicePixelRatio;
  const y = (4 + rank * 44 + 4) * ratio, height = 22 * ratio;
  const data = canvas.getContext('2d')
    .getImageData(70 * ratio, y, canvas.width - 80 * ratio, height).data;
  let dark = 0;
  for (let i = 0; i < data.length; i += 4)
    if (data[i + 2] - data[i] > 60) dark++;
  return dark / (data.length / 4);
}"""


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Callable[[Trace], Any]:
    def open_page(trace: Trace, scheme: str = "light") -> Any:
        path = tmp_path / "timeline.html"
        trace.to_html(path)
        page = browser.new_page(color_scheme=scheme)
        page.goto(path.as_uri())
        page.wait_for_selector("[data-state=done]")
        page.wait_for_function(
            "() => +document.querySelector('[data-frames]').dataset.frames > 0"
        )
        return page

    return open_page


def simulated() -> Trace:
    schedule = wb.Schedule.make("1f1b", num_ranks=4, num_microbatches=8)
    return wb.simulate(schedule, wb.CostModel.uniform(hop=0.1))


def dense(busy: float, count: int = 100_000) -> Trace:
    """``count`` events on one rank, each busy for this share of its slot."""
    start = np.arange(count) * 1000
    same = np.zeros(count, np.int64)
    columns = dict.fromkeys(("rank", "stage", "slice", "step", "lane"), same)
    return Trace(
        **columns,
        kind=same + KIND_CODE[Kind.F],
        microbatch=np.arange(count) % 8,
        start=start,
        end=start + int(1000 * busy),
        bytes=same,
        live=same,
    )


def test_hovering_names_the_action_and_its_duration(
    show: Callable[..., Any],
) -> None:
    page = show(simulated())
    page.hover("canvas", position={"x": 72, "y": 15})
    tip = page.locator(".wb-tip")
    assert tip.is_visible()
    assert "0F0" in tip.inner_text()
    assert "1 unit" in tip.inner_text()


def test_the_page_says_where_its_times_come_from(show: Callable[..., Any]) -> None:
    page = show(simulated())
    assert page.locator(".wb-source").inner_text() == "simulated"
    assert "simulated" in page.locator("canvas").get_attribute("aria-label")


@pytest.mark.parametrize("busy", [0.5, 0.9])
def test_dense_events_show_the_busy_share_and_not_a_solid_row(
    show: Callable[..., Any], busy: float
) -> None:
    page = show(dense(busy))
    page.get_by_role("button", name="show everything").click()
    page.wait_for_timeout(200)
    share = page.evaluate(ROW, [0])
    # The row's inner 22 of 30 pixels are looked at; a share of 0.5 fills its lower half.
    expected = (busy * 30 - 4) / 22 if busy < 26 / 30 else 1.0
    assert share == pytest.approx(expected, abs=0.08)


def test_keys_zoom_and_pan(show: Callable[..., Any]) -> None:
    page = show(simulated())
    canvas = page.locator("canvas")
    before = canvas.screenshot()
    canvas.focus()
    page.keyboard.press("w")
    page.wait_for_timeout(100)
    zoomed = canvas.screenshot()
    assert zoomed != before
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(100)
    assert canvas.screenshot() != zoomed


def test_names_cannot_leave_their_place(browser: Any, tmp_path: Path) -> None:
    hostile = "</script><img src=x onerror=\"document.title='broken'\">"
    rows = [["0F0", "0B0"]]
    schedule = wb.Schedule(name=hostile, ranks=rows, stage_to_rank=[0])
    trace = wb.simulate(schedule, wb.CostModel.uniform())
    trace.to_html(tmp_path / "t.html")
    page = browser.new_page()
    page.goto((tmp_path / "t.html").as_uri())
    page.wait_for_selector("[data-state=done]")
    assert page.locator("img").count() == 0
    assert hostile in page.locator("h1").inner_text()


def test_a_hundred_thousand_events_stay_fluid(
    show: Callable[..., Any], record_property: Callable[[str, object], None]
) -> None:
    """Frames per second are reported, not asserted; that they are drawn at all is."""
    page = show(dense(0.7))
    fps = page.evaluate(
        """async () => {
          const box = document.querySelector('[data-testid=wb-timeline]');
          const canvas = box.querySelector('canvas');
          const first = +box.dataset.frames, begun = performance.now();
          while (performance.now() - begun < 1000) {
            canvas.dispatchEvent(new WheelEvent('wheel', {deltaY: -3, cancelable: true}));
            await new Promise(requestAnimationFrame);
          }
          return (+box.dataset.frames - first) * 1000 / (performance.now() - begun);
        }"""
    )
    record_property("frames_per_second", fps)
    print(f"frames per second with 100,000 events: {fps:.0f}")
    assert fps > 1
