"""Events of somebody else's run as a ``Trace``.

Such events say when work was done, seldom why there was none. Here the waits are
derived: a rank that is idle before an action whose input comes from another rank waits
for that message until it can be there; what idle time is left was not for any message.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from ..schedule import COMPUTE, KIND_CODE, Action, Kind, Schedule
from .trace import COLUMNS, COMPUTE_LANE, OPTIMIZER_LANE, WAIT_LANE, Trace

_SENDS = (Kind.SEND_F, Kind.SEND_B)
_RECEIVES = (Kind.RECV_F, Kind.RECV_B)
_OPTIMIZER = (Kind.REDUCE_GRAD, Kind.OPT_STEP)


class Event(NamedTuple):
    """An action and when it ran, in ticks of its rank's clock. A receive's times say
    when its rank waited for it, or had it on its way."""

    rank: int
    action: Action
    step: int
    start: int
    end: int


class Message(NamedTuple):
    """A message by the receive that takes it."""

    step: int
    receive: Action


def taken_by(action: Action) -> Action | None:
    """The receive that the action would need, were its input on another rank."""
    stage, kind, microbatch, part = action
    if kind is Kind.F:
        return Action(stage, Kind.RECV_F, microbatch, part) if stage else None
    if kind in (Kind.I, Kind.B):
        return Action(stage, Kind.RECV_B, microbatch, part)
    return None


def sent_by(action: Action) -> Action | None:
    """The receive, at the neighbour, of what a send carries or an action makes."""
    stage, kind, microbatch, part = action
    if kind in (Kind.F, Kind.SEND_F):
        return Action(stage + 1, Kind.RECV_F, microbatch, part)
    if kind in (Kind.I, Kind.B, Kind.SEND_B) and stage:
        return Action(stage - 1, Kind.RECV_B, microbatch, part)
    return None


def homes(events: Iterable[Event]) -> dict[int, int]:
    """Stage -> rank. Raises ValueError for a stage with compute actions on two."""
    found: dict[int, int] = {}
    for event in events:
        if event.action.kind not in COMPUTE:
            continue
        home = found.setdefault(event.action.stage, event.rank)
        if home != event.rank:
            raise ValueError(
                f"stage {event.action.stage} is on rank {home} and, with {event.action} "
                f"in step {event.step}, on rank {event.rank}; a stage has one rank"
            )
    return found


def _check_unique(events: Iterable[Event]) -> None:
    seen: dict[tuple[int, Action], Event] = {}
    for event in events:
        if event.action.kind in (Kind.UNSHARD, Kind.RESHARD):
            continue
        before = seen.setdefault((event.step, event.action), event)
        if before is not event:
            raise ValueError(
                f"{event.action} stands twice in step {event.step}: on rank "
                f"{before.rank} from {before.start} and on rank {event.rank} from "
                f"{event.start}; give each training step its number"
            )


@dataclass
class _Messages:
    """What is known of the messages of a run."""

    home: Mapping[int, int]
    sent: dict[Message, tuple[int, int]]  # by which rank, and when it had been sent
    received: dict[Message, Event]
    flight: dict[tuple[int, int], int]
    usual_flight: int = 0

    def need(self, event: Event) -> Message | None:
        """The message from another rank that an action takes."""
        receive = taken_by(event.action)
        if receive is None:
            return None
        source = receive.stage + (-1 if receive.kind is Kind.RECV_F else 1)
        if self.home.get(source, event.rank) == event.rank:
            return None
        return Message(event.step, receive)


def _messages(events: Sequence[Event], kept: Mapping[Event, Event]) -> _Messages:
    found = _Messages(homes(events), {}, {}, {})
    explicit: set[Message] = set()
    for event in events:
        kind = event.action.kind
        if kind in _RECEIVES:
            found.received[Message(event.step, event.action)] = event
            continue
        receive = sent_by(event.action)
        if receive is None:
            continue
        message = Message(event.step, receive)
        if kind in _SENDS:
            explicit.add(message)
            found.sent[message] = event.rank, kept[event].end
        elif message not in explicit:
            found.sent[message] = event.rank, event.end
    return found


def _clipped_sends(events: Sequence[Event]) -> dict[Event, Event]:
    """Every send as it is kept: one that goes on beside compute (a device's copy) does
    not keep the rank, so only its start is."""
    busy = sorted((e.start, e.end) for e in events if e.action.kind in COMPUTE)
    starts = np.array([start for start, _ in busy], np.int64)
    reach = np.maximum.accumulate(np.array([end for _, end in busy], np.int64))
    kept = {}
    for event in events:
        if event.action.kind not in _SENDS:
            continue
        before = int(np.searchsorted(starts, event.end)) - 1
        beside = before >= 0 and bool(reach[before] > event.start)
        kept[event] = event._replace(end=event.start) if beside else event
    return kept


class _Idle(NamedTuple):
    """Idle time of a rank before an action that takes a message."""

    begin: int
    event: Event
    message: Message


def _idle(
    events: Sequence[Event],
    kept: Mapping[Event, Event],
    known: _Messages,
    lows: Mapping[int, int],
) -> list[_Idle]:
    """For every action of one rank that takes a message, the idle time before it."""
    on = [kept.get(e, e) for e in events if e.action.kind not in _RECEIVES]
    clock: int | None = None
    before: tuple[int, int | None] | None = None
    found = []
    for event in sorted(on, key=lambda e: (e.start, e.end)):
        if before is None or before[0] != event.start or event.end == event.start:
            before = event.start, clock
        # The halves of an overlap begin together, after the same idle time.
        idle_from = before[1]
        message = known.need(event)
        if message is not None:
            low = lows[event.step]
            begin = low if idle_from is None else max(low, idle_from)
            found.append(_Idle(min(begin, event.start), event, message))
        clock = event.end if clock is None else max(clock, event.end)
    return found


def _flights(idle: Iterable[_Idle], known: _Messages) -> None:
    """How long messages take between two ranks: the median where a rank was seen to
    wait for one before it was sent; elsewhere that of all ranks."""
    seen: dict[tuple[int, int], list[int]] = {}
    for begin, event, message in idle:
        if message in known.received or message not in known.sent:
            continue
        source, sent = known.sent[message]
        if begin < sent <= event.start:
            seen.setdefault((source, event.rank), []).append(event.start - sent)
    known.flight = {pair: int(median(times)) for pair, times in seen.items()}
    everywhere = [time for times in seen.values() for time in times]
    known.usual_flight = int(median(everywhere)) if everywhere else 0


def _wait(idle: _Idle, known: _Messages) -> Event:
    """The receive, from when its rank waited for it until the message could be there;
    without length where nothing was waited for."""
    begin, event, message = idle
    until = begin
    if message in known.received:
        given = known.received[message]
        begin = max(begin, given.start)
        until = given.end
    elif message in known.sent:
        source, sent = known.sent[message]
        late = sent + known.flight.get((source, event.rank), known.usual_flight)
        until = event.start if sent > begin else late
    begin = min(begin, event.start)
    until = max(begin, min(until, event.start))
    return Event(event.rank, message.receive, event.step, begin, until)


def _until(send: Event, arrived: Mapping[Message, int]) -> Event:
    """A send, at the longest until its message has arrived: a host may be busy with it
    for longer."""
    receive = sent_by(send.action)
    if receive is None:
        return send
    end = min(send.end, arrived.get(Message(send.step, receive), send.end))
    return send._replace(start=min(send.start, end), end=end)


def _lane(kind: Kind) -> int:
    if kind in COMPUTE:
        return COMPUTE_LANE
    return OPTIMIZER_LANE if kind in _OPTIMIZER else WAIT_LANE


def trace_of(
    events: Sequence[Event], tick: float, unit: str, metadata: Mapping[str, Any]
) -> Trace:
    """The events as a trace with source "imported": sends where none were given are
    taken to be at the end of what made them, receives are derived as above.

    Raises ValueError for a stage on two ranks and for an action twice in a step.
    """
    events = [e for e in events if e.action.kind not in (Kind.UNSHARD, Kind.RESHARD)]
    _check_unique(events)
    ranks = sorted({event.rank for event in events})
    by_rank = {rank: [e for e in events if e.rank == rank] for rank in ranks}
    kept: dict[Event, Event] = {}
    for mine in by_rank.values():
        kept |= _clipped_sends(mine)
    known = _messages(events, kept)
    lows: dict[int, int] = {}
    for event in events:
        if event.action.kind in COMPUTE:
            lows[event.step] = min(lows.get(event.step, event.start), event.start)
    idle = {rank: _idle(mine, kept, known, lows) for rank, mine in by_rank.items()}
    _flights([one for found in idle.values() for one in found], known)
    waited = {r: [_wait(one, known) for one in found] for r, found in idle.items()}
    arrived = {
        Message(wait.step, wait.action): wait.end
        for waits in waited.values()
        for wait in waits
    }
    kept = {event: _until(send, arrived) for event, send in kept.items()}
    rows = []
    for rank, mine in by_rank.items():
        waits = waited[rank]
        sends = [] if kept else _derived_sends(mine, known)
        rest = [kept.get(e, e) for e in mine if e.action.kind not in _RECEIVES]
        rows += _rows([*rest, *waits, *sends])
    table = np.array(rows, np.int64).reshape(-1, len(COLUMNS)).T
    columns: dict[str, Any] = dict(zip(COLUMNS, table, strict=True))
    about = _about(events, known.home) | dict(metadata)
    return Trace(**columns, tick=tick, unit=unit, source="imported", metadata=about)


def _derived_sends(events: Iterable[Event], known: _Messages) -> list[Event]:
    """A send without length at the end of every action whose result travels."""
    sends = []
    for event in events:
        receive = sent_by(event.action)
        if receive is None or known.home.get(receive.stage, event.rank) == event.rank:
            continue
        kind = Kind.SEND_F if receive.kind is Kind.RECV_F else Kind.SEND_B
        send = event.action._replace(kind=kind)
        sends.append(Event(event.rank, send, event.step, event.end, event.end))
    return sends


def _rows(events: Sequence[Event]) -> list[tuple[int, ...]]:
    """One rank's columns; live counts microbatches in flight."""
    rows: list[tuple[int, ...]] = []
    live = 0
    for rank, action, step, start, end in sorted(events, key=_in_time):
        live += (action.kind is Kind.F) - (action.kind in (Kind.B, Kind.W))
        what = (action.stage, KIND_CODE[action.kind], action.microbatch, action.slice)
        row = (rank, *what, step, start, end, _lane(action.kind), 0, max(live, 0))
        rows.append(row)
    return rows


def _in_time(event: Event) -> tuple[int, ...]:
    # At one time: what was waited for, what took it, what it sent.
    kind = event.action.kind
    order = 0 if kind in _RECEIVES else 2 if kind in _SENDS else 1
    return (event.start, event.end, order)


def schedule_of(trace: Trace, step: int | None) -> Schedule:
    """See ``Trace.schedule``."""
    if step is None and trace.steps:
        step = trace.steps[-1]
    if step not in trace.steps:
        raise ValueError(f"the trace has no step {step}; there are {trace.steps}")
    part = trace.select((trace.step == step) & trace.of_kind(*COMPUTE))
    order = np.lexsort((part.end, part.start)).tolist()
    ranks, actions = part.rank.tolist(), list(part.actions())
    rows: list[list[Action]] = [[] for _ in range(trace.num_ranks)]
    home: dict[int, int] = {}
    for event in order:
        rows[ranks[event]].append(actions[event])
        home[actions[event].stage] = ranks[event]
    missing = [stage for stage in range(max(home, default=-1) + 1) if stage not in home]
    if missing or not home:
        raise ValueError(f"step {step} has no action of stage {(missing or [0])[0]}")
    placed = [home[stage] for stage in range(len(home))]
    name = str(trace.metadata.get("schedule", "imported"))
    slices = 1 + max(action.slice for action in actions)
    copies = int(trace.metadata.get("num_copies", 1))
    if copies == 1:
        return Schedule(name, rows, placed, num_slices=slices)
    length = len(placed) // copies
    route = {action.microbatch: action.stage // length for action in actions}
    return Schedule(
        name,
        rows,
        placed,
        num_slices=slices,
        copy_of=tuple(range(length)) * copies,
        route=[copy for _, copy in sorted(route.items())],
    )


def _about(events: Sequence[Event], home: Mapping[int, int]) -> dict[str, Any]:
    microbatches = [e.action.microbatch for e in events if e.action.kind in COMPUTE]
    return {
        "schedule": "imported",
        "num_ranks": max((e.rank for e in events), default=-1) + 1,
        "num_stages": max(home, default=-1) + 1,
        "num_microbatches": max(microbatches, default=-1) + 1,
    }
