"""Lowering: a schedule of compute actions to one program per rank.

Receives stand right before the action that needs them and sends right after the one
that made them; between two stages of one rank there is neither. A send never blocks
while its channel has room; a receive waits where its consumer stands.
"""

from __future__ import annotations

from collections.abc import Iterator

from .ir import Action, Kind, Overlap, Program, Row, Schedule, halves


def _crosses(schedule: Schedule, stage: int, neighbour: int) -> bool:
    if neighbour < 0:
        return False
    return schedule.stage_to_rank[stage] != schedule.stage_to_rank[neighbour]


def _receives(schedule: Schedule, action: Action) -> Iterator[Action]:
    before = schedule.stage_before(action.stage)
    after = schedule.stage_after(action.stage)
    if action.kind is Kind.F and _crosses(schedule, action.stage, before):
        yield action._replace(kind=Kind.RECV_F)
    if action.kind in (Kind.I, Kind.B) and _crosses(schedule, action.stage, after):
        yield action._replace(kind=Kind.RECV_B)


def _sends(schedule: Schedule, action: Action) -> Iterator[Action]:
    before = schedule.stage_before(action.stage)
    after = schedule.stage_after(action.stage)
    if action.kind is Kind.F and _crosses(schedule, action.stage, after):
        yield action._replace(kind=Kind.SEND_F)
    if action.kind in (Kind.I, Kind.B) and _crosses(schedule, action.stage, before):
        yield action._replace(kind=Kind.SEND_B)


def _last_gradients(row: Row) -> set[Action]:
    """The last W or B of every stage in the row: after it the stage's gradient is
    whole."""
    last: dict[int, Action] = {}
    for item in row:
        for action in halves(item):
            if action.kind in (Kind.W, Kind.B):
                last[action.stage] = action
    return set(last.values())


def _lower_row(schedule: Schedule, row: Row, optimizer: bool) -> Row:
    steps: list[Action | Overlap] = []
    last = _last_gradients(row) if optimizer else set()
    for item in row:
        actions = halves(item)
        for action in actions:
            steps.extend(_receives(schedule, action))
        steps.append(item)
        for action in actions:
            steps.extend(_sends(schedule, action))
            if action in last:
                steps.append(Action(action.stage, Kind.REDUCE_GRAD, -1))
    stages = sorted({a.stage for a in last})
    steps.extend(Action(stage, Kind.OPT_STEP, -1) for stage in stages)
    return tuple(steps)


def lower(schedule: Schedule, optimizer: bool = True) -> tuple[Program, ...]:
    """One program per rank. With ``optimizer`` every stage reduces its gradient after
    its last W or B, and takes its optimizer step at the end."""
    return tuple(
        Program(rank, _lower_row(schedule, row, optimizer))
        for rank, row in enumerate(schedule.ranks)
    )


def lower_forward(schedule: Schedule) -> tuple[Program, ...]:
    """The programs of an evaluation: the schedule's forwards in their order, nothing
    else."""
    programs = []
    for rank, row in enumerate(schedule.ranks):
        forwards = tuple(a for item in row for a in halves(item) if a.kind is Kind.F)
        programs.append(Program(rank, _lower_row(schedule, forwards, optimizer=False)))
    return tuple(programs)
