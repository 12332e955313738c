"""The timeline widget: a canvas fed by binary messages. It decides what is sent, and
keeps every message bounded; watch.py decides when. Drawing is in trace/timeline.js."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import anywidget
import numpy as np
import traitlets

from ..engine.observed import progress_words
from ..trace import COLUMNS, Trace
from ..trace.encode import EVENT_BYTES, encode, view_options
from ..trace.html import renderer
from .ticks import REPLAY_EVENTS, Budget, Waiting

#: Events of a finished trace that are shown: its last ones.
TRACE_EVENTS = 200_000


class Live(Protocol):
    """What a timeline can show while it grows; a ``Run`` is one.

    ``snapshot(cursor)`` gives (new cursor, columns of the events from number ``cursor``
    on), in the order in which they were recorded; cursors count events, so the first
    column entry is event ``new cursor - length``, and a cursor past the end gives none.
    Times are ns since the run began.
    """

    @property
    def num_ranks(self) -> int: ...
    @property
    def title(self) -> str: ...
    @property
    def source_label(self) -> str: ...
    @property
    def state(self) -> str: ...
    def snapshot(self, cursor: int) -> tuple[int, dict[str, np.ndarray]]: ...
    def progress(self) -> dict[str, Any]: ...


def _cut(
    columns: Mapping[str, np.ndarray], first: int, last: int
) -> dict[str, np.ndarray]:
    return {name: column[first:last] for name, column in columns.items()}


class Timeline(anywidget.AnyWidget):
    """The timeline of a finished ``Trace``, or of a ``Run`` while it goes on.

    Zoom with the wheel or W and S, pan by dragging or with A, D and the arrows, F
    follows the newest events. Only what is new is sent, as one binary buffer of bounded
    size, and no events are kept in the widget's state: a saved notebook stays small.
    """

    _esm = renderer()
    options = traitlets.Unicode().tag(sync=True)
    state = traitlets.Unicode("waiting").tag(sync=True)

    def __init__(
        self, shown: Trace | Live, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._shown = shown
        self._cursor = 0  # events before this number have been sent, or skipped
        self._waiting = Waiting()
        self._budget = Budget(clock)
        self._told: dict[str, str] = {}
        # Held while sending too: what is sent first must also arrive first.
        self._sending = threading.Lock()
        self.heard = False  # a view has said that it listens
        self.asked = 0  # times that the whole state was asked for
        live = not isinstance(shown, Trace)
        if isinstance(shown, Trace):
            schedule = shown.metadata.get("schedule", "Timeline")
            about = (shown.num_ranks, str(schedule), shown.source, shown.unit)
        else:
            about = (shown.num_ranks, shown.title, shown.source_label, "s")
        ranks, title, source, unit = about
        options = view_options(
            ranks=ranks, title=title, source=source, unit=unit, kinds=set()
        )
        super().__init__(options=json.dumps({**options, "live": live}))
        self.on_msg(self._answer)

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> Any:
        """A page that is loaded again begins with asking for the whole state. What it
        then says may never come through, so it counts as not yet heard."""
        if key is None:
            self.heard = False
            self.asked += 1
        return super().get_state(key=key, drop_defaults=drop_defaults)

    def _answer(self, _: Any, message: Any, buffers: Any) -> None:
        """A view that has just opened, or has missed something, is told the recent
        past."""
        if isinstance(message, dict) and message.get("kind") == "hello":
            self.heard = True
            try:
                self.replay()
            except Exception as error:
                self.show_error(error)

    def replay(self) -> None:
        """Sends the recent past anew; views that have it already ignore it."""
        with self._sending:
            if isinstance(self._shown, Trace):
                self._send_trace(self._shown)
                return
            begin = max(0, self._cursor - REPLAY_EVENTS)
            cursor, columns = self._shown.snapshot(begin)
            first = cursor - len(columns["start"])
            columns = _cut(columns, 0, max(0, self._cursor - first))
            told = summary(self._shown.progress(), self._shown.state)
            self._tell(columns, 1e-9, first, told, replay=True)

    def _send_trace(self, trace: Trace) -> None:
        text = f"makespan {trace.makespan:.6g} {trace.unit}, {len(trace)} events"
        columns = {name: getattr(trace, name) for name in COLUMNS}
        first = 0
        if len(trace) > TRACE_EVENTS:
            text += f", the last {TRACE_EVENTS:,} shown"
            order = np.argsort(trace.start, kind="stable")[-TRACE_EVENTS:]
            columns = {name: column[order] for name, column in columns.items()}
            first = len(trace) - TRACE_EVENTS
        told = {"text": text, "state": "done"}
        self._tell(columns, trace.tick, first, told, replay=True)

    def push(self) -> int:
        """Sends what is new since the last push, as far as the budget of ticks.py
        allows; returns the number of events sent. Sends nothing when nothing has
        changed."""
        shown = self._shown
        assert not isinstance(shown, Trace)
        with self._sending:
            waiting = self._waiting
            waiting.take(*shown.snapshot(waiting.read))
            told = summary(shown.progress(), shown.state)
            if waiting.skipped:
                told["text"] += f", {waiting.skipped:,} events not shown live"
            end, columns = waiting.give(self._budget.events)
            count = len(columns["start"]) if columns else 0
            if not count and told == self._told:
                return 0
            # In the numbers, what was left out is before what is sent.
            end = end if count else self._cursor
            first = end - count
            skipped = first - self._cursor
            self._cursor = end
            self._budget.spend(self._tell(columns, 1e-9, first, told, skipped=skipped))
            return count

    def show_error(self, error: Exception) -> None:
        """Says in the widget that watching went wrong; the run knows nothing of it."""
        text = f"watching ended: {type(error).__name__}: {error}; the run goes on"
        self.send({"kind": "status", "text": text})

    def _tell(
        self,
        columns: Mapping[str, np.ndarray],
        tick: float,
        first: int,
        told: dict[str, str],
        **more: Any,
    ) -> int:
        """Returns the size of what was sent, in bytes."""
        count = len(columns["start"]) if columns else 0
        buffer = encode(columns, tick) if count else b""
        assert len(buffer) == count * EVENT_BYTES
        message = {"kind": "events", "first": first, "n": count, **told, **more}
        self.send(message, [buffer])
        self._told = told
        if self.state != told["state"]:
            self.state = told["state"]
        return len(buffer) + len(json.dumps(message))

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """The view, and beside it HTML for whoever has no kernel to ask."""
        from .freeze import static_html

        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is not None and isinstance(self._shown, Trace):
            bundle[0]["text/html"] = static_html(self._shown)
        return bundle

    def __repr__(self) -> str:
        return f"Timeline({self.state})"


def summary(now: Mapping[str, Any], state: str) -> dict[str, str]:
    """A run's progress as the line under the timeline, and its state."""
    if not now["step"]:
        return {"text": f"{state}: waiting for the first step", "state": state}
    begin = f"{state}, step {now['step']} of {now['steps']}"
    return {"text": ", ".join([begin, *progress_words(dict(now))]), "state": state}
