"""The baseline: every stage on one rank, one microbatch after another. No pipeline at
all."""

from __future__ import annotations

from .actions import Action, Kind
from .ir import Schedule, whole


def single(num_ranks: int, num_microbatches: int, *, num_stages: int = 1) -> Schedule:
    """``num_stages`` stages on rank 0; one microbatch in flight.

    Raises ValueError for more than one rank.
    """
    if num_ranks != 1:
        raise ValueError(
            f"'single' puts all stages on one rank, got num_ranks={num_ranks}; "
            "use num_ranks=1 and num_stages for the number of stages"
        )
    num_stages = whole(num_stages, "num_stages", 1)
    row = []
    for k in range(num_microbatches):
        row += [Action(stage, Kind.F, k) for stage in range(num_stages)]
        row += [Action(stage, Kind.B, k) for stage in reversed(range(num_stages))]
    return Schedule("single", (tuple(row),), (0,) * num_stages)
