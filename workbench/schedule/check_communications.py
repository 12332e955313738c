"""Programs read from a file, checked as PyTorch's runtime would run them.

PyTorch itself loads a file with communications as it stands. Messages of a pair of
ranks have one queue each way (communications.py); a receive does not block, but what
takes the message waits for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .actions import Action, Kind, Row, halves
from .communications import COMMUNICATION, RECEIVES, SENDS, receive_of, send_of
from .ir import Program, Schedule, ScheduleError
from .lower import last_gradients, messages


@dataclass(frozen=True)
class _Place:
    rank: int
    step: int

    def __str__(self) -> str:
        return f"line {self.rank + 1} (rank {self.rank}), column {self.step + 1}"


def _wrong(rule: str, place: _Place | None, action: Action, text: str) -> ScheduleError:
    where = f"{place}, {action}" if place else str(action)
    rank, step = (place.rank, place.step) if place else (None, None)
    return ScheduleError(f"{rule}: {where}: {text}", rule, rank, step, action)


def _walk(programs: Sequence[Program]) -> Iterator[tuple[_Place, Action]]:
    for rank, program in enumerate(programs):
        for step, item in enumerate(program.steps):
            for action in halves(item):
                yield _Place(rank, step), action


def check_communications(programs: Sequence[Program], schedule: Schedule) -> None:
    """That the programs do what the schedule, their compute part, needs, as PyTorch's
    runtime would run them: see ``Schedule.from_csv``. Places are the file's: line and
    column, from 1."""
    schedule.check()
    places: dict[Action, _Place] = {}
    for place, action in _walk(programs):
        places.setdefault(action, place)
    receives, sends = messages(schedule, schedule.ranks)
    served = {receive: action for action, receive in receives.items()}
    served |= {send: action for action, send in sends.items()}
    _check_messages(places, served)
    _check_pairs(programs, schedule)
    _check_deadlock(programs, {a: send_of(r) for a, r in receives.items()}, places)
    _check_reduced(schedule, places)
    for rank, program in enumerate(programs):
        _check_shards(rank, program.steps, schedule)


def _check_messages(
    places: Mapping[Action, _Place], served: Mapping[Action, Action]
) -> None:
    """Every message that is needed is there, and no other; a send comes after what made
    it, a receive before what takes it."""
    rule = "matched communication"
    for action, place in places.items():
        if action.kind not in SENDS | RECEIVES:
            continue
        if action not in served:
            text = (
                "the schedule has no such message: none passes between two stages of "
                "one rank, before the first stage or after the last, or without an "
                "action that makes or takes it"
            )
            raise _wrong(rule, place, action, text)
        at = places[served[action]]
        if action.kind in SENDS and place.step < at.step:
            text = f"it is sent before {served[action]}, in column {at.step + 1}"
            raise _wrong(rule, place, action, text)
        if action.kind in RECEIVES and place.step > at.step:
            text = f"{served[action]} needs it before, in column {at.step + 1}"
            raise _wrong(rule, place, action, text)
    for action, compute in served.items():
        if action not in places:
            verb = "it would send" if action.kind in SENDS else "it needs"
            text = f"{verb} {action}, which is missing on its line"
            raise _wrong(rule, places[compute], compute, text)


def _check_pairs(programs: Sequence[Program], schedule: Schedule) -> None:
    """From one rank to another, messages are received in the order they are sent."""
    home = schedule.stage_to_rank
    sent: dict[tuple[int, int], list[Action]] = {}
    got: dict[tuple[int, int], list[tuple[_Place, Action]]] = {}
    for place, action in _walk(programs):
        if action.kind in SENDS:
            target = home[receive_of(action).stage]
            sent.setdefault((place.rank, target), []).append(receive_of(action))
        elif action.kind in RECEIVES:
            source = home[send_of(action).stage]
            got.setdefault((source, place.rank), []).append((place, action))
    for (source, target), order in sent.items():
        found = got[source, target]
        for number, (want, (place, action)) in enumerate(
            zip(order, found, strict=True)
        ):
            if want != action:
                text = (
                    f"as message {number} from rank {source} to rank {target} it would "
                    f"take what {send_of(want)} sends; PyTorch's messages have no names, "
                    "so both ranks need one order"
                )
                raise _wrong("matched communication", place, action, text)


def _check_deadlock(
    programs: Sequence[Program],
    needs: Mapping[Action, Action],
    places: Mapping[Action, _Place],
) -> None:
    """That all ranks come to their end, where a receive does not block but its consumer
    waits for the send."""
    position = [0] * len(programs)
    waits: dict[int, tuple[Action, Action]] = {}

    def reached(send: Action) -> bool:
        place = places[send]
        return place.step < position[place.rank]

    progress = True
    while progress:
        progress = False
        for rank, program in enumerate(programs):
            waits.pop(rank, None)
            while position[rank] < len(program.steps):
                actions = halves(program.steps[position[rank]])
                late = [a for a in actions if a in needs and not reached(needs[a])]
                if late:
                    waits[rank] = late[0], needs[late[0]]
                    break
                position[rank] += 1
                progress = True
    if waits:
        told = ", ".join(
            f"rank {rank} waits at {action} for {send}"
            for rank, (action, send) in waits.items()
        )
        rank, (action, _) = next(iter(waits.items()))
        raise _wrong("no deadlock", _Place(rank, position[rank]), action, told)


def _check_reduced(schedule: Schedule, places: Mapping[Action, _Place]) -> None:
    """REDUCE_GRAD after a stage's gradients; on all stages or on none, since PyTorch
    divides the gradients by the number of microbatches there."""
    stages = [a.stage for a in places if a.kind is Kind.REDUCE_GRAD]
    for stage, home in enumerate(schedule.stage_to_rank):
        reduce = Action(stage, Kind.REDUCE_GRAD, -1)
        if stages and reduce not in places:
            text = f"it is missing, but stage {stages[0]} has one"
            raise _wrong("completeness", None, reduce, text)
        for last in last_gradients(schedule.ranks[home]):
            if last.stage != stage or reduce not in places:
                continue
            place, at = places[reduce], places[last]
            if place.step < at.step:
                text = f"{last} still adds to the gradient, in column {at.step + 1}"
                raise _wrong("happens-before", place, reduce, text)


def _check_shards(rank: int, row: Row, schedule: Schedule) -> None:
    """UNSHARD and RESHARD in turn, around a stage's compute actions, if it has any."""
    shards = (Kind.UNSHARD, Kind.RESHARD)
    own = [s for s, home in enumerate(schedule.stage_to_rank) if home == rank]
    sharded = {a.stage for item in row for a in halves(item) if a.kind in shards}
    held: dict[int, int] = {}
    for step, item in enumerate(row):
        for action in halves(item):
            stage, kind = action.stage, action.kind
            problem = None
            if kind in shards and stage not in own:
                problem = f"stage {stage} is not on this rank"
            elif kind is Kind.UNSHARD and stage in held:
                problem = f"stage {stage} is whole since column {held[stage] + 1}"
            elif kind is Kind.RESHARD and stage not in held:
                problem = f"stage {stage} has no UNSHARD before"
            elif kind not in COMMUNICATION and stage in sharded and stage not in held:
                problem = f"stage {stage} has no UNSHARD before, but others on its line"
            if problem:
                raise _wrong("sharding", _Place(rank, step), action, problem)
            if kind is Kind.UNSHARD:
                held[stage] = step
            elif kind is Kind.RESHARD:
                del held[stage]
    for stage, step in held.items():
        text = "no RESHARD follows, so the next step would unshard it twice"
        action = Action(stage, Kind.UNSHARD, -1)
        raise _wrong("sharding", _Place(rank, step), action, text)
