"""How much of a run is sent to the page, and what when there is more than that.

A page far away gets less than 200 kB/s. Where a run makes more events than fit, whole
steps are left out, so that those shown are whole; the view hatches what was left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

from ..trace.encode import EVENT_BYTES

#: On average, and how much more at once: in no second more than the two together.
BYTES_PER_SECOND = 160_000
BURST_BYTES = 32_000
#: Of a message that is not events, about.
MESSAGE_BYTES = 400
#: When so many wait, no new step is begun until those that have begun are sent.
MANY_EVENTS = BYTES_PER_SECOND // EVENT_BYTES
#: When only so many wait, the next step is begun.
FEW_EVENTS = MANY_EVENTS // 10
#: Events told to a view that opens late; older ones are in the run's folder. Of more
#: than these at once only the last steps are sent.
REPLAY_EVENTS = 20_000
#: And what one step may hold; the rest of a larger one is left out.
MOST_EVENTS = 200_000


class Budget:
    """Bytes that may be sent now: a bucket that fills as time passes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left: float = BURST_BYTES
        self._as_of = clock()

    @property
    def events(self) -> int:
        """How many events may be sent now."""
        now = self._clock()
        self._left += BYTES_PER_SECOND * (now - self._as_of)
        self._left = min(self._left, BURST_BYTES)
        self._as_of = now
        return max(0, int(self._left - MESSAGE_BYTES) // EVENT_BYTES)

    def spend(self, size: int) -> None:
        self._left -= size


class Waiting:
    """Events that will be sent, numbered as the run numbers them.

    A step is taken wholly or not at all, unless the run has forgotten a part of it or
    it has more than ``MOST_EVENTS``.
    """

    def __init__(self) -> None:
        self._columns: dict[str, np.ndarray] = {}
        self._numbers = np.empty(0, np.int64)
        #: Steps left out, as (one before the first, the last or None: all that come).
        self._left_out: list[tuple[int, int | None]] = []
        self._newest = -1  # step seen
        self.read = 0  # events of the run before this number have been seen
        self.skipped = 0  # so many of them are not sent

    def __len__(self) -> int:
        return len(self._numbers)

    def take(self, cursor: int, columns: Mapping[str, np.ndarray]) -> None:
        """What ``Live.snapshot(self.read)`` gave. Of more than ``REPLAY_EVENTS`` at
        once only the last steps are taken, and what had begun before."""
        count = len(columns["start"])
        self.skipped += cursor - count - self.read  # forgotten by the run
        self.read = cursor
        if not count:
            self._adjust()
            return
        step = np.asarray(columns["step"])
        first = _last_steps(step) if count > REPLAY_EVENTS else 0
        if not self._leaving and first - 1 > self._newest:
            self._left_out.append((self._newest, first - 1))
        chosen = np.ones(count, bool)
        for before, last in self._left_out:
            chosen &= (step <= before) | (step > (np.inf if last is None else last))
        chosen &= np.cumsum(chosen) <= MOST_EVENTS - len(self)
        self._newest = max(self._newest, int(step.max()))
        self._append(np.arange(cursor - count, cursor)[chosen], columns, chosen)
        self.skipped += count - int(chosen.sum())
        self._adjust()

    def _append(
        self, numbers: np.ndarray, columns: Mapping[str, np.ndarray], chosen: np.ndarray
    ) -> None:
        self._numbers = np.concatenate([self._numbers, numbers])
        for name, column in columns.items():
            more = column[chosen]
            old = self._columns.get(name, more[:0])
            self._columns[name] = np.concatenate([old, more])

    def _adjust(self) -> None:
        """Begins to leave steps out, or ends it."""
        if not self._leaving and len(self) > MANY_EVENTS:
            self._left_out.append((self._newest, None))
        elif self._leaving and len(self) <= FEW_EVENTS:
            self._left_out[-1] = (self._left_out[-1][0], self._newest)
        # Older ranges are over: ranks are at most about one step apart.
        self._left_out = self._left_out[-4:]

    @property
    def _leaving(self) -> bool:
        return bool(self._left_out) and self._left_out[-1][1] is None

    def give(self, most: int) -> tuple[int, dict[str, np.ndarray]]:
        """(number after the last one's, columns) of the first events, which wait no
        longer: up to ``most``, and none from beyond a step that was left out together
        with some from before it."""
        count = min(most, len(self))
        if not count:
            return 0, {}
        step = self._columns["step"][:count]
        for _, last in self._left_out:
            if last is not None and step[0] <= last:
                beyond = np.flatnonzero(step > last)
                count = min([count, *beyond[:1].tolist()])
        end = int(self._numbers[count - 1]) + 1
        given = {name: column[:count] for name, column in self._columns.items()}
        self._numbers = self._numbers[count:]
        self._columns = {name: c[count:] for name, c in self._columns.items()}
        return end, given


def _last_steps(step: np.ndarray) -> int:
    """The first of the last steps that have ``MANY_EVENTS`` events together; the last
    step alone may have more."""
    steps, counts = np.unique(step, return_counts=True)
    together = np.cumsum(counts[::-1])
    fitting = max(1, int(np.searchsorted(together, MANY_EVENTS, "right")))
    return int(steps[-fitting])
