"""The page's half of the widget: messages that come late, twice, or not at all."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from workbench.trace.encode import encode, view_options
from workbench.trace.html import renderer

pytestmark = pytest.mark.browser

RANKS, SLOT = 2, 1_000_000  # a slot of ns per event, busy in its first half

START = """async ([source, options]) => {
  const url = URL.createObjectURL(new Blob([source], {type: 'text/javascript'}));
  const module = await import(url);
  window.view = new module.Timeline(document.body, options);
  window.asked = 0;
  window.feed = new module.Feed(window.view, () => { window.asked++; });
}"""
RECEIVE = """async ([message, data]) => {
  const binary = atob(data), bytes = new Uint8Array(binary.length + 1);
  for (let i = 0; i < binary.length; i++) bytes[i + 1] = binary.charCodeAt(i);
  // As from a comm: a view that begins at an odd byte of somebody else's buffer.
  window.feed.receive(message, [new DataView(bytes.buffer, 1)]);
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
}"""
KNOWN = """() => window.view.compute.map((lane) =>
  [...lane.start.subarray(0, lane.n)].map((start) => Math.round(start * 1000)))"""


class View:
    """A live view in a page without JupyterLab."""

    def __init__(self, page: Any) -> None:
        self.page = page
        options = view_options(
            ranks=RANKS, title="t", source="measured", unit="s", kinds=set()
        )
        page.evaluate(START, [renderer(), {**options, "live": True}])

    def receive(self, first: int, last: int, **more: Any) -> None:
        """The events first to last - 1; event e is rank e % 2's, in slot e // 2."""
        number = np.arange(first, last)
        start = number // RANKS * SLOT
        zero = 0 * number
        columns = {
            "start": start,
            "end": start + SLOT // 2,
            "step": number // 100,
            "microbatch": number % 8,
            "stage": number % RANKS,
            "rank": number % RANKS,
            "kind": zero,
            "lane": zero,
        }
        message = {"kind": "events", "first": first, "n": last - first, **more}
        data = base64.b64encode(encode(columns, 1e-9)).decode()
        self.page.evaluate(RECEIVE, [json.loads(json.dumps(message)), data])

    def events(self) -> list[int]:
        """The numbers of the events that the view has."""
        lanes = self.page.evaluate(KNOWN)
        return sorted(
            RANKS * slot + rank for rank, lane in enumerate(lanes) for slot in lane
        )

    def get(self, expression: str) -> Any:
        return self.page.evaluate(f"() => window.{expression}")


@pytest.fixture
def view(browser: Any) -> Iterator[View]:
    page = browser.new_page(viewport={"width": 1000, "height": 400})
    page.goto("about:blank")
    yield View(page)
    page.close()


def test_before_the_first_event_the_canvas_says_that_it_waits(view: View) -> None:
    view.page.wait_for_function("() => window.view.frames > 0")
    label = view.page.get_by_role("img").get_attribute("aria-label")
    assert "waiting for the first step" in label
    painted = view.page.evaluate(
        """() => {
          const c = document.querySelector('canvas');
          const d = c.getContext('2d').getImageData(300, 0, 500, c.height).data;
          let dark = 0;
          for (let i = 0; i < d.length; i += 4) if (d[i] < 100) dark++;
          return dark;
        }"""
    )
    assert painted > 50


def test_increments_are_put_together(view: View) -> None:
    view.receive(0, 10)
    view.receive(10, 25)
    assert view.events() == list(range(25))
    assert view.get("asked") == 0


def test_a_view_with_all_events_ignores_a_replay_for_another(view: View) -> None:
    view.receive(0, 1000)
    view.receive(600, 1000, replay=True)
    assert view.events() == list(range(1000))
    view.receive(1000, 1010)
    assert view.events() == list(range(1010))


