"""Ranks as processes over MPI beside ranks as threads, in one run, on this machine.

    python benchmarks/processes.py [--quick] [--output FILE]

Two processes are started with mpiexec. Both train the small GPT together; in turn with
that, the first trains it on two threads while the other sleeps. Beside it, what the
engine costs per action with empty tapes. Needs the mpi extra and two usable cores.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jobs
import measure
from measure import Row, Spread, ratios

from workbench.engine import cores
from workbench.engine.build import Site
from workbench.engine.mpi import World

MICROBATCHES = 1000
CLASSES = "same machine, paired; 2 processes, 2 threads"


class Together:
    """One job on both processes, and on threads of the first."""

    def __init__(self, world: World, job: object, steps: int) -> None:
        self.world, self.steps = world, steps
        self.processes = jobs.Stepper(job, Site(world.rank, world.size))
        self.processes.built.engine.connect(world.table())
        self.threads = jobs.Stepper(job) if world.rank == 0 else None

    def on_processes(self) -> float:
        """Seconds of the slower one; both begin together."""
        self.world.gather(None, "begin")
        seconds = self.processes.run(self.steps)
        return max(self.world.gather(seconds, "end"))

    def on_threads(self) -> float:
        self.world.gather(None, "begin")
        seconds = self.threads.run(self.steps) if self.threads else 0.0
        # The other process sleeps in here, a look every half millisecond.
        return max(self.world.gather(seconds, "end", seconds=300))

    def pairs(self, count: int) -> tuple[list[float], list[float]]:
        self.on_processes(), self.on_threads()
        both: tuple[list[float], list[float]] = measure.pairs(
            self.on_processes, self.on_threads, count
        )
        return both


def ranks(quick: bool) -> None:
    """What each process does; the first prints what was measured, as JSON."""
    world = World(2)
    sizes: dict[str, Callable[[], Together]] = {
        "empty": lambda: Together(
            world, jobs.empty_job(2, MICROBATCHES), 5 if quick else 20
        ),
        "gpt": lambda: Together(
            world,
            jobs.main_job(2, clock="wall", threads_per_rank=1),
            2 if quick else 4,
        ),
    }
    found = {}
    for name, make in sizes.items():
        together = make()
        over_mpi, threads = together.pairs(5 if quick else 15)
        actions = together.steps * together.processes.actions_per_step
        found[name] = {"mpi": over_mpi, "threads": threads, "actions": actions}
        together.processes.built.engine.disconnect()
    if world.rank == 0:
        print(json.dumps(found))


def rows(quick: bool = False) -> list[Row]:
    what = "two ranks over MPI"
    mpiexec = Path(sys.executable).with_name("mpiexec")
    if not mpiexec.exists():
        return [Row(what, "not run", "needs the mpi extra")]
    if cores.usable() < 2:
        return [Row(what, "not run", "needs two usable cores")]
    command = [str(mpiexec), "-n", "2", sys.executable, __file__, "--ranks"]
    done = subprocess.run(
        command + ["--quick"] * quick, stdout=subprocess.PIPE, text=True, check=True
    )
    found = json.loads(done.stdout)
    empty, gpt = found["empty"], found["gpt"]
    costs = {
        place: Spread.of([1e6 * x / empty["actions"] for x in empty[place]])
        for place in ("mpi", "threads")
    }
    return [
        Row(
            f"engine overhead per action, {place}, messages both ways",
            f"{cost.text('.2f')} us",
            "same machine, empty tapes",
        )
        for place, cost in costs.items()
    ] + [
        Row(
            "throughput of the small GPT, MPI / threads",
            ratios(gpt["threads"], gpt["mpi"]).text(),
            CLASSES,
        )
    ]


def main() -> int:
    parser = measure.arguments(__doc__)
    parser.add_argument("--ranks", action="store_true", help="by mpiexec, not by hand")
    options = parser.parse_args()
    if options.ranks:
        ranks(options.quick)
        return 0
    text = "\n".join([*measure.machine(), "", measure.table(rows(options.quick))])
    return measure.tell(text, options.output)


if __name__ == "__main__":
    sys.exit(main())
