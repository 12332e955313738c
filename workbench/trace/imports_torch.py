"""PyTorch profiler files of a pipeline, one per rank, as a ``Trace``.

PyTorch's runtime runs every action inside a range ``PP:<action>``. On a device the
profiler copies the range to where its kernels ran, which is when the work was done. On
the host a range also holds the wait for its message, since the receive is waited for
there: with gloo the wait's end is recorded, and the action is taken to start then.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from ..schedule import COMPUTE, Action, Kind, Overlap, halves
from .imports import Event, homes, taken_by, trace_of
from .imports_clocks import align
from .profiler_files import ProfilerFile, Range, read_folder
from .trace import Trace

_RECEIVES = (Kind.RECV_F, Kind.RECV_B)
#: Messages to the next stage, and from it.
_TO_NEXT = (Kind.SEND_F, Kind.RECV_B)
#: Clocks of devices are known on their host to about this many nanoseconds.
_SLACK = 20_000

#: Per step and receive, when its message had been waited for; None: not recorded.
Arrivals = dict[tuple[int, Action], int | None]


def _is_compute(item: Action | Overlap) -> bool:
    return halves(item)[0].kind in COMPUTE


# ---- steps ---------------------------------------------------------------------------


def _numbered(file: ProfilerFile) -> list[tuple[int, Range]]:
    """The host's ranges with the training step each belongs to: by ProfilerStep, or,
    without, a new step wherever an action comes again."""
    if file.steps:
        starts = [start for start, _, _ in file.steps]
        numbers = [number for _, _, number in file.steps]
        return [
            (numbers[max(0, bisect_right(starts, one.start) - 1)], one)
            for one in file.host
        ]
    return _counted(file.host)


def _counted(ranges: Sequence[Range]) -> list[tuple[int, Range]]:
    step, seen, found = 0, set[str](), []
    for one in ranges:
        name = str(one.item)
        # Messages too: a step may begin with posting its receives.
        if halves(one.item)[0].microbatch >= 0:
            if name in seen:
                step, seen = step + 1, set()
            seen.add(name)
        found.append((step, one))
    return found


def _device_numbered(file: ProfilerFile) -> list[tuple[int, Range]]:
    """A device's ranges with the step of the host's range that each is a copy of."""
    host = _numbered(file)
    if not host:
        main = _main_stream(file.device)
        return _counted([one for one in file.device if one.thread == main])
    linked = {(one.link, str(one.item)): step for step, one in host if one.link}
    named: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for step, one in host:
        named[str(one.item)].append((one.start, step))
    found = []
    for one in file.device:
        before = named.get(str(one.item), [(0, 0)])
        starts = [start for start, _ in before]
        last = before[max(0, bisect_right(starts, one.start) - 1)][1]
        found.append((linked.get((one.link, str(one.item)), last), one))
    return found


# ---- on the device -------------------------------------------------------------------


def _main_stream(ranges: Iterable[Range]) -> Any:
    """The stream that computes most."""
    busy: dict[Any, int] = defaultdict(int)
    for one in ranges:
        if _is_compute(one.item):
            busy[one.thread] += one.end - one.start
    return max(busy, key=lambda thread: busy[thread])


def _on_device(file: ProfilerFile) -> list[tuple[int, Range]]:
    """One range per action: on the stream that computes where it is there, else over
    all streams that it is on."""
    main = _main_stream(file.device)
    copies: dict[tuple[int, str], list[Range]] = defaultdict(list)
    for step, one in _device_numbered(file):
        copies[step, str(one.item)].append(one)
    found = []
    for (step, _), all_of_it in copies.items():
        chosen = all_of_it
        if _is_compute(all_of_it[0].item):
            chosen = [one for one in all_of_it if one.thread == main] or all_of_it
        start = min(one.start for one in chosen)
        end = max(one.end for one in chosen)
        found.append((step, chosen[0]._replace(start=start, end=end)))
    return sorted(found, key=lambda one: one[1].start)


# ---- on the host ---------------------------------------------------------------------


def _arrivals(file: ProfilerFile, ranges: Sequence[tuple[int, Range]]) -> Arrivals:
    """When the wait for each message had ended: what the back end recorded of the
    receive that was posted within its range, if it did."""
    found: Arrivals = {}
    starts = [start for start, _ in file.received]
    for step, one in ranges:
        if isinstance(one.item, Overlap) or one.item.kind not in _RECEIVES:
            continue
        place = bisect_left(starts, one.start)
        posted = place < len(starts) and starts[place] <= one.end
        found[step, one.item] = file.received[place][1] if posted else None
    return found


def _ready(
    file: ProfilerFile, one: Range, step: int, action: Action, arrivals: Arrivals
) -> int | None:
    """When the action's message was there, within its range; None if it takes none."""
    receive = taken_by(action)
    if receive is None or (step, receive) not in arrivals:
        return None
    at = arrivals[step, receive]
    if at is None:
        # The first operator comes after the wait.
        place = bisect_left(file.operators, one.start)
        at = file.operators[place] if place < len(file.operators) else one.start
        return at if at < one.end else one.start
    return max(one.start, min(at, one.end))


