"""The widget's messages, without a browser: what is sent, how much, and what when
something goes wrong."""

from __future__ import annotations

import json
from itertools import chain
from typing import Any

import numpy as np
import pytest

import workbench as wb
from workbench.trace.encode import EVENT_BYTES, LAYOUT, encode
from workbench.ui import Timeline
from workbench.ui.ticks import BURST_BYTES, MANY_EVENTS, REPLAY_EVENTS
from workbench.ui.timeline import TRACE_EVENTS

from .live_source import LiveSource

Sent = list[tuple[dict[str, Any], Any]]


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Counted(LiveSource):
    """A source with as many events as the test says."""

    def __init__(self, count: int = 0) -> None:
        super().__init__(seconds=1e9, num_ranks=2, clock=Clock())
        self.made = count

    @property
    def count(self) -> int:
        return self.made


def decode(message: dict[str, Any], buffers: Any) -> dict[str, np.ndarray]:
    """What timeline_events.js does."""
    (buffer,), columns, at = buffers, {}, 0
    for name, kind in LAYOUT:
        size = np.dtype(kind).itemsize * message["n"]
        columns[name] = np.frombuffer(buffer[at : at + size], kind)
        at += size
    assert at == len(buffer)
    return columns


def keys(columns: dict[str, np.ndarray]) -> list[tuple[float, int, int]]:
    """What tells one event from another: start in us, rank, lane."""
    start = np.rint(np.asarray(columns["start"], np.float64)).astype(int)
    rows = (start, columns["rank"], columns["lane"])
    return sorted(zip(*(r.tolist() for r in rows), strict=True))


def push_all(widget: Timeline, clock: Clock) -> int:
    """Pushes at 10 Hz until nothing is left; how often that was."""
    for ticks in range(10_000):
        if not widget.push():
            return ticks
        clock.now += 0.1
    raise AssertionError("it never ends")


def in_source(source: LiveSource, first: int, last: int) -> list[Any]:
    _, columns = source.snapshot(0)
    cut = {name: column[first:last] for name, column in columns.items()}
    return keys({**cut, "start": cut["start"] / 1e3})


def told(sent: Sent, i: int = -1) -> list[Any]:
    columns = decode(*sent[i])
    return keys({**columns, "start": columns["start"] * 1e6})


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    messages: Sent = []

    def send(self: Any, content: Any, buffers: Any = None) -> None:
        messages.append((content, buffers))

    monkeypatch.setattr(Timeline, "send", send)
    return messages


# ---- the buffer ----------------------------------------------------------------------


def test_encoding_keeps_every_event_and_sorts_within_ranks() -> None:
    source = Counted(100)
    _, columns = source.snapshot(0)
    shuffled = np.random.default_rng(0).permutation(100)
    buffer = encode({n: c[shuffled] for n, c in columns.items()}, 1e-9)
    found = decode({"n": 100}, [buffer])
    for rank in (0, 1):
        starts = found["start"][found["rank"] == rank]
        assert (np.diff(starts) > 0).all()
        expected = np.sort(columns["start"][columns["rank"] == rank]) * 1e-9
        np.testing.assert_allclose(starts, expected)
    np.testing.assert_allclose(found["duration"], 5e-3, rtol=1e-5)


def test_times_after_hours_keep_their_nanoseconds() -> None:
    _, columns = Counted(2).snapshot(0)
    hours = 10 * 3600 * 10**9
    columns["start"] = np.array([hours, hours + 1000])
    columns["end"] = columns["start"] + 10
    found = decode({"n": 2}, [encode(columns, 1e-9)])
    assert found["start"][1] - found["start"][0] == pytest.approx(1e-6, abs=1e-11)


# ---- increments ----------------------------------------------------------------------


def test_only_what_is_new_is_sent(sent: Sent) -> None:
    source = Counted(10)
    widget = Timeline(source)
    assert widget.push() == 10
    source.made = 25
    assert widget.push() == 15
    message, buffers = sent[-1]
    assert (message["first"], message["n"]) == (10, 15)
    assert len(buffers[0]) == 15 * EVENT_BYTES
    assert told(sent) == in_source(source, 10, 25)


def test_nothing_is_sent_while_nothing_changes(sent: Sent) -> None:
    widget = Timeline(Counted(10))
    widget.push()
    assert len(sent) == 1
    assert widget.push() == 0
    assert len(sent) == 1


def test_a_burst_is_spread_over_ticks_and_nothing_is_lost(sent: Sent) -> None:
    source, clock = Counted(REPLAY_EVENTS), Clock()
    widget = Timeline(source, clock)
    assert push_all(widget, clock) == len(sent)
    found: list[Any] = []
    for i, (message, buffers) in enumerate(sent):
        assert message["first"] == len(found)
        assert message["skipped"] == 0
        assert len(buffers[0]) <= BURST_BYTES
        found += told(sent, i)
    assert sorted(found) == in_source(source, 0, REPLAY_EVENTS)


