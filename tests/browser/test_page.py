"""The self-contained timeline page, opened from a file as a person would."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import workbench as wb
from workbench.schedule import KIND_CODE, Kind
from workbench.trace import Trace

pytestmark = pytest.mark.browser

BOX = "[data-testid=wb-timeline]"

#: The share of a rank's row, between two fractions of its width, that is painted in a
#: colour: read from the canvas's own pixels, where backgrounds are grey.
PAINTED = """([rank, from, to]) => {
  const canvas = document.querySelector('canvas'), ratio = devicePixelRatio;
  const place = document.querySelector('[data-testid=wb-timeline]').wbTimeline.place(rank);
  const x = place.x + from * place.width, width = (to - from) * place.width;
  const data = canvas.getContext('2d').getImageData(Math.ceil(x * ratio),
    Math.round(place.y * ratio), Math.floor(width * ratio), Math.round(place.height * ratio)
  ).data;
  let painted = 0;
  for (let i = 0; i < data.length; i += 4) {
    const [r, g, b] = data.subarray(i, i + 3);
    if (Math.max(r, g, b) - Math.min(r, g, b) > 40) painted++;
  }
  return painted / (data.length / 4);
}"""
CORNER = """() => [...document.querySelector('canvas').getContext('2d')
  .getImageData(1, 1, 1, 1).data]"""
FRAMES = f"() => +document.querySelector('{BOX}').dataset.frames"


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    pages = []

    def open_page(trace: Trace, **context: Any) -> Any:
        path = tmp_path / "timeline.html"
        trace.to_html(path)
        page = browser.new_page(**context)
        pages.append(page)
        page.wrong = []
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        page.on("request", lambda request: page.wrong.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("[data-state=done]")
        page.wait_for_function(f"{FRAMES[6:]} > 0")
        return page

    yield open_page
    for page in pages:
        assert [w for w in page.wrong if not w.startswith("file:")] == []
        page.close()


def everything(page: Any) -> None:
    page.get_by_role("button", name="show everything").click()
    settle(page)


def settle(page: Any) -> None:
    """Waits for the frame that shows what was just done."""
    page.evaluate(
        "() => new Promise((done) => requestAnimationFrame(() => "
        "requestAnimationFrame(() => requestAnimationFrame(done))))"
    )


def simulated() -> Trace:
    schedule = wb.Schedule.make("1f1b", num_ranks=4, num_microbatches=8)
    return wb.simulate(schedule, wb.CostModel.uniform(hop=0.1))


def events(start: np.ndarray, busy: float) -> Trace:
    """Events of rank 0 at these times (us), alternating F and B, each busy for this
    many us."""
    count = len(start)
    same = np.zeros(count, np.int64)
    kind = np.where(np.arange(count) % 2, KIND_CODE[Kind.B], KIND_CODE[Kind.F])
    columns = dict.fromkeys(("rank", "stage", "slice", "lane", "bytes", "live"), same)
    begin = (start * 1000).astype(np.int64)
    return Trace(
        **columns,
        kind=kind,
        microbatch=np.arange(count) // 2 % 8,
        step=np.arange(count) // 16,
        start=begin,
        end=begin + int(1000 * busy),
    )


def dense(busy: float, count: int = 100_000) -> Trace:
    return events(np.arange(count), busy)


# ---- what is told --------------------------------------------------------------------


def test_hovering_names_the_action_and_its_duration(show: Callable[..., Any]) -> None:
    page = show(simulated())
    place = page.evaluate(f"() => document.querySelector('{BOX}').wbTimeline.place(0)")
    page.hover("canvas", position={"x": place["x"] + 4, "y": place["y"] + 10})
    tip = page.locator(".wb-tip")
    assert tip.is_visible()
    assert tip.inner_text() == "rank 0  0F0  step 0  microbatch 0\n1 unit, from 0 unit"
    # Under the row is what the rank waits for: here, rank 1 for its first input.
    waits = place["y"] + 44 + place["height"] + 3
    page.hover("canvas", position={"x": place["x"] + 4, "y": waits})
    assert tip.inner_text().startswith(
        "rank 1  waiting: 1RECV_F0  step 0  microbatch 0"
    )


def test_the_page_says_where_its_times_come_from(show: Callable[..., Any]) -> None:
    page = show(simulated())
    canvas = page.get_by_role("img")
    assert page.locator(".wb-source").inner_text() == "simulated"
    page.wait_for_function(
        f"() => document.querySelector('{BOX} .wb-busy').innerText.includes('rank')"
    )
    label = canvas.get_attribute("aria-label")
    assert "Timeline of 4 ranks, simulated" in label
    assert "makespan 34.6 unit" in label
    assert "rank 0 69 %" in label


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
    assert hostile in page.locator(".wb-title").inner_text()
    page.close()


# ---- honesty -------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [1, 2])
@pytest.mark.parametrize("busy", [0.5, 0.9])
def test_dense_events_show_the_busy_share_and_not_a_solid_row(
    show: Callable[..., Any], busy: float, ratio: int
) -> None:
    page = show(dense(busy), device_scale_factor=ratio)
    everything(page)
    assert page.evaluate(PAINTED, [0, 0, 1]) == pytest.approx(busy, abs=0.03)
    page.hover("canvas", position={"x": 400, "y": 30})
    tip = page.locator(".wb-tip").inner_text()
    assert "events in this pixel" in tip
    assert f"{busy:.0%}".replace("%", " %") in tip


def test_a_crowd_beside_an_idle_stretch_is_not_solid_either(
    show: Callable[..., Any],
) -> None:
    """500 events in a twentieth of the time: few for the pixels of the whole row, but
    many per pixel where they are."""
    start = np.concatenate([np.arange(500) * 1.0, [9_999.0]])
    page = show(events(start, 0.5))
    everything(page)
    assert page.evaluate(PAINTED, [0, 0.002, 0.048]) == pytest.approx(0.5, abs=0.05)
    assert page.evaluate(PAINTED, [0, 0.06, 0.98]) < 0.01


def test_zoomed_in_the_same_events_are_boxes_with_gaps(
    show: Callable[..., Any],
) -> None:
    page = show(dense(0.5))
    page.evaluate(
        f"() => {{ const v = document.querySelector('{BOX}').wbTimeline;"
        "v.look(0.05, 0.05002); }"
    )
    settle(page)
    box = page.locator(BOX)
    assert box.get_attribute("data-shares") == "0"
    assert 19 <= int(box.get_attribute("data-boxes")) <= 22
    assert page.evaluate(PAINTED, [0, 0, 1]) == pytest.approx(0.5, abs=0.06)


# ---- looking around ------------------------------------------------------------------


def view(page: Any) -> tuple[float, float]:
    found = page.evaluate(
        f"() => {{ const v = document.querySelector('{BOX}').wbTimeline;"
        "return [v.from, v.to]; }"
    )
    return found[0], found[1]


@pytest.mark.parametrize(
    ("key", "span", "shift"),
    [("w", -1, 0), ("s", 1, 0), ("a", 0, -1), ("d", 0, 1), ("ArrowLeft", 0, -1),
     ("ArrowRight", 0, 1), ("ArrowUp", -1, 0), ("W", -1, 0)],
)  # fmt: skip
def test_keys_zoom_and_pan(
    show: Callable[..., Any], key: str, span: int, shift: int
) -> None:
    page = show(simulated())
    page.keyboard.press("Tab")
    while page.evaluate("() => document.activeElement.tagName") != "CANVAS":
        page.keyboard.press("Tab")  # reachable without a mouse
    low, high = view(page)
    before = page.locator("canvas").screenshot()
    page.keyboard.press(key)
    settle(page)
    new_low, new_high = view(page)
    assert np.sign(round((new_high - new_low) - (high - low), 9)) == span
    assert np.sign(round((new_low + new_high) - (low + high), 9)) == shift
    assert page.locator("canvas").screenshot() != before


def test_the_wheel_zooms_at_the_pointer_and_a_drag_pans(
    show: Callable[..., Any],
) -> None:
    page = show(simulated())
    place = page.evaluate(f"() => document.querySelector('{BOX}').wbTimeline.place(0)")
    box = page.locator("canvas").bounding_box()
    x, y = box["x"] + place["x"] + place["width"] / 4, box["y"] + 40
    low, high = view(page)
    under = low + (high - low) / 4
    page.mouse.move(x, y)
    page.mouse.wheel(0, -200)
    settle(page)
    near, far = view(page)
    assert far - near < 0.9 * (high - low)
    assert near + (far - near) / 4 == pytest.approx(under, rel=0.01)
    page.mouse.down()
    page.mouse.move(x - 100, y, steps=5)
    page.mouse.up()
    assert view(page)[0] - near == pytest.approx(
        100 * (far - near) / place["width"], rel=0.02
    )


def test_one_cannot_get_lost(show: Callable[..., Any]) -> None:
    page = show(simulated())
    page.focus("canvas")
    for key, times in (("s", 60), ("d", 60), ("w", 200), ("a", 60)):
        for _ in range(times):
            page.keyboard.press(key)
        low, high = view(page)
        assert 0 < high - low <= 2.01 * 34.6
        assert -34.6 <= low < high <= 2.01 * 34.6
    everything(page)
    assert view(page) == pytest.approx((0, 34.6))


# ---- themes, frames ------------------------------------------------------------------


def test_the_drawing_follows_the_theme(show: Callable[..., Any]) -> None:
    page = show(simulated(), color_scheme="light")
    assert page.evaluate(CORNER) == [255, 255, 255, 255]
    page.emulate_media(color_scheme="dark")
    settle(page)
    assert page.evaluate(CORNER) == [17, 17, 17, 255]
    # An editor's colours go before the system's, and JupyterLab's before the editor's.
    for name, colour in (
        ("--vscode-editor-background", 40),
        ("--jp-layout-color0", 80),
    ):
        page.evaluate(
            """([name, colour]) => {
              document.body.style.setProperty(name, `rgb(${colour}, 0, 0)`);
            }""",
            [name, colour],
        )
        settle(page)
        assert page.evaluate(CORNER) == [colour, 0, 0, 255]


def test_nothing_is_drawn_while_nothing_changes(show: Callable[..., Any]) -> None:
    page = show(dense(0.7, 1000))
    page.wait_for_timeout(800)
    frames = page.evaluate(FRAMES)
    page.wait_for_timeout(700)
    assert page.evaluate(FRAMES) == frames


def test_the_canvas_has_the_screen_s_own_pixels(show: Callable[..., Any]) -> None:
    page = show(simulated(), device_scale_factor=2)
    width, shown = page.evaluate(
        "() => { const c = document.querySelector('canvas');"
        "return [c.width, c.clientWidth]; }"
    )
    assert width == 2 * shown


def test_a_hundred_thousand_events_stay_fluid(
    show: Callable[..., Any], record_property: Callable[[str, object], None]
) -> None:
    """Frames per second are reported, not asserted; that they are drawn at all is."""
    page = show(dense(0.7))
    everything(page)
    fps = page.evaluate(
        """async () => {
          const box = document.querySelector('[data-testid=wb-timeline]');
          const canvas = box.querySelector('canvas');
          const first = +box.dataset.frames, begun = performance.now();
          while (performance.now() - begun < 2000) {
            canvas.dispatchEvent(new WheelEvent('wheel', {deltaY: -3, cancelable: true}));
            await new Promise(requestAnimationFrame);
          }
          return (+box.dataset.frames - first) * 1000 / (performance.now() - begun);
        }"""
    )
    record_property("frames_per_second", fps)
    print(f"frames per second with 100,000 events: {fps:.0f}")
    assert fps > 1
