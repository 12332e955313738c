"""Schedules that run forwards a second time instead of keeping what they made (Chen et
al. 2016, arXiv:1604.06174), in the bubbles as Mario does (Liu et al. 2025,
doi:10.1145/3710848.3710878)."""

from __future__ import annotations

from .actions import Action, Kind, Overlap, Row, halves
from .ir import Schedule
from .one_f_one_b import one_f_one_b


def _row(row: Row) -> Row:
    items: list[Action | Overlap] = []
    for item in row:
        for action in halves(item):
            if action.kind in (Kind.I, Kind.B):
                again = action._replace(kind=Kind.R)
                # What the step before has just made need not be made again.
                if not items or again._replace(kind=Kind.F) not in halves(items[-1]):
                    items.append(again)
        items.append(item)
    return tuple(items)


def with_recompute(schedule: Schedule, name: str | None = None) -> Schedule:
    """The schedule with an R before every I and B that does not follow its own F
    directly.

    The R stands before the receive of its backward, so it runs while the gradient is
    still on its way, in what was a bubble: Mario's placement.
    """
    return Schedule(
        name or f"{schedule.name}_recompute",
        [_row(row) for row in schedule.ranks],
        schedule.stage_to_rank,
        num_microbatches=schedule.num_microbatches,
        num_slices=schedule.num_slices,
        copy_of=schedule.copy_of,
        route=schedule.route,
    )


def one_f_one_b_recompute(num_ranks: int, num_microbatches: int) -> Schedule:
    """1F1B with recompute. A rank keeps the inputs of min(p - r, m) microbatches but
    the activations of one only.

    The order is 1F1B's; that R is hoisted before the gradient's arrival is Mario's
    idea, its further graph passes are not here.
    """
    return with_recompute(one_f_one_b(num_ranks, num_microbatches), "1f1b_recompute")
