"""Simulated against executed: from one schedule's run every other schedule of the same
stages is predicted, run and measured.

    python benchmarks/predicted.py [--quick] [--clock virtual|wall] [--output FILE]

A step of the run that costs are taken from and a step of the schedule that is predicted
follow one another, again and again, so that what else the machine does meets both.
Writes nothing unless told a file.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jobs
import numpy as np
from measure import Row, Spread, machine

import workbench as wb
from workbench.engine import cores
from workbench.engine.events import EventLog
from workbench.schedule import Action, Kind, Program, halves
from workbench.simulator import Compiled
from workbench.simulator.costs import COLUMN

#: Which schedule's run the costs are taken from -> what is predicted: the schedules
#: whose copies have as many stages as there are ranks, and those that have twice as
#: many. Both sources split every backward; a run of full backwards says nothing of I
#: against W.
PLANS: Mapping[str, tuple[str, ...]] = {
    "zb_h1": (
        *("gpipe", "1f1b", "eager_1f1b", "zb_h2", "zb_auto", "1f1b_recompute"),
        *("seq_1f1b", "dualpipe", "chimera"),
    ),
    "interleaved_zb": (
        *("interleaved_1f1b", "looped_bfs", "zb_v", "zb_v_greedy", "v_half", "v_min"),
        *("1f1b_v", "dualpipe_v", "hanayo", "bitpipe"),
    ),
}
MICROBATCHES = 8


class Size(NamedTuple):
    """What is run under a clock: ranks, pairs of steps in all and with --quick."""

    num_ranks: int
    rounds: int
    quick: int


SIZES = {"virtual": Size(4, 30, 6), "wall": Size(2, 30, 6)}


def job(name: str, num_ranks: int, clock: str) -> wb.Job:
    """Unequal stages of eight blocks; one thread per rank."""
    model = wb.Model.gpt(num_layers=8, width=96, num_heads=4, vocab_size=64, context=64)
    schedule = wb.Schedule.make(
        name, num_ranks=num_ranks, num_microbatches=MICROBATCHES
    )
    return wb.Job(
        model=model,
        partition=wb.Partition.balanced(
            model, num_stages=schedule.chain_length, by="flops"
        ),
        schedule=schedule,
        data=wb.Data.synthetic(vocab_size=64, size=100_000),
        microbatch_size=1,
        steps=100_000,
        clock=clock,
        threads_per_rank=1,
        gradient_groups=schedule.num_copies,
        evaluate=0,
    )


class Runner(jobs.Stepper):
    """An engine that runs a step and gives its trace. Every rank begins it at once."""

    def __init__(self, job: wb.Job) -> None:
        super().__init__(job)
        self.schedule = job.schedule
        self._log = EventLog(self.built.engine, job.schedule.num_ranks, 1 << 16)

    def trace(self) -> wb.Trace:
        self.run(1)
        self._log.drain()
        schedule = self.schedule
        return wb.Trace.from_events(
            self._log.from_step(self.at - 1),
            source="assembled" if self.job.chosen_clock == "virtual" else "measured",
            metadata={
                "schedule": schedule.name,
                "num_ranks": schedule.num_ranks,
                "num_stages": schedule.num_stages,
            },
        )


# ---- predicting ----------------------------------------------------------------------


def priced(costs: wb.CostModel, schedule: wb.Schedule) -> wb.CostModel:
    """The costs for a schedule's stages: copies of a stage cost the same."""
    if schedule.copy_of and costs.num_stages == schedule.chain_length:
        return costs.of_stages(schedule.copy_of)
    return costs


def predicted(costs: wb.CostModel, job: wb.Job) -> float:
    """Seconds of a step of the job."""
    costs = priced(costs, job.schedule)
    return wb.simulate(
        job.schedule, costs, channel_capacity=job.capacity, optimizer=True
    ).makespan


def _whole(action: Action, slices: int) -> Action:
    """The action with its slice told by the number of its microbatch."""
    if action.microbatch < 0:
        return action
    return action._replace(
        microbatch=action.microbatch * slices + action.slice, slice=0
    )


def programs_of(schedule: wb.Schedule) -> tuple[Program, ...]:
    """What the engine runs: the halves of an overlap one after the other. Slices are
    given as microbatches, which is all the same to programs."""
    return tuple(
        Program(
            program.rank,
            tuple(
                _whole(action, schedule.num_slices)
                for step in program.steps
                for action in halves(step)
            ),
        )
        for program in schedule.programs()
    )


def exact_costs(trace: wb.Trace, schedule: wb.Schedule) -> wb.CostModel:
    """Every action of a step at its own measured duration, for ``programs_of``. What a
    send or a receive itself takes, tens of nanoseconds here, is left out."""
    slices = schedule.num_slices
    times = np.zeros(
        (schedule.num_stages, len(COLUMN), schedule.num_microbatches * slices)
    )
    busy = trace.select(trace.lane != 1)
    lengths = (busy.end - busy.start) * busy.tick
    for action, seconds in zip(busy.actions(), lengths.tolist(), strict=True):
        stage, kind, microbatch, _ = _whole(action, slices)
        if kind is Kind.B:
            for half in (Kind.I, Kind.W):
                times[stage, COLUMN[half], microbatch] = seconds / 2
        else:
            times[stage, COLUMN[kind], microbatch] = seconds
    return wb.CostModel(times, unit=trace.unit)


