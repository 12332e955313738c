"""Events: the columns of a simulated trace that do not depend on the costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from ..schedule import (
    KIND_CODE,
    Action,
    Graph,
    Kind,
    Overlap,
    halves,
    in_flight_changes,
)
from ..trace import COMPUTE_LANE, OPTIMIZER_LANE, WAIT_LANE, Trace
from .costs import CostModel

Ints = npt.NDArray[np.int64]

_OPTIMIZER = (Kind.REDUCE_GRAD, Kind.OPT_STEP)
#: Kind of a message's end -> the stage, counted from its own, whose output's size it has.
_MESSAGES = {Kind.SEND_F: 0, Kind.RECV_F: -1, Kind.SEND_B: -1, Kind.RECV_B: 0}


def _lane(kind: Kind) -> int:
    if kind in _OPTIMIZER:
        return OPTIMIZER_LANE
    return WAIT_LANE if kind in _MESSAGES else COMPUTE_LANE


def _live(steps: tuple[Action | Overlap, ...]) -> list[int]:
    """Microbatches in flight on a rank after every step."""
    changes = [0] * len(steps)
    for step, change in in_flight_changes(steps):
        changes[step] += change
    return list(accumulate(changes))


@dataclass(frozen=True, eq=False)
class Events:
    """One event per action of every step, and before each optimizer step one for the
    time that it waits; that one is left out where it is empty.

    ``columns``: (8, events): node, rank, stage, kind, microbatch, slice, lane, live.
    ``waits``: which events are an optimizer step's wait.
    """

    columns: Ints
    waits: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, graph: Graph) -> Events:
        rows: list[tuple[int, ...]] = []
        waits: list[bool] = []
        node = 0
        for program in graph.programs:
            for step, held in zip(program.steps, _live(program.steps), strict=True):
                for stage, kind, microbatch, part in halves(step):
                    about = (
                        node,
                        program.rank,
                        stage,
                        KIND_CODE[kind],
                        microbatch,
                        part,
                    )
                    if kind is Kind.OPT_STEP:
                        rows.append((*about, WAIT_LANE, held))
                        waits.append(True)
                    rows.append((*about, _lane(kind), held))
                    waits.append(False)
                node += 1
        table = np.array(rows, np.int64).reshape(-1, 8).T
        return cls(table, np.array(waits, bool))

    def trace(
        self,
        start: Ints,
        ready: Ints,
        end: Ints,
        tick: float,
        costs: CostModel,
        metadata: Mapping[str, Any],
    ) -> Trace:
        """The trace, from the times of the nodes in ticks."""
        node = self.columns[0]
        there = ~self.waits | (ready[node] > start[node])
        node, rank, stage, kind, microbatch, part, lane, live = self.columns[:, there]
        waits = self.waits[there]
        waiting = lane == WAIT_LANE
        return Trace(
            rank=rank,
            stage=stage,
            kind=kind,
            microbatch=microbatch,
            slice=part,
            step=np.zeros_like(node),
            start=np.where(waiting, start[node], ready[node]),
            end=np.where(waits, ready[node], end[node]),
            lane=lane,
            bytes=_bytes(stage, kind, costs),
            live=live,
            tick=tick,
            unit=costs.unit,
            source="simulated",
            metadata=dict(metadata),
        )


def _bytes(stage: Ints, kind: Ints, costs: CostModel) -> Ints:
    """What messages carry; 0 for all else."""
    found = np.zeros(len(stage))
    sizes = np.asarray(costs.message_bytes)
    if sizes.any():
        for message, shift in _MESSAGES.items():
            mask = kind == KIND_CODE[message]
            found[mask] = sizes[stage[mask] + shift] if sizes.ndim else sizes
    return np.rint(found).astype(np.int64)
