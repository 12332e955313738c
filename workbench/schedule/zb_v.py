"""ZB-V (Qi et al. 2023, arXiv:2401.10241, appendix; Qi et al. 2024, arXiv:2405.15362):
two stages per rank in a V, backward split, no bubble for F = I = W."""

from __future__ import annotations

from collections.abc import Iterator

from . import greedy
from .actions import Row
from .automatic import FILLS, known_costs, memory_slots
from .greedy import Costs, Problem, Rule
from .ir import Schedule
from .placement import RowBuilder, waves, without_microbatches


def _row(rank: int, p: int, m: int) -> Row:
    """The hand-made order for m >= 2p - 1."""
    down, up = rank, 2 * p - 1 - rank
    row = RowBuilder()

    def whole_backward(stage: int) -> None:
        # The stage's oldest weight gradient: they are added in ascending order.
        row.backward(stage, split=True)
        oldest = next(a for a in row.pending if a.stage == stage)
        row.pending.remove(oldest)
        row.items.append(oldest)

    for _ in range(2 * (p - rank) - 1):
        row.forward(down)
    for _ in range(rank):
        row.forward(up)
        row.forward(down)
    for _ in range(p - rank):
        row.forward(up)
        whole_backward(up)
    while row.forwards.get(up, 0) < m:
        if row.forwards[down] < m:
            row.forward(down)
        whole_backward(down)
        row.forward(up)
        whole_backward(up)
    for _ in range(rank):
        row.backward(down, split=True)
        row.backward(up, split=True)
    for _ in range(p - rank):
        whole_backward(down)
    row.pending.sort(key=lambda action: (-action.stage, action.microbatch))
    row.drain()
    return row.row


def zb_v(num_ranks: int, num_microbatches: int) -> Schedule:
    """By hand: 2p stages, stage s and 2p - 1 - s on rank s; the loss is on rank 0.

    Bubble: 0 by the span for F = I = W and m >= 2p - 1, and p - 1 stage times by the
    makespan. Peak in flight: 2p stages' activations, as 1F1B's first rank. For fewer
    microbatches the rows for 2p - 1 are made and the rest left out, which leaves holes.
    """
    p, m = num_ranks, num_microbatches
    made = max(m, 2 * p - 1)
    rows = [_row(rank, p, made) for rank in range(p)]
    return Schedule("zb_v", without_microbatches(rows, m), waves(p, 2))


def zb_v_greedy(
    num_ranks: int,
    num_microbatches: int,
    cost_model: Costs | None = None,
    memory_limit: float | None = None,
) -> Schedule:
    """The V with an order found for ``cost_model`` (by default F = I = W) and
    ``memory_limit`` activations of a microbatch on a rank (by default p).

    Found by list scheduling under several rules, beside the hand-made order, as it is
    and with its weight gradients placed anew, where that fits; the shortest span is
    kept. The authors' own greedy rules differ; what is held
    to is their memory and, for equal costs, their bubble. Raises ValueError for a limit
    below 1.
    """
    p, m = num_ranks, num_microbatches
    slots = 2 * memory_slots(memory_limit, p)
    costs = known_costs(cost_model, 2 * p)
    placed = waves(p, 2)
    problem = Problem(placed, p, ((range(2 * p), range(m)),), [slots] * p, costs)

    def candidates() -> Iterator[Schedule]:
        by_hand = zb_v(p, m)
        if max(by_hand.in_flight(rank) for rank in range(p)) <= slots:
            yield Schedule("zb_v_greedy", by_hand.ranks, placed)
        order = greedy.without_weights(by_hand.ranks)
        refilled = greedy.rows(problem, Rule(order=order))
        if refilled is not None:
            yield Schedule("zb_v_greedy", refilled, placed)
        for fill in FILLS:
            for late_first in (True, False):
                for alternate in (False, True):
                    rule = Rule(fill, late_first, alternate)
                    rows = greedy.rows(problem, rule)
                    if rows is not None:
                        yield Schedule("zb_v_greedy", rows, placed)

    return greedy.best(candidates(), costs)
