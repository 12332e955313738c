"""The rules a schedule must keep, and what is said of the first one it breaks.

Local rules look at one action; happens-before at one row; communication and deadlock at
the whole graph of lowered programs, the one that the simulator and the engine use too.
"""

from __future__ import annotations

from collections.abc import Iterator

from .graph import DATA, Graph, graph
from .ir import COMPUTE, Action, Kind, Overlap, Schedule, ScheduleError, halves
from .lower import lower


def _fail(
    schedule: Schedule,
    rule: str,
    message: str,
    rank: int | None = None,
    step: int | None = None,
    action: Action | None = None,
) -> ScheduleError:
    from .draw import grid

    where = ""
    if rank is not None and step is not None:
        where = f"rank {rank}, step {step}"
        where += f", {action}: " if action is not None else ": "
    mark = (rank, step) if rank is not None and step is not None else None
    text = f"{schedule.name}: {rule}: {where}{message}\n\n{grid(schedule, mark)}"
    return ScheduleError(text, rule, rank, step, action)


# ---- one action ----------------------------------------------------------------------


def _misplaced(schedule: Schedule, rank: int, action: Action) -> str | None:
    if action.kind not in COMPUTE:
        return f"{action.kind} is no compute action; communication comes with lowering"
    if not 0 <= action.stage < schedule.num_stages:
        return f"there is no stage {action.stage}, only 0 to {schedule.num_stages - 1}"
    if not 0 <= action.microbatch < schedule.num_microbatches:
        last = schedule.num_microbatches - 1
        return f"there is no microbatch {action.microbatch}, only 0 to {last}"
    if not 0 <= action.slice < schedule.num_slices:
        return f"there is no slice {action.slice}, only 0 to {schedule.num_slices - 1}"
    home = schedule.stage_to_rank[action.stage]
    if home != rank:
        return f"stage {action.stage} lives on rank {home}"
    return None


def _check_places(schedule: Schedule) -> None:
    for stage, home in enumerate(schedule.stage_to_rank):
        if not 0 <= home < schedule.num_ranks:
            raise _fail(
                schedule,
                "placement",
                f"stage {stage} is placed on rank {home}, but there are "
                f"{schedule.num_ranks} ranks",
            )
    seen: dict[Action, tuple[int, int]] = {}
    for rank, step, action in schedule.walk():
        problem = _misplaced(schedule, rank, action)
        if problem:
            raise _fail(schedule, "placement", problem, rank, step, action)
        if action in seen:
            first = "rank {}, step {}".format(*seen[action])
            message = f"it stands at {first} already"
            raise _fail(schedule, "uniqueness", message, rank, step, action)
        seen[action] = (rank, step)


def _routes(schedule: Schedule, microbatch: int) -> range:
    """The stages that a microbatch passes."""
    if schedule.copy_of is None:
        return range(schedule.num_stages)
    chain = schedule.num_stages // 2
    way = schedule.route[microbatch] if schedule.route else 0
    return range(way * chain, (way + 1) * chain)


def _expected(schedule: Schedule) -> Iterator[Action]:
    for microbatch in range(schedule.num_microbatches):
        for stage in _routes(schedule, microbatch):
            for part in range(schedule.num_slices):
                yield Action(stage, Kind.F, microbatch, part)


def _check_complete(schedule: Schedule) -> None:
    """Each F once, and for each F either one B or both an I and a W."""
    count = 0
    for forward in _expected(schedule):
        full, split, weight = (
            forward._replace(kind=k) for k in (Kind.B, Kind.I, Kind.W)
        )
        have = [schedule.has(a) for a in (forward, full, split, weight)]
        count += sum(have) + schedule.has(forward._replace(kind=Kind.R))
        if not have[0]:
            raise _fail(schedule, "completeness", f"{forward} is missing")
        if have[1:] not in ([True, False, False], [False, True, True]):
            found = [
                str(a)
                for a, h in zip((full, split, weight), have[1:], strict=True)
                if h
            ]
            told = " and ".join(found) or "no backward"
            rank, step = schedule.place(forward)
            raise _fail(
                schedule,
                "completeness",
                f"it needs {full}, or {split} and {weight}; there is {told}",
                rank,
                step,
                forward,
            )
    total = sum(1 for _ in schedule.walk())
    if total != count:
        strays = (
            (r, s, a)
            for r, s, a in schedule.walk()
            if a.stage not in _routes(schedule, a.microbatch)
        )
        rank, step, action = next(strays)
        message = f"microbatch {action.microbatch} does not pass stage {action.stage}"
        raise _fail(schedule, "completeness", message, rank, step, action)


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
                message = f"it needs {need}, which comes only {where}"
                raise _fail(schedule, "happens-before", message, rank, step, action)


