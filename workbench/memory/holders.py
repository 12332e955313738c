"""Who adds up and who updates which part of a parameter.

A parameter is held by every copy of its stage and, where it is tied, by every use. At
the end of a step its elements are shared out: each piece has one holder as its owner,
who adds the gradients of all holders up. With ZeRO-1 (Rajbhandari et al.,
arXiv:1910.02054) the owner alone keeps the piece's optimizer state and updates it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cython_kernels.tables import BLOCK

from ..model import Model, StageTapes, aligned

FLOAT = 4


class Holder(NamedTuple):
    """Parameter number ``parameter`` of a stage, in the order of its tapes."""

    stage: int
    parameter: int


class Piece(NamedTuple):
    """``size`` elements of a stage's parameter, from ``begin`` on; and, where they are
    updated, the offsets of their optimizer states in the arena, in bytes (of those that
    the optimizer has)."""

    parameter: int
    begin: int
    size: int
    states: tuple[int, ...] = ()


def uses(model: Model, tapes: Sequence[StageTapes]) -> list[tuple[Holder, ...]]:
    """Every parameter of one copy's stages, in layer order, with all its uses: itself,
    then those that are tied to it."""
    names = [layer.name for layer in model.layers]
    found: dict[str, list[Holder]] = {}
    for stage, tape in enumerate(tapes):
        for number, slot in enumerate(tape.parameters):
            name = slot.tied_to or f"{names[slot.layer]}.{slot.name}"
            found.setdefault(name, []).append(Holder(stage, number))
    return [tuple(holders) for holders in found.values()]


def _shares(counts: Sequence[int], holders: int) -> list[list[tuple[int, int, int]]]:
    """For each holder the (number, begin, count) of its pieces of arrays of so many
    elements: equal shares of their blocks, in order."""
    blocks = [-(-count // BLOCK) for count in counts]
    total = sum(blocks)
    shares: list[list[tuple[int, int, int]]] = []
    for h in range(holders):
        low, high = total * h // holders, total * (h + 1) // holders
        share, first = [], 0
        for number, (count, size) in enumerate(zip(counts, blocks, strict=True)):
            begin = BLOCK * max(0, low - first)
            end = min(count, BLOCK * (high - first))
            if begin < end:
                share.append((number, begin, end - begin))
            first += size
        shares.append(share)
    return shares


def owned(
    model: Model, tapes: Sequence[StageTapes], copies: int
) -> list[tuple[Piece, ...]]:
    """The pieces of every stage of all copies: first those that only the stage's copies
    hold, then those of tied parameters. ``tapes`` are those of one copy."""
    length = len(tapes)
    pieces: list[list[Piece]] = [[] for _ in range(length * copies)]
    known = uses(model, tapes)
    sizes = {
        Holder(s, number): slot.size
        for s, tape in enumerate(tapes)
        for number, slot in enumerate(tape.parameters)
    }
    for stage in range(length):
        alone = [u[0] for u in known if len(u) == 1 and u[0].stage == stage]
        shares = _shares([sizes[holder] for holder in alone], copies)
        for copy, share in enumerate(shares):
            for number, begin, count in share:
                piece = Piece(alone[number].parameter, begin, count)
                pieces[stage + copy * length].append(piece)
    for tied in (u for u in known if len(u) > 1):
        holders = [(copy, holder) for copy in range(copies) for holder in tied]
        shares = _shares([sizes[tied[0]]], len(holders))
        for (copy, holder), share in zip(holders, shares, strict=True):
            for _, begin, count in share:
                piece = Piece(holder.parameter, begin, count)
                pieces[holder.stage + copy * length].append(piece)
    return [tuple(found) for found in pieces]


def whole(tape: StageTapes) -> tuple[Piece, ...]:
    """All parameters of a stage, undivided."""
    return tuple(Piece(i, 0, slot.size) for i, slot in enumerate(tape.parameters))


def state_bytes(pieces: Sequence[Piece], states: int) -> int:
    """Bytes of optimizer state that the pieces need."""
    return states * sum(aligned(FLOAT * piece.size) for piece in pieces)


def with_states(pieces: Sequence[Piece], base: int, states: int) -> tuple[Piece, ...]:
    """The pieces with their optimizer states laid out from ``base`` on: the first
    states of all, then the second ones."""
    placed, offset = [], base
    for piece in pieces:
        placed.append((piece, offset))
        offset += aligned(FLOAT * piece.size)
    size = offset - base
    return tuple(
        piece._replace(states=tuple(first + i * size for i in range(states)))
        for piece, first in placed
    )
