"""From a job to a C engine: tapes bound to arenas, programs as tables.

Everything an engine needs is worked out here, ahead of time; after this no Python runs
inside a step. The memory plan decides where every byte lies; this file only writes it
into tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cython_kernels import _runtime, _timeline, tables

from ..memory import Holder, MemoryPlan, Piece, PlannedStep, flat, uses
from ..model import Call
from ..schedule import KIND_CODE, Kind, Program, Schedule, graph, lower_forward
from . import cores
from .built import Built
from .job import Job
from .optimizers import SGD, AdamW

RING_EVENTS = 1 << 15
_REGION = {name: code for code, name in enumerate(tables.REGIONS)}


class Site(NamedTuple):
    """Where a process stands that runs one rank, the others being elsewhere."""

    rank: int
    ranks_on_host: int


def _calls(calls: Sequence[Call]) -> np.ndarray:
    table = np.zeros(len(calls), tables.CALL)
    table["region"] = -1
    for row, call in zip(table, calls, strict=True):
        row["op"] = _runtime.OPS[call.op]
        for i, ref in enumerate(call.pointers):
            if ref is not None:
                row["region"][i], row["offset"][i] = _REGION[ref.region], ref.offset
        row["size"][: len(call.sizes)] = call.sizes
        row["scalar"][: len(call.scalars)] = call.scalars
    return table


def _channel_indices(plan: MemoryPlan) -> dict[tuple[int, Kind], int]:
    return {(c.source, c.kind): i for i, c in enumerate(plan.channels)}


def _stages(
    plan: MemoryPlan, schedule: Schedule
) -> tuple[np.ndarray, np.ndarray, list[Call]]:
    """The stages, the tapes of all their slices, and the calls these are made of."""
    table = np.zeros(len(plan.stages), tables.STAGE)
    channel = _channel_indices(plan)
    calls: list[Call] = []
    tapes_of: list[tuple[int, int]] = []
    num_params = 0
    for s, (row, stage) in enumerate(zip(table, plan.stages, strict=True)):
        tapes = stage.tapes
        for name in ("param", "grad", "constant", "saved", "held", "scratch", "spare"):
            row[name] = getattr(stage, name)
        row["grad_stride"] = tapes.param_bytes
        row["saved_stride"], row["held_stride"] = tapes.saved_bytes, tapes.held_bytes
        row["rank"] = stage.rank
        row["tapes"] = len(tapes_of)
        for tape in (tape for part in tapes.slices for tape in part):
            tapes_of.append((len(calls), len(tape)))
            calls.extend(tape)
        # Where a chain of stages ends there is no channel of that name.
        row["channel_in"] = channel.get((schedule.stage_before(s), Kind.F), -1)
        row["channel_out"] = channel.get((s, Kind.F), -1)
        row["channel_din"] = channel.get((s, Kind.B), -1)
        row["channel_dout"] = channel.get((schedule.stage_after(s), Kind.B), -1)
        row["param_first"], row["param_count"] = num_params, len(tapes.parameters)
        num_params += len(tapes.parameters)
    return table, np.array(tapes_of, tables.TAPE), calls


def _channels(plan: MemoryPlan) -> np.ndarray:
    table = np.zeros(len(plan.channels), tables.CHANNEL)
    names = (
        "offset",
        "buffer_bytes",
        "producer",
        "consumer",
        "num_buffers",
        "capacity",
        "source_offset",
        "source_buffers",
    )
    for row, channel in zip(table, plan.channels, strict=True):
        for name in names:
            row[name] = getattr(channel, name)
    return table


def _params(
    plan: MemoryPlan, parameters: Sequence[Sequence[Holder]], copies: int, decay: float
) -> np.ndarray:
    """A row for every parameter of every stage. What ties parameters together is told
    by the numbers of the first copy's rows."""
    number: dict[Holder, int] = {}
    rows: list[tuple[float, ...]] = []
    slots = [stage.tapes.parameters for stage in plan.stages]
    for s, held in enumerate(slots):
        for i, slot in enumerate(held):
            number[Holder(s, i)] = len(rows)
            rows.append((slot.offset, slot.size, 0.0, s, 0, -1))
    table = np.array(rows, tables.PARAM)
    each = len(table) // copies
    for holders in parameters:
        of_first = slots[holders[0].stage][holders[0].parameter]
        uses_of = [number[holder] for holder in holders]
        for use, after in zip(uses_of, [*uses_of[1:], -1], strict=True):
            same = table[use::each]
            same["first_use"], same["next_use"] = uses_of[0], after
            same["weight_decay"] = decay if of_first.decay else 0.0
    return table


