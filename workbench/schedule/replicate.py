"""Data parallel x pipeline, as a schedule: the same pipeline several times, each on ranks
and microbatches of its own, all with copies of one set of parameters."""

from __future__ import annotations

from .actions import Action, Overlap
from .ir import Schedule, whole


def replicate(schedule: Schedule, replicas: int) -> Schedule:
    """The schedule ``replicas`` times side by side, one of them the schedule itself.

    Replica k has ranks k p to (k + 1) p - 1, so that neighbours in a pipeline have
    neighbouring numbers, stages numbered on, and the k-th of equal contiguous shares of
    the microbatches. Every replica's stages are copies of the first's parameters, and a
    schedule that has several copies itself keeps them: copy c of replica k is copy
    k x copies + c of all.

    Raises ValueError when ``replicas`` is not a whole number of at least 1.
    """
    replicas = whole(replicas, "replicas", 1)
    if replicas == 1:
        return schedule
    p, m, stages = schedule.num_ranks, schedule.num_microbatches, schedule.num_stages
    copies = schedule.num_copies
    each = range(replicas)

    def action(a: Action, k: int) -> Action:
        return Action(a.stage + k * stages, a.kind, a.microbatch + k * m, a.slice)

    def moved(item: Action | Overlap, k: int) -> Action | Overlap:
        if isinstance(item, Overlap):
            return Overlap(action(item.first, k), action(item.second, k))
        return action(item, k)

    route = schedule.route or (0,) * m
    return Schedule(
        name=f"{schedule.name} x {replicas}",
        ranks=[
            [moved(item, k) for item in row] for k in each for row in schedule.ranks
        ],
        stage_to_rank=[rank + k * p for k in each for rank in schedule.stage_to_rank],
        num_microbatches=replicas * m,
        num_slices=schedule.num_slices,
        copy_of=tuple(range(schedule.chain_length)) * copies * replicas,
        route=[copy + k * copies for k in each for copy in route],
    )