# ---- events --------------------------------------------------------------------------

Typical = dict[tuple[int, Kind], float]


def _single(
    rank: int, step: int, one: Range, action: Action, at: int | None
) -> list[Event]:
    """An action's event, and its wait where the range held one."""
    if at is None:
        return [Event(rank, action, step, one.start, one.end)]
    receive = taken_by(action)
    assert receive is not None
    return [
        Event(rank, receive, step, one.start, at),
        Event(rank, action, step, at, one.end),
    ]


def _pair(
    rank: int, step: int, one: Range, ready: Sequence[int | None], typical: Typical
) -> list[Event]:
    """An overlap's halves, one after the other as the runtime runs them. Where the
    second waited, it began after; else the time is shared as their usual lengths."""
    first, second = halves(one.item)
    start = one.start if ready[0] is None else ready[0]
    usual = [typical.get((a.stage, a.kind), 0.0) for a in (first, second)]
    at = ready[1]
    if at is not None and at > start:
        between = min(at, start + round(usual[0])) if usual[0] else at
        begin = at
    else:
        share = usual[0] / sum(usual) if all(usual) else 0.5
        between = begin = start + round((one.end - start) * share)
        at = None if at is None else begin
    head = one._replace(end=between)
    tail = one._replace(start=between)
    events = _single(rank, step, head, first, ready[0])
    if at is None:
        return [*events, Event(rank, second, step, begin, one.end)]
    return events + _single(rank, step, tail, second, at)


def _events(file: ProfilerFile, device: bool) -> list[Event]:
    ranges = _on_device(file) if device else _numbered(file)
    arrivals: Arrivals = {} if device else _arrivals(file, ranges)
    rank = file.rank
    events: list[Event] = []
    pairs: list[tuple[int, Range]] = []
    for step, one in ranges:
        if isinstance(one.item, Overlap):
            pairs.append((step, one))
        elif one.item.kind in COMPUTE:
            at = _ready(file, one, step, one.item, arrivals)
            events += _single(rank, step, one, one.item, at)
        elif device or one.item.kind not in _RECEIVES:
            # On the host a receive's range is only its posting.
            events.append(Event(rank, one.item, step, one.start, one.end))
    lengths: dict[tuple[int, Kind], list[int]] = defaultdict(list)
    for event in events:
        key = event.action.stage, event.action.kind
        lengths[key].append(event.end - event.start)
    typical = {key: float(median(times)) for key, times in lengths.items()}
    for step, one in pairs:
        ready = [_ready(file, one, step, a, arrivals) for a in halves(one.item)]
        events += _pair(rank, step, one, ready, typical)
    return events


def _common_steps(events: Sequence[Event]) -> tuple[list[Event], list[int]]:
    """The events of the steps that all ranks have, and the other steps."""
    steps: dict[int, set[int]] = defaultdict(set)
    for event in events:
        steps[event.rank].add(event.step)
    common = set.intersection(*steps.values())
    every = set.union(*steps.values())
    if not common:
        raise ValueError(
            "the ranks' files have no training step in common: "
            + ", ".join(f"rank {r} has {sorted(steps[r])}" for r in sorted(steps))
        )
    return [e for e in events if e.step in common], sorted(every - common)


def _check_stages(events: Sequence[Event]) -> None:
    try:
        found = homes(events)
    except ValueError as error:
        raise ValueError(
            f"{error}. With several pipelines (data parallel), give ranks=, those of one"
        ) from None
    missing = [stage for stage in range(max(found)) if stage not in found]
    if missing:
        raise ValueError(
            f"no file has stage {missing[0]}, but one has stage {max(found)}: is the "
            "file of a rank missing?"
        )
    for event in events:
        if event.action.kind not in _TO_NEXT or event.action.stage < max(found):
            continue
        raise ValueError(
            f"no file has stage {max(found) + 1}, but {event.action} of rank "
            f"{event.rank} is a message of it: is the file of a rank missing?"
        )


def from_torch_profiler(
    source: str | Path | Iterable[str | Path], ranks: Iterable[int] | None
) -> Trace:
    """See ``Trace.from_torch_profiler``."""
    files, skipped = read_folder(source, None if ranks is None else list(ranks))
    device = all(any(_is_compute(r.item) for r in file.device) for file in files)
    numbers = [file.rank for file in files]
    for rank, file in enumerate(files):
        file.rank = rank
    events = [event for file in files for event in _events(file, device)]
    events, dropped = _common_steps(events)
    _check_stages(events)
    hosts = {file.rank: file.host_name for file in files if file.host_name}
    clocks = align(events, hosts, _SLACK)
    events = clocks.apply(events)
    origin = min(event.start for event in events)
    events = [e._replace(start=e.start - origin, end=e.end - origin) for e in events]
    metadata = {
        "format": "torch profiler",
        "ranges": "device" if device else "host",
        "torch_ranks": numbers,
        **clocks.metadata(1e-9),
    }
    if dropped:
        metadata["dropped_steps"] = dropped
    if skipped:
        metadata["skipped_files"] = [str(path) for path in skipped]
    return trace_of(events, 1e-9, "s", metadata)
