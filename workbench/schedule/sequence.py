"""Seq1F1B (Sun et al. 2024, arXiv:2406.03488): microbatches cut along the sequence."""

from __future__ import annotations

from .actions import Action, Kind
from .ir import Schedule, whole


def seq_1f1b(num_ranks: int, num_microbatches: int, num_slices: int = 2) -> Schedule:
    """1F1B whose unit is a slice of a sequence: forwards from the first slice to the
    last, since attention looks back; backwards from the last to the first.

    p - 2 - r + k forwards come first, for k slices. Bubble: (p - 1)(F + B)/k per rank
    where slices cost the same. Peak in flight on rank r: p + k - 1 - r slices.
    """
    k = whole(num_slices, "num_slices", 1)
    slices = range(k)
    rows = []
    for rank in range(num_ranks):
        forwards = [
            Action(rank, Kind.F, i, s) for i in range(num_microbatches) for s in slices
        ]
        backwards = [
            Action(rank, Kind.B, i, s)
            for i in range(num_microbatches)
            for s in reversed(slices)
        ]
        warmup = min(num_ranks - 2 - rank + k, len(forwards))
        row = forwards[:warmup]
        for forward, backward in zip(forwards[warmup:], backwards, strict=False):
            row += [forward, backward]
        row += backwards[len(forwards) - warmup :]
        rows.append(row)
    return Schedule("seq_1f1b", rows, range(num_ranks), num_slices=k)
