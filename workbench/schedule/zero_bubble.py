"""Zero-bubble schedules by hand: ZB-H1 and ZB-H2 (Qi et al. 2023, arXiv:2401.10241),
and the interleaved form that PyTorch has."""

from __future__ import annotations

from .actions import Row
from .interleaved import Entry, groups, table
from .ir import Schedule
from .placement import RowBuilder, at_least, loop


def delayed_weights(
    forwards: list[int], backwards: list[int], warmup: int, delay: int
) -> Row:
    """``forwards`` and ``backwards`` name the stage of each in turn. ``warmup``
    forwards come first; then forwards and input gradients in turn, and once more than
    ``delay`` weight gradients wait, one of them after each pair."""
    row = RowBuilder()
    warmup = min(warmup, len(forwards))
    for stage in forwards[:warmup]:
        row.forward(stage)
    tail = len(forwards) - warmup
    for number, stage in enumerate(backwards):
        if number < tail:
            row.forward(forwards[warmup + number])
        row.backward(stage, split=True)
        # In the tail every wait for the next gradient is filled.
        if number >= tail or len(row.pending) > delay:
            row.weight()
    row.drain()
    return row.row


def _one_stage(name: str, p: int, m: int, depth: int) -> Schedule:
    rows = []
    for rank in range(p):
        warmup, delay = depth * (p - 1 - rank), depth * rank
        # What waits for its W is held as well: with the warm-up that is `depth` times
        # p - 1, and the one at work.
        rows.append(delayed_weights([rank] * m, [rank] * m, warmup, delay))
    return Schedule(name, rows, range(p))


def zb_h1(num_ranks: int, num_microbatches: int) -> Schedule:
    """One stage per rank, backward split; as much memory as 1F1B's first rank.

    Bubble for m >= p: (p - 1)(F + I - W) per rank if F >= W, plus 4 (p - 1) hop. Peak
    in flight: min(p, m) on every rank.
    """
    return _one_stage("zb_h1", num_ranks, num_microbatches, 1)


def zb_h2(num_ranks: int, num_microbatches: int) -> Schedule:
    """One stage per rank, backward split; twice the warm-up, so that no rank waits.

    Bubble for m >= 2p - 1: (p - 1)(F + I - 2W) + 2 (p - 1) hop per rank, or none where
    that is negative; as the span counts it, from a rank's own first action to its own
    last. Peak in flight: min(2p - 1, m) on every rank.
    """
    return _one_stage("zb_h2", num_ranks, num_microbatches, 2)


def interleaved_zb(
    num_ranks: int, num_microbatches: int, stages_per_rank: int = 2
) -> Schedule:
    """Several stages per rank in a loop, backward split: ZB-H1's rule per stage.

    Its order is worked out from the rules that PyTorch's InterleavedZeroBubble states:
    (v - 1)g + p - 1 - r forwards first, weight gradients put off by r. Bubble: about
    (p - 1)(F + I - W)/v per rank. m must be a multiple of p, or of its max(1, m // p)
    rounds; raises ValueError otherwise.
    """
    v = at_least(stages_per_rank, "stages_per_rank", 1, "a rank has at least one stage")
    sizes = groups(num_ranks, num_microbatches, None)
    entries: list[Entry] = table(sizes, v)
    rows = []
    for rank in range(num_ranks):
        forwards = [local * num_ranks + rank for _, local in entries]
        backwards = [(v - 1 - local) * num_ranks + rank for _, local in entries]
        warmup = (v - 1) * sizes[0] + num_ranks - 1 - rank
        rows.append(delayed_weights(forwards, backwards, warmup, rank))
    return Schedule("interleaved_zb", rows, loop(num_ranks, v))
