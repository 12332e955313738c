"""The ranks of a run as their collector knows them: where each is, how far it has come,
and how to say so."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..engine import Job
from ..engine.errors import waits_for
from ..memory import flat
from ..schedule import KIND_CODE, Action, Kind

_MESSAGES = (Kind.SEND_F, Kind.SEND_B, Kind.RECV_F, Kind.RECV_B)


@dataclass
class Member:
    """What is known of a rank's process."""

    rank: int
    host: str = "?"
    pid: int | None = None
    step: int = 0
    counter: int = 0
    state: str = "starting"
    is_over: bool = False  # it said goodbye, or its last words
    events: int = 0  # that it had told when it said goodbye
    about: dict[str, Any] = field(default_factory=dict)


class Roll:
    """All ranks of a job, and what each was doing when it was last heard."""

    def __init__(self, job: Job) -> None:
        self._homes = job.executed.stage_to_rank
        programs = job.executed.programs(optimizer=True)
        self._programs = [tuple(flat(program.steps)) for program in programs]
        self._places: list[dict[tuple[int, ...], int]] = [
            {
                (KIND_CODE[a.kind], a.stage, a.microbatch, a.slice): i
                for i, a in enumerate(program)
            }
            for program in self._programs
        ]
        self.members = [Member(rank) for rank in range(job.executed.num_ranks)]

    def stands(self, member: Member, step: int, counter: int) -> None:
        """Events and beats come by different ways: the one that is further on counts."""
        if (step, counter) > (member.step, member.counter):
            member.step, member.counter = step, counter

    def stands_after(self, member: Member, event: np.void) -> None:
        """The rank has done this, and is at what comes next."""
        names = ("kind", "stage", "microbatch", "slice")
        done = tuple(int(event[name]) for name in names)
        counter = self._places[member.rank].get(done)
        if counter is not None:
            last = len(self._programs[member.rank]) - 1
            self.stands(member, int(event["step"]), min(counter + 1, last))

    def place_of(self, member: Member) -> str:
        """ "rank 2 (stage 2, host h)"."""
        stages = [str(s) for s, rank in enumerate(self._homes) if rank == member.rank]
        plural = "s" if len(stages) > 1 else ""
        return (
            f"rank {member.rank} (stage{plural} {', '.join(stages)}, "
            f"host {member.host})"
        )

    def action_of(self, member: Member) -> Action | None:
        program = self._programs[member.rank]
        return program[member.counter] if member.counter < len(program) else None

    def standing_at(self, member: Member) -> str:
        """ " in step 37, microbatch 5 (2F5)", as of its last beat."""
        action = self.action_of(member)
        if action is None:
            return ""
        some = "" if action.microbatch < 0 else f", microbatch {action.microbatch}"
        return f" in step {member.step}{some} ({action})"

    def others(self) -> list[str]:
        """Where everybody stands, and for whom it waits."""
        lines = []
        for member in self.members:
            action = self.action_of(member)
            if action is None or member.pid is None:
                continue
            told = waits_for(action, self._homes)
            if action.kind in _MESSAGES:
                told = f"waits for {told}"
            lines.append(
                f"  rank {member.rank} was in step {member.step} at {action}: {told}"
            )
        return lines
