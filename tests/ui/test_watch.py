"""Watching: a thread that sends, that ends with the run, and that cannot hurt it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from workbench.ui import Timeline, watch
from workbench.ui.watch import Frozen

from .live_source import LiveSource

SOON = 10.0  # seconds within which anything here must have happened


class Handle:
    def __init__(self) -> None:
        self.shown: list[Any] = []

    def update(self, what: Any) -> None:
        self.shown.append(what)


class Notebook:
    """What a notebook would show: displays, their updates, and messages."""

    def __init__(self) -> None:
        self.displayed: list[tuple[Any, Handle]] = []
        self.messages: list[dict[str, Any]] = []

    def display(self, what: Any, display_id: bool = False) -> Handle:
        self.displayed.append((what, Handle()))
        return self.displayed[-1][1]

    def frozen(self, i: int = 0) -> str:
        """The HTML that took the widget's place; waits for it."""
        handle = self.displayed[i][1]
        wait_until(lambda: bool(handle.shown))
        assert isinstance(handle.shown[-1], Frozen)
        return handle.shown[-1]._repr_html_()


def wait_until(done: Callable[[], bool]) -> None:
    limit = time.monotonic() + SOON
    while not done():
        assert time.monotonic() < limit, "not within the time that it should take"
        time.sleep(0.01)


def watchers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("watch-")]


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebook]:
    shown = Notebook()
    monkeypatch.setattr("IPython.get_ipython", lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setattr("IPython.display.display", shown.display)
    monkeypatch.setattr(
        Timeline, "send", lambda self, content, buffers=None: shown.messages.append(content)
    )  # fmt: skip
    yield shown
    wait_until(lambda: not watchers())


def test_watching_returns_at_once_sends_and_freezes(notebook: Notebook) -> None:
    source = LiveSource(seconds=1.0)
    begun = time.monotonic()
    watch(source)
    assert time.monotonic() - begun < 0.5
    assert isinstance(notebook.displayed[0][0], Timeline)
    html = notebook.frozen()
    assert "finished, step 6 of 6" in html
    assert "<svg" in html
    assert "<script" not in html
    sent = [m for m in notebook.messages if m["kind"] == "events" and "replay" not in m]
    assert sum(m["n"] for m in sent) == source.count
    assert 3 <= len(sent) <= 13


def test_a_second_look_shows_the_same_timeline_by_the_same_thread(
    notebook: Notebook,
) -> None:
    source = LiveSource(seconds=1.0)
    watch(source)
    watch(source)
    assert notebook.displayed[0][0] is notebook.displayed[1][0]
    assert len(watchers()) == 1
    assert notebook.frozen(0) == notebook.frozen(1)


def test_a_busy_kernel_s_page_is_told_the_past_unasked_and_ever_more_seldom(
    notebook: Notebook,
) -> None:
    watch(LiveSource(seconds=1.5))
    notebook.frozen()
    replays = [m for m in notebook.messages if "replay" in m]
    assert 2 <= len(replays) <= 3  # after 0.25, 0.5 and 1 second


def test_once_a_view_was_heard_nothing_is_repeated(notebook: Notebook) -> None:
    watch(LiveSource(seconds=1.0))
    notebook.displayed[0][0].heard = True
    notebook.frozen()
    assert not [m for m in notebook.messages if "replay" in m]


def test_a_page_that_is_loaded_again_is_told_the_past_even_if_it_is_not_heard(
    notebook: Notebook,
) -> None:
    watch(LiveSource(seconds=3.0))
    widget = notebook.displayed[0][0]
    widget._answer(widget, {"kind": "hello"}, [])
    before = sum(m.get("replay", False) for m in notebook.messages)
    widget.get_state()  # as JupyterLab asks for it when the page comes back
    wait_until(lambda: sum(m.get("replay", False) for m in notebook.messages) > before)
    notebook.frozen()


def test_an_error_of_the_watcher_is_shown_and_the_run_goes_on(
    notebook: Notebook,
) -> None:
    class Broken(LiveSource):
        def progress(self) -> dict[str, Any]:
            if self.count > 100:
                raise RuntimeError("<no> progress")
            return super().progress()

    source = Broken(seconds=1.0)
    watch(source)
    html = notebook.frozen()
    assert source.state == "finished"
    texts = [m["text"] for m in notebook.messages if m["kind"] == "status"]
    assert texts == ["watching ended: RuntimeError: <no> progress; the run goes on"]
    assert "RuntimeError: &lt;no&gt; progress" in html


def test_a_page_that_is_gone_stops_nothing(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("the comm is closed")

    monkeypatch.setattr(Timeline, "send", fail)
    source = LiveSource(seconds=0.5)
    watch(source)
    assert "finished" in notebook.frozen()


def test_a_run_that_is_over_is_shown_frozen_at_once(notebook: Notebook) -> None:
    source = LiveSource(seconds=0.0)
    watch(source)
    assert isinstance(notebook.displayed[0][0], Frozen)
    assert not watchers()


@pytest.mark.parametrize("shell", [None, SimpleNamespace()])
def test_outside_a_notebook_nothing_is_done(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch, shell: Any
) -> None:
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    watch(LiveSource(seconds=5.0))
    assert not notebook.displayed
    assert not watchers()