def _pieces(plan: MemoryPlan, stages: np.ndarray) -> np.ndarray:
    """The pieces of all stages; fills in where each stage's begin."""
    rows: list[tuple[int, ...]] = []

    def add(row: np.void, what: str, pieces: Sequence[Piece]) -> None:
        row[f"{what}_first"], row[f"{what}_count"] = len(rows), len(pieces)
        for number, begin, size, states in pieces:
            first, second, *_ = (*states, 0, 0)
            param = int(row["param_first"]) + number
            rows.append((begin, size, first, second, param, 0))

    for row, stage in zip(stages, plan.stages, strict=True):
        add(row, "reduce", stage.reduces)
        add(row, "update", stage.updates)
    return np.array(rows, tables.PIECE)


def _transfers(plan: MemoryPlan, stages: np.ndarray) -> np.ndarray:
    """What goes to and from other processes; tags count from source to target."""
    table = np.zeros(len(plan.transfers), tables.TRANSFER)
    kinds = {"root": tables.ROOT, "total": tables.TOTAL, "weights": tables.WEIGHTS}
    tags: dict[tuple[int, int], int] = {}
    for row, told in zip(table, plan.transfers, strict=True):
        way = (told.source, told.target)
        row["tag"] = tags[way] = tags.get(way, -1) + 1
        row["kind"], row["stage"] = kinds[told.kind], told.holder.stage
        row["source"], row["target"] = way
        row["source_offset"], row["target_offset"] = told[-2:]
        row["bytes"], row["group"] = 4 * told.size, told.group
        owner = stages[told.owner]
        which = "update" if told.kind == "weights" else "reduce"
        row["piece"] = owner[f"{which}_first"] + told.piece
        holder = told.holder
        row["param"] = stages[holder.stage]["param_first"] + holder.parameter
    return table


