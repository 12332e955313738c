"""Traces as files: Perfetto's JSON and CSV.

The JSON is the Trace Event Format: complete events, flow arrows from send to receive,
counters for live memory. Times are written in microseconds, as the format wants.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..schedule import Kind
from .trace import COLUMNS, OPTIMIZER_LANE, WAIT_LANE, Trace

_FLOW = {Kind.SEND_F: ("s", 0), Kind.RECV_F: ("f", -1), Kind.SEND_B: ("s", 0)}
_FLOW[Kind.RECV_B] = ("f", 1)
_CATEGORY = {WAIT_LANE: "wait", OPTIMIZER_LANE: "optimizer"}


def _name(action: str, kind: Kind, lane: int) -> str:
    return (
        f"wait for all ranks ({action})"
        if kind is Kind.OPT_STEP and lane == 1
        else action
    )


def _names(trace: Trace) -> Iterator[dict[str, Any]]:
    schedule = trace.metadata.get("schedule", "pipeline")
    title = f"{schedule} ({trace.source})"
    yield {"ph": "M", "pid": 0, "name": "process_name", "args": {"name": title}}
    for rank in range(trace.num_ranks):
        common = {"ph": "M", "pid": 0, "tid": rank}
        yield {**common, "name": "thread_name", "args": {"name": f"rank {rank}"}}
        yield {**common, "name": "thread_sort_index", "args": {"sort_index": rank}}


def perfetto_events(trace: Trace) -> Iterator[dict[str, Any]]:
    """The trace's events as dicts of the Trace Event Format."""
    yield from _names(trace)
    if not len(trace):
        return
    origin = int(trace.start.min())
    # One simulated unit is drawn as a millisecond.
    scale = trace.tick * (1e6 if trace.unit == "s" else 1e3)
    columns = ("rank", "step", "start", "end", "lane", "bytes", "live")
    rows = zip(*(getattr(trace, c).tolist() for c in columns), strict=True)
    for action, (rank, step, start, end, lane, size, live) in zip(
        trace.actions(), rows, strict=True
    ):
        at, long = (start - origin) * scale, (end - start) * scale
        common = {"pid": 0, "tid": rank}
        args: dict[str, Any] = {
            "action": str(action),
            "step": step,
            "stage": action.stage,
        }
        if action.microbatch >= 0:
            args["microbatch"] = action.microbatch
        if size:
            args["bytes"] = size
        yield {
            **common,
            "ph": "X",
            "name": _name(str(action), action.kind, lane),
            "cat": _CATEGORY.get(lane, "compute"),
            "ts": at,
            "dur": long,
            "args": args,
        }
        if action.kind in _FLOW:
            phase, shift = _FLOW[action.kind]
            way = "F" if action.kind in (Kind.SEND_F, Kind.RECV_F) else "B"
            source = action.stage + shift
            yield {
                **common,
                "ph": phase,
                "bp": "e",
                "name": "message",
                "cat": "message",
                "id": f"{step}.{source}{way}{action.microbatch}.{action.slice}",
                "ts": at + long,
            }
        elif lane == 0:
            yield {
                **common,
                "ph": "C",
                "name": f"live memory, rank {rank}",
                "ts": at + long,
                "args": {"live": live},
            }


def write_perfetto(trace: Trace, path: str | Path) -> None:
    """Writes the JSON object form, with the trace's source and metadata beside the
    events."""
    about = {"source": trace.source, "tick": trace.tick, "unit": trace.unit}
    document = {
        "traceEvents": list(perfetto_events(trace)),
        "displayTimeUnit": "ms",
        "otherData": {k: str(v) for k, v in {**about, **trace.metadata}.items()},
    }
    Path(path).write_text(json.dumps(document), encoding="utf-8")


def write_csv(trace: Trace, path: str | Path) -> None:
    """Writes one row per event: its action text, then all columns; times in ticks."""
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["action", *COLUMNS])
        rows = zip(*(getattr(trace, c).tolist() for c in COLUMNS), strict=True)
        for action, row in zip(trace.actions(), rows, strict=True):
            writer.writerow([str(action), *row])
