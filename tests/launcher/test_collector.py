"""The collector by itself: what ranks and viewers tell it, right and wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import workbench as wb
from workbench.checkpoint import RunFolder
from workbench.launcher.collector import Collector
from workbench.launcher.stream import Reporter, Viewer

MakeJob = Callable[..., wb.Job]


class Turning:
    """A collector with a thread that turns it."""

    def __init__(self, job: wb.Job, folder: Path) -> None:
        self.collector = Collector(job, RunFolder.create(folder))
        self.end = threading.Event()
        self.thread = threading.Thread(target=self._turn)
        self.thread.start()

    def _turn(self) -> None:
        while not self.end.is_set():
            self.collector.turn(0.02)

    def reporter(self, rank: int) -> Reporter:
        hub = self.collector.hub
        made = Reporter(hub.address, hub.keys.for_clients(), rank)
        made.tell("hello", {"rank": rank, "host": f"host{rank}", "pid": 10**7 + rank})
        return made

    def until(self, met: Callable[[], bool]) -> None:
        limit = time.monotonic() + 30
        while not met():
            assert time.monotonic() < limit
            time.sleep(0.02)


@pytest.fixture
def turning(make_job: MakeJob, tmp_path: Path) -> Iterator[Turning]:
    made = Turning(make_job([0, 3, 6], "1f1b", 4), tmp_path / "run")
    yield made
    made.end.set()
    made.thread.join()
    made.collector.hub.close()


@pytest.mark.parametrize(
    "question",
    [
        {},
        {"what": "moon"},
        {"what": "since", "cursor": "a"},
        {"what": "since", "cursor": None},
        {"what": "since", "cursor": -5, "losses": [1]},
        {"what": "do", "command": "rm"},
        {"what": "do"},
    ],
)
def test_a_question_that_makes_no_sense_is_answered_and_harms_nothing(
    turning: Turning, question: dict[str, Any]
) -> None:
    hub = turning.collector.hub
    viewer = Viewer(hub.address, hub.keys.for_clients())
    try:
        body, _ = viewer.ask(question)
        assert "error" in body
        body, _ = viewer.ask({"what": "since", "cursor": -3, "losses": 10**9})
        assert body["state"] == "starting" and body["cursor"] == 0
        assert turning.thread.is_alive() and not turning.collector.is_over
    finally:
        viewer.close()


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("steps", {"first": 0}),
        ("steps", {}),
        ("tensor", {"what": "weights"}),
        ("tensor", {"what": "checkpoint", "step": 1, "part": "param"}),
        ("evaluation", {"step": "x", "loss": None}),
        ("killed", {}),
    ],
)
def test_a_rank_that_cannot_be_understood_fails_the_run_by_name(
    turning: Turning, kind: str, body: dict[str, Any]
) -> None:
    reporters = [turning.reporter(rank) for rank in range(2)]
    reporters[1].tell(kind, body)
    turning.until(lambda: turning.collector.is_over)
    error = str(turning.collector.run.error)
    assert f"rank 1 told '{kind}'" in error and "another version" in error
    for reporter in reporters:
        assert {"do": "abort"} in reporter.commands()
        reporter.close(0.2)


def test_what_a_rank_tells_of_a_failure_comes_with_where_all_stood(
    turning: Turning,
) -> None:
    reporters = [turning.reporter(rank) for rank in range(2)]
    for rank, reporter in enumerate(reporters):
        reporter.tell("state", {"state": "running", "step": 0})
        reporter.beat = lambda rank=rank: {"step": 7, "counter": rank}
    members = turning.collector.members
    turning.until(lambda: all(m.step == 7 for m in members))
    reporters[0].tell("failed", {"text": "MPI said no", "is_consequence": True})
    reporters[1].tell("killed", {"pid": 1, "signal": 11})
    turning.until(lambda: turning.collector.is_over)
    error = str(turning.collector.run.error)
    # The cause is told, not what came of it, though that was heard first.
    assert "rank 1 (stage 1, host host1) was killed by signal 11 in step 7" in error
    assert "MPI said no" not in error
    assert "rank 0 was in step 7" in error
    for reporter in reporters:
        reporter.close(0.2)
