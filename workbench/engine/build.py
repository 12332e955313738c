"""From a job to a C engine: tapes bound to arenas, programs as tables.

Everything an engine needs is worked out here, ahead of time; after this no Python runs
inside a step. The memory plan decides where every byte lies; this file only writes it
into tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cython_kernels import _runtime, _timeline, tables

from ..memory import MemoryPlan, PlannedStep, flat
from ..model import Call
from ..schedule import KIND_CODE, Action, Kind, Program, Schedule, graph, lower_forward
from . import cores
from .job import Job
from .optimizers import SGD, AdamW

RING_EVENTS = 1 << 15
_REGION = {name: code for code, name in enumerate(tables.REGIONS)}


class Site(NamedTuple):
    """Where a process stands that runs one rank, the others being elsewhere."""

    rank: int
    ranks_on_host: int


@dataclass
class Built:
    """A C engine with its arenas, and where every parameter lies in them. The arenas of
    ranks that are in other processes are empty."""

    engine: _runtime.Engine
    plan: MemoryPlan
    arenas: list[np.ndarray]
    programs: tuple[tuple[Action, ...], ...]
    copies: int

    def weights(self) -> list[tuple[int, str, np.ndarray]]:
        """(layer, name, float32 view of the live weights), in layer order: those of the
        first copy, if there are more, and only those that are in this process."""
        return list(self._views("param"))

    def gradients(self) -> list[tuple[int, str, np.ndarray]]:
        """(layer, name, float32 view of group 0's gradients), in layer order."""
        return list(self._views("grad"))

    def copy_weights(self) -> None:
        """Gives every further copy of the parameters the weights of the first."""
        first = [view for _, _, view in self._views("param")]
        for copy in range(1, self.copies):
            for view, (_, _, other) in zip(
                first, self._views("param", copy), strict=True
            ):
                other[...] = view

    def _views(
        self, region: str, copy: int = 0
    ) -> Iterator[tuple[int, str, np.ndarray]]:
        length = len(self.plan.stages) // self.copies
        for stage in self.plan.stages[copy * length : (copy + 1) * length]:
            arena, base = self.arenas[stage.rank], getattr(stage, region)
            if not len(arena):
                continue
            for slot in stage.tapes.parameters:
                count = int(np.prod(slot.shape))
                begin = base + slot.offset
                values = arena[begin : begin + 4 * count].view(np.float32)
                yield slot.layer, slot.name, values.reshape(slot.shape)


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


def _params(plan: MemoryPlan, weight_decay: float) -> np.ndarray:
    rows = []
    for stage in plan.stages:
        for slot in stage.tapes.parameters:
            first = stage.optimizer + slot.offset
            decay = weight_decay if slot.decay else 0.0
            count = int(np.prod(slot.shape))
            rows.append(
                (slot.offset, first, first + stage.tapes.param_bytes, count, decay, 0)
            )
    return np.array(rows, tables.PARAM)


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
    num_params: int,
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
    row["num_ranks"], row["num_stages"] = (
        job.schedule.num_ranks,
        job.schedule.num_stages,
    )
    row["num_microbatches"] = job.schedule.num_microbatches
    row["num_slices"] = job.schedule.num_slices
    row["num_channels"], row["num_params"] = len(plan.channels), num_params
    row["gradient_groups"] = job.gradient_groups
    row["threads_per_rank"] = job.chosen_threads
    row["batch"] = job.microbatch_size
    busy = 1 if job.chosen_clock == "virtual" else job.schedule.num_ranks
    busy = busy if site is None else site.ranks_on_host
    row["here"] = -1 if site is None else site.rank
    row["spin"] = busy * job.chosen_threads <= cores.usable()
    row["virtual_clock"] = job.chosen_clock == "virtual" and site is None
    row["keep_gradients"] = keep_gradients
    row["copies"] = job.schedule.num_copies
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
    largest = max((channel.buffer_bytes for channel in plan.channels), default=0)
    if site is not None and largest >= 2**31:  # MPI counts bytes in an int
        raise ValueError(
            f"a message of {largest / 2**30:.1f} GiB is too long for MPI; take a smaller "
            "microbatch_size, or slices of sequences"
        )
    stages, tapes, calls = _stages(plan, job.schedule)
    params = _params(plan, job.optimizer.weight_decay)
    config = _config(job, plan, len(params), keep_gradients, site)
    sizes = np.array(plan.arena_bytes, np.int64)
    try:
        engine = _runtime.Engine(
            config, stages, _channels(plan), params, tapes, _calls(calls), sizes
        )
    except MemoryError as error:
        raise MemoryError(f"{error}; the job needs, per rank:\n{plan}") from None
    schedule, groups = job.schedule, job.gradient_groups
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
            table = _steps(
                planned, groups, schedule.num_microbatches, schedule.num_copies
            )
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
    return Built(engine, plan, arenas, actions, schedule.num_copies)
