"""What a rank allocates: the layout of its arena, to the byte, and its bytes over time.

``plan`` walks each rank's program once and finds how many activations, held gradients
and channel buffers are alive together; from that it lays out the arena. The engine
allocates exactly this, and the planner reads the same numbers. Nothing is allocated
here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cython_kernels import tables

from ..model import StageTapes, emit_stage
from ..partition import Partition
from ..schedule import Kind, Schedule
from . import holders
from .holders import Piece
from .transfers import Transfer, transfers
from .walk import PlannedStep, RankWalk

OPTIMIZER_STATES = {"adamw": 2, "sgd": 1}


@dataclass(frozen=True)
class StagePlan:
    """One stage: its tapes, and where its memory begins in its rank's arena (bytes).

    reduces: the pieces whose gradients it adds up for all holders; updates: the pieces
    that it updates and has the optimizer states of.
    """

    rank: int
    tapes: StageTapes
    saved_slots: int
    held_slots: int
    param: int
    grad: int
    optimizer: int
    constant: int
    saved: int
    held: int
    scratch: int
    spare: int
    reduces: tuple[Piece, ...] = field(repr=False)
    updates: tuple[Piece, ...] = field(repr=False)


@dataclass(frozen=True)
class ChannelPlan:
    """The way from one stage to the next (kind F) or to the one before (kind B)."""

    source: int
    kind: Kind
    producer: int
    consumer: int
    capacity: int
    num_buffers: int
    buffer_bytes: int
    offset: int
    #: Between processes the producer has buffers, too.
    source_buffers: int = 0
    source_offset: int = 0

    @property
    def is_local(self) -> bool:
        return self.producer == self.consumer


@dataclass(frozen=True)
class MemoryPlan:
    """The arenas of all ranks. ``classes[r]`` says what rank r's bytes are for; they
    add up to ``arena_bytes[r]``."""

    stages: tuple[StagePlan, ...]
    channels: tuple[ChannelPlan, ...]
    steps: tuple[tuple[PlannedStep, ...], ...] = field(repr=False)
    classes: tuple[dict[str, int], ...]
    #: What ranks in other processes are told at the end of a step.
    transfers: tuple[Transfer, ...] = field(default=(), repr=False)

    @property
    def arena_bytes(self) -> tuple[int, ...]:
        return tuple(sum(c.values()) for c in self.classes)

    def __str__(self) -> str:
        names = list(self.classes[0])
        lines = ["rank " + "".join(f"{n:>13}" for n in (*names, "total")) + "  MiB"]
        for rank, row in enumerate(self.classes):
            values = (*row.values(), sum(row.values()))
            lines.append(f"{rank:4} " + "".join(f"{v / 2**20:13.2f}" for v in values))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{n}</th>" for n in (*self.classes[0], "total"))
        body = "".join(
            f"<tr><td>{rank}</td>"
            + "".join(
                f"<td>{v / 2**20:.2f}</td>" for v in (*row.values(), sum(row.values()))
            )
            + "</tr>"
            for rank, row in enumerate(self.classes)
        )
        return (
            f"<table><thead><tr><th>rank</th>{head}</tr></thead><tbody>{body}</tbody>"
            "<caption>Memory per rank, MiB</caption></table>"
        )


def _channels(
    walks: Sequence[RankWalk],
    schedule: Schedule,
    tapes: Sequence[StageTapes],
    capacity: int,
    processes: bool,
) -> list[tuple[int, Kind, int, int, int, int, int]]:
    """(source stage, kind, producer, consumer, capacity, buffers, bytes) of every
    channel.

    Across ranks there are buffers for what the consumer holds at once, for the messages
    that may wait, and for the one being filled: so a sender only ever waits for room.
    Between processes a buffer also holds a trailer.
    """
    found = []
    pairs = [(s, schedule.stage_after(s)) for s in range(schedule.num_stages)]
    ways = [(s, Kind.F, after) for s, after in pairs if after >= 0]
    ways += [(after, Kind.B, s) for s, after in pairs if after >= 0]
    for source, kind, target in ways:
        producer, consumer = (
            schedule.stage_to_rank[source],
            schedule.stage_to_rank[target],
        )
        peak = walks[consumer].input_peaks.get((source, kind), 0)
        stage = tapes[source]
        size = stage.output_bytes if kind is Kind.F else stage.input_bytes
        if producer == consumer:
            buffers = max(peak, 1)
        else:
            buffers = peak + capacity + 1
            size += tables.TRAILER if processes else 0
        found.append((source, kind, producer, consumer, capacity, buffers, size))
    return found


class _Arena:
    """Lays one rank's arena out, class by class."""

    CLASSES = (
        "parameters",
        "gradients",
        "optimizer",
        "constants",
        "activations",
        "held",
        "channels",
        "scratch",
    )

    def __init__(self) -> None:
        self.size = 0
        self.classes = dict.fromkeys(self.CLASSES, 0)

    def take(self, name: str, size: int) -> int:
        offset = self.size
        self.size += size
        self.classes[name] += size
        return offset


