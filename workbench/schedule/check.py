"""The rules a schedule must keep, and what is said of the first one it breaks.

Local rules look at one action; happens-before at one row; communication and deadlock at
the whole graph of lowered programs, the one that the simulator and the engine use too.
"""

from __future__ import annotations

from collections.abc import Sequence

from .actions import COMPUTE, Action, Kind, Overlap, halves
from .graph import DATA, Graph, graph
from .ir import Program, Schedule, ScheduleError, in_flight_changes, whole
from .lower import lower


def _fail(
    schedule: Schedule,
    rule: str,
    message: str,
    rank: int | None = None,
    step: int | None = None,
    action: Action | None = None,
) -> ScheduleError:
    from .draw import marked_grid

    where = "" if rank is None else f"rank {rank}, "
    where += "" if step is None else f"step {step}, "
    where += "" if action is None else f"{action}: "
    drawn = marked_grid(schedule, rank, step)
    text = f"{schedule.name}: {rule}: {where}{message}\n\n{drawn}"
    return ScheduleError(text, rule, rank, step, action)


def _below(count: int, noun: str) -> str:
    if not count:
        many = f"{noun}es" if noun.endswith("h") else f"{noun}s"
        return f"the schedule has no {many}"
    hint = f"; num_{noun}s says how many there are" if noun == "slice" else ""
    return f"only 0 to {count - 1}{hint}"


# ---- one action ----------------------------------------------------------------------


def _misplaced(schedule: Schedule, rank: int, action: Action) -> str | None:
    """What is wrong with an action's kind, numbers or rank."""
    if action.kind not in COMPUTE:
        return f"{action.kind} is no compute action; communication comes with lowering"
    for noun, value, count in (
        ("stage", action.stage, schedule.num_stages),
        ("microbatch", action.microbatch, schedule.num_microbatches),
        ("slice", action.slice, schedule.num_slices),
    ):
        if not 0 <= value < count:
            return f"there is no {noun} {value}, {_below(count, noun)}"
    home = schedule.stage_to_rank[action.stage]
    if home != rank:
        return (
            f"stage {action.stage} lives on rank {home}; move the action to that rank's "
            f"row, or make stage_to_rank[{action.stage}] {rank}"
        )
    if action.stage not in schedule.chain(action.microbatch):
        chain = schedule.chain(action.microbatch)
        return (
            f"microbatch {action.microbatch} does not pass stage {action.stage}: its "
            f"route leads through stages {chain[0]} to {chain[-1]}"
        )
    return None


def _check_places(schedule: Schedule) -> None:
    for stage, home in enumerate(schedule.stage_to_rank):
        if not 0 <= home < schedule.num_ranks:
            raise _fail(
                schedule,
                "placement",
                f"stage {stage} is placed on rank {home}, but there are "
                f"{schedule.num_ranks} ranks; add a row per rank, or place the stage on "
                "one that there is",
            )
    seen: set[Action] = set()
    for rank, step, action in schedule.walk():
        problem = _misplaced(schedule, rank, action)
        if problem:
            raise _fail(schedule, "placement", problem, rank, step, action)
        if action in seen:
            first = "rank {}, step {}".format(*schedule.place(action))
            message = f"it stands at {first} already; leave one of them out"
            raise _fail(schedule, "uniqueness", message, rank, step, action)
        seen.add(action)


_BITS = {Kind.F: 1, Kind.B: 2, Kind.I: 4, Kind.W: 8, Kind.R: 0}
_WHOLE = (1 | 2, 1 | 4 | 8)  # F and B, or F, I and W


def _check_overlaps(schedule: Schedule) -> None:
    """What runs together is one forward and one action of a backward."""
    for rank, row in enumerate(schedule.ranks):
        for step, item in enumerate(row):
            if not isinstance(item, Overlap):
                continue
            forwards = [action.kind is Kind.F for action in item]
            if sum(forwards) != 1 or Kind.R in (item.first.kind, item.second.kind):
                message = (
                    f"{item.first} and {item.second} overlap, but a pair is a forward "
                    "and one of B, I or W; write them as two steps"
                )
                raise _fail(schedule, "overlap", message, rank, step, item.second)


def _check_complete(schedule: Schedule) -> None:
    """Each F once, and for each F either one B or both an I and a W."""
    if not schedule.num_stages or not schedule.num_microbatches:
        message = "there is nothing to do: no stage or no microbatch"
        raise _fail(schedule, "completeness", message)
    have: dict[tuple[int, int, int], int] = {}
    for _, _, (stage, kind, microbatch, part) in schedule.walk():
        key = (stage, microbatch, part)
        have[key] = have.get(key, 0) | _BITS[kind]
    for microbatch in range(schedule.num_microbatches):
        for stage in schedule.chain(microbatch):
            for part in range(schedule.num_slices):
                if have.get((stage, microbatch, part)) not in _WHOLE:
                    raise _incomplete(schedule, stage, microbatch, part)


def _incomplete(
    schedule: Schedule, stage: int, microbatch: int, part: int
) -> ScheduleError:
    """What is missing, or too much, of one microbatch on one stage."""
    forward, full, split, weight = (
        Action(stage, kind, microbatch, part)
        for kind in (Kind.F, Kind.B, Kind.I, Kind.W)
    )
    if not schedule.has(forward):
        home = schedule.stage_to_rank[stage]
        message = (
            "it is missing; every microbatch from 0 up to the highest runs once on every "
            "stage of its way"
        )
        return _fail(schedule, "completeness", message, home, None, forward)
    found = [str(a) for a in (full, split, weight) if schedule.has(a)]
    message = f"it needs {full}, or {split} and {weight}; there is "
    message += " and ".join(found) or "no backward"
    message += "; write exactly one of these"
    rank, step = schedule.place(forward)
    return _fail(schedule, "completeness", message, rank, step, forward)


