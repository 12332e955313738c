"""The widget's messages and the frozen HTML, without a browser."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import workbench as wb
from workbench.trace.encode import EVENT_BYTES, LAYOUT, encode
from workbench.ui import Timeline, static_html
from workbench.ui.timeline import REPLAY_EVENTS


def decode(buffer: bytes, count: int) -> dict[str, np.ndarray]:
    """What timeline.js does."""
    columns, at = {}, 0
    for name, kind in LAYOUT:
        size = np.dtype(kind).itemsize * count
        columns[name] = np.frombuffer(buffer[at : at + size], kind)
        at += size
    assert at == len(buffer)
    return columns


class Source:
    """A live source with ``count`` events."""

    num_ranks, title, source_label = 2, "<b>title</b>", "measured"

    def __init__(self, count: int) -> None:
        self.count = count

    def snapshot(self, cursor: int) -> tuple[int, dict[str, np.ndarray]]:
        numbers = np.arange(cursor, self.count)
        columns = dict.fromkeys(("rank", "stage", "kind", "lane", "step"), numbers % 2)
        times = {"start": numbers * 1000, "end": numbers * 1000 + 500}
        return self.count, {**columns, **times, "microbatch": numbers % 7}

    def progress(self) -> dict[str, Any]:
        return {
            "state": "running",
            "step": 3,
            "steps": 9,
            "loss": 1.5,
            "tokens_per_second": 1000.0,
            "bubble_fraction": 0.25,
        }


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, Any], Any]]:
    messages: list[tuple[dict[str, Any], Any]] = []
    monkeypatch.setattr(
        Timeline, "send", lambda self, content, buffers=None: messages.append((content, buffers))
    )  # fmt: skip
    return messages


def test_encoding_keeps_every_event_and_sorts_within_ranks() -> None:
    _, columns = Source(100).snapshot(0)
    shuffled = np.random.default_rng(0).permutation(100)
    found = decode(encode({n: c[shuffled] for n, c in columns.items()}, 1e-9), 100)
    for rank in (0, 1):
        starts = found["start"][found["rank"] == rank]
        np.testing.assert_allclose(starts, np.arange(rank, 100, 2) * 1e-6)
    np.testing.assert_allclose(found["duration"], 500e-9, rtol=1e-5)


def test_times_after_hours_keep_their_nanoseconds() -> None:
    _, columns = Source(2).snapshot(0)
    hours = 10 * 3600 * 10**9
    columns["start"], columns["end"] = columns["start"] + hours, columns["end"] + hours
    found = decode(encode(columns, 1e-9), 2)
    assert found["start"][1] - found["start"][0] == pytest.approx(1e-6, abs=1e-11)


def test_only_what_is_new_is_sent(sent: list[Any]) -> None:
    source = Source(10)
    widget = Timeline(source)
    assert widget.push() == 10
    assert widget.push() == 0
    source.count = 25
    assert widget.push() == 15
    message, buffers = sent[-1]
    assert message["n"] == 15
    assert not message["replace"]
    assert len(buffers[0]) == 15 * EVENT_BYTES


def test_a_message_is_bounded_and_says_what_it_skips(sent: list[Any]) -> None:
    widget = Timeline(Source(REPLAY_EVENTS + 5000))
    assert widget.push() == REPLAY_EVENTS
    message, buffers = sent[-1]
    assert len(buffers[0]) <= REPLAY_EVENTS * EVENT_BYTES
    assert message["replace"]
    assert "5000 events not shown live" in message["text"]


def test_a_late_view_is_told_the_recent_past(sent: list[Any]) -> None:
    widget = Timeline(Source(50))
    widget.push()
    widget._answer(widget, {"kind": "hello"}, [])
    message, buffers = sent[-1]
    assert message["replace"]
    assert len(decode(buffers[0], message["n"])["start"]) == 50


def test_a_finished_trace_can_be_shown(sent: list[Any]) -> None:
    schedule = wb.Schedule.make("gpipe", num_ranks=2, num_microbatches=3)
    trace = wb.simulate(schedule, wb.CostModel.uniform())
    widget = Timeline(trace)
    widget._answer(widget, {"kind": "hello"}, [])
    message, _ = sent[-1]
    assert message["n"] == len(trace)
    assert message["state"] == "done"
    assert json.loads(widget.options)["source"] == "simulated"


def test_nothing_of_the_events_is_in_the_widget_s_state(sent: list[Any]) -> None:
    widget = Timeline(Source(10_000))
    widget.push()
    assert len(widget.options) + len(widget.state) < 2000


def test_frozen_html_has_no_script_and_is_small(
    tmp_path: Path, make_job: Callable[..., wb.Job]
) -> None:
    run = wb.launch(make_job(steps=30), folder=tmp_path / "r").wait(60)
    html = static_html(run)
    assert "<svg" in html
    assert "finished, step 30 of 30" in html
    assert "<script" not in html
    assert len(html) < 200_000