# ---- the whole graph -----------------------------------------------------------------


def _rank_step(
    schedule: Schedule, action: Action | Overlap | None
) -> tuple[int, int] | None:
    """Where in the schedule a lowered step belongs: the compute action it serves."""
    if action is None:
        return None
    first = halves(action)[0]
    kind = {Kind.SEND_F: Kind.F, Kind.RECV_F: Kind.F}.get(first.kind, first.kind)
    if kind in (Kind.SEND_B, Kind.RECV_B):
        first = schedule.backward(first.stage, first.microbatch, first.slice)
    else:
        first = first._replace(kind=kind)
    return schedule.place(first) if schedule.has(first) else None


def find_cycle(found: Graph, order: list[int]) -> list[int]:
    """Nodes of one cycle, each waiting for the next; empty when ``order`` holds all."""
    if len(order) == len(found):
        return []
    ordered = bytearray(len(found))
    for node in order:
        ordered[node] = 1
    node = ordered.index(0)
    seen: dict[int, int] = {}
    path: list[int] = []
    while node not in seen:
        seen[node] = len(path)
        path.append(node)
        # Another rank's step says more than the step before on the same rank.
        waits = [d for d, _ in found.waits_for(node) if not ordered[d]]
        node = waits[0] if waits else found.previous[node]
    return path[seen[node] :]


def describe_cycle(found: Graph, cycle: list[int]) -> str:
    """The wait-for cycle in words, one line per rank that waits."""
    lines = []
    crossing = [
        i
        for i, node in enumerate(cycle)
        if found.previous[node] != cycle[(i + 1) % len(cycle)]
    ]
    for i in crossing:
        node, other = cycle[i], cycle[(i + 1) % len(cycle)]
        kind = next((k for d, k in found.waits_for(node) if d == other), DATA)
        what = "for" if kind == DATA else "for room: for"
        lines.append(
            f"rank {found.node_rank[node]} waits at step {found.node_step[node]} "
            f"({found.step(node)}) {what} rank {found.node_rank[other]}'s "
            f"{found.step(other)} at step {found.node_step[other]}"
        )
    return ",\nwhich is not reached, because ".join(lines) + ": they wait in a circle"


def _graph(schedule: Schedule, capacity: int | None) -> Graph:
    try:
        return graph(lower(schedule, optimizer=False), capacity)
    except ScheduleError as error:
        rank, step = _rank_step(schedule, error.action) or (None, None)
        message, action = str(error), error.action
        raise _fail(schedule, error.rule, message, rank, step, action) from None


def _check_graph(schedule: Schedule, capacity: int | None) -> None:
    found = _graph(schedule, capacity)
    cycle = find_cycle(found, found.order())
    if not cycle:
        return
    step = found.step(cycle[0])
    rank, position = _rank_step(schedule, step) or (None, None)
    limit = (
        "channels without limit" if capacity is None else f"channel capacity {capacity}"
    )
    action = None if step is None else halves(step)[0]
    message = f"deadlock with {limit}:\n{describe_cycle(found, cycle)}"
    raise _fail(schedule, "no deadlock", message, rank, position, action)


def _check_memory(schedule: Schedule, limit: int) -> None:
    for rank in range(schedule.num_ranks):
        peak = schedule.in_flight(rank)
        if peak <= limit:
            continue
        held = 0
        for step, item in enumerate(schedule.ranks[rank]):
            for action in halves(item):
                held += (action.kind is Kind.F) - (action.kind in (Kind.W, Kind.B))
                if held > limit:
                    message = f"{held} activations in flight, but the limit is {limit}"
                    message += f" (peak {peak})"
                    raise _fail(schedule, "memory limit", message, rank, step, action)


def check(
    schedule: Schedule,
    channel_capacity: int | None = None,
    memory_limit: int | None = None,
) -> None:
    """See ``Schedule.check``."""
    _check_places(schedule)
    _check_complete(schedule)
    _check_rows(schedule)
    _check_graph(schedule, None)
    if channel_capacity is not None:
        _check_graph(schedule, channel_capacity)
    if memory_limit is not None:
        _check_memory(schedule, memory_limit)


def minimum_channel_capacity(schedule: Schedule) -> int:
    """See ``Schedule.minimum_channel_capacity``. Raises ScheduleError if no capacity
    helps."""
    _check_graph(schedule, None)

    def runs(capacity: int) -> bool:
        found = _graph(schedule, capacity)
        return len(found.order()) == len(found)

    low, high = 0, 1
    if runs(0):
        return 0
    while not runs(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if runs(middle) else (middle, high)
    return high
