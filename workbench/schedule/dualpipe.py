"""DualPipe and DualPipeV (DeepSeek-V3, arXiv:2412.19437): forwards and backwards in
pairs that overlap."""

from __future__ import annotations

from .actions import Row
from .ir import Schedule
from .placement import RowBuilder, at_least, even, mirrored, waves


def _row(
    stages: tuple[int, int],
    first: dict[int, int],
    depth: int,
    half: int,
    pairs: int,
    is_turn: bool,
) -> Row:
    """The eight phases of one rank. ``stages``: those of its own and of the other
    direction; ``depth``: how far it lies from the end where microbatches come in, of
    ``half`` ranks; ``pairs``: rounds of the main phase; ``is_turn``: here the first
    backward follows its own forward, so the first pair cannot overlap."""
    own, other = stages
    row = RowBuilder(first)
    outer, inner = half - depth - 1, depth + 1
    for _ in range(2 * outer):
        row.forward(own)
    for _ in range(inner):
        row.forward(own)
        row.forward(other)
    for _ in range(outer):
        row.backward(other, split=True)
        row.weight()
        row.forward(other)
    for number in range(pairs):
        if number == 0 and is_turn:
            row.forward(own)
            row.backward(other)
        else:
            row.both(own, other)
        row.both(other, own)
    for _ in range(outer):
        row.backward(other)
        row.both(other, own)
    split = False
    for number in range(inner):
        middle = number == inner // 2
        split = split or (middle and depth % 2 == 1)
        row.backward(other, split=split)
        split = split or middle
        row.backward(own, split=split)
    for _ in range(outer):
        row.weight()
        row.backward(own, split=True)
    row.drain()
    return row.row


def dualpipe(num_ranks: int, num_microbatches: int) -> Schedule:
    """Two copies of the parameters, their stages placed in opposite directions: stage s
    on rank s, and stage p + s, its copy, on rank p - 1 - s. The first half of the
    microbatches passes the first copy, the second half the second.

    An overlapping pair is one action: it starts when both its inputs are there. Bubble
    of the idlest rank: (p/2 - 1)(F&B + B - 3W), exact for F = I = W. Peak in flight: p
    + 1. Raises ValueError unless p and m are even and m >= 2p.
    """
    p = even(num_ranks, "num_ranks", "DualPipe pairs ranks from both ends")
    m = even(num_microbatches, "num_microbatches", "DualPipe sends half either way")
    m = at_least(m, "num_microbatches", 2 * p, "DualPipe needs twice num_ranks")
    rows = []
    for rank in range(p):
        copies = {rank: 0, 2 * p - 1 - rank: m // 2}
        down, up = copies
        is_upper = rank >= p // 2
        depth = min(rank, p - 1 - rank)
        rows.append(
            _row(
                (up, down) if is_upper else (down, up),
                copies,
                depth,
                p // 2,
                m // 2 - p + depth + 1,
                depth == p // 2 - 1,
            )
        )
    down_ranks = waves(p, 1)
    return Schedule(
        "dualpipe",
        rows,
        (*down_ranks, *mirrored(down_ranks)),
        num_microbatches=m,
        copy_of=(*range(p), *range(p)),
        route=[0] * (m // 2) + [1] * (m // 2),
    )


def dualpipe_v(num_ranks: int, num_microbatches: int) -> Schedule:
    """DualPipe cut in half: one copy of the parameters, 2p stages in a V, so that a
    rank's two stages are the two directions.

    Bubble of the idlest rank: (p - 1)(F&B + B - 3W) in times of a stage, exact for F =
    I = W. Peak in flight: 2p + 1 stages' activations. Raises ValueError for m < 2p.
    """
    p = num_ranks
    m = at_least(
        num_microbatches, "num_microbatches", 2 * p, "DualPipeV needs twice num_ranks"
    )
    rows = [
        _row((r, 2 * p - 1 - r), {}, r, p, m - 2 * p + r + 1, r == p - 1)
        for r in range(p)
    ]
    return Schedule("dualpipe_v", rows, waves(p, 2))
