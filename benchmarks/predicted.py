"""Simulated against executed: from one schedule's run every other schedule of the same
stages is predicted, run and measured.

    python benchmarks/predicted.py [--quick] [--clock virtual|wall] [--output FILE]

A step of the run that costs are taken from and a step of the schedule that is predicted
follow one another, again and again, so that what else the machine does meets both.
Writes nothing unless told a file.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jobs
import numpy as np
from measure import Row, Spread, arguments, machine, ratios, tell

import workbench as wb
from workbench.engine import cores
from workbench.engine.events import EventLog, EventReader
from workbench.schedule import Kind, Program, halves
from workbench.simulator import Compiled

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
        self._log = EventLog(1 << 16)
        ranks = range(job.schedule.num_ranks)
        self._reader = EventReader(self.built.engine, ranks, self._log)

    def trace(self) -> wb.Trace:
        self.run(1)
        self._reader.drain()
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


def programs_of(schedule: wb.Schedule) -> tuple[Program, ...]:
    """What the engine runs: the halves of an overlap one after the other. Slices are
    told as microbatches, which is all the same to programs."""
    count = schedule.num_slices
    return tuple(
        Program(
            program.rank,
            tuple(
                a._replace(microbatch=a.microbatch * count + a.slice, slice=0)
                if a.microbatch >= 0
                else a
                for step in program.steps
                for a in halves(step)
            ),
        )
        for program in schedule.programs()
    )


def exact_costs(trace: wb.Trace, num_slices: int) -> wb.CostModel:
    """Every action of a step at its own measured duration, for ``programs_of``."""
    microbatch = trace.microbatch * num_slices + trace.slice
    told = replace(trace, microbatch=microbatch, slice=np.zeros_like(trace.slice))
    return wb.CostModel.from_trace(told, by_microbatch=True)


class Pricer:
    """Seconds of a step of a job, simulated; the schedule is laid out once."""

    def __init__(self, runner: Runner) -> None:
        self._schedule, capacity = runner.schedule, runner.job.capacity
        self._usual = Compiled(
            self._schedule, channel_capacity=capacity, optimizer=True
        )
        programs = programs_of(self._schedule)
        self._exact = Compiled(programs, channel_capacity=capacity)

    def at_prices_of(self, trace: wb.Trace) -> float:
        """With what a step of any schedule of the same stages cost."""
        costs = wb.CostModel.from_trace(trace)
        return self._usual.makespan(priced(costs, self._schedule))

    def at_durations_of(self, trace: wb.Trace) -> float:
        """With every action's duration in a step of this schedule."""
        return self._exact.makespan(exact_costs(trace, self._schedule.num_slices))


# ---- measuring -----------------------------------------------------------------------


@dataclass(frozen=True)
class Prediction:
    """Seconds of a step of ``target``, and what was predicted of it over what it took,
    pair by pair of steps: with the prices of ``source``'s step, with those of its own,
    and with every action's own duration. ``full``: what a B took over the source's I
    and W; None where the target splits backwards."""

    source: str
    target: str
    executed: Spread
    predicted: Spread
    own: Spread
    exact: Spread
    full: float | None

    @property
    def error(self) -> float:
        return self.predicted.median - 1

    @property
    def parts(self) -> tuple[float, float, float]:
        """What adds up to the error: the target's actions cost other than the source's;
        actions of one stage and kind differ; what is left when every action costs what
        it did."""
        own, exact = self.own.median, self.exact.median
        return self.predicted.median - own, own - exact, exact - 1


def _backward(trace: wb.Trace, *kinds: Kind) -> float:
    """Seconds of all stages' backwards of these kinds."""
    mask = trace.of_kind(*kinds)
    return float((trace.end - trace.start)[mask].sum()) * trace.tick


def measured(source: Runner, target: Runner, rounds: int) -> Prediction:
    """The two step in turn, every other pair turned round; a pair warms up."""
    pairs: list[tuple[wb.Trace, wb.Trace]] = []
    for number in range(rounds + 1):
        if number % 2:
            first = source.trace()
            pairs.append((first, target.trace()))
        else:
            second = target.trace()
            pairs.append((source.trace(), second))
    del pairs[0]
    pricer = Pricer(target)
    steps = [trace.makespan for _, trace in pairs]
    full = None
    if not pairs[0][1].of_kind(Kind.I).any():
        full = statistics.median(
            _backward(b, Kind.B) / _backward(a, Kind.I, Kind.W) for a, b in pairs
        )
    return Prediction(
        source.schedule.name,
        target.schedule.name,
        Spread.of(steps),
        ratios([pricer.at_prices_of(trace) for trace, _ in pairs], steps),
        ratios([pricer.at_prices_of(trace) for _, trace in pairs], steps),
        ratios([pricer.at_durations_of(trace) for _, trace in pairs], steps),
        full,
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
        f"{'costs from':15}{'predicted':17}{'executed ms [quartiles]':27}"
        f"{'error':>8}{'prices':>9}{'spread':>9}{'schedule':>10}"
    )
    lines = [head, "-" * len(head)]
    for one in found:
        told = Spread(*(1e3 * value for value in one.executed)).text(".2f")
        prices, spread, schedule = (100 * part for part in one.parts)
        lines.append(
            f"{one.source:15}{one.target:17}{told:27}{100 * one.error:+7.1f}%"
            f"{prices:+8.1f}%{spread:+8.1f}%{schedule:+9.2f}%"
        )
    median = statistics.median(errors(found))
    full = statistics.median(one.full for one in found if one.full is not None)
    lines.append(
        f"median absolute error over {len(found)} schedules: {100 * median:.1f} %\n"
        "error = prices (the target's actions cost other than the source's) + spread\n"
        "(actions of one stage and kind differ) + schedule (left when every action costs\n"
        f"what it did); a full backward took {100 * full:.1f} % of the source's I and W"
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
    parser = arguments(__doc__)
    parser.add_argument("--clock", choices=SIZES, help="only this one")
    options: Any = parser.parse_args()
    parts = ["\n".join(machine())]
    for clock in [options.clock] if options.clock else SIZES:
        if runs_here(clock):
            told = table(predictions(clock, options.quick))
            parts.append(f"{clock} clock, {SIZES[clock].num_ranks} ranks\n{told}")
        else:
            parts.append(f"{clock} clock: not run, needs two usable cores")
    text = "\n\n".join(parts)
    return tell(text, options.output)


if __name__ == "__main__":
    sys.exit(main())
