"""A stand-in for a run: a made-up pipeline whose events come as time passes.

It needs nothing but NumPy, so that a notebook can hold its text. Every rank works half
of the time and waits the other half; event numbers are cursors.
"""

import time
from typing import Any

import numpy as np

F, B, RECV_F = 0, 3, 6  # codes of schedule.Kind


class LiveSource:
    title, source_label = "a <made-up> pipeline", "measured"

    def __init__(
        self,
        seconds: float = 5.0,
        num_ranks: int = 4,
        slot_ns: int = 10_000_000,
        clock: Any = time.monotonic,
    ) -> None:
        self.seconds, self.num_ranks, self.slot_ns = seconds, num_ranks, slot_ns
        self.clock, self.begun = clock, clock()
        self.microbatches = 8
        self.forgotten = 0  # events before this number are no longer kept

    @property
    def passed(self) -> float:
        return min(self.seconds, self.clock() - self.begun)

    @property
    def state(self) -> str:
        return "running" if self.clock() - self.begun < self.seconds else "finished"

    @property
    def count(self) -> int:
        slots = int(self.passed * 1e9) // self.slot_ns
        return slots * 2 * self.num_ranks

    def snapshot(self, cursor: int) -> tuple[int, dict[str, np.ndarray]]:
        count = self.count
        number = np.arange(min(max(cursor, self.forgotten), count), count)
        slot, within = np.divmod(number, 2 * self.num_ranks)
        rank, waiting = within // 2, within % 2
        start = slot * self.slot_ns + waiting * (self.slot_ns // 2)
        columns = {
            "start": start,
            "end": start + self.slot_ns // 2,
            "step": slot // (2 * self.microbatches),
            "microbatch": slot // 2 % self.microbatches,
            "stage": rank,
            "rank": rank,
            "slice": 0 * rank,
            "kind": np.where(waiting == 1, RECV_F, np.where(slot % 2 == 0, F, B)),
            "lane": waiting,
        }
        return count, columns

    def progress(self) -> dict[str, Any]:
        done = self.count // (2 * self.num_ranks) // (2 * self.microbatches)
        steps = int(self.seconds * 1e9) // self.slot_ns // (2 * self.microbatches)
        return {
            "step": done,
            "steps": steps,
            "loss": 5.0 - done / max(1, steps) if done else None,
            "tokens_per_second": 1000.0 if done else None,
            "bubble_fraction": 0.5 if done else None,
        }
