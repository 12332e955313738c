"""Bring your own run, proved: PyTorch's runs are profiled and imported, other schedules
are predicted from them, exported, run by PyTorch and measured.

    python benchmarks/imported.py [--quick] [--output FILE]

Two ranks, a process each, on CPU with gloo; one thread per rank. Needs the compare
extra, and two cores that nothing else uses. Writes nothing unless told a file.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import measure

import workbench as wb

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from torch_runs import TorchRun, run

#: What a layer does: multiplies, or sleeps in F, I and W as a host does while an
#: accelerator works. The first meets whatever else the cores do; the second shows what
#: import and simulation alone get wrong.
WORK: dict[str, dict[str, Any]] = {
    "multiplying": {"width": 512, "rows": 128},
    "sleeping": {"width": 16, "rows": 4, "pause": (0.004, 0.003, 0.002)},
}

#: Which run is imported -> which schedules of the same stages are predicted from it.
PLANS = {
    "1f1b": ("gpipe", "eager_1f1b"),
    "zb_h1": ("1f1b", "gpipe", "zb_h2"),
    "interleaved_zb": ("interleaved_1f1b", "looped_bfs"),
    "zb_v": ("zb_v_greedy", "v_half", "dualpipe_v"),
}


@dataclass(frozen=True)
class Prediction:
    """Seconds of a step: predicted from another schedule's run, and measured."""

    source: str
    target: str
    predicted: float
    measured: float
    overhead: float

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1


def step_seconds(trace: wb.Trace) -> float:
    """The median makespan of the trace's steps."""
    return statistics.median(
        trace.step_range(step, step + 1).makespan for step in trace.steps
    )


def schedules(names: Sequence[str], microbatches: int) -> dict[str, wb.Schedule]:
    return {
        name: wb.Schedule.make(name, num_ranks=2, num_microbatches=microbatches)
        for name in names
    }


def profiled(
    chosen: Mapping[str, wb.Schedule],
    folder: Path,
    steps: int,
    rounds: int,
    **work: Any,
) -> dict[str, list[wb.Trace]]:
    """Every schedule run by PyTorch, exported and imported, in rounds, so that what
    else the machine does meets all alike. Stages are unequal: the last does twice as
    much."""
    runs = [
        TorchRun(
            f"{name} {number}",
            schedule,
            **work,
            layers=[2] * (schedule.num_stages - 1) + [4],
            communications=True,
            steps=steps,
            warmup=2,
            profile=True,
        )
        for number in range(rounds)
        for name, schedule in chosen.items()
    ]
    run(runs, folder)
    return {
        name: [
            wb.Trace.from_torch_profiler(folder / f"{name} {number}")
            for number in range(rounds)
        ]
        for name in chosen
    }


def together(traces: Sequence[wb.Trace]) -> wb.Trace:
    """The rounds as one trace, each with steps of its own."""
    count = 1 + max(max(trace.steps) for trace in traces)
    return wb.Trace.concat(
        [replace(trace, step=trace.step + k * count) for k, trace in enumerate(traces)]
    )


def predictions(
    plans: Mapping[str, Sequence[str]],
    folder: Path,
    microbatches: int = 8,
    steps: int = 6,
    rounds: int = 3,
    **work: Any,
) -> list[Prediction]:
    names = list(dict.fromkeys([*plans, *(t for ts in plans.values() for t in ts)]))
    chosen = schedules(names, microbatches)
    traces = profiled(chosen, folder, steps, rounds, **work)
    shares = {
        name: statistics.mean(t.bubbles().share("engine_overhead") for t in of_it)
        for name, of_it in traces.items()
    }
    found = []
    for source, targets in plans.items():
        costs = wb.CostModel.from_trace(together(traces[source]))
        for target in (source, *targets):
            predicted = wb.simulate(chosen[target], costs).makespan
            measured = step_seconds(together(traces[target]))
            found.append(
                Prediction(source, target, predicted, measured, shares[target])
            )
    return found


def table(found: Sequence[Prediction]) -> str:
    lines = [
        f"{'imported run':16} {'predicted schedule':18} {'predicted':>12} "
        f"{'measured':>12} {'error':>8} {'overhead':>9}"
    ]
    for one in found:
        lines.append(
            f"{one.source:16} {one.target:18} {1e3 * one.predicted:9.2f} ms "
            f"{1e3 * one.measured:9.2f} ms {100 * one.error:+7.1f} % "
            f"{100 * one.overhead:7.1f} %"
        )
    others = [abs(one.error) for one in found if one.source != one.target]
    lines.append(
        f"median absolute error over other schedules: "
        f"{100 * statistics.median(others):.1f} %; overhead is the share of time between "
        "actions, which costs leave out"
    )
    return "\n".join(lines)


def main() -> int:
    options = measure.arguments(__doc__, "one round; more spread").parse_args()
    rounds = 1 if options.quick else 5
    parts = []
    for name, work in WORK.items():
        with tempfile.TemporaryDirectory() as folder:
            found = predictions(PLANS, Path(folder), rounds=rounds, **work)
        parts.append(f"layers {name}\n{table(found)}")
    text = "\n\n".join(parts)
    return measure.tell(text, options.output)


if __name__ == "__main__":
    sys.exit(main())
