"""Built: a C engine with its arenas, and where every parameter lies in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cython_kernels import _runtime

from ..memory import Holder, MemoryPlan
from ..model import Slot
from ..schedule import Action

_MOMENTS = ("first_moment", "second_moment")


class State(NamedTuple):
    """Part of a parameter's optimizer state, as a view: elements ``begin`` and on, flat.
    ``part`` is "first_moment" (SGD's momentum too) or "second_moment"."""

    layer: int
    name: str
    part: str
    begin: int
    values: np.ndarray


@dataclass
class Built:
    """A C engine with its arenas, and where every parameter lies in them. The arenas of
    ranks that are in other processes are empty."""

    engine: _runtime.Engine
    plan: MemoryPlan
    arenas: list[np.ndarray]
    programs: tuple[tuple[Action, ...], ...]
    copies: int
    #: Every parameter of the first copy, in layer order, with all its uses.
    parameters: list[tuple[Holder, ...]]

    def weights(self) -> list[tuple[int, str, np.ndarray]]:
        """(layer, name, float32 view of the live weights), in layer order: those of the
        first copy and, of tied ones, the first use, if there are more; and only those
        that are in this process."""
        return list(self._views("param"))

    def gradients(self) -> list[tuple[int, str, np.ndarray]]:
        """(layer, name, float32 view of group 0's gradients), in layer order; when a
        step has ended these are the sums."""
        return list(self._views("grad"))

    def copy_weights(self) -> None:
        """Gives every holder of a parameter the weights of the first."""
        length = len(self.plan.stages) // self.copies
        for (_, _, view), holders in zip(
            self._views("param"), self.parameters, strict=True
        ):
            for copy in range(self.copies):
                for stage, number in holders:
                    self._view("param", stage + copy * length, number)[...] = view

    def held(self) -> Iterator[tuple[int, str, np.ndarray]]:
        """(layer, name, float32 view) of what every holder in this process has; where
        it is tied, layer and name are those of the parameter that it is tied to."""
        length = len(self.plan.stages) // self.copies
        for copy in range(self.copies):
            for holders in self.parameters:
                slot = self._slot(*holders[0])
                for stage, number in holders:
                    if self._is_here(stage + copy * length):
                        view = self._view("param", stage + copy * length, number)
                        yield slot.layer, slot.name, view

    def states(self, of_all_holders: bool = False) -> Iterator[State]:
        """The optimizer's state in this process: over all processes every element once
        or, ``of_all_holders``, as often as it is kept (with ZeRO-1 that is once)."""
        length = len(self.plan.stages) // self.copies
        for holders in self.parameters:
            slot = self._slot(*holders[0])
            everyone = [
                Holder(stage + copy * length, number)
                for copy in range(self.copies)
                for stage, number in holders
            ]
            known: set[int] = set()
            for stage, number in everyone:
                planned = self.plan.stages[stage]
                for piece in planned.updates:
                    if piece.parameter != number or piece.begin in known:
                        continue
                    if not of_all_holders:
                        known.add(piece.begin)
                    if not self._is_here(stage):
                        continue
                    parts = zip(_MOMENTS, piece.states, strict=False)
                    for part, at in parts:
                        view = self.arenas[planned.rank][at : at + 4 * piece.size]
                        values = view.view(np.float32)
                        yield State(slot.layer, slot.name, part, piece.begin, values)

    def _views(self, region: str) -> Iterator[tuple[int, str, np.ndarray]]:
        for (stage, number), *_ in self.parameters:
            slot = self._slot(stage, number)
            if self._is_here(stage):
                yield slot.layer, slot.name, self._view(region, stage, number)

    def _is_here(self, stage: int) -> bool:
        return len(self.arenas[self.plan.stages[stage].rank]) > 0

    def _slot(self, stage: int, number: int) -> Slot:
        return self.plan.stages[stage].tapes.parameters[number]

    def _view(self, region: str, stage: int, number: int) -> np.ndarray:
        """Parameter ``number`` of a stage in "param" or "grad"."""
        planned, slot = self.plan.stages[stage], self._slot(stage, number)
        begin = getattr(planned, region) + slot.offset
        values = self.arenas[planned.rank][begin : begin + 4 * slot.size]
        return values.view(np.float32).reshape(slot.shape)
