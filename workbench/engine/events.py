"""Events of a run as they arrive: drained from the C rings, kept up to a limit.

The engine writes and never waits; this reads. What came too late to be read, or was
dropped to stay within the limit, is counted, never hidden.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Protocol

import numpy as np

from cython_kernels import tables
from cython_kernels._runtime import Engine

_BLOCK = 4096  # events looked through at a time, from the newest back


class EventLog:
    """The newest events, in the order in which they were read, in one growing array."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._events = np.empty(_BLOCK, tables.EVENT)
        self._size = 0  # events in the array
        self._first = 0  # number of the first event that is still kept
        self._lock = threading.Lock()
        self.lost = 0  # overwritten, or gone on the way, before they could be read

    def append(self, chunk: np.ndarray, /) -> None:
        """Takes events of dtype ``tables.EVENT`` as the newest ones."""
        with self._lock:
            if self._size + len(chunk) > self._limit:
                self._forget()
            need = self._size + len(chunk)
            if need > len(self._events):
                grown = np.empty(max(need, 2 * len(self._events)), tables.EVENT)
                grown[: self._size] = self._events[: self._size]
                self._events = grown
            self._events[self._size : need] = chunk
            self._size = need

    def _forget(self) -> None:
        """Drops the older half, so that this is seldom done."""
        gone = self._size // 2
        self._events[: self._size - gone] = self._events[gone : self._size].copy()
        self._first += gone
        self._size -= gone

    @property
    def dropped(self) -> int:
        """Events no longer kept: the oldest ones, past the limit."""
        return self._first

    @property
    def end(self) -> int:
        """The number that the next event will have."""
        return self._first + self._size

    def since(self, cursor: int, most: int | None = None) -> tuple[int, np.ndarray]:
        """(new cursor, copies of the events read since ``cursor`` that are still
        kept), the first ``most`` of them."""
        with self._lock:
            begin = min(max(0, cursor - self._first), self._size)
            end = self._size if most is None else min(self._size, begin + most)
            return self._first + end, self._events[begin:end].copy()

    def all(self) -> np.ndarray:
        """Everything kept, sorted by start within each rank."""
        return _sorted(self.since(0)[1])

    def from_step(self, step: int) -> np.ndarray:
        """The events of this step and later ones, sorted; reads only the newest."""
        with self._lock:
            begin = self._size
            while begin > 0:
                block = self._events["step"][max(0, begin - _BLOCK) : begin]
                begin -= len(block)
                # Ranks are at most one step apart: the optimizer's barrier sees to
                # that.
                if block.max() < step - 1:
                    break
            recent = self._events[begin : self._size]
            return _sorted(recent[recent["step"] >= step])


class Taker(Protocol):
    """Who takes events as they are read; an ``EventLog`` is one."""

    lost: int

    def append(self, events: np.ndarray, /) -> None: ...


class EventReader:
    """Moves events from the rings of a C engine to whoever takes them."""

    def __init__(self, engine: Engine, ranks: Iterable[int], log: Taker) -> None:
        self._engine = engine
        self._cursors = dict.fromkeys(ranks, 0)
        self._log = log
        self._buffer = np.empty(1 << 14, tables.EVENT)

    def drain(self) -> int:
        """Reads what is new on every rank; returns how many events that was."""
        new = 0
        for rank, cursor in self._cursors.items():
            while True:
                count, cursor, lost = self._engine.read_events(
                    rank, cursor, self._buffer
                )
                self._log.lost += lost
                if count:
                    self._log.append(self._buffer[:count])
                new += count
                if count < len(self._buffer):
                    break
            self._cursors[rank] = cursor
        return new


def _sorted(events: np.ndarray) -> np.ndarray:
    return events[np.lexsort((events["start"], events["rank"]))]
