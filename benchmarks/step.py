"""Tokens per second of the main job's model in one stage, against PyTorch eager.

One thread each, fp32, the same weights, text, microbatches and optimizer, each in a
process of its own; the two run turn by turn. The first step's loss must agree, or
nothing is reported. PyTorch is measured twice: with the same microbatches, and with the
whole batch at once, which a pipeline cannot do.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Protocol

import jobs
from measure import Row, Spread, pairs, ratios

HERE = Path(__file__).parent
COMPARISON = "processes on one host, one thread each, fp32"


class Steps(Protocol):
    """What a worker runs: steps of training, and the last step's loss."""

    loss: float

    def run(self, steps: int) -> float: ...


class TorchSteps:
    """The same job in PyTorch eager: AdamW (fused), clipping, gradients accumulated
    over ``parts`` equal parts of the batch."""

    def __init__(self, parts: int) -> None:
        import torch

        sys.path.insert(0, str(HERE / "peers"))
        from torch_gpt import LanguageModel

        torch.set_num_threads(1)
        torch.set_num_interop_threads(1)
        self.torch, self.parts, self.at, self.loss = torch, parts, 0, float("nan")
        self.job = jobs.main_job()
        model = self.job.model
        self.peer = LanguageModel(model.config)
        self.peer.load(jobs.Stepper(self.job).weights())
        decays = {
            f"{layer.name}.{p.name}": p.decay
            for layer in model.layers
            for p in layer.parameters
        }
        groups = [
            {
                "params": [
                    p for n, p in self.peer.named_parameters() if decays[n] is on
                ],
                "weight_decay": jobs.WEIGHT_DECAY if on else 0.0,
            }
            for on in (True, False)
        ]
        self.optimizer = torch.optim.AdamW(
            groups,
            lr=jobs.LEARNING_RATE,
            betas=jobs.BETAS,
            eps=jobs.EPSILON,
            fused=True,
        )

    def _step(self) -> None:
        batch = jobs.MICROBATCHES * jobs.MICROBATCH_SIZE
        found = self.job.data.batch(
            self.job.seed, self.at, batch, self.job.model.context
        )
        inputs, targets = (
            self.torch.from_numpy(part).long().chunk(self.parts) for part in found
        )
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for x, y in zip(inputs, targets, strict=True):
            loss = self.peer.loss(x, y) / self.parts
            loss.backward()
            total += loss.item()
        self.torch.nn.utils.clip_grad_norm_(self.peer.parameters(), jobs.CLIP)
        self.optimizer.step()
        self.at, self.loss = self.at + 1, total

    def run(self, steps: int) -> float:
        begin = time.perf_counter()
        for _ in range(steps):
            self._step()
        return time.perf_counter() - begin


def worker(kind: str) -> None:
    """Reads a number of steps per line, runs them, answers with seconds and loss."""
    steps: Steps
    if kind == "ours":
        steps = jobs.Stepper(jobs.main_job())
    else:
        steps = TorchSteps(
            parts=jobs.MICROBATCHES if kind == "torch-microbatches" else 1
        )
    for line in sys.stdin:
        seconds = steps.run(int(line))
        print(json.dumps({"seconds": seconds, "loss": steps.loss}), flush=True)


class Peer:
    """A worker in a process of its own."""

    def __init__(self, kind: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--worker", kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.first_loss = self.run(1)["loss"]
        self.run(2)

    def run(self, steps: int) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker ended with status {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(30)


def compare(kind: str, count: int, steps: int) -> tuple[Spread, Spread, Spread]:
    """Tokens per second of ours and of the peer, and ours over the peer's."""
    ours, theirs = Peer("ours"), Peer(kind)
    try:
        if abs(ours.first_loss - theirs.first_loss) > 1e-4:
            raise RuntimeError(
                f"the first losses differ: {ours.first_loss} and {theirs.first_loss}"
            )
        a, b = pairs(
            lambda: ours.run(steps)["seconds"],
            lambda: theirs.run(steps)["seconds"],
            count,
        )
    finally:
        ours.close()
        theirs.close()
    tokens = jobs.main_job().tokens_per_step * steps
    speeds = [Spread.of([tokens / t for t in times]) for times in (a, b)]
    return speeds[0], speeds[1], ratios(b, a)


def rows(quick: bool = False) -> list[Row]:
    count, steps = (4, 1) if quick else (16, 2)
    if importlib.util.find_spec("torch") is None:
        return [
            Row("tokens/s, one stage, against PyTorch", "not run", "torch is missing")
        ]
    import torch

    found = []
    peers = {
        "torch-microbatches": "same microbatches",
        "torch-batch": "whole batch at once",
    }
    for kind, words in peers.items():
        ours, theirs, ratio = compare(kind, count, steps)
        name = f"PyTorch {torch.__version__} eager, {words}"
        found += [
            Row("tokens/s, one stage", ours.text(",.0f"), COMPARISON),
            Row(f"tokens/s, {name}", theirs.text(",.0f"), COMPARISON),
            Row(
                "  ours over PyTorch's",
                ratio.text(".2f"),
                f"{count} pairs, interleaved",
            ),
        ]
    return found


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2])
    else:
        for row in rows("--quick" in sys.argv):
            print("  ".join(row))