def test_who_is_far_behind_skips_to_the_newest_steps_and_says_so(sent: Sent) -> None:
    per_step = 2 * 2 * 16  # two lanes, two ranks, eight microbatches there and back
    source, clock = Counted(REPLAY_EVENTS + 5000), Clock()
    widget = Timeline(source, clock)
    push_all(widget, clock)
    message, _ = sent[0]
    begin = source.made // per_step * per_step  # of the newest step
    begin -= (MANY_EVENTS - (source.made - begin)) // per_step * per_step
    assert message["skipped"] == message["first"] == begin
    assert f"{begin:,} events not shown live" in message["text"]
    found = chain.from_iterable(told(sent, i) for i in range(len(sent)))
    assert sorted(found) == in_source(source, begin, source.made)


def test_what_the_source_forgot_is_counted_as_skipped(sent: Sent) -> None:
    source = Counted(100)
    widget = Timeline(source)
    widget.push()
    source.made, source.forgotten = 300, 250
    assert widget.push() == 50
    message, _ = sent[-1]
    assert (message["first"], message["skipped"]) == (250, 150)


# ---- late views ----------------------------------------------------------------------


def test_a_late_view_is_told_the_recent_past(sent: Sent) -> None:
    source = Counted(50)
    widget = Timeline(source)
    widget.push()
    source.made = 80  # not sent yet: the next push will carry it
    assert not widget.heard
    widget._answer(widget, {"kind": "hello"}, [])
    assert widget.heard
    message, _ = sent[-1]
    assert message["replay"]
    assert message["first"] == 0
    assert told(sent) == in_source(source, 0, 50)
    assert widget.push() == 30


def test_a_replay_is_bounded(sent: Sent) -> None:
    source, clock = Counted(3 * REPLAY_EVENTS), Clock()
    widget = Timeline(source, clock)
    push_all(widget, clock)
    widget.replay()
    message, buffers = sent[-1]
    assert message["first"] + message["n"] == 3 * REPLAY_EVENTS
    assert len(buffers[0]) <= REPLAY_EVENTS * EVENT_BYTES


def test_an_error_while_answering_is_shown_and_not_raised(sent: Sent) -> None:
    source = Counted(10)
    widget = Timeline(source)
    source.snapshot = None  # type: ignore[assignment,method-assign]
    widget._answer(widget, {"kind": "hello"}, [])
    message, _ = sent[-1]
    assert "TypeError" in message["text"]
    assert "the run goes on" in message["text"]


def test_other_messages_are_ignored(sent: Sent) -> None:
    widget = Timeline(Counted(10))
    for strange in (None, 3, [], {}, {"kind": "bye"}):
        widget._answer(widget, strange, [])
    assert not sent


# ---- words, state, traces ------------------------------------------------------------


def test_before_the_first_step_the_widget_says_that_it_waits(sent: Sent) -> None:
    widget = Timeline(Counted(0))
    widget.push()
    assert sent[-1][0]["text"] == "running: waiting for the first step"


def test_the_summary_names_step_loss_pace_and_bubble(sent: Sent) -> None:
    widget = Timeline(Counted(1000))
    widget.push()
    text = sent[-1][0]["text"]
    assert text.startswith("running, step 15 of ")
    for part in ("loss ", "1,000 tokens/s", "bubble 50.0 %"):
        assert part in text
    assert widget.state == "running"


def test_a_finished_trace_can_be_shown(sent: Sent) -> None:
    schedule = wb.Schedule.make("gpipe", num_ranks=2, num_microbatches=3)
    trace = wb.simulate(schedule, wb.CostModel.uniform())
    widget = Timeline(trace)
    widget._answer(widget, {"kind": "hello"}, [])
    message, _ = sent[-1]
    assert message["n"] == len(trace)
    assert message["state"] == "done"
    options = json.loads(widget.options)
    assert options["source"] == "simulated"
    assert not options["live"]


def test_of_a_huge_trace_the_last_events_are_shown_and_that_is_said(sent: Sent) -> None:
    source = Counted(TRACE_EVENTS + 1000)
    _, columns = source.snapshot(0)
    blank = np.zeros(source.made, np.int64)
    trace = wb.Trace(**columns, bytes=blank, live=blank)
    Timeline(trace).replay()
    message, _ = sent[-1]
    assert message["n"] == TRACE_EVENTS
    assert message["first"] == 1000
    assert "the last 200,000 shown" in message["text"]


def test_no_events_are_in_the_widget_s_state(sent: Sent) -> None:
    widget = Timeline(Counted(5000))
    empty = sum(len(str(v)) for v in Timeline(Counted(0)).get_state().values())
    widget.push()
    state = sum(len(str(v)) for v in widget.get_state().values())
    assert abs(state - empty) < 100
    assert state < 60_000


def test_a_trace_s_view_has_html_beside_it_for_readers_without_a_kernel() -> None:
    schedule = wb.Schedule.make("gpipe", num_ranks=2, num_microbatches=3)
    widget = Timeline(wb.simulate(schedule, wb.CostModel.uniform()))
    data, _ = widget._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    assert "<svg" in data["text/html"]
    assert data["text/plain"] == "Timeline(waiting)"
