"""What it costs a run to be watched: its pace with and without a reader at 10 Hz.

One run; a thread that pushes to the live timeline is switched on and off window by
window, and the engine's own events say how much work was done in each window. Measured
with a core to spare and with all cores busy.
"""

from __future__ import annotations

import tempfile
import threading
import time

import jobs
import numpy as np
from measure import Row, ratios

import workbench as wb
from cython_kernels import _runtime
from workbench.engine import cores
from workbench.schedule import KIND_CODE, Kind
from workbench.ui import Timeline

HERTZ = 10
_WEIGHT = {KIND_CODE[Kind.F]: 1.0, KIND_CODE[Kind.B]: 2.0}  # of the work of F and B


class Reader:
    """Pushes to a live timeline 10 times a second while it is on; no page is open."""

    def __init__(self, run: wb.Run) -> None:
        self.widget = Timeline(run)
        self.on, self.over = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        while not self.over.is_set():
            if self.on.wait(0.1):
                self.widget.push()
                time.sleep(1 / HERTZ)

    def close(self) -> None:
        self.over.set()
        self.thread.join()


def work_done(run: wb.Run, times: list[int]) -> np.ndarray:
    """Work up to each of the times (ns since launch): F counts 1, B counts 2, and
    between two events in proportion."""
    _, events = run.snapshot(0)
    ends, kinds = events["end"], events["kind"]
    weights = np.zeros(len(ends))
    for code, weight in _WEIGHT.items():
        weights[kinds == code] = weight
    order = np.argsort(ends, kind="stable")
    return np.interp(times, ends[order], np.cumsum(weights[order]))


def slowdown(threads: int, count: int, window: float) -> list[tuple[float, float]]:
    """(pace unwatched, pace watched) of ``count`` pairs of windows of some seconds."""
    with tempfile.TemporaryDirectory() as folder:
        job = jobs.main_job(threads_per_rank=threads)
        run = wb.launch(job, folder=f"{folder}/run")
        reader = Reader(run)
        time.sleep(2 * window)  # the first steps warm up
        edges, watched = [_runtime.now() - run._origin], []
        for i in range(2 * count):
            # off on, on off, off on ...: a drift of the machine meets both.
            on = i % 4 in (1, 2)
            (reader.on.set if on else reader.on.clear)()
            time.sleep(window)
            edges.append(_runtime.now() - run._origin)
            watched.append(on)
        reader.close()
        run.stop()
        done = np.diff(work_done(run, edges)) / np.diff(edges)
    pace = [(done[i], done[i + 1]) for i in range(0, 2 * count, 2)]
    return [(b, a) if watched[2 * i] else (a, b) for i, (a, b) in enumerate(pace)]


def rows(quick: bool = False) -> list[Row]:
    count, window = (4, 1.5) if quick else (16, 3.0)
    found = []
    usable = cores.usable()
    cases = {1: "a core to spare"} if usable > 1 else {}
    cases[usable] = "all cores busy"
    for threads, words in cases.items():
        pace = slowdown(threads, count, window)
        ratio = ratios([a for a, _ in pace], [b for _, b in pace])
        percent = type(ratio)(*(100 * (value - 1) for value in ratio))
        what = f"cost of watching, {threads} thread{'s' * (threads > 1)}, {words}"
        told = f"same process, {count} pairs of {window:g} s"
        found.append(Row(what, f"{percent.text('+.2f')} %", told))
    return found


if __name__ == "__main__":
    for row in rows():
        print("  ".join(row))
