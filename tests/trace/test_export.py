"""Exported files: JSON of the Trace Event Format, and CSV that reads back."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from workbench.schedule import Action, Kind
from workbench.trace import COLUMNS, WAIT_LANE, Trace
from workbench.trace.export import perfetto_events

from .conftest import simulated, simulated_traces, traces

Build = Callable[..., Trace]
Event = dict[str, Any]

#: What each phase must have, and what it may have besides (Trace Event Format, Google).
REQUIRED = {
    "M": {"name", "pid", "args"},
    "X": {"name", "cat", "pid", "tid", "ts", "dur"},
    "s": {"name", "cat", "pid", "tid", "ts", "id"},
    "f": {"name", "cat", "pid", "tid", "ts", "id"},
    "C": {"name", "pid", "ts", "args"},
}
OPTIONAL = {
    "M": {"tid", "cat", "ts"},
    "X": {"args", "tts", "tdur", "sf", "esf", "cname"},
    "s": {"args", "bp", "cname"},
    "f": {"args", "bp", "cname"},
    "C": {"tid", "cat", "id"},
}
METADATA = {
    "process_name": "name",
    "thread_name": "name",
    "thread_sort_index": "sort_index",
}


def check_fields(event: Event) -> None:
    phase = event["ph"]
    fields = set(event) - {"ph"}
    assert phase in REQUIRED
    assert fields >= REQUIRED[phase], (phase, REQUIRED[phase] - fields)
    assert fields <= REQUIRED[phase] | OPTIONAL[phase], (phase, fields)
    for name in ("pid", "tid"):
        assert type(event.get(name, 0)) is int
    for name in ("ts", "dur"):
        value = event.get(name, 0)
        assert isinstance(value, int | float)
        assert math.isfinite(value)
        assert value >= 0
    assert isinstance(event["name"], str)
    if phase == "M":
        assert METADATA[event["name"]] in event["args"]
    if phase == "C":
        assert event["args"]
        assert all(isinstance(v, int | float) for v in event["args"].values())
    if phase in "sf":
        assert isinstance(event["id"], str | int)
    if phase == "f":
        assert event["bp"] == "e"


def complete(events: list[Event]) -> dict[int, list[Event]]:
    threads: dict[int, list[Event]] = {}
    for event in events:
        if event["ph"] == "X":
            threads.setdefault(event["tid"], []).append(event)
    return threads


@settings(deadline=None, max_examples=60)
@given(traces())
def test_any_traces_events_keep_to_the_format(trace: Trace) -> None:
    events = json.loads(json.dumps(list(perfetto_events(trace)), allow_nan=False))
    for event in events:
        check_fields(event)
    assert sum(event["ph"] == "X" for event in events) == len(trace)


@settings(deadline=None, max_examples=60)
@given(simulated_traces())
def test_complete_events_follow_one_another_on_every_thread(trace: Trace) -> None:
    threads = complete(list(perfetto_events(trace)))
    assert set(threads) == set(trace.rank.tolist())
    for events in threads.values():
        for before, after in pairwise(events):
            assert before["ts"] <= after["ts"]
            end = before["ts"] + before["dur"]
            assert end <= after["ts"] + 1e-9 * max(1.0, end)


@settings(deadline=None, max_examples=60)
@given(simulated_traces())
def test_every_flow_starts_once_and_finishes_once_and_later(trace: Trace) -> None:
    events = list(perfetto_events(trace))
    starts = [e for e in events if e["ph"] == "s"]
    ends = {e["id"]: e for e in events if e["ph"] == "f"}
    sends = trace.of_kind(Kind.SEND_F, Kind.SEND_B).sum()
    assert len(starts) == len({e["id"] for e in starts}) == len(ends) == sends
    for start in starts:
        end = ends[start["id"]]
        assert end["ts"] >= start["ts"]
        assert end["tid"] != start["tid"]
        assert (end["name"], end["cat"]) == (start["name"], start["cat"])


def test_flows_of_two_steps_have_ids_of_their_own() -> None:
    one = simulated(p=2, m=2)
    shifted = {n: getattr(one, n) for n in COLUMNS}
    shifted["step"] = shifted["step"] + 1
    two = Trace(**shifted, tick=one.tick, unit=one.unit, source=one.source)
    ids = [e["id"] for e in perfetto_events(Trace.concat([one, two])) if e["ph"] == "s"]
    assert len(set(ids)) == len(ids) == 8


@pytest.mark.parametrize(("unit", "factor"), [("s", 1e6), ("unit", 1e3)])
def test_times_are_microseconds_from_the_first_start(
    trace_of: Build, unit: str, factor: float
) -> None:
    trace = trace_of([(0, "0F0", 100, 150), (0, "0B0", 150, 400)], tick=1e-2, unit=unit)
    found = complete(list(perfetto_events(trace)))[0]
    assert [(e["ts"], e["dur"]) for e in found] == [
        (0, pytest.approx(0.5 * factor)),
        (pytest.approx(0.5 * factor), pytest.approx(2.5 * factor)),
    ]


def test_events_tell_action_stage_microbatch_and_bytes(trace_of: Build) -> None:
    trace = trace_of([(0, "2F3", 0, 1), (0, "2OPT_STEP", 1, 2, 5, 1)])
    sized = {n: getattr(trace, n) for n in COLUMNS} | {"bytes": np.array([64, 0])}
    first, second = complete(list(perfetto_events(Trace(**sized))))[0]
    assert first["args"] == {
        "action": "2F3",
        "step": 0,
        "stage": 2,
        "microbatch": 3,
        "bytes": 64,
    }
    assert (first["name"], first["cat"]) == ("2F3", "compute")
    assert (second["name"], second["cat"]) == (
        "wait for all ranks (2OPT_STEP)",
        "wait",
    )
    assert second["args"] == {"action": "2OPT_STEP", "step": 5, "stage": 2}


def test_counters_follow_live_memory() -> None:
    trace = simulated("1f1b", 2, 3)
    for rank in range(2):
        mask = (trace.rank == rank) & (trace.lane != WAIT_LANE)
        told = [
            e["args"]["live"]
            for e in perfetto_events(trace)
            if e["ph"] == "C" and e["tid"] == rank
        ]
        assert told == trace.live[mask].tolist()


def test_the_file_is_json_with_source_and_metadata(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    trace = simulated("gpipe", 2, 2)
    trace.to_perfetto(path)
    document = json.loads(path.read_text(encoding="utf-8"))
    assert set(document) == {"traceEvents", "displayTimeUnit", "otherData"}
    assert document["displayTimeUnit"] in ("ms", "ns")
    assert document["otherData"]["source"] == "simulated"
    assert document["otherData"]["schedule"] == "gpipe"
    assert all(isinstance(v, str) for v in document["otherData"].values())
    names = {
        e["tid"]: e["args"]["name"]
        for e in document["traceEvents"]
        if e["name"] == "thread_name"
    }
    assert names == {0: "rank 0", 1: "rank 1"}
    process = [e for e in document["traceEvents"] if e["name"] == "process_name"]
    assert [e["args"]["name"] for e in process] == ["gpipe (simulated)"]


def test_an_empty_trace_is_a_file_without_events(
    tmp_path: Path, trace_of: Build
) -> None:
    path = tmp_path / "trace.json"
    trace_of([]).to_perfetto(path)
    events = json.loads(path.read_text())["traceEvents"]
    assert {event["ph"] for event in events} == {"M"}


@settings(deadline=None, max_examples=40)
@given(trace=traces())
def test_a_csv_reads_back_to_the_same_columns(
    tmp_path_factory: pytest.TempPathFactory, trace: Trace
) -> None:
    path = tmp_path_factory.mktemp("csv") / "trace.csv"
    trace.to_csv(path)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for name in COLUMNS:
        assert [int(row[name]) for row in rows] == getattr(trace, name).tolist()
    assert [Action.parse(row["action"]) for row in rows] == list(trace.actions())
    assert path.read_text().splitlines()[0] == ",".join(["action", *COLUMNS])
