"""All schedules of the catalogue beside one another, at one size and one set of costs."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any

from ..schedule import SCHEDULES, Kind, Schedule
from ..schedule.ir import whole
from ..simulator import CostModel, for_stages, known_costs, priced_for, simulate
from ..trace import Trace
from .catalogue import known_names
from .show import as_html, as_text, options_text

_COLUMNS = (
    "name",
    "options",
    "stages",
    "bubble_fraction",
    "makespan",
    "span",
    "peak_memory",
    "parameter_copies",
    "volume",
    "channel_capacity",
)


@dataclass(frozen=True, eq=False)
class Entry:
    """One schedule of the table; of one that cannot be made, ``problem`` says why and
    the numbers are None.

    stages: of one copy of the model. bubble_fraction: idle / (ranks x makespan).
    makespan, span: in the costs' unit. memory: by rank, the most that it holds at once,
    in one microbatch's activations of one rank (a p-th of the model's); peak_memory:
    their maximum. parameter_copies: of every stage. messages: between ranks, in a step;
    volume: the same in a microbatch's whole messages, bytes: in the costs'
    ``message_bytes``. channel_capacity: the fewest messages that channels must hold.
    fits: whether the memory limit is kept.
    """

    name: str
    options: dict[str, Any]
    stages: int | None = None
    bubble_fraction: float | None = None
    makespan: float | None = None
    span: float | None = None
    memory: tuple[float, ...] | None = None
    parameter_copies: int | None = None
    messages: int | None = None
    volume: float | None = None
    bytes: int | None = None
    channel_capacity: int | None = None
    fits: bool = False
    problem: str = ""
    schedule: Schedule | None = field(default=None, repr=False)
    trace: Trace | None = field(default=None, repr=False)

    @property
    def peak_memory(self) -> float | None:
        return None if self.memory is None else max(self.memory)

    def row(self) -> dict[str, Any]:
        """The numbers, by name."""
        found = {name: getattr(self, name) for name in _COLUMNS}
        found["options"] = options_text(self.options)
        found |= {
            name: getattr(self, name)
            for name in ("memory", "messages", "bytes", "fits", "problem")
        }
        return found


@dataclass(frozen=True, eq=False)
class ScheduleTable(Sequence[Entry]):
    """Schedules compared: a sequence of entries, the shortest makespan first, and
    ``table["zb_v"]`` the first of that name. ``rows()`` is what a data frame takes."""

    entries: tuple[Entry, ...]
    title: str
    unit: str
    memory_limit: float | None = None

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __getitem__(self, which: Any) -> Any:
        if not isinstance(which, str):
            return self.entries[which]
        for entry in self.entries:
            if entry.name == which:
                return entry
        raise KeyError(f"no {which!r} in the table; there are {', '.join(self.names)}")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(entry.name for entry in self.entries))

    def rows(self) -> list[dict[str, Any]]:
        """One dict per entry; ``pandas.DataFrame(table.rows())`` is the data frame."""
        return [entry.row() for entry in self.entries]

    def sorted(self, by: str) -> ScheduleTable:
        """The table in ascending order of a column, what has no number last. Raises
        ValueError for a column that there is not."""
        if by not in _COLUMNS:
            raise ValueError(f"no column {by!r}; there are {', '.join(_COLUMNS)}")

        def key(entry: Entry) -> tuple[bool, Any]:
            value = entry.row()[by]
            return value is None, 0 if value is None else value

        return replace(self, entries=tuple(sorted(self.entries, key=key)))

    def figure(self) -> Any:
        """Bubble against peak memory, a Plotly figure: what is down and to the left is
        better."""
        from .figures import scatter

        return scatter(self)

    def _cells(self) -> tuple[list[str], list[list[str]]]:
        names = [*_COLUMNS, *(() if self.memory_limit is None else ("fits",))]
        rows = []
        for entry in self.entries:
            row = entry.row()
            if entry.problem:
                why = f"not made: {entry.problem}"
                rows.append([*(_shown(name, row[name]) for name in names[:2]), why])
            else:
                rows.append([_shown(name, row[name]) for name in names])
        return [name.replace("_", " ") for name in names], rows

    def __str__(self) -> str:
        return "\n".join([self.title, *as_text(*self._cells())])

    def _repr_html_(self) -> str:
        return as_html(*self._cells(), self.title)


def _shown(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name == "bubble_fraction":
        return f"{100 * value:.1f} %"
    if name == "fits":
        return "yes" if value else "no"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


# ---- making one ----------------------------------------------------------------------


def compare_schedules(
    num_ranks: int,
    num_microbatches: int,
    costs: CostModel | None = None,
    *,
    stages_per_rank: int = 2,
    num_slices: int = 2,
    memory_limit: float | None = None,
    names: Iterable[str] | None = None,
) -> ScheduleTable:
    """Every schedule of the catalogue at one size: bubble, makespan, span, memory,
    copies of the parameters, communication.

    costs: of the model in equal or unequal pieces, in the model's order. A model of one
    row gives one *rank's share*, a p-th of the model (by default F = I = W = 1). A
    schedule with more stages than rows cuts each row evenly, one with fewer adds rows
    up; where the numbers are no multiples the schedule is left out. stages_per_rank and
    num_slices: for the families that take them. memory_limit: in one microbatch's
    activations of one rank; schedules above it are shown and marked, and those that
    work under a limit get it. names: of ``SCHEDULES``, by default all.

    Raises ValueError for arguments out of range.
    """
    p = whole(num_ranks, "num_ranks", 1)
    m = whole(num_microbatches, "num_microbatches", 1)
    costs = known_costs(costs)
    if names is None:
        names = tuple(name for name in SCHEDULES if name != "single" or p == 1)
    wanted = {
        "stages_per_rank": whole(stages_per_rank, "stages_per_rank", 1),
        "num_slices": whole(num_slices, "num_slices", 1),
        "num_waves": max(1, stages_per_rank // 2),
        "memory_limit": memory_limit,
    }
    if memory_limit is None:
        del wanted["memory_limit"]
    elif not isinstance(memory_limit, Real) or not memory_limit > 0:
        raise ValueError(
            f"memory_limit must be above 0, got {memory_limit!r}: it counts one "
            "microbatch's activations of one rank; None is no limit"
        )
    entries = [
        _entry(name, p, m, costs, wanted, memory_limit) for name in known_names(names)
    ]
    entries.sort(key=lambda e: (e.makespan is None, e.makespan or 0.0))
    title = f"{p} ranks, {m} microbatches"
    if memory_limit is not None:
        title += f", memory limit {memory_limit:g}"
    return ScheduleTable(tuple(entries), title, costs.unit, memory_limit)


def _entry(
    name: str,
    p: int,
    m: int,
    costs: CostModel,
    wanted: dict[str, Any],
    limit: float | None,
) -> Entry:
    takes = inspect.signature(SCHEDULES[name]).parameters
    options = {k: v for k, v in wanted.items() if k in takes}
    told = dict(options)
    try:
        if "cost_model" in takes:
            per_rank = 2 if name == "zb_v_greedy" else 1
            options["cost_model"] = for_stages(costs, p, per_rank * p)
        schedule = Schedule.make(name, num_ranks=p, num_microbatches=m, **options)
        trace = simulate(schedule, priced_for(schedule, costs))
    except ValueError as error:
        return Entry(name, told, problem=str(error).partition("\n")[0])
    share = p / schedule.chain_length / schedule.num_slices
    memory = tuple(share * schedule.in_flight(rank) for rank in range(p))
    sends = trace.of_kind(Kind.SEND_F, Kind.SEND_B)
    return Entry(
        name,
        told,
        stages=schedule.chain_length,
        bubble_fraction=trace.bubbles().bubble_fraction,
        makespan=trace.makespan,
        span=trace.span,
        memory=memory,
        parameter_copies=schedule.num_copies,
        messages=int(sends.sum()),
        volume=float(sends.sum() / schedule.num_slices),
        bytes=int(trace.bytes[sends].sum()),
        channel_capacity=schedule.minimum_channel_capacity(),
        fits=limit is None or max(memory) <= limit * (1 + 1e-9),
        schedule=schedule,
        trace=trace,
    )
