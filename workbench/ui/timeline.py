"""The timeline widget: a canvas fed by binary messages. Drawing is in
trace/timeline.js."""

from __future__ import annotations

import json
from typing import Any, Protocol

import anywidget
import numpy as np
import traitlets

from ..engine.run import progress_words
from ..trace import COLUMNS, Trace
from ..trace.encode import EVENT_BYTES, encode, view_options
from ..trace.html import renderer

#: Events told to a view that opens late; older ones are in the run's folder.
REPLAY_EVENTS = 20_000


class Live(Protocol):
    """What a timeline can show while it grows; a ``Run`` is one."""

    @property
    def num_ranks(self) -> int: ...
    @property
    def title(self) -> str: ...
    @property
    def source_label(self) -> str: ...
    def snapshot(self, cursor: int) -> tuple[int, dict[str, np.ndarray]]: ...
    def progress(self) -> dict[str, Any]: ...


class Timeline(anywidget.AnyWidget):
    """The timeline of a finished ``Trace``, or of a ``Run`` while it goes on.

    Zoom with the wheel or W and S, pan by dragging or with A, D and the arrows, F
    follows the newest events. Only what is new is sent, as one binary buffer, and
    nothing is kept in the widget's state: a saved notebook stays small.
    """

    _esm = renderer()
    options = traitlets.Unicode().tag(sync=True)
    state = traitlets.Unicode("waiting").tag(sync=True)

    def __init__(self, shown: Trace | Live) -> None:
        self._shown = shown
        self._cursor = 0
        if isinstance(shown, Trace):
            schedule = shown.metadata.get("schedule", "Timeline")
            about = (shown.num_ranks, str(schedule), shown.source, shown.unit)
            kinds = set(shown.kind.tolist())
        else:
            about = (shown.num_ranks, shown.title, shown.source_label, "s")
            kinds = set()
        ranks, title, source, unit = about
        options = view_options(
            ranks=ranks, title=title, source=source, unit=unit, kinds=kinds
        )
        super().__init__(options=json.dumps(options))
        self.on_msg(self._answer)

    def _answer(self, _: Any, message: Any, buffers: Any) -> None:
        """A view that has just opened is told the recent past."""
        if isinstance(message, dict) and message.get("kind") == "hello":
            self.replay()

    def replay(self) -> None:
        """Sends the recent past anew; views forget what they had."""
        shown = self._shown
        if isinstance(shown, Trace):
            columns = {name: getattr(shown, name) for name in COLUMNS}
            text = f"makespan {shown.makespan:.6g} {shown.unit}, {len(shown)} events"
            self._tell(columns, shown.tick, replace=True, text=text, state="done")
            return
        _, columns = shown.snapshot(max(0, self._cursor - REPLAY_EVENTS))
        self._tell(columns, 1e-9, replace=True, **summary(shown.progress()))

    def push(self) -> int:
        """Sends what is new since the last push; returns the number of events sent."""
        assert not isinstance(self._shown, Trace)
        self._cursor, columns = self._shown.snapshot(self._cursor)
        count = len(columns["start"])
        # Far behind: what is skipped is in the trace, and the view says that it was
        # skipped.
        skipped = count > REPLAY_EVENTS
        if skipped:
            columns = {name: c[-REPLAY_EVENTS:] for name, c in columns.items()}
        told = summary(self._shown.progress())
        if skipped:
            told["text"] += f", {count - REPLAY_EVENTS} events not shown live"
        self._tell(columns, 1e-9, replace=skipped, **told)
        return min(count, REPLAY_EVENTS)

    def _tell(
        self,
        columns: dict[str, np.ndarray],
        tick: float,
        *,
        replace: bool,
        text: str,
        state: str,
    ) -> None:
        count = len(columns["start"])
        buffer = encode(columns, tick)
        assert len(buffer) == count * EVENT_BYTES
        message = {
            "kind": "events",
            "n": count,
            "replace": replace,
            "text": text,
            "state": state,
        }
        self.send(message, [buffer])
        if self.state != state:
            self.state = state

    def __repr__(self) -> str:
        return f"Timeline({self.state})"


def summary(now: dict[str, Any]) -> dict[str, str]:
    """A run's progress as the line under the timeline, and its state."""
    if not now["step"]:
        return {
            "text": f"{now['state']}: waiting for the first step",
            "state": now["state"],
        }
    begin = f"{now['state']}, step {now['step']} of {now['steps']}"
    text = ", ".join([begin, *progress_words(now)])
    return {"text": text, "state": now["state"]}
