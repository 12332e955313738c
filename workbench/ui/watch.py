"""Watching a run: a live timeline while it goes on, static HTML when it has ended."""

from __future__ import annotations

import threading
import time
from html import escape
from typing import Any

from ..engine import Run
from ..engine.run import OVER
from .timeline import Timeline, summary

HERTZ = 10
#: How long everything is sent anew, until the page has surely loaded the widget.
GREETING_SECONDS = 4.0
STATIC_STEPS = 2


def static_html(run: Run) -> str:
    """The run's last steps, bubbles and losses as HTML without scripts: what a saved
    notebook shows when there is no kernel."""
    now = summary(run.progress())["text"]
    parts = [f"<p><b>{escape(run.title)}</b> ({run.source_label}): {escape(now)}</p>"]
    if run.steps_done:
        last = run.recent_trace(STATIC_STEPS)
        parts.append(f'<div style="overflow-x:auto">{last._repr_svg_()}</div>')
        parts.append(run.report._repr_html_())
    for step, loss in run.evaluations.items():
        parts.append(f"<p>held-out loss after step {step}: {loss:.4f}</p>")
    parts.append(f"<p>files in <code>{escape(str(run.folder.name))}</code></p>")
    return "".join(parts)


def _follow(run: Run, widget: Timeline, handle: Any) -> None:
    """The watcher thread. Whatever goes wrong here is shown, and never touches the
    run."""
    begun = time.monotonic()
    try:
        while True:
            over = run.state in OVER
            if time.monotonic() - begun < GREETING_SECONDS:
                widget._cursor, _ = run.snapshot(widget._cursor)
                widget.replay()
            else:
                widget.push()
            if over:
                break
            time.sleep(1 / HERTZ)
        handle.update(_Html(static_html(run)))
        widget.close()
    except Exception as error:
        text = f"watching ended: {type(error).__name__}: {error}; the run goes on"
        widget.send({"kind": "events", "n": 0, "text": text})


class _Html:
    """Displays as HTML; as text it says what it is."""

    def __init__(self, html: str) -> None:
        self._html = html

    def _repr_html_(self) -> str:
        return self._html

    def __repr__(self) -> str:
        return "<the run's last steps>"


def watch(run: Run) -> None:
    """Shows the run's live timeline under the cell and returns at once.

    A daemon thread pushes what is new about ten times a second; when the run has ended
    the widget is replaced by static HTML. Outside a notebook there is nothing to show,
    and nothing is done.
    """
    from IPython import get_ipython
    from IPython.display import display

    if get_ipython() is None:
        return
    if run.state in OVER:
        display(_Html(static_html(run)))
        return
    widget = Timeline(run)
    handle = display(widget, display_id=True)
    thread = threading.Thread(
        target=_follow, args=(run, widget, handle), name=f"watch-{run.id}", daemon=True
    )
    thread.start()
