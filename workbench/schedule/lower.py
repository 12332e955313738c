"""Lowering: a schedule of compute actions to one program per rank.

Receives stand right before the action that needs them and sends right after the one
that made them; what is needed is said by ``Schedule.dependencies`` alone, and between
two stages of one rank there is neither. A send never blocks while its channel has room;
a receive waits where its consumer stands.
"""

from __future__ import annotations

from collections.abc import Sequence

from .actions import Action, Kind, Overlap, Row, halves
from .ir import Program, Schedule

#: How the result of a kind travels: (sent as, received as).
_MESSAGES = {
    Kind.F: (Kind.SEND_F, Kind.RECV_F),
    Kind.I: (Kind.SEND_B, Kind.RECV_B),
    Kind.B: (Kind.SEND_B, Kind.RECV_B),
}
_GRADIENTS = (Kind.W, Kind.B)

#: What is received before an action, and what is sent after one.
Messages = tuple[dict[Action, Action], dict[Action, Action]]


def messages(schedule: Schedule, rows: Sequence[Row]) -> Messages:
    """Every dependence between two ranks becomes a send and a receive. An action is
    named by the stage it belongs to, at both ends."""
    home = schedule.stage_to_rank
    receives: dict[Action, Action] = {}
    sends: dict[Action, Action] = {}
    for row in rows:
        for item in row:
            for action in halves(item):
                stage, _, microbatch, part = action
                for need in schedule.dependencies(action):
                    if home[need.stage] == home[stage]:
                        continue
                    sent, received = _MESSAGES[need.kind]
                    receives[action] = Action(stage, received, microbatch, part)
                    sends[need] = Action(need.stage, sent, microbatch, part)
    return receives, sends


def last_gradients(row: Row) -> set[Action]:
    """The last W or B of every stage in the row: after it the stage's gradient is
    whole."""
    last: dict[int, Action] = {}
    for item in row:
        for action in halves(item):
            if action.kind in _GRADIENTS:
                last[action.stage] = action
    return set(last.values())


def _lower_row(row: Row, found: Messages, optimizer: bool) -> Row:
    receives, sends = found
    steps: list[Action | Overlap] = []
    last = last_gradients(row) if optimizer else set()
    for item in row:
        actions = halves(item)
        steps += [receives[action] for action in actions if action in receives]
        steps.append(item)
        for action in actions:
            if action in sends:
                steps.append(sends[action])
            if action in last:
                steps.append(Action(action.stage, Kind.REDUCE_GRAD, -1))
    stages = sorted({action.stage for action in last})
    steps += [Action(stage, Kind.OPT_STEP, -1) for stage in stages]
    return tuple(steps)


def _lower(
    schedule: Schedule, rows: Sequence[Row], optimizer: bool
) -> tuple[Program, ...]:
    try:
        found = messages(schedule, rows)
    except IndexError:
        schedule.check()  # a stage that is not there: says which, and where
        raise
    return tuple(
        Program(rank, _lower_row(row, found, optimizer))
        for rank, row in enumerate(rows)
    )


def lower(schedule: Schedule, optimizer: bool = True) -> tuple[Program, ...]:
    """One program per rank. With ``optimizer`` every stage reduces its gradient after
    its last W or B, and takes its optimizer step at the end."""
    return _lower(schedule, schedule.ranks, optimizer)


def lower_forward(schedule: Schedule) -> tuple[Program, ...]:
    """The programs of an evaluation: the schedule's forwards in their order, nothing
    else."""
    rows = [
        tuple(a for item in row for a in halves(item) if a.kind is Kind.F)
        for row in schedule.ranks
    ]
    return _lower(schedule, rows, optimizer=False)