def plan(
    partition: Partition,
    schedule: Schedule,
    *,
    microbatch_size: int,
    channel_capacity: int,
    optimizer: str = "adamw",
    gradient_groups: int = 1,
    threads_per_rank: int = 1,
    with_loss: bool = True,
    zero: int = 0,
    processes: bool = False,
) -> MemoryPlan:
    """The memory of every rank for this split and schedule. ``optimizer``: "adamw" |
    "sgd". ``zero`` 1: each parameter's optimizer states are shared out over its holders.
    ``processes``: every rank is a process of its own, so that messages have buffers at
    both ends.

    Raises ValueError if partition and schedule have different numbers of stages.
    """
    if partition.num_stages != schedule.chain_length:
        raise ValueError(
            f"the partition has {partition.num_stages} stages but schedule "
            f"{schedule.name!r} has {schedule.chain_length}; make them equal"
        )
    one = stage_tapes(
        partition,
        microbatch_size,
        schedule.num_microbatches,
        threads_per_rank,
        with_loss,
        schedule.num_slices,
    )
    tapes = one * schedule.num_copies
    reduces = holders.owned(partition.model, one, schedule.num_copies)
    programs = schedule.programs()
    walks = [RankWalk(program, tapes, schedule) for program in programs]
    arenas = [_Arena() for _ in programs]
    # A rank runs one action at a time, so its stages share their scratch memory.
    scratch = [0] * len(programs)
    for s, stage in enumerate(tapes):
        rank = schedule.stage_to_rank[s]
        scratch[rank] = max(scratch[rank], stage.scratch_bytes)
    shared = [arena.take("scratch", scratch[r]) for r, arena in enumerate(arenas)]
    spare = _spare(schedule, tapes, arenas)
    groups = gradient_groups // schedule.num_copies
    states = OPTIMIZER_STATES[optimizer]
    stages = []
    for s, stage in enumerate(tapes):
        rank = schedule.stage_to_rank[s]
        arena, walk = arenas[rank], walks[rank]
        saved_slots = max(1, walk.saved[s].count) if s in walk.saved else 1
        held_slots = max(1, walk.held[s].count) if s in walk.held else 1
        updates = reduces[s] if zero else holders.whole(stage)
        room = holders.state_bytes(updates, states)
        first_state = arena.take("optimizer", room)
        stages.append(
            StagePlan(
                rank=rank,
                tapes=stage,
                saved_slots=saved_slots,
                held_slots=held_slots,
                param=arena.take("parameters", stage.param_bytes),
                grad=arena.take("gradients", stage.param_bytes * groups),
                optimizer=first_state,
                constant=arena.take("constants", stage.constant_bytes),
                saved=arena.take("activations", stage.saved_bytes * saved_slots),
                held=arena.take("held", stage.held_bytes * held_slots),
                scratch=shared[rank],
                spare=spare[rank],
                reduces=reduces[s],
                updates=holders.with_states(updates, first_state, states),
            )
        )
    channels = []
    for source, kind, producer, consumer, room, buffers, size in _channels(
        walks, schedule, tapes, channel_capacity, processes
    ):
        offset = arenas[consumer].take("channels", buffers * size)
        place = (source, kind, producer, consumer, room, buffers, size, offset)
        if not processes or producer == consumer:
            channels.append(ChannelPlan(*place))
            continue
        # One being filled, those that wait, and one that MPI has not let go of yet.
        sources = room + 2
        begin = arenas[producer].take("channels", sources * size)
        channels.append(ChannelPlan(*place, sources, begin))
    exchanged: tuple[Transfer, ...] = ()
    if processes:
        exchanged = tuple(
            transfers(
                stages,
                holders.uses(partition.model, one),
                schedule.num_copies,
                gradient_groups,
                zero,
                lambda rank, size: arenas[rank].take("channels", size),
            )
        )
    return MemoryPlan(
        tuple(stages),
        tuple(channels),
        tuple(walk.steps for walk in walks),
        tuple(arena.classes for arena in arenas),
        exchanged,
    )


def _spare(
    schedule: Schedule, tapes: Sequence[StageTapes], arenas: Sequence[_Arena]
) -> list[int]:
    """Where every rank's recomputed outputs go, which nobody reads."""
    sizes = [0] * len(arenas)
    for rank, _, action in schedule.walk():
        if action.kind is Kind.R:
            sizes[rank] = max(sizes[rank], tapes[action.stage].output_bytes)
    return [arena.take("scratch", sizes[r]) for r, arena in enumerate(arenas)]


def stage_tapes(
    partition: Partition,
    microbatch_size: int,
    num_microbatches: int,
    threads: int = 1,
    with_loss: bool = True,
    num_slices: int = 1,
) -> list[StageTapes]:
    """The tapes of every stage of a partition."""
    layers = list(enumerate(partition.model.layers))
    bounds = partition.boundaries
    last = len(bounds) - 2
    return [
        emit_stage(
            layers[bounds[s] : bounds[s + 1]],
            microbatch_size,
            num_microbatches,
            threads,
            is_first=s == 0,
            is_last=s == last,
            with_loss=with_loss,
            num_slices=num_slices,
        )
        for s in range(last + 1)
    ]