def _steps(
    planned: Sequence[PlannedStep], groups: int, num_microbatches: int, copies: int
) -> np.ndarray:
    table = np.zeros(len(planned), tables.STEP)
    for row, step in zip(table, planned, strict=True):
        a = step.action
        row["kind"], row["stage"] = KIND_CODE[a.kind], a.stage
        row["microbatch"], row["slice"] = a.microbatch, a.slice
        row["saved_slot"], row["held_slot"] = step.saved_slot, step.held_slot
        group = max(0, a.microbatch) * groups // num_microbatches
        row["group"] = group % (groups // copies)
        row["live"], row["bytes"] = step.live, step.bytes
    return table


def _config(
    job: Job,
    plan: MemoryPlan,
    params: int,
    pieces: int,
    keep_gradients: bool,
    site: Site | None,
) -> np.ndarray:
    config = np.zeros(1, tables.CONFIG)
    row, optimizer = config[0], job.optimizer
    if isinstance(optimizer, AdamW):
        row["optimizer"] = tables.ADAMW
        row["beta1"], row["beta2"] = optimizer.betas
        row["epsilon"] = optimizer.eps
    elif isinstance(optimizer, SGD):
        row["optimizer"] = tables.SGD
        row["beta1"] = optimizer.momentum
    row["clip"], row["wait_limit"] = job.clip or 0.0, job.wait_limit
    row["ring_events"] = RING_EVENTS
    schedule = job.executed
    row["num_ranks"], row["num_stages"] = schedule.num_ranks, schedule.num_stages
    row["num_microbatches"] = schedule.num_microbatches
    row["num_slices"] = schedule.num_slices
    row["num_channels"], row["num_params"] = len(plan.channels), params
    row["num_pieces"], row["zero"] = pieces, job.zero
    row["gradient_groups"] = job.gradient_groups
    row["threads_per_rank"] = job.chosen_threads
    row["batch"] = job.microbatch_size
    busy = 1 if job.chosen_clock == "virtual" else schedule.num_ranks
    busy = busy if site is None else site.ranks_on_host
    row["here"] = -1 if site is None else site.rank
    row["spin"] = busy * job.chosen_threads <= cores.usable()
    row["virtual_clock"] = job.chosen_clock == "virtual" and site is None
    row["keep_gradients"] = keep_gradients
    row["copies"] = schedule.num_copies
    return config


def _set_program(
    engine: _runtime.Engine,
    number: int,
    programs: Sequence[Program],
    job: Job,
    virtual: bool,
) -> None:
    if not virtual:
        return
    g = graph(programs, job.capacity)
    previous, starts, deps, node_rank, node_step = (
        np.asarray(column, np.int32)
        for column in (g.previous, g.dep_start, g.dep, g.node_rank, g.node_step)
    )
    order = np.asarray(_timeline.topological_order(previous, starts, deps), np.int32)
    engine.set_graph(number, order, previous, starts, deps, node_rank, node_step)


def build(
    job: Job,
    *,
    keep_gradients: bool = False,
    with_loss: bool = True,
    site: Site | None = None,
) -> Built:
    """A C engine for the job, its weights still zero. Without loss it only computes
    logits. With a ``site`` it has that site's rank only, to be connected to the others.

    Raises MemoryError, with what each rank needs, when the system has no room for it.
    """
    plan = job.memory(with_loss, processes=site is not None)
    lengths = [channel.buffer_bytes for channel in plan.channels]
    largest = max([*lengths, *(4 * told.size for told in plan.transfers)], default=0)
    if site is not None and largest >= 2**31:  # MPI counts bytes in an int
        raise ValueError(
            f"a message of {largest / 2**30:.1f} GiB is too long for MPI; take a smaller "
            "microbatch_size, slices of sequences, or more replicas"
        )
    schedule, groups = job.executed, job.gradient_groups
    stages, tapes, calls = _stages(plan, schedule)
    copies = schedule.num_copies
    one = [stage.tapes for stage in plan.stages[: schedule.chain_length]]
    parameters = uses(job.model, one)
    params = _params(plan, parameters, copies, job.optimizer.weight_decay)
    pieces = _pieces(plan, stages)
    config = _config(job, plan, len(params), len(pieces), keep_gradients, site)
    sizes = np.array(plan.arena_bytes, np.int64)
    try:
        engine = _runtime.Engine(
            config,
            stages,
            _channels(plan),
            params,
            pieces,
            _transfers(plan, stages),
            tapes,
            _calls(calls),
            sizes,
        )
    except MemoryError as error:
        raise MemoryError(f"{error}; the job needs, per rank:\n{plan}") from None
    virtual = job.chosen_clock == "virtual" and site is None
    here = range(schedule.num_ranks) if site is None else (site.rank,)
    training = [
        Program(p.rank, tuple(flat(p.steps))) for p in schedule.programs(optimizer=True)
    ]
    evaluation = lower_forward(schedule)
    for number, programs in ((tables.TRAIN, training), (tables.EVALUATE, evaluation)):
        for r in here:
            program = programs[r]
            planned: Sequence[PlannedStep] = plan.steps[r]
            if number == tables.EVALUATE:
                planned = [PlannedStep(a) for a in flat(program.steps)]
            table = _steps(planned, groups, schedule.num_microbatches, copies)
            engine.set_program(number, r, table)
        _set_program(engine, number, programs, job, virtual)
    arenas = [np.empty(0, np.uint8)] * schedule.num_ranks
    for r in here:
        arenas[r] = np.frombuffer(memoryview(engine.arena(r)), np.uint8)
    for stage in plan.stages:
        if stage.rank not in here:
            continue
        for offset, values in stage.tapes.constants:
            begin = stage.constant + offset
            arenas[stage.rank][begin : begin + values.nbytes] = values.ravel().view(
                np.uint8
            )
    actions = tuple(tuple(flat(p.steps)) for p in training)
    return Built(engine, plan, arenas, actions, copies, parameters)
