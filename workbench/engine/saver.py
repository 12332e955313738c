"""Writes checkpoints while training goes on."""

from __future__ import annotations

import threading
from pathlib import Path

from ..checkpoint import CheckpointState, save_checkpoint


class Saver:
    """A thread that writes one checkpoint at a time.

    Where checkpoints come faster than the disk takes them, ``save`` holds its caller up;
    ``offer`` does not, and the newest one takes the place of one that still waits.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder, self._keep = folder, keep
        self._lock = threading.Lock()
        self._next: CheckpointState | None = None
        self._thread: threading.Thread | None = None
        self.error: str | None = None  # of the newest one

    def save(self, state: CheckpointState) -> None:
        """Begins to write it, when all before it are written."""
        self.wait()
        self.offer(state)

    def offer(self, state: CheckpointState) -> None:
        """Begins to write it as soon as the one before is written."""
        with self._lock:
            self._next = state
            if self._thread is None:
                self._thread = threading.Thread(target=self._write, name="checkpoints")
                self._thread.start()

    def _write(self) -> None:
        while True:
            with self._lock:
                state, self._next = self._next, None
                if state is None:
                    self._thread = None
                    return
            try:
                save_checkpoint(self._folder, state, self._keep)
                self.error = None
            except (OSError, ValueError) as error:  # told by the run; training goes on
                self.error = (
                    f"the checkpoint of step {state.step} was not written: {error}"
                )

    def wait(self) -> None:
        """Until nothing is being written."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()
