"""One rank of a pipeline run by torch.distributed.pipelining, on CPU with gloo.

    python torch_pipeline.py PLAN RANK

PLAN is a JSON file: ``world``, ``store`` (a file that does not exist yet), ``output``
(a folder) and ``jobs``, which run one after another in one group of processes. A job
has ``name``, ``csv`` and ``format`` for PyTorch's own loader, ``stage_to_rank``,
``microbatches``, ``rows`` of a microbatch, ``width``, ``layers`` of each stage,
``steps``, ``warmup`` (steps before them), ``profile``, and ``pause``: seconds that each
layer sleeps in F, I and W, as a host does while an accelerator works. Every rank writes
``rank<R>.json`` with losses and seconds of each step, and for profiled jobs
``<name>/rank<R>.json`` as PyTorch's profiler exports it. Knows nothing of the
workbench.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import _PipelineScheduleRuntime
from torch.profiler import ProfilerActivity, profile, schedule

RATE = 0.05


class Pause(torch.autograd.Function):
    """Sleeps on the way there and on the way back."""

    @staticmethod
    def forward(
        ctx: Any, values: torch.Tensor, there: float, back: float
    ) -> torch.Tensor:
        ctx.back = back
        time.sleep(there)
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        time.sleep(ctx.back)
        return gradient, None, None


class PausedLinear(nn.Linear):
    """The output's way back is the input gradient's, the weight's the weight
    gradient's."""

    pause: tuple[float, float, float]

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        forward, backward_input, backward_weight = self.pause
        weight = Pause.apply(self.weight, 0.0, backward_weight)
        values = nn.functional.linear(values, weight, self.bias)
        return Pause.apply(values, forward, backward_input)


def stage_module(job: dict[str, Any], stage: int) -> nn.Module:
    """The same weights on whatever rank, or in the plain run."""
    torch.manual_seed(1000 + stage)
    width = job["width"]
    layers: list[nn.Module] = []
    for _ in range(job["layers"][stage]):
        linear: nn.Linear = nn.Linear(width, width)
        if job["pause"]:
            linear = PausedLinear(width, width)
            linear.pause = tuple(job["pause"])
        layers += [linear, nn.Tanh()]
    return nn.Sequential(*layers)


def batch(job: dict[str, Any], step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    shape = (2, job["microbatches"] * job["rows"], job["width"])
    data, target = torch.randn(shape, generator=generator)
    return data, target


def update(modules: list[nn.Module]) -> None:
    with torch.no_grad():
        for module in modules:
            for parameter in module.parameters():
                if parameter.grad is not None:
                    parameter -= RATE * parameter.grad
                    parameter.grad = None


def plain(job: dict[str, Any]) -> list[float]:
    """The losses of the same training without a pipeline, on whole batches."""
    stages = [stage_module(job, stage) for stage in range(len(job["layers"]))]
    losses = []
    for step in range(job["warmup"] + job["steps"]):
        data, target = batch(job, step)
        for stage in stages:
            data = stage(data)
        loss = nn.functional.mse_loss(data, target)
        loss.backward()
        losses.append(loss.item())
        update(stages)
    return losses[job["warmup"] :]


def run(job: dict[str, Any], rank: int, output: Path) -> dict[str, Any]:
    home = job["stage_to_rank"]
    mine = [stage for stage, where in enumerate(home) if where == rank]
    modules = [stage_module(job, stage) for stage in mine]
    stages = [
        PipelineStage(module, stage, len(home), torch.device("cpu"))
        for module, stage in zip(modules, mine, strict=True)
    ]
    runtime = _PipelineScheduleRuntime(
        stages, job["microbatches"], loss_fn=nn.functional.mse_loss
    )
    runtime._load_csv(job["csv"], format=job["format"])
    result: dict[str, Any] = {"losses": [], "seconds": []}
    with contextlib.ExitStack() as stack:
        profiler = None
        if job["profile"]:
            profiler = profile(
                activities=[ProfilerActivity.CPU],
                schedule=schedule(
                    wait=job["warmup"] - 1, warmup=1, active=job["steps"], repeat=1
                ),
            )
            stack.enter_context(profiler)
        for step in range(job["warmup"] + job["steps"]):
            data, target = batch(job, step)
            losses: list[torch.Tensor] = []
            dist.barrier()
            began = time.perf_counter()
            arguments = (data,) if 0 in mine else ()
            wanted = {"target": target} if len(home) - 1 in mine else {}
            runtime.step(*arguments, losses=losses, return_outputs=False, **wanted)
            seconds = time.perf_counter() - began
            update(modules)
            if step >= job["warmup"]:
                result["seconds"].append(seconds)
                if losses:
                    result["losses"].append(torch.stack(losses).mean().item())
            if profiler is not None:
                profiler.step()
    if profiler is not None:
        folder = output / job["name"]
        folder.mkdir(exist_ok=True)
        profiler.export_chrome_trace(str(folder / f"rank{rank}.json"))
    if 0 in mine and job.get("plain"):
        result["plain"] = plain(job)
    return result


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    rank = int(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=Path(plan["store"]).absolute().as_uri(),
        rank=rank,
        world_size=plan["world"],
        timeout=timedelta(seconds=60),
    )
    output = Path(plan["output"])
    results = {job["name"]: run(job, rank, output) for job in plan["jobs"]}
    (output / f"rank{rank}.json").write_text(json.dumps(results), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
