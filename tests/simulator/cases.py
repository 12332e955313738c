"""Schedules of every kind for property tests: random orders of random sets of actions.

No generator is used: an action may stand next as soon as what it needs has been placed,
and which one does is drawn. Per stage and kind, microbatches come in one order, so that
messages match; ``shuffled`` breaks that.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from hypothesis import strategies as st

from workbench.schedule import Action, Kind, Overlap, Schedule, halves
from workbench.simulator import CostModel

Item = Action | Overlap


def blank(
    placed: list[int],
    microbatches: int,
    slices: int,
    kinds: str,
    copies: int = 1,
    split: frozenset[int] = frozenset(),
) -> Schedule:
    """All actions, in an order that need not run. ``kinds``: F, R, B, I and W; stages
    in ``split`` have I and W where others have B."""
    length = len(placed) // copies
    route = [k % copies for k in range(microbatches)]
    rows: list[list[Action]] = [[] for _ in range(max(placed) + 1)]
    for stage, rank in enumerate(placed):
        own = [k for k in range(microbatches) if route[k] == stage // length]
        ends = "IW" if stage in split else "B"
        for name in [x for x in kinds if x in "FR"] + list(ends):
            backward = name in "BI"
            for k in own:
                for part in range(slices)[:: -1 if backward else 1]:
                    rows[rank].append(Action(stage, Kind(name), k, part))
    more = {"copy_of": [*range(length)] * copies, "route": route} if copies > 1 else {}
    return Schedule("drawn", rows, placed, len(placed), microbatches, slices, **more)


def lanes(schedule: Schedule) -> list[dict[tuple[int, Kind], list[Action]]]:
    """By rank: the actions of every stage and kind that are left, next one last."""
    found: list[dict[tuple[int, Kind], list[Action]]] = []
    for row in schedule.ranks:
        lane: dict[tuple[int, Kind], list[Action]] = {}
        for item in reversed(row):
            assert isinstance(item, Action)
            lane.setdefault((item.stage, item.kind), []).append(item)
        found.append(lane)
    return found


def ready(
    schedule: Schedule, lane: dict[tuple[int, Kind], list[Action]], done: set[Action]
) -> Iterator[Action]:
    for queue in lane.values():
        if queue and done.issuperset(schedule.dependencies(queue[-1])):
            yield queue[-1]


@st.composite
def schedules(draw: st.DrawFn, overlaps: bool = True) -> Schedule:
    """A schedule that passes check: 1 to 4 ranks with 1 to 3 stages each, anywhere."""
    ranks, microbatches = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    copies = draw(st.sampled_from([1, 1, 2]))
    extra = draw(st.integers(0, 3)) if copies == 1 else 0
    first = [*range(ranks), *draw(st.lists(st.integers(0, ranks - 1), max_size=extra))]
    placed = first + first[::-1] * (copies - 1)
    slices = draw(st.sampled_from([1, 1, 2, 3]))
    kinds = "FR" if draw(st.booleans()) else "F"
    split = frozenset(draw(st.sets(st.integers(0, len(placed) - 1))))
    blanks = blank(placed, microbatches, slices, kinds, copies, split)
    waiting, done = lanes(blanks), set[Action]()
    rows: list[list[Item]] = [[] for _ in waiting]
    while any(queue for lane in waiting for queue in lane.values()):
        choices = [
            (r, a) for r in range(ranks) for a in ready(blanks, waiting[r], done)
        ]
        rank, action = draw(st.sampled_from(choices))
        item: Item = action
        waiting[rank][action.stage, action.kind].pop()
        if overlaps:
            others = [
                a
                for a in ready(blanks, waiting[rank], done)
                if (a.kind is Kind.F) != (action.kind is Kind.F)
                and {a.kind, action.kind} <= {Kind.F, Kind.B, Kind.I}
            ]
            if others and draw(st.booleans()):
                other = draw(st.sampled_from(others))
                waiting[rank][other.stage, other.kind].pop()
                item = Overlap(action, other)
        rows[rank].append(item)
        done.update(halves(item))
    return with_rows(blanks, rows)


def with_rows(schedule: Schedule, rows: list[list[Item]]) -> Schedule:
    return Schedule(
        schedule.name,
        rows,
        schedule.stage_to_rank,
        schedule.num_stages,
        schedule.num_microbatches,
        schedule.num_slices,
        schedule.copy_of,
        schedule.route,
    )


@st.composite
def shuffled(draw: st.DrawFn) -> tuple[Schedule, Schedule]:
    """A schedule that passes check, and one with a few places of its rows exchanged."""
    good = draw(schedules())
    rows: list[list[Item]] = [list(row) for row in good.ranks]
    for _ in range(draw(st.integers(1, 4))):
        row = draw(st.sampled_from(rows))
        if row:
            place = st.integers(0, len(row) - 1)
            i, j = draw(place), draw(place)
            row[i], row[j] = row[j], row[i]
    return good, with_rows(good, rows)


@st.composite
def models(draw: st.DrawFn, schedule: Schedule, plain: bool = False) -> CostModel:
    """Costs for a schedule: plain ones, or with any of what CostModel knows."""
    stages, ranks = schedule.num_stages, schedule.num_ranks
    part = schedule.num_slices  # what slices share stays a whole number of eighths
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    times = rng.integers(0, 9, (stages, 6)) * part / 8
    times[:, 4:] *= draw(st.sampled_from([0, 0, 1]))
    rows = times if draw(st.booleans()) else times[:1]
    hop = draw(st.integers(0, 5)) / 4
    overlap = draw(st.sampled_from([None, 0.0, 1.5 * part]))
    if plain or draw(st.booleans()):
        return CostModel(rows, hop, overlap)
    maybe = st.booleans()
    more = {
        "latency": rng.integers(0, 5, (ranks, ranks)) / 4,
        "bandwidth": rng.integers(1, 4, (ranks, ranks)) / 2,
        "message_bytes": rng.integers(0, 3, stages) * float(part),
        "speed": rng.integers(1, 5, ranks) / 2,
        "slice_weights": rng.integers(1, 9, (schedule.num_slices, 6)) / 4,
        "overlap": rng.integers(0, 9, (stages, stages)) * part / 4,
        "blocking": True,
        "jitter": rng.random(6),
        "draw": int(rng.integers(9)),
        "times": rng.integers(0, 9, (stages, 6, schedule.num_microbatches)) * part / 8,
    }
    chosen = {name: value for name, value in more.items() if draw(maybe)}
    return CostModel(**({"times": rows, "hop": hop, "overlap": overlap} | chosen))
