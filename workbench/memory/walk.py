"""One rank's program, walked once: the slots and buffers that are alive after every
step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..model import StageTapes
from ..schedule import Action, Kind, Overlap, Program, Schedule


@dataclass(frozen=True)
class PlannedStep:
    """An action with the slots it works in and the bytes its rank holds when it
    ends."""

    action: Action
    saved_slot: int = 0
    held_slot: int = 0
    live: int = 0
    bytes: int = 0


def flat(steps: Sequence[Action | Overlap]) -> Iterator[Action]:
    """Actions one by one: the engine runs the halves of an overlap in sequence."""
    for step in steps:
        if isinstance(step, Overlap):
            yield step.first
            yield step.second
        else:
            yield step


class _Slots:
    """Numbered places of one kind; the lowest free one is taken, so reuse is early."""

    def __init__(self) -> None:
        self.free: list[int] = []
        self.count = 0
        self.held: dict[int, int] = {}

    def take(self, microbatch: int) -> int:
        if self.free:
            self.free.sort(reverse=True)
            slot = self.free.pop()
        else:
            slot, self.count = self.count, self.count + 1
        self.held[microbatch] = slot
        return slot

    def give(self, microbatch: int) -> int:
        slot = self.held.pop(microbatch)
        self.free.append(slot)
        return slot


class RankWalk:
    """Follows one rank's program: which slots and buffers are alive after every
    step."""

    def __init__(
        self,
        program: Program,
        tapes: Sequence[StageTapes],
        schedule: Schedule,
    ) -> None:
        self.rank = program.rank
        self.tapes = tapes
        self.schedule = schedule
        self.saved: dict[int, _Slots] = {}
        self.held: dict[int, _Slots] = {}
        self.inputs: dict[tuple[int, Kind], int] = {}
        self.input_peaks: dict[tuple[int, Kind], int] = {}
        self.live = 0
        #: Per stage and microbatch, the slices whose W is still to come.
        self.open: dict[tuple[int, int], int] = {}
        self.steps = tuple(self._step(action) for action in flat(program.steps))

    def _is_here(self, stage: int) -> bool:
        return stage >= 0 and self.schedule.stage_to_rank[stage] == self.rank

    def _buffer(self, source: int, kind: Kind, change: int) -> None:
        """A message from ``source`` is now held here (+1), or no longer (-1)."""
        key = (source, kind)
        self.inputs[key] = self.inputs.get(key, 0) + change
        self.input_peaks[key] = max(self.input_peaks.get(key, 0), self.inputs[key])
        size = self.tapes[source].output_bytes if kind is Kind.F else 0
        size = self.tapes[source].input_bytes if kind is Kind.B else size
        self.live += change * size

    def _release_inputs(self, stage: int) -> None:
        before, after = (
            self.schedule.stage_before(stage),
            self.schedule.stage_after(stage),
        )
        if before >= 0:
            self._buffer(before, Kind.F, -1)
        if after >= 0:
            self._buffer(after, Kind.B, -1)

    def _step(self, a: Action) -> PlannedStep:
        tapes = self.tapes[a.stage]
        if a.kind in (Kind.SEND_F, Kind.SEND_B):
            size = tapes.output_bytes if a.kind is Kind.SEND_F else tapes.input_bytes
            return PlannedStep(a, live=self.live, bytes=size)
        if a.kind is Kind.RECV_F:
            self._buffer(a.stage - 1, Kind.F, 1)
            return PlannedStep(a, live=self.live, bytes=tapes.input_bytes)
        if a.kind is Kind.RECV_B:
            self._buffer(a.stage + 1, Kind.B, 1)
            return PlannedStep(a, live=self.live, bytes=tapes.output_bytes)
        saved = self.saved.setdefault(a.stage, _Slots())
        held = self.held.setdefault(a.stage, _Slots())
        if a.kind in (Kind.F, Kind.R):
            return self._forward(a, saved)
        if a.kind in (Kind.I, Kind.B, Kind.W):
            return self._backward(a, saved, held)
        return PlannedStep(a, live=self.live)

    def _forward(self, a: Action, saved: _Slots) -> PlannedStep:
        if a.slice:
            slot = saved.held[a.microbatch]
        else:
            slot = saved.take(a.microbatch)
            self.open[a.stage, a.microbatch] = self.schedule.num_slices
        if a.kind is Kind.F and self._is_here(self.schedule.stage_after(a.stage)):
            self._buffer(a.stage, Kind.F, 1)
        if a.kind is Kind.F and self.schedule.has(a._replace(kind=Kind.R)):
            # Made again later: only the input is kept, which is the channel's.
            saved.give(a.microbatch)
        elif a.slice == 0:
            self.live += self.tapes[a.stage].saved_bytes
        return PlannedStep(a, slot, 0, self.live)

    def _backward(self, a: Action, saved: _Slots, held: _Slots) -> PlannedStep:
        tapes = self.tapes[a.stage]
        saved_slot = saved.held[a.microbatch]
        if a.kind in (Kind.I, Kind.B):
            if a.microbatch not in held.held:
                held.take(a.microbatch)
                self.live += tapes.held_bytes
            if self._is_here(self.schedule.stage_before(a.stage)):
                self._buffer(a.stage, Kind.B, 1)
        held_slot = held.held[a.microbatch]
        if a.kind in (Kind.W, Kind.B):
            self.open[a.stage, a.microbatch] -= 1
            if not self.open[a.stage, a.microbatch]:
                held.give(a.microbatch)
                saved.give(a.microbatch)
                self.live -= tapes.held_bytes + tapes.saved_bytes
            self._release_inputs(a.stage)
        return PlannedStep(a, saved_slot, held_slot, self.live)
