"""What every process of ``mpiexec`` runs for tests/engine/test_mpi.py.

    mpiexec -n N python mpi_ranks.py FOLDER

For each job file of FOLDER, in order, all ranks run the job; rank 0 writes what came of
it to a .json beside it: hashes of the weights by name, losses, the evaluations, or the
error that every rank ended with.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

import workbench as wb
from workbench.engine.mpi import World
from workbench.engine.worker import for_processes, work


class Notes:
    """A reporter that keeps what it is told; ``orders`` come by step."""

    def __init__(self, orders: dict[int, str], seen: set[int]) -> None:
        self.orders, self.seen = orders, seen
        self.told: list[tuple[str, dict[str, Any], dict[str, np.ndarray]]] = []
        self.num_events = 0
        self.silence = 0.0
        self.step = 0

    def events(self, events: np.ndarray) -> None:
        self.num_events += len(events)
        self.step = max(self.step, int(events["step"].max()))

    def tell(self, kind: str, body: Any, arrays: Any) -> None:
        self.told.append((kind, dict(body), dict(arrays)))

    def commands(self) -> list[dict[str, Any]]:
        due = [step for step in self.orders if self.step >= step]
        return [{"do": self.orders.pop(step)} for step in sorted(due)]

    def of(self, kind: str) -> list[tuple[dict[str, Any], dict[str, np.ndarray]]]:
        return [(body, arrays) for k, body, arrays in self.told if k == kind]


def outcome(world: World, job: wb.Job, orders: dict[int, str]) -> dict[str, Any]:
    notes = Notes(orders, set())
    try:
        state = work(for_processes(job), world, notes)
    except Exception as error:
        return {"error": world.gather(f"{type(error).__name__}: {error}", "fail")}
    mine = {
        body["name"]: hashlib.sha256(arrays["values"].tobytes()).hexdigest()
        for body, arrays in notes.of("tensor")
    }
    told = world.gather([mine, notes.num_events], "tell hashes")
    steps = notes.of("steps")
    return {
        "state": state,
        "states": [body["state"] for body, _ in notes.of("state")],
        "hashes": {name: h for part, _ in told for name, h in part.items()},
        "holders": [len(part) for part, _ in told],
        "num_events": [count for _, count in told],
        "losses": [[x.hex() for x in row] for _, a in steps for row in a["losses"]],
        "norms": [x.hex() for _, a in steps for x in a["norms"]],
        "evaluations": [body["loss"].hex() for body, _ in notes.of("evaluation")],
    }


def main() -> None:
    world = World()
    for path in sorted(Path(sys.argv[1]).glob("*.toml")):
        orders = {}
        asked = path.with_suffix(f".orders{world.rank}")
        if asked.is_file():
            orders = {int(k): v for k, v in json.loads(asked.read_text()).items()}
        own = path.with_suffix(f".rank{world.rank}")  # where one rank's job differs
        found = outcome(world, wb.Job.from_toml(own if own.is_file() else path), orders)
        if world.rank == 0:
            path.with_suffix(".json").write_text(json.dumps(found))
    sys.stdout.flush()
    if os.environ.get("MPI_RANKS_END") == "abort":
        world.abort(3)


if __name__ == "__main__":
    main()
