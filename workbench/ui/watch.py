"""Watching a run: a live timeline while it goes on, static HTML when it has ended.

A daemon thread per run asks for what is new and sends it. Whatever goes wrong here is
shown in the widget and never reaches the run.
"""

from __future__ import annotations

import threading
import time
from html import escape
from typing import Any

from ..engine.observed import OVER
from .freeze import static_html
from .timeline import Live, Timeline

HERTZ = 10
#: A page needs a while to load the widget, and what was sent before is lost on it. When
#: a busy kernel cannot hear it ask, or JupyterLab loses what a page says that was loaded
#: again, it is told the recent past unasked: first after this long, then after twice as
#: long, and so on, until a view has been heard.
GREETING_SECONDS = 0.25

_watched: dict[int, Watcher] = {}  # by the id of a run whose thread lives
_lock = threading.Lock()


class Watcher:
    """One run's widget, the places where it is shown, and the thread that feeds it."""

    def __init__(self, run: Live) -> None:
        self.run = run
        self.widget = Timeline(run)
        self.handles: list[Any] = []
        self.frozen: Frozen | None = None
        self.thread = threading.Thread(
            target=self._follow, name=f"watch-{run.title}", daemon=True
        )

    def show(self) -> None:
        """Displays the widget under the running cell."""
        from IPython.display import display

        handle = display(self.widget, display_id=True)
        with _lock:
            self.handles.append(handle)
            frozen = self.frozen
        if frozen is not None:  # the run ended in between
            handle.update(frozen)

    def _follow(self) -> None:
        try:
            self._feed()
        except Exception as error:
            self._tell(error)
            while self.run.state not in OVER:
                time.sleep(1.0)
        finally:
            with _lock:
                _watched.pop(id(self.run), None)
        self._freeze()

    def _feed(self) -> None:
        asked = -1
        while True:
            over = self.run.state in OVER
            self.widget.push()
            if over:
                return
            if self.widget.asked != asked:  # another page is there
                asked = self.widget.asked
                begun, greeting = time.monotonic(), GREETING_SECONDS
            if not self.widget.heard and time.monotonic() - begun > greeting:
                self.widget.replay()
                greeting *= 2
            time.sleep(1 / HERTZ)

    def _tell(self, error: Exception) -> None:
        try:
            self.widget.show_error(error)
        except Exception:  # not even that: the frozen HTML will say it
            pass

    def _freeze(self) -> None:
        """Puts static HTML where the widget was."""
        try:
            html = static_html(self.run)
        except Exception as error:
            told = f"watching ended: {type(error).__name__}: {error}"
            html = f"<p><b>{escape(self.run.title)}</b>: {escape(told)}</p>"
        with _lock:
            self.frozen = Frozen(html)
            handles = list(self.handles)
        try:
            for handle in handles:
                handle.update(self.frozen)
            self.widget.close()
        except Exception as error:
            self._tell(error)


class Frozen:
    """Displays as HTML; as text it says what it is."""

    def __init__(self, html: str) -> None:
        self._html = html

    def _repr_html_(self) -> str:
        return self._html

    def __repr__(self) -> str:
        return "<the run's last steps>"


def watch(run: Live) -> None:
    """Shows the run's live timeline under the cell and returns at once.

    A daemon thread sends what is new about ten times a second; when the run has ended
    the widget is replaced by static HTML. Watching a run in a second cell shows the
    same timeline again, at no further cost. Outside a notebook there is nothing to
    show, and nothing is done.
    """
    from IPython import get_ipython
    from IPython.display import display

    if getattr(get_ipython(), "kernel", None) is None:
        return
    if run.state in OVER:
        display(Frozen(static_html(run)))
        return
    with _lock:
        watcher = _watched.get(id(run))
        if watcher is None:
            watcher = _watched[id(run)] = Watcher(run)
    watcher.show()
    with _lock:
        if watcher.thread.ident is None:
            watcher.thread.start()
