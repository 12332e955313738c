"""The files that PyTorch's profiler exports: what of them concerns a pipeline."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..schedule import Action, Overlap, parse

_RANGE = "PP:"
_STEP = re.compile(r"ProfilerStep#\d+", re.ASCII)
_RECEIVED = re.compile(r"(gloo|nccl|mpi|ucc|xccl):recv", re.IGNORECASE)


class Range(NamedTuple):
    """A range of a rank, in nanoseconds. ``thread`` is a host's thread or a device's
    stream; ``link`` is the same for a host's range and its copies on the device."""

    item: Action | Overlap
    start: int
    end: int
    thread: Any
    link: Any


@dataclass
class ProfilerFile:
    """A rank's file; everything ascends in time. ``received`` are a back end's
    receives, from posting to the wait's end; ``operators`` the starts of all
    operators."""

    path: Path
    rank: int
    host_name: str | None
    host: list[Range] = field(default_factory=list)
    device: list[Range] = field(default_factory=list)
    steps: list[tuple[int, int, int]] = field(default_factory=list)
    received: list[tuple[int, int]] = field(default_factory=list)
    operators: list[int] = field(default_factory=list)


def _load(path: Path) -> Any:
    try:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8") as file:
            return json.load(file)
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from None


def _rank(path: Path, document: dict[str, Any]) -> int:
    told = document.get("distributedInfo") or {}
    if isinstance(told.get("rank"), int):
        return int(told["rank"])
    found = re.search(r"rank[-_ .]?(\d+)", path.name, re.IGNORECASE)
    found = found or re.match(r"(\d+)\b", path.name)
    if found is None:
        raise ValueError(
            f"{path} does not say its rank, neither in distributedInfo nor by a name such "
            "as rank0.json"
        )
    return int(found[1])


def _parse(name: str, path: Path) -> Action | Overlap:
    try:
        return parse(name[len(_RANGE) :])
    except ValueError as error:
        raise ValueError(f"{path}: range {name!r}: {error}") from None


def _times(event: dict[str, Any], base: int, path: Path) -> tuple[int, int]:
    try:
        start = base + round(float(event["ts"]) * 1000)
        return start, start + round(float(event.get("dur", 0)) * 1000)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ValueError(
            f"{path}: event {event.get('name')!r} says no times: ts, in microseconds, is "
            f"{event.get('ts')!r} and dur {event.get('dur')!r}; export the trace anew"
        ) from None


def read_file(path: Path) -> ProfilerFile | None:
    """The file's ranges, or None when it is JSON but no trace. Raises ValueError for a
    file that cannot be read, whose rank is not known, or with ranges of unknown
    actions."""
    document = _load(path)
    if isinstance(document, list):
        document = {"traceEvents": document}
    if not isinstance(document, dict) or not isinstance(
        document.get("traceEvents"), list
    ):
        return None
    base = int(document.get("baseTimeNanoseconds") or 0)
    file = ProfilerFile(path, _rank(path, document), document.get("host_name"))
    for event in document["traceEvents"]:
        if isinstance(event, dict) and event.get("ph") == "X":
            _take(event, base, file)
    file.host.sort(key=lambda one: (one.start, one.end))
    file.device.sort(key=lambda one: (one.start, one.end))
    file.steps.sort()
    file.received.sort()
    file.operators.sort()
    return file


def _take(event: dict[str, Any], base: int, file: ProfilerFile) -> None:
    name, kind = str(event.get("name", "")), event.get("cat")
    if name.startswith(_RANGE):
        thread = event.get("pid"), event.get("tid")
        link = (event.get("args") or {}).get("External id")
        item = _parse(name, file.path)
        ranges = file.device if kind == "gpu_user_annotation" else file.host
        ranges.append(Range(item, *_times(event, base, file.path), thread, link))
    elif kind == "cpu_op":
        file.operators.append(_times(event, base, file.path)[0])
    elif kind == "user_annotation" and _RECEIVED.match(name):
        file.received.append(_times(event, base, file.path))
    elif kind != "gpu_user_annotation" and _STEP.fullmatch(name):
        number = int(name.split("#")[1])
        file.steps.append((*_times(event, base, file.path), number))


def _paths(source: str | Path | Iterable[str | Path]) -> list[Path]:
    if not isinstance(source, (str, Path)):
        return [Path(one) for one in source]
    folder = Path(source)
    if not folder.is_dir():
        if folder.is_file():
            return [folder]
        raise ValueError(f"no folder {str(folder)!r}")
    return sorted(
        path
        for path in folder.iterdir()
        if path.name.endswith((".json", ".json.gz")) and path.is_file()
    )


def read_folder(
    source: str | Path | Iterable[str | Path], ranks: list[int] | None
) -> tuple[list[ProfilerFile], list[Path]]:
    """The traces with ranges of a pipeline, by rank, and the JSON files that are none.

    Raises ValueError where there are none, where two files have one rank, and where one
    of ``ranks`` is missing.
    """
    found: dict[int, ProfilerFile] = {}
    skipped: list[Path] = []
    traces = 0
    for path in _paths(source):
        file = read_file(path)
        traces += file is not None
        if file is None or not (file.host or file.device):
            skipped.append(path)
            continue
        if ranks is not None and file.rank not in ranks:
            continue
        if file.rank in found:
            raise ValueError(
                f"{found[file.rank].path} and {path} are both of rank {file.rank}; give one "
                "file a rank"
            )
        found[file.rank] = file
    missing = [rank for rank in ranks or () if rank not in found]
    if missing:
        raise ValueError(f"there is no trace of rank {missing[0]}")
    if not found:
        why = (
            "none of them has ranges PP:<action>, which PyTorch's multi-stage schedules "
            "and _PipelineScheduleRuntime record"
            if traces
            else "no JSON file there is a trace"
        )
        raise ValueError(f"{source} has no trace of a pipeline: {why}")
    return [found[rank] for rank in sorted(found)], skipped
