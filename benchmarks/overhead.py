"""What the engine itself costs per action: the same programs with empty tapes.

Time of a step over the number of actions in it: looking up, recording, and, between
ranks, the channel's hand-over. Kernels are not called; the optimizer has two numbers
to update.
"""

from __future__ import annotations

import jobs
from measure import Row, Spread

from workbench.engine import cores

MICROBATCHES = 1000


def nanoseconds(num_stages: int, count: int, steps: int) -> Spread:
    """Per action of the whole schedule, over all ranks."""
    stepper = jobs.Stepper(jobs.empty_job(num_stages, MICROBATCHES))
    stepper.run(steps)
    actions = steps * stepper.actions_per_step
    return Spread.of([1e9 * stepper.run(steps) / actions for _ in range(count)])


def rows(quick: bool = False) -> list[Row]:
    count, steps = (5, 20) if quick else (31, 100)
    alone = nanoseconds(1, count, steps)
    actions = 2 * MICROBATCHES
    what = f"engine overhead per action, one rank, {actions} actions a step"
    found = [Row(what, f"{alone.text('.0f')} ns", "same process, empty tapes")]
    what = "engine overhead per action, two ranks, messages both ways"
    if cores.usable() < 2:
        return [*found, Row(what, "not run", "needs two usable cores")]
    two = nanoseconds(2, count, max(1, steps // 10))
    return [*found, Row(what, f"{two.text('.0f')} ns", "same process, empty tapes")]


if __name__ == "__main__":
    for row in rows():
        print("  ".join(row))
