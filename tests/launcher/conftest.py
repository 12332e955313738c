"""A hub, ranks and viewers that are ended whatever happens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from cython_kernels import tables
from workbench.launcher.stream import Hub, Message, Reporter, Viewer


def rows(count: int, first: int = 0, rank: int = 0) -> np.ndarray:
    """Events that can be told apart: they start at first, first + 1, ..."""
    found = np.zeros(count, tables.EVENT)
    found["start"] = np.arange(first, first + count)
    found["end"] = found["start"] + 1
    found["rank"] = rank
    return found


class Net:
    """Makes the ends of a stream, and polls for a test."""

    def __init__(self) -> None:
        self.ends: list[Any] = []
        self.found: list[Message] = []

    def hub(self, size: int = 1, **more: Any) -> Hub:
        self.ends.append(Hub(size, **more))
        return self.ends[-1]

    def reporter(self, hub: Hub, rank: int = 0, keys: Any = None) -> Reporter:
        keys = keys or hub.keys.for_clients()
        self.ends.append(Reporter(hub.address, keys, rank))
        return self.ends[-1]

    def viewer(self, hub: Hub, keys: Any = None) -> Viewer:
        self.ends.append(Viewer(hub.address, keys or hub.keys.for_clients()))
        return self.ends[-1]

    def until(self, hub: Hub, true: Callable[[], Any], seconds: float = 20.0) -> bool:
        """Polls until something is true; False when it never was."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.found += hub.poll(0.02)
            if true():
                return True
        return False

    def poll(self, hub: Hub, seconds: float) -> None:
        self.until(hub, lambda: False, seconds)

    def of(self, kind: str) -> list[Message]:
        return [m for m in self.found if m.kind == kind]

    def starts(self, rank: int = 0) -> list[int]:
        parts = [m.arrays["events"]["start"] for m in self.of("events")]
        ranks = [m.rank for m in self.of("events")]
        mine = [p for p, r in zip(parts, ranks, strict=True) if r == rank]
        return np.concatenate([*mine, np.empty(0, np.int64)]).tolist()

    def ask(self, hub: Hub, viewer: Viewer, answer: Callable[..., Any]) -> Any:
        """An ask in a thread, answered here: (body, arrays)."""
        got: list[Any] = []
        asking = threading.Thread(
            target=lambda: got.append(viewer.ask({"what": "x"}, seconds=20))
        )
        asking.start()
        while asking.is_alive():
            for message in hub.poll(0.02):
                if message.kind == "ask":
                    hub.answer(message, *answer(message))
        asking.join()
        return got[0]

    def end(self) -> None:
        for end in reversed(self.ends):
            if isinstance(end, Reporter):
                end.close(0)
            else:
                end.close()


@pytest.fixture
def net() -> Iterator[Net]:
    made = Net()
    yield made
    made.end()
