"""What is sent to the page of a large run: little, in whole steps, and what is left out
is said."""

from __future__ import annotations

import json
from itertools import chain
from typing import Any

import numpy as np
import pytest

from workbench.ui import Timeline
from workbench.ui.ticks import MANY_EVENTS, MOST_EVENTS
from workbench.ui.watch import HERTZ

from .live_source import LiveSource
from .test_widget import Clock, decode, keys

PER_SLOT = 2  # events of a rank: it works and waits


class Recorded:
    """A widget of a made-up run whose messages are kept with their times."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        num_ranks: int,
        slot_ns: int,
        microbatches: int = 8,
    ) -> None:
        self.clock = Clock()
        self.source = LiveSource(1e9, num_ranks, slot_ns, self.clock)
        self.source.microbatches = microbatches
        self.sent: list[tuple[float, dict[str, Any], Any]] = []

        def send(_: Any, content: Any, buffers: Any = None) -> None:
            self.sent.append((self.clock.now, content, buffers))

        monkeypatch.setattr(Timeline, "send", send)
        self.widget = Timeline(self.source, self.clock)
        self.per_step = num_ranks * PER_SLOT * 2 * microbatches

    def run(self, seconds: float, uneven: int = 0) -> None:
        rng = np.random.default_rng(uneven)
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.now += (rng.exponential() if uneven else 1) / HERTZ
            self.widget.push()

    def columns(self) -> list[dict[str, np.ndarray]]:
        return [decode(m, b) for _, m, b in self.sent if m.get("n")]

    def steps(self) -> dict[int, int]:
        """How many events of each step were sent."""
        step = np.concatenate([c["step"] for c in self.columns()])
        found, counts = np.unique(step, return_counts=True)
        return dict(zip(found.tolist(), counts.tolist(), strict=True))


def size(message: dict[str, Any], buffers: Any) -> int:
    return len(json.dumps(message)) + sum(map(len, buffers or []))


#: (ranks, ns per slot, microbatches): 20,000, 320,000 and 640 events a second; small
#: steps, and steps that take seconds of the budget alone.
RUNS = [
    (64, 6_400_000, 2),
    (64, 6_400_000, 64),
    (64, 400_000, 64),
    (4, 12_500_000, 8),
]


@pytest.mark.parametrize("uneven", [0, 1])
@pytest.mark.parametrize("run", RUNS)
def test_the_page_gets_less_than_200_kb_and_50_messages_in_any_second(
    monkeypatch: pytest.MonkeyPatch, run: tuple[int, int, int], uneven: int
) -> None:
    made = Recorded(monkeypatch, *run)
    made.run(20.0, uneven)
    times = np.array([at for at, _, _ in made.sent])
    sizes = np.array([size(m, b) for _, m, b in made.sent])
    for at in times:
        second = (times >= at) & (times < at + 1)
        assert sizes[second].sum() < 200_000
        assert second.sum() < 50


@pytest.mark.parametrize("run", RUNS)
def test_steps_are_shown_wholly_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch, run: tuple[int, int, int]
) -> None:
    made = Recorded(monkeypatch, *run)
    made.run(30.0)
    found = made.steps()
    newest = max(found)  # perhaps still under way
    assert {n for step, n in found.items() if step != newest} == {made.per_step}
    assert len(found) > 3
    # What is shown is recent: no step waits for longer than it takes to send it.
    made_by_now = made.source.count // made.per_step
    behind = (made_by_now - newest) * made.per_step / made.source.count * 30
    assert behind < 2 + 2 * made.per_step / MANY_EVENTS


def test_a_run_that_fits_is_shown_to_the_last_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = Recorded(monkeypatch, *RUNS[-1])
    made.run(10.0)
    _, columns = made.source.snapshot(0)
    shown = [keys({**c, "start": c["start"] * 1e6}) for c in made.columns()]
    assert sorted(chain.from_iterable(shown)) == keys(
        {**columns, "start": columns["start"] / 1e3}
    )
    assert not any(m["skipped"] for _, m, _ in made.sent)
    assert "not shown" not in made.sent[-1][1]["text"]


@pytest.mark.parametrize("run", RUNS[:3])
def test_what_is_left_out_is_counted_and_hatched(
    monkeypatch: pytest.MonkeyPatch, run: tuple[int, int, int]
) -> None:
    made = Recorded(monkeypatch, *run)
    made.run(20.0)
    # The view hatches from the latest end to the next start where numbers jump.
    number, high, shown = 0, 0.0, 0
    seen, hatched = set(), []
    for _, message, buffers in made.sent:
        if not message["n"]:
            continue
        columns = decode(message, buffers)
        assert message["skipped"] == message["first"] - number >= 0
        begin = float(columns["start"].min())
        if message["skipped"] and begin > high:
            hatched.append((high, begin))
        number = message["first"] + message["n"]
        high = max(high, float((columns["start"] + columns["duration"]).max()))
        shown += message["n"]
        seen |= set(columns["step"].tolist())
    begins = {
        s: s * 2 * made.source.microbatches * run[1] * 1e-9 for s in range(max(seen))
    }
    missing = [s for s in begins if s not in seen]
    assert missing
    for step in missing:
        inside = begins[step] + 1e-5
        assert any(low <= inside < top for low, top in hatched), step
    for step in seen & set(begins):
        inside = begins[step] + 1e-5
        assert not any(low <= inside < top for low, top in hatched), step
    waiting = made.widget._waiting
    assert shown + waiting.skipped + len(waiting) == waiting.read == made.source.count


def test_of_a_monstrous_step_only_so_much_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = Recorded(monkeypatch, 64, 100_000, 10**6)  # 1.28 million events a second
    made.run(3.0)
    assert len(made.widget._waiting) <= MOST_EVENTS
    assert len(made.sent) <= 3 * HERTZ + 1
