"""Observed: what is known of a run, wherever its ranks are.

Events, losses and the state arrive from the C engine of this process or from ranks
elsewhere; the trace, the report, the progress and the display follow from these alone.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections import deque
from typing import Any

import numpy as np

from ..checkpoint import CheckpointState, RunFolder
from ..trace import BubbleReport, Trace
from .events import EventLog
from .job import Job

MAX_EVENTS = 2_000_000

#: Seconds over which a speed is told; steps may be heard of several at once.
SHORTEST_SPAN = 0.05

#: A run is over in these states; "stopped" can be resumed.
OVER = ("stopped", "finished", "failed")


def _mean(losses: np.ndarray) -> np.ndarray:
    """(steps,) from (steps, microbatches): microbatches added in ascending order."""
    total = np.zeros(len(losses))
    for column in losses.T:
        total += column
    return total / losses.shape[1]


def progress_words(now: dict[str, Any]) -> list[str]:
    """What ``Run.progress`` says, as words: loss, tokens/s and bubble, as far as known."""
    words = []
    if now["loss"] is not None:
        words.append(f"loss {now['loss']:.4f}")
    if now["tokens_per_second"] is not None:
        words.append(f"{now['tokens_per_second']:,.0f} tokens/s")
    if now["bubble_fraction"] is not None:
        words.append(f"bubble {100 * now['bubble_fraction']:.1f} %")
    return words


class Observed:
    """A run as it is seen: its job, its state, and what it has done so far.

    ``state`` is one of "starting", "running", "paused", "stopped", "finished",
    "failed".
    """

    def __init__(self, job: Job, folder: RunFolder) -> None:
        self.job = job
        self.folder = folder.path
        self.id = folder.path.name
        self.state = "starting"
        self.error: BaseException | None = None
        self.evaluations: dict[int, float] = {}
        self._folder = folder
        self._events = EventLog(MAX_EVENTS)
        self._losses = np.full((job.steps, job.num_microbatches or 0), np.nan)
        self._norms = np.full(job.steps, np.nan)
        factors = job.learning_rate.factors(job.steps)
        self._rates = (job.optimizer.lr * factors).astype(np.float32)
        self._done = 0  # steps whose update is complete
        # When which step was done.
        self._marks: deque[tuple[float, int]] = deque(maxlen=20)
        self._changed = threading.Condition()
        self._bubble: tuple[int, float | None] = (0, None)  # as of which step, and what
        self._about: dict[str, Any] = {}  # further metadata of the trace
        #: Why the newest checkpoint could not be written; those before it stand.
        self.checkpoint_error: str | None = None

    # ---- what arrives ----------------------------------------------------------------

    def _set_state(self, state: str) -> None:
        self.state = state
        with self._changed:
            self._changed.notify_all()

    def _mark(self, done: int, fresh: bool = False) -> None:
        """So many steps are done now. ``fresh``: the run has just begun or gone on, so
        that the time before does not count for its speed."""
        if fresh:
            self._marks.clear()
        if fresh or done > self._done:
            self._marks.append((time.monotonic(), done))
        self._done = done

    def _take_history(self, state: CheckpointState) -> None:
        """What was done before the checkpoint."""
        history = state.tensors["history"]
        self._losses[: state.step] = history["losses"]
        self._norms[: state.step] = history["norms"]
        self._done = state.step

    def _take_losses(self, first: int, losses: np.ndarray, norms: np.ndarray) -> None:
        """Steps ``first`` on are done. losses: (n, microbatches), norms: (n,)."""
        last = first + len(losses)
        self._losses[first:last], self._norms[first:last] = losses, norms
        if last > self._done:
            self._mark(last, fresh=not self._marks)

    # ---- what it has done ------------------------------------------------------------

    @property
    def steps_done(self) -> int:
        return self._done

    @property
    def losses(self) -> np.ndarray:
        """(steps done,) mean loss of each step, its microbatches added in ascending
        order."""
        return _mean(self._losses[: self._done])

    @property
    def gradient_norms(self) -> np.ndarray:
        """(steps done,) global gradient norms, before clipping."""
        return self._norms[: self._done].copy()

    @property
    def learning_rates(self) -> np.ndarray:
        """(steps done,) float32 learning rates."""
        return self._rates[: self._done].copy()

    @property
    def events_dropped(self) -> int:
        """Events that are not in ``trace``: past the limit, or overwritten before being
        read."""
        return self._events.dropped + self._events.lost

    @property
    def trace(self) -> Trace:
        """What was measured so far: ``measured``, or ``assembled`` under the virtual
        clock."""
        return self._trace(self._events.all())

    def _trace(self, events: np.ndarray) -> Trace:
        schedule = self.job.executed
        return Trace.from_events(
            events,
            source=self.source_label,
            metadata={
                "schedule": schedule.name,
                "num_ranks": schedule.num_ranks,
                "num_stages": schedule.num_stages,
                "num_microbatches": schedule.num_microbatches,
                "num_copies": schedule.num_copies,
                "channel_capacity": self.job.capacity,
                "threads_per_rank": self.job.chosen_threads,
                "run": self.id,
                "events_dropped": self.events_dropped,
                **self._about,
            },
        )

    @property
    def report(self) -> BubbleReport:
        """The bubbles of the run's last steps (at most 20; the first one warms up)."""
        return self.recent_trace().bubbles()

    def recent_events(self, steps: int) -> np.ndarray:
        """(n,) events of dtype ``tables.EVENT`` of the last whole steps, sorted by rank
        and start."""
        first, last = self._recent(steps)
        events = self._events.from_step(first)
        return events[events["step"] < last]

    def recent_trace(self, steps: int = 20) -> Trace:
        """The trace of the last whole steps."""
        first, last = self._recent(steps)
        return self._trace(self._events.from_step(first)).step_range(first, last)

    def _recent(self, steps: int) -> tuple[int, int]:
        """The last whole steps, [first, last); the run's first one warms up."""
        last = self._done
        return max(min(1, last - 1), last - steps, 0), last

    # ---- watching --------------------------------------------------------------------

    @property
    def num_ranks(self) -> int:
        return self.job.executed.num_ranks

    @property
    def title(self) -> str:
        return f"{self.job.executed.name} on {self.num_ranks} ranks, run {self.id}"

    @property
    def source_label(self) -> str:
        return "assembled" if self.job.chosen_clock == "virtual" else "measured"

    def snapshot(self, cursor: int = 0) -> tuple[int, dict[str, np.ndarray]]:
        """(new cursor, columns of the events since ``cursor``), times in ns since
        launch."""
        cursor, events = self._events.since(cursor)
        return cursor, {name: events[name] for name in events.dtype.names or ()}

    def progress(self) -> dict[str, Any]:
        """Step, loss, tokens/s and bubble of now, as plain values."""
        done = self._done
        return {
            "state": self.state,
            "step": done,
            "steps": self.job.steps,
            "loss": _mean(self._losses[done - 1 : done])[0] if done else None,
            "tokens_per_second": self.tokens_per_second,
            "bubble_fraction": self._bubble_fraction(done),
        }

    def _bubble_fraction(self, done: int) -> float | None:
        """Of the last two whole steps; worked out once per step, however often
        asked."""
        if self._bubble[0] != done:
            recent = self.recent_trace(2)
            self._bubble = (
                done,
                recent.bubbles().bubble_fraction if len(recent) else None,
            )
        return self._bubble[1]

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens trained on per second of the wall clock, over the last steps seen."""
        marks = list(self._marks)
        if len(marks) < 2 or marks[-1][1] == marks[0][1]:
            return None
        (t0, step0), (t1, step1) = marks[0], marks[-1]
        if t1 - t0 < SHORTEST_SPAN:
            return None
        return self.job.tokens_per_step * (step1 - step0) / (t1 - t0)

    def watch(self) -> Any:
        """Shows the live timeline in the notebook and returns at once."""
        # The one look upwards in the house: drawing is ui's, the handle is ours, and a
        # headless rank must not load widgets.
        return importlib.import_module("workbench.ui").watch(self)

    def __repr__(self) -> str:
        return f"Run({self.id}, {self.state}, step {self._done} of {self.job.steps})"

    def _repr_html_(self) -> str:
        from html import escape

        loss = f"{self.losses[-1]:.4f}" if self._done else "-"
        return (
            f"<table><tr><th>run</th><td>{escape(self.id)}</td></tr>"
            f"<tr><th>state</th><td>{self.state}</td></tr>"
            f"<tr><th>step</th><td>{self._done} of {self.job.steps}</td></tr>"
            f"<tr><th>loss</th><td>{loss}</td></tr>"
            f"<tr><th>folder</th><td>{escape(str(self.folder))}</td></tr></table>"
        )