def test_a_view_that_opens_late_asks_and_is_filled_by_the_replay(view: View) -> None:
    view.receive(500, 520)
    assert view.events() == list(range(500, 520))  # the live edge at once
    assert view.get("asked") == 1
    assert view.get("view.forgotten")
    view.receive(0, 520, replay=True)
    assert view.events() == list(range(520))
    assert not view.get("view.forgotten")
    view.receive(520, 530)
    assert view.events() == list(range(530))


def test_a_question_that_is_lost_is_asked_again(view: View) -> None:
    view.receive(500, 520)
    view.receive(520, 530)
    assert view.get("asked") == 2
    view.receive(0, 530, replay=True)
    view.receive(530, 540)
    assert view.get("asked") == 2
    assert view.events() == list(range(540))


def test_what_was_lost_on_the_way_is_asked_for_and_hatched_meanwhile(
    view: View,
) -> None:
    view.receive(0, 100)
    view.receive(200, 300)
    assert view.get("asked") == 1
    assert len(view.get("view.gaps")) == 1
    view.receive(0, 300, replay=True)
    assert view.events() == list(range(300))
    assert view.get("view.gaps") == []


def test_what_the_kernel_skipped_is_hatched_and_is_no_idle_time(view: View) -> None:
    view.receive(0, 100)
    view.receive(200, 300, skipped=100)
    assert view.get("asked") == 0  # asking would not bring it
    ((low, high),) = view.get("view.gaps")
    assert low == pytest.approx(49.5e-3)
    assert high == pytest.approx(100e-3)
    view.page.evaluate("() => window.view.fit()")
    view.page.wait_for_timeout(100)
    # Half of the time that is known is busy, whatever happened in the gap.
    assert view.get("view.busy[0]") == pytest.approx(0.5, abs=0.01)


def test_the_same_message_twice_counts_once(view: View) -> None:
    view.receive(0, 10)
    view.receive(0, 10)
    assert view.events() == list(range(10))


def test_a_long_run_forgets_the_oldest_at_one_time_on_all_ranks(view: View) -> None:
    for first in range(0, 450_000, 50_000):
        view.receive(first, first + 50_000)
    kept = view.get("view.total")
    assert 200_000 <= kept <= 400_000
    events = view.events()
    assert events == list(range(450_000 - kept, 450_000))
    assert view.get("view.forgotten")
    assert view.get("view.low") <= events[0] // RANKS * SLOT * 1e-9 + 1e-9


def test_following_shows_the_newest_steps_until_one_looks_elsewhere(view: View) -> None:
    view.receive(0, 1000)
    low, high = view.get("view.from"), view.get("view.to")
    assert high == pytest.approx(499.5e-3)
    assert low == pytest.approx(400e-3)  # steps 8 and 9
    view.page.focus("canvas")
    view.page.keyboard.press("a")
    here = view.get("view.to")
    view.receive(1000, 1200)
    assert view.get("view.to") == here
    assert (
        view.page.get_by_role("button", name="follow").get_attribute("aria-pressed")
        == "false"
    )
    view.page.keyboard.press("f")
    assert view.get("view.to") == pytest.approx(599.5e-3)


def test_an_error_is_shown_in_words(view: View) -> None:
    text = "watching ended: OSError: <b>; the run goes on"
    view.page.evaluate(
        "(text) => window.feed.receive({kind: 'status', text}, [])", text
    )
    assert view.page.locator(".wb-summary").inner_text() == text


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_words_can_be_read_in_both_themes(view: View, theme: str) -> None:
    """A contrast of 4.5 to 1 at least, as WCAG asks for."""
    view.page.emulate_media(color_scheme=theme)
    view.receive(0, 100)
    style = "getComputedStyle(document.querySelector('.wb-timeline'))"
    colours = [view.page.evaluate(f"() => {style}.{n}") for n in
               ("color", "backgroundColor")]  # fmt: skip
    light = sorted(_luminance(c) for c in colours)
    assert (light[1] + 0.05) / (light[0] + 0.05) > 4.5


def _luminance(colour: str) -> float:
    parts = [int(p) / 255 for p in colour[4:-1].split(",")]
    linear = [
        p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts
    ]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))
