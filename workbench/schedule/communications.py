"""Lowering in PyTorch's sense: programs with communication as its runtime runs them.

Between two ranks PyTorch's messages carry no name: a pair of ranks has one queue each
way, whatever the stages, and a receive takes what was sent next. So the order of the
messages of a pair counts, where the engine's channels (lower.py) keep stages apart.
"""

from __future__ import annotations

from collections.abc import Sequence

from .actions import Action, Kind, Overlap, halves
from .ir import Program, Schedule, whole
from .lower import last_gradients, messages

SENDS = frozenset({Kind.SEND_F, Kind.SEND_B})
RECEIVES = frozenset({Kind.RECV_F, Kind.RECV_B})
#: What a program of PyTorch's has besides its compute actions.
COMMUNICATION = SENDS | RECEIVES | {Kind.UNSHARD, Kind.RESHARD, Kind.REDUCE_GRAD}

#: Only the order counts; B is I and W.
_COST = {Kind.F: 1, Kind.I: 1, Kind.W: 1, Kind.B: 2}


def _ends(schedule: Schedule) -> list[list[tuple[int, int]]]:
    """(start, end) of every entry of every row under unit costs."""
    times: list[list[tuple[int, int]]] = [[] for _ in schedule.ranks]
    awake = list(range(schedule.num_ranks))
    sleeping: dict[Action, list[int]] = {}
    done: dict[Action, int] = {}
    while awake:
        rank = awake.pop()
        row, mine = schedule.ranks[rank], times[rank]
        while len(mine) < len(row):
            item = row[len(mine)]
            needs = [n for a in halves(item) for n in schedule.dependencies(a)]
            missing = next((n for n in needs if n not in done), None)
            if missing is not None:
                sleeping.setdefault(missing, []).append(rank)
                break
            start = max([mine[-1][1] if mine else 0, *(done[n] for n in needs)])
            end = start + sum(_COST[a.kind] for a in halves(item))
            mine.append((start, end))
            for action in halves(item):
                done[action] = end
                awake += sleeping.pop(action, ())
    return times


def with_communications(
    schedule: Schedule, unsharded_stages: int | None = None
) -> tuple[Program, ...]:
    """The programs that PyTorch's runtime executes: see ``Schedule.to_csv``.

    All actions and messages are put in one order, that of a run under unit costs, and a
    rank's program is what concerns it. A send stands after what made it and its receive
    where the other rank is at that moment: posted early, and in an order in which even
    sends that block until they are received end.
    """
    if unsharded_stages is not None:
        unsharded_stages = whole(unsharded_stages, "unsharded_stages", 1)
    schedule.check()
    _, sends = messages(schedule, schedule.ranks)
    times = _ends(schedule)
    home = schedule.stage_to_rank
    # (time, what comes first at one time, rank, place in its row) and what to write.
    events: list[tuple[tuple[int, ...], int, Action | Overlap]] = []
    for rank, row in enumerate(schedule.ranks):
        last = last_gradients(row)
        spans = zip(row, times[rank], strict=True)
        for step, (item, (start, end)) in enumerate(spans):
            events.append(((start, 2, rank, step), rank, item))
            for half, action in enumerate(halves(item)):
                if action in sends:
                    send = sends[action]
                    receive = receive_of(send)
                    at = (end, 0, rank, step, half)
                    events.append(((*at, 0), rank, send))
                    events.append(((*at, 1), home[receive.stage], receive))
                if action in last:
                    reduce = Action(action.stage, Kind.REDUCE_GRAD, -1)
                    events.append(((end, 1, rank, step, half), rank, reduce))
    rows: list[list[Action | Overlap]] = [[] for _ in schedule.ranks]
    for _, rank, item in sorted(events, key=lambda event: event[0]):
        rows[rank].append(item)
    if unsharded_stages is not None:
        rows = [_sharded(row, unsharded_stages) for row in rows]
    return tuple(Program(rank, tuple(row)) for rank, row in enumerate(rows))


def receive_of(send: Action) -> Action:
    """The receive that takes what is sent."""
    if send.kind is Kind.SEND_F:
        return send._replace(stage=send.stage + 1, kind=Kind.RECV_F)
    return send._replace(stage=send.stage - 1, kind=Kind.RECV_B)


def send_of(receive: Action) -> Action:
    """The send that a receive takes."""
    if receive.kind is Kind.RECV_F:
        return receive._replace(stage=receive.stage - 1, kind=Kind.SEND_F)
    return receive._replace(stage=receive.stage + 1, kind=Kind.SEND_B)


def _stages(item: Action | Overlap) -> list[int]:
    """The stages an entry computes on; none for communication."""
    return [a.stage for a in halves(item) if a.kind not in COMMUNICATION]


def _sharded(row: Sequence[Action | Overlap], count: int) -> list[Action | Overlap]:
    """The row with UNSHARD and RESHARD: before every compute action, the next ``count``
    stages that compute are whole (an overlap's both, whatever the count)."""
    coming: list[int] = []  # stages by their next use, going back from the row's end
    wanted: list[list[int]] = []
    for item in reversed(row):
        own = list(dict.fromkeys(_stages(item)))
        coming = own + [stage for stage in coming if stage not in own]
        wanted.append(coming[: max(count, len(own))] if own else [])
    result: list[Action | Overlap] = []
    held: list[int] = []
    for item, want in zip(row, reversed(wanted), strict=True):
        if want:
            leave = [stage for stage in held if stage not in want]
            fetch = [stage for stage in want if stage not in held]
            result += [Action(stage, Kind.RESHARD, -1) for stage in leave]
            result += [Action(stage, Kind.UNSHARD, -1) for stage in fetch]
            held = [stage for stage in held if stage in want] + fetch
        result.append(item)
    return result + [Action(stage, Kind.RESHARD, -1) for stage in held]