def _check_rows(schedule: Schedule) -> None:
    """On its own rank, what an action needs must stand before it, not beside it."""
    for rank, step, action in schedule.walk():
        for need in schedule.dependencies(action):
            if not schedule.has(need):
                message = f"it needs {need}, which the schedule lacks"
                raise _fail(schedule, "completeness", message, rank, step, action)
            home, position = schedule.place(need)
            if home == rank and position >= step:
                where = (
                    "in the same overlap" if position == step else f"at step {position}"
                )
                message = (
                    f"it needs {need}, which comes only {where}; move it behind that"
                )
                raise _fail(schedule, "happens-before", message, rank, step, action)


# ---- the whole graph -----------------------------------------------------------------


def _served(schedule: Schedule, action: Action | None) -> tuple[int, int] | None:
    """Where in the schedule a lowered step belongs: the compute action it serves."""
    if action is None:
        return None
    if action.kind in (Kind.SEND_F, Kind.RECV_F):
        action = action._replace(kind=Kind.F)
    elif action.kind in (Kind.SEND_B, Kind.RECV_B):
        action = schedule.backward(action.stage, action.microbatch, action.slice)
    return schedule.place(action) if schedule.has(action) else None


def describe_circle(
    found: Graph, circle: Sequence[tuple[int, int, int]], capacity: int | None
) -> str:
    """A circle of waits in words, one line per rank; steps are those of the programs,
    in which communication counts."""

    def at(node: int) -> str:
        return f"rank {found.node_rank[node]}"

    lines = []
    for node, target, kind in circle:
        text = f"{at(node)} waits at step {found.node_step[node]} ({found.step(node)}) "
        if kind == DATA:
            text += f"for {at(target)}'s {found.step(target)}"
        elif capacity:
            text += f"for room, until {at(target)}'s {found.step(target)}"
        else:
            # Rendezvous: the edge comes from the step before the receive.
            text += f"until {at(target)} comes to its {found.step(target + 1)}"
        lines.append(text)
    circle_told = ",\nwhile ".join(lines)
    return (
        f"{circle_told}:\nthey wait in a circle (steps counted with communication); "
        "another order of these actions on one of the ranks breaks it"
        + (", and so may more room in the channels" if capacity is not None else "")
    )


def _graph(
    schedule: Schedule, programs: Sequence[Program], capacity: int | None
) -> Graph:
    try:
        return graph(programs, capacity)
    except ScheduleError as error:
        rank, step = _served(schedule, error.action) or (None, None)
        message, action = str(error), error.action
        raise _fail(schedule, error.rule, message, rank, step, action) from None


def _deadlock(
    schedule: Schedule, programs: Sequence[Program], capacity: int | None
) -> ScheduleError | None:
    """The deadlock under this capacity, if there is one."""
    found = _graph(schedule, programs, capacity)
    order = found.order()
    if len(order) == len(found):
        return None
    circle = found.circle(order)
    step = found.step(circle[0][0])
    action = step.first if isinstance(step, Overlap) else step
    rank, position = _served(schedule, action) or (None, None)
    limit = "channels without limit"
    if capacity is not None:
        limit = f"channel capacity {capacity}"
    message = f"deadlock with {limit}:\n{describe_circle(found, circle, capacity)}"
    return _fail(schedule, "no deadlock", message, rank, position, action)


def _check_graph(schedule: Schedule, capacity: int | None) -> None:
    programs = lower(schedule, optimizer=False)
    error = _deadlock(schedule, programs, capacity)
    if error and capacity is not None:
        # A limit only adds waits; say so where no capacity would help.
        error = _deadlock(schedule, programs, None) or error
    if error:
        raise error


def _check_memory(schedule: Schedule, limit: int) -> None:
    for rank in range(schedule.num_ranks):
        peak = schedule.in_flight(rank)
        if peak <= limit:
            continue
        held = 0
        row = schedule.ranks[rank]
        for step, change in in_flight_changes(row):
            held += change
            if held > limit:
                action = halves(row[step])[0]
                message = f"{held} activations in flight, but the limit is {limit}"
                message += f" (peak {peak}); run a W or B before it, or allow {peak}"
                raise _fail(schedule, "memory limit", message, rank, step, action)


def _check_local(schedule: Schedule) -> None:
    _check_places(schedule)
    _check_overlaps(schedule)
    _check_complete(schedule)
    _check_rows(schedule)


def check(
    schedule: Schedule,
    channel_capacity: int | None = None,
    memory_limit: int | None = None,
) -> None:
    """See ``Schedule.check``."""
    if channel_capacity is not None:
        channel_capacity = whole(channel_capacity, "channel_capacity", 0)
    if memory_limit is not None:
        memory_limit = whole(memory_limit, "memory_limit", 1)
    _check_local(schedule)
    _check_graph(schedule, channel_capacity)
    if memory_limit is not None:
        _check_memory(schedule, memory_limit)


def minimum_channel_capacity(schedule: Schedule) -> int:
    """See ``Schedule.minimum_channel_capacity``."""
    _check_local(schedule)
    programs = lower(schedule, optimizer=False)

    def runs(capacity: int | None) -> bool:
        found = _graph(schedule, programs, capacity)
        return len(found.order()) == len(found)

    low, high = 0, 1
    if runs(0):
        return 0
    while not runs(high):
        if low == 0 and not runs(None):
            _check_graph(schedule, None)
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if runs(middle) else (middle, high)
    return high
