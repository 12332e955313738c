"""Starts pipelines in PyTorch, a process per rank, and reads what they give."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workbench import Schedule

WORKER = Path(__file__).with_name("torch_pipeline.py")


@dataclass(frozen=True)
class TorchRun:
    """A schedule to run in PyTorch on stages of ``layers`` linear layers each."""

    name: str
    schedule: Schedule
    width: int = 16
    rows: int = 4
    layers: Sequence[int] | None = None
    pause: Sequence[float] | None = None
    communications: bool = False
    unsharded_stages: int | None = None
    steps: int = 2
    warmup: int = 1
    profile: bool = False
    plain: bool = False

    def job(self, folder: Path) -> dict[str, Any]:
        """What the worker is told; writes the CSV."""
        path = folder / f"{self.name}.csv"
        options: dict[str, Any] = {"communications": self.communications}
        if self.unsharded_stages:
            options["unsharded_stages"] = self.unsharded_stages
        path.write_text(self.schedule.to_csv(**options), encoding="utf-8")
        told = {k: v for k, v in asdict(self).items() if k != "schedule"}
        return told | {
            "csv": str(path),
            "format": "compute_comms" if self.communications else "compute_only",
            "stage_to_rank": self.schedule.stage_to_rank,
            "microbatches": self.schedule.num_microbatches,
            "layers": list(self.layers or [1] * self.schedule.num_stages),
        }


def run(
    runs: Sequence[TorchRun], folder: Path, timeout: float = 300
) -> list[dict[str, Any]]:
    """Per rank, name -> losses, seconds of every step, and the plain run's losses.
    Raises RuntimeError with what a rank said when it fails."""
    world = runs[0].schedule.num_ranks
    plan = {"world": world, "store": str(folder / "store"), "output": str(folder)}
    path = folder / "plan.json"
    jobs = [one.job(folder) for one in runs]
    path.write_text(json.dumps(plan | {"jobs": jobs}), encoding="utf-8")
    command = [sys.executable, str(WORKER), str(path)]
    logs = [(folder / f"rank{rank}.log").open("w+") for rank in range(world)]
    ranks = [
        subprocess.Popen([*command, str(rank)], stdout=log, stderr=log)
        for rank, log in enumerate(logs)
    ]
    try:
        codes = [rank.wait(timeout) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
        for log in logs:
            log.close()
    for rank, code in enumerate(codes):
        if code:
            said = (folder / f"rank{rank}.log").read_text()[-4000:]
            raise RuntimeError(f"rank {rank} ended with {code}:\n{said}")
    return [json.loads((folder / f"rank{r}.json").read_text()) for r in range(world)]
