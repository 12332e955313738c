"""What a failed run raises, in words: who failed, doing what, waiting for whom."""

from __future__ import annotations

from collections.abc import Sequence

from ..schedule import Action, Kind


class RunError(RuntimeError):
    """A run that ended by itself. ``rank``, ``step`` and ``action`` say where, if
    known. ``is_consequence``: another process's end must have come before it."""

    def __init__(
        self,
        message: str,
        rank: int | None = None,
        step: int | None = None,
        action: Action | None = None,
        is_consequence: bool = False,
    ) -> None:
        super().__init__(message)
        self.is_consequence = is_consequence
        self.rank = rank
        self.step = step
        self.action = action


_PEER = {
    Kind.RECV_F: (-1, Kind.SEND_F),
    Kind.RECV_B: (1, Kind.SEND_B),
    Kind.SEND_F: (1, Kind.RECV_F),
    Kind.SEND_B: (-1, Kind.RECV_B),
}


def waits_for(action: Action, stage_to_rank: Sequence[int]) -> str:
    """What a rank that stands at this action waits for, in words."""
    if action.kind in _PEER:
        shift, kind = _PEER[action.kind]
        peer = action.stage + shift
        return f"rank {stage_to_rank[peer]}'s {peer}{kind}{action.microbatch}"
    if action.kind is Kind.OPT_STEP:
        return "all ranks' gradients"
    return "nothing: it is computing"


def explain(
    error: tuple[str, int, int, int],
    positions: Sequence[tuple[int, int]],
    programs: Sequence[Sequence[Action]],
    stage_to_rank: Sequence[int],
    wait_limit: float,
    here: int | None = None,
) -> RunError:
    """The error of a C engine as an exception that says who waits for whom. ``here``:
    the only rank of this process, whose position alone is known."""
    name, rank, counter, step = error
    if rank < 0:
        return RunError("the run was aborted")
    action = programs[rank][counter]
    if name == "nonfinite":
        return RunError(
            f"step {step}: the loss or a gradient is not finite. The step was not applied; "
            "the weights are those of the step before. A smaller learning rate, or clipping, "
            "is the usual mend.",
            rank,
            step,
            action,
        )
    where = f"rank {rank}, step {step}, {action}"
    if name == "mismatched":
        return RunError(f"{where}: another message arrived than the program expects")
    if name == "broken":
        return RunError(
            f"{where}: MPI reported an error; a process or the network between has gone",
            rank,
            step,
            action,
            is_consequence=True,
        )
    lines = [
        f"{where}: waited longer than wait_limit = {wait_limit:g} s "
        f"for {waits_for(action, stage_to_rank)}"
    ]
    for r, (at, counter) in enumerate(positions):
        if here is not None and r != here:
            continue
        a = programs[r][counter]
        lines.append(
            f"  rank {r} is in step {at} at {a}: {waits_for(a, stage_to_rank)}"
        )
    return RunError("\n".join(lines), rank, step, action)
