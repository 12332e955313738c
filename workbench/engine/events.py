"""Events of a run as they arrive: drained from the C rings, kept up to a limit.

The engine writes and never waits; this reads. What came too late to be read, or was dropped to
stay within the limit, is counted, never hidden.
"""

from __future__ import annotations

import threading

import numpy as np
from cython_kernels import tables
from cython_kernels._runtime import Engine


class EventLog:
    """Chunks of events in the order in which they were read."""

    def __init__(self, engine: Engine, num_ranks: int, limit: int) -> None:
        self._engine = engine
        self._cursors = [0] * num_ranks
        self._limit = limit
        self._chunks: list[np.ndarray] = []
        self._first = 0  # number of the first event that is still kept
        self._count = 0  # events ever read
        self._buffer = np.empty(1 << 14, tables.EVENT)
        self._lock = threading.Lock()
        self.lost = 0  # overwritten before they could be read

    def drain(self) -> int:
        """Reads what is new on every rank; returns how many events that was."""
        new = 0
        for rank, cursor in enumerate(self._cursors):
            while True:
                count, cursor, lost = self._engine.read_events(rank, cursor, self._buffer)
                self.lost += lost
                if count:
                    self._append(self._buffer[:count].copy())
                new += count
                if count < len(self._buffer):
                    break
            self._cursors[rank] = cursor
        return new

    def _append(self, chunk: np.ndarray) -> None:
        with self._lock:
            self._chunks.append(chunk)
            self._count += len(chunk)
            while self._count - self._first > self._limit and len(self._chunks) > 1:
                self._first += len(self._chunks.pop(0))

    @property
    def dropped(self) -> int:
        """Events no longer kept: the oldest ones, past the limit."""
        return self._first

    def since(self, cursor: int) -> tuple[int, np.ndarray]:
        """(new cursor, events read since ``cursor`` that are still kept)."""
        with self._lock:
            skip = max(0, cursor - self._first)
            parts = []
            for chunk in reversed(self._chunks):
                missing = self._count - self._first - skip - sum(map(len, parts))
                if missing <= 0:
                    break
                parts.append(chunk[-missing:] if missing < len(chunk) else chunk)
            count = self._count
        if not parts:
            return count, np.empty(0, tables.EVENT)
        return count, np.concatenate(parts[::-1])

    def all(self) -> np.ndarray:
        """Everything kept, sorted by start within each rank."""
        _, events = self.since(0)
        return _sorted(events)

    def from_step(self, step: int) -> np.ndarray:
        """The events of this step and later ones, sorted; reads only the newest chunks."""
        with self._lock:
            chunks = list(self._chunks)
        recent: list[np.ndarray] = []
        for chunk in reversed(chunks):
            kept = chunk[chunk["step"] >= step]
            # Ranks are at most one step apart: the optimizer's barrier sees to that.
            if not len(kept) and chunk["step"].max() < step - 1:
                break
            recent.append(kept)
        if not recent:
            return np.empty(0, tables.EVENT)
        return _sorted(np.concatenate(recent[::-1]))


def _sorted(events: np.ndarray) -> np.ndarray:
    return events[np.lexsort((events["start"], events["rank"]))]