# ---- measuring -----------------------------------------------------------------------


@dataclass(frozen=True)
class Prediction:
    """Seconds of a step of ``target``: predicted with ``source``'s prices, with the
    medians of its own run, with every action's own duration, and executed."""

    source: str
    target: str
    predicted: float
    own: float
    exact: Spread
    executed: Spread

    @property
    def error(self) -> float:
        return self.predicted / self.executed.median - 1

    @property
    def of_prices(self) -> float:
        """The part of the error that comes of the target's actions costing other than
        the source's."""
        return (self.predicted - self.own) / self.executed.median

    @property
    def of_spread(self) -> float:
        """The part that comes of actions of one stage and kind differing."""
        return self.error - self.of_prices - self.of_schedule

    @property
    def of_schedule(self) -> float:
        """The part that is left when every action costs what it did."""
        return self.exact.median - 1


def together(traces: Sequence[wb.Trace]) -> wb.Trace:
    """Steps numbered one after another; none is a first one, which warms up."""
    steps = [replace(t, step=t.step * 0 + 1 + k) for k, t in enumerate(traces)]
    return wb.Trace.concat(steps)


def measured(source: Runner, target: Runner, rounds: int) -> Prediction:
    """The two step in turn, every other pair turned round."""
    found: dict[Runner, list[wb.Trace]] = {source: [], target: []}
    for number in range(rounds + 1):
        for runner in (source, target) if number % 2 else (target, source):
            trace = runner.trace()
            if number:
                found[runner].append(trace)
    traces = found[target]
    compiled = Compiled(
        programs_of(target.schedule), channel_capacity=target.job.capacity
    )
    exact = [
        compiled.makespan(exact_costs(trace, target.schedule)) / trace.makespan
        for trace in traces
    ]
    return Prediction(
        source.schedule.name,
        target.schedule.name,
        predicted(wb.CostModel.from_trace(together(found[source])), target.job),
        predicted(wb.CostModel.from_trace(together(traces)), target.job),
        Spread.of(exact),
        Spread.of([trace.makespan for trace in traces]),
    )


def predictions(clock: str, quick: bool = False) -> list[Prediction]:
    """Every schedule of every plan, predicted and executed under a clock."""
    size = SIZES[clock]
    found = []
    for name, targets in PLANS.items():
        source = Runner(job(name, size.num_ranks, clock))
        for target in targets:
            runner = Runner(job(target, size.num_ranks, clock))
            found.append(measured(source, runner, size.quick if quick else size.rounds))
    return found


# ---- telling -------------------------------------------------------------------------


def errors(found: Sequence[Prediction]) -> list[float]:
    return [abs(one.error) for one in found]


def table(found: Sequence[Prediction]) -> str:
    head = (
        f"{'costs from':15}{'predicted':17}{'ms':>8}  {'executed ms [quartiles]':26}"
        f"{'error':>8}{'prices':>9}{'spread':>9}{'schedule':>10}"
    )
    lines = [head, "-" * len(head)]
    for one in found:
        told = Spread(*(1e3 * value for value in one.executed)).text(".2f")
        parts = (one.error, one.of_prices, one.of_spread)
        lines.append(
            f"{one.source:15}{one.target:17}{1e3 * one.predicted:8.2f}  {told:26}"
            + f"{100 * parts[0]:+7.1f}%"
            + "".join(f"{100 * part:+8.1f}%" for part in parts[1:])
            + f"{100 * one.of_schedule:+9.2f}%"
        )
    median = statistics.median(errors(found))
    lines.append(
        f"median absolute error over {len(found)} schedules: {100 * median:.1f} %\n"
        "error = prices (the target's actions cost other than the source's) + spread\n"
        "(actions of one stage and kind differ) + schedule (left when every action costs\n"
        "what it did)"
    )
    return "\n".join(lines)


def runs_here(clock: str) -> bool:
    return clock == "virtual" or cores.usable() >= SIZES[clock].num_ranks


def rows(quick: bool = False) -> list[Row]:
    found = []
    for clock, size in SIZES.items():
        what = f"prediction's error, {clock} clock, {size.num_ranks} ranks"
        if not runs_here(clock):
            found.append(Row(what, "not run", "needs two usable cores"))
            continue
        values = [100 * error for error in errors(predictions(clock, quick))]
        told = f"{len(values)} schedules, costs from another's run"
        found.append(Row(what, f"{Spread.of(values).text('.1f')} %", told))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer pairs; more spread")
    parser.add_argument("--clock", choices=SIZES, help="only this one")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    options: Any = parser.parse_args()
    parts = ["\n".join(machine())]
    for clock in [options.clock] if options.clock else SIZES:
        if runs_here(clock):
            told = table(predictions(clock, options.quick))
            parts.append(f"{clock} clock, {SIZES[clock].num_ranks} ranks\n{told}")
        else:
            parts.append(f"{clock} clock: not run, needs two usable cores")
    text = "\n\n".join(parts)
    print(text)
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
