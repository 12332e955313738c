"""The collector by itself: what ranks and viewers tell it, right and wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import workbench as wb
from workbench.checkpoint import RunFolder, weights_hash
from workbench.launcher import collector as module
from workbench.launcher.remote import RemoteRun, attach
from workbench.launcher.stream import Reporter, Viewer

from .conftest import rows

MakeJob = Callable[..., wb.Job]


class Turning:
    """A collector with a thread that turns it."""

    def __init__(self, job: wb.Job, folder: Path) -> None:
        self.collector = module.Collector(job, RunFolder.create(folder))
        self.end, self.held = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._turn)
        self.thread.start()

    def _turn(self) -> None:
        while not self.end.is_set():
            if self.held.is_set():
                time.sleep(0.01)
            else:
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


def beating(turning: Turning) -> list[Reporter]:
    """Ranks that run and beat."""
    made = [turning.reporter(rank) for rank in range(2)]
    for rank, reporter in enumerate(made):
        reporter.tell("state", {"state": "running", "step": 0})
        reporter.beat = lambda rank=rank: {"step": 3, "counter": rank}
    turning.until(lambda: all(m.step == 3 for m in turning.collector.members))
    return made


def test_a_rank_that_is_cut_off_is_named_and_the_other_is_told_to_end(
    turning: Turning,
) -> None:
    near, far = beating(turning)
    far.close(0)  # without a goodbye
    turning.until(lambda: turning.collector.is_over)
    error = str(turning.collector.run.error)
    assert error.startswith("rank 1 (stage 1, host host1) has not been heard of")
    assert "in step 3" in error and "rank 0 was in step 3" in error
    assert {"do": "abort"} in near.commands()
    near.close(0.2)


def test_ranks_of_one_host_that_fall_silent_together_are_told_as_a_host(
    turning: Turning,
) -> None:
    ranks = beating(turning)
    for member in turning.collector.members:
        member.host = "far"
    for reporter in ranks:
        reporter.close(0)
    turning.until(lambda: turning.collector.is_over)
    assert "all of host far (ranks 0, 1)" in str(turning.collector.run.error)


def test_a_collector_that_was_held_up_blames_no_rank(
    turning: Turning, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOST_SECONDS", 1.0)
    ranks = beating(turning)
    for _ in range(2):
        turning.held.set()
        time.sleep(1.5)
        turning.held.clear()
        time.sleep(0.5)
    assert turning.collector.run.error is None and not turning.collector.is_over
    for reporter in ranks:
        reporter.close(0.2)


def test_what_ranks_tell_is_what_a_viewer_sees_and_what_the_folder_keeps(
    turning: Turning, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_EVENTS", 100)  # many answers, in order
    collector, job = turning.collector, turning.collector.job
    ranks = beating(turning)
    losses = np.arange(job.steps * 4.0).reshape(job.steps, 4)
    norms = np.arange(float(job.steps))
    ranks[0].tell("steps", {"first": 0}, {"losses": losses, "norms": norms})
    values = {"b": np.full(3, 2.0, np.float32), "a": np.ones((2, 2), np.float32)}
    for index, (name, array) in enumerate(values.items()):
        body = {"what": "weights", "name": name, "index": index}
        ranks[1 - index].tell("tensor", body, {"values": array})
    begun = time.monotonic_ns()
    for rank, reporter in enumerate(ranks):
        reporter.events(rows(550, begun, rank))
    turning.until(lambda: collector.run._events.end == 1100)
    hub = collector.hub
    folder = RunFolder(collector.run.folder)
    seen = RemoteRun(job, folder, hub.address, hub.keys.for_clients())
    turning.until(lambda: seen.snapshot()[0] == 1100)
    for rank in range(2):
        _, columns = seen.snapshot()
        starts = columns["start"][columns["rank"] == rank]
        # On the collector's clock, of which both read the same here.
        assert (starts == np.arange(550) + begun - collector._origin).all()
    assert not collector.is_over and np.array_equal(seen.gradient_norms, norms)
    for reporter in ranks:
        reporter.tell("state", {"state": "finished", "step": job.steps})
        reporter.tell("bye", {"events": 550})
    assert seen.wait(30).state == "finished" and seen.events_dropped == 0
    again = attach(collector.run.folder)
    assert again.weights_hash() == weights_hash(values.values())
    assert list(again.weights()) == ["b", "a"]  # by index, not as they came
    assert again.losses.tolist() == losses.mean(axis=1).tolist()
    for reporter in ranks:
        reporter.close(0.2)


def test_events_dropped_before_a_viewer_came_stay_counted(turning: Turning) -> None:
    collector = turning.collector
    ranks = beating(turning)
    collector.run._events._limit = 1000
    begun = time.monotonic_ns()
    for first in range(0, 3000, 250):
        ranks[0].events(rows(250, begun + first))
        turning.until(lambda last=first + 250: collector.run._events.end == last)
    hub = collector.hub
    folder = RunFolder(collector.run.folder)
    seen = RemoteRun(collector.job, folder, hub.address, hub.keys.for_clients())
    turning.until(lambda: seen.snapshot()[0] > 0)
    ranks[0].events(rows(10, begun + 3000))
    turning.until(lambda: len(seen.trace) + seen.events_dropped == 3010)
    time.sleep(0.3)  # several more answers
    assert len(seen.trace) + seen.events_dropped == 3010 and seen.events_dropped > 0
    seen.detach()
    for reporter in ranks:
        reporter.close(0.2)


def test_a_collector_whose_owner_breaks_leaves_a_folder_that_tells(
    turning: Turning,
) -> None:
    ranks = beating(turning)
    turning.end.set()
    turning.thread.join()
    turning.collector.give_up(OSError("no more of it"))
    assert not (turning.collector.run.folder / "live.json").exists()
    saved = attach(turning.collector.run.folder)
    assert saved.state == "failed"
    with pytest.raises(wb.RunError, match="OSError: no more of it"):
        saved.wait()
    for reporter in ranks:
        reporter.close(0)
