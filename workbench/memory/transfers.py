"""What holders in different processes tell one another at the end of a step.

The sums that a holder has over its own gradient groups, as far as these form whole
subtrees of the tree over all groups (its roots), go to the owner of a piece; from there
the piece's total goes back to all holders or, with ZeRO-1, its new weights do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..model import aligned
from .holders import FLOAT, Holder, Piece

if TYPE_CHECKING:
    from .plan import StagePlan


class Transfer(NamedTuple):
    """One message: ``size`` elements of piece number ``piece`` of ``owner``, a stage,
    to or from another holder. ``group``: the first of those that a root is the sum of.
    Offsets are into the arenas of the two ranks, in bytes."""

    kind: str  # "root" | "total" | "weights"
    owner: int
    piece: int
    holder: Holder
    group: int
    size: int
    source: int
    target: int
    source_offset: int
    target_offset: int


def roots(first: int, count: int, groups: int) -> list[int]:
    """The first groups of the largest subtrees that groups ``first`` to ``first + count``
    - 1 form whole, of the binary tree over ``groups``."""
    found: list[int] = []

    def walk(begin: int, span: int) -> None:
        end = min(begin + span, groups)
        if begin >= first + count or end <= first:
            return
        if first <= begin and end <= first + count:
            found.append(begin)
            return
        walk(begin, span // 2)
        walk(begin + span // 2, span // 2)

    span = 1
    while span < groups:
        span *= 2
    walk(0, span)
    return found


def transfers(
    stages: Sequence[StagePlan],
    parameters: Sequence[tuple[Holder, ...]],
    copies: int,
    groups: int,
    zero: int,
    room: Callable[[int, int], int],
) -> Iterator[Transfer]:
    """All transfers of a step, those of a piece together. ``room(rank, bytes)`` gives
    the offset of memory for what comes."""
    length, own = len(stages) // copies, groups // copies
    holders_of = {
        use: [
            Holder(other.stage + copy * length, other.parameter)
            for copy in range(copies)
            for other in uses
        ]
        for uses in parameters
        for use in uses
    }

    def others(owner: int, piece: Piece) -> list[Holder]:
        """The piece's holders in other processes than its owner's."""
        everyone = holders_of[Holder(owner % length, piece.parameter)]
        rank = stages[owner].rank
        return [holder for holder in everyone if stages[holder.stage].rank != rank]

    def place(region: str, holder: Holder, piece: Piece) -> int:
        stage = stages[holder.stage]
        slot = stage.tapes.parameters[holder.parameter]
        base: int = getattr(stage, region)
        return base + slot.offset + FLOAT * piece.begin

    for s, stage in enumerate(stages):
        for number, piece in enumerate(stage.reduces):
            for holder in others(s, piece):
                source, copy = stages[holder.stage], holder.stage // length
                for group in roots(copy * own, own, groups):
                    step = (group - copy * own) * source.tapes.param_bytes
                    yield Transfer(
                        "root",
                        s,
                        number,
                        holder,
                        group,
                        piece.size,
                        source.rank,
                        stage.rank,
                        place("grad", holder, piece) + step,
                        room(stage.rank, aligned(FLOAT * piece.size)),
                    )
    kind, region = ("weights", "param") if zero else ("total", "grad")
    for s, stage in enumerate(stages):
        for number, piece in enumerate(stage.reduces):
            mine = Holder(s, piece.parameter)
            for holder in others(s, piece):
                yield Transfer(
                    kind,
                    s,
                    number,
                    holder,
                    -1,
                    piece.size,
                    stage.rank,
                    stages[holder.stage].rank,
                    place(region, mine, piece),
                    place(region, holder, piece),
                )
