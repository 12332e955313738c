"""What a simulated step costs: beside event simulators in Python, alone, and in batches.

All answer one question, the makespan of a schedule that was laid out beforehand, under
costs they have not seen before; that they agree is looked at first. Ratios are paired.
"""

from __future__ import annotations

import importlib.util
import itertools
import time
from collections.abc import Callable, Iterator

import numpy as np
from measure import Row, Spread, pairs, ratios
from peers import events

import workbench as wb
from workbench.simulator import Compiled, Evaluator

SMALL, MIDDLE, LARGE = (4, 8), (16, 256), (64, 1024)
NAME = "1f1b"


def schedule_of(size: tuple[int, int]) -> wb.Schedule:
    ranks, microbatches = size
    return wb.Schedule.make(NAME, num_ranks=ranks, num_microbatches=microbatches)


def text_of(size: tuple[int, int]) -> str:
    return f"{NAME}, {size[0]} ranks, {size[1]} microbatches"


def models(count: int = 64) -> Iterator[wb.CostModel]:
    """Costs, one after another, for ever."""
    first = [
        wb.CostModel.uniform(F=1 + i / 7, I=1.25, W=0.75, hop=0.3) for i in range(count)
    ]
    return itertools.cycle(first)


def seconds(call: Callable[[], object], least: float = 2e-3) -> float:
    """Per call, over so many calls that they take ``least`` together."""
    begin, count = time.perf_counter(), 0
    while True:
        call()
        count += 1
        took = time.perf_counter() - begin
        if took >= least:
            return took / count


def agree(peer: events.Heap | events.SimPy, ours: Compiled) -> None:
    for costs in itertools.islice(models(), 3):
        theirs, own = peer.makespan(costs), ours.makespan(costs)
        if abs(theirs - own) > 1e-6 * own:
            raise AssertionError(f"the makespans are {theirs} and {own}")


def beside(size: tuple[int, int], count: int) -> list[Row]:
    """Ours and the peers', turn by turn."""
    schedule, costs = schedule_of(size), models()
    ours = Compiled(schedule)
    found = []
    peers: dict[str, type[events.Heap] | type[events.SimPy]] = {
        "a heap in plain Python": events.Heap,
        "SimPy": events.SimPy,
    }
    for name, peer in peers.items():
        what = f"time of {name} / ours, {text_of(size)}"
        if peer is events.SimPy and importlib.util.find_spec("simpy") is None:
            found.append(Row(what, "not run", "simpy is not installed"))
            continue
        theirs = peer(schedule)
        agree(theirs, ours)
        slow, fast = pairs(
            lambda theirs=theirs: seconds(lambda: theirs.makespan(next(costs))),
            lambda: seconds(lambda: ours.makespan(next(costs))),
            count,
        )
        same = "same makespans, laid out beforehand, new costs each call"
        found.append(Row(what, ratios(slow, fast).text(".0f"), same))
    return found


def calls(count: int) -> list[Row]:
    """Microseconds of single calls through Python."""
    schedule, costs = schedule_of(SMALL), models()
    compiled, order = Compiled(schedule), Evaluator(schedule, next(costs))
    what = text_of(SMALL)
    measured: dict[str, Callable[[], object]] = {
        "Compiled.makespan, new costs": lambda: compiled.makespan(next(costs)),
        "Evaluator.makespan, an order": lambda: order.makespan(order.rows),
        "simulate, schedule to trace": lambda: wb.simulate(schedule, next(costs)),
    }
    found = []
    for name, call in measured.items():
        micro = Spread.of([1e6 * seconds(call) for _ in range(count)])
        found.append(Row(f"{name}, {what}", f"{micro.text('.1f')} us", "one call"))
    return found


def rates(count: int) -> list[Row]:
    """Millions of actions a second, on one core; an action is compute, its messages
    come free of charge."""
    schedule, costs = schedule_of(LARGE), models()
    compiled, order = Compiled(schedule), Evaluator(schedule, next(costs))
    many = [next(costs) for _ in range(64)]
    million = compiled.num_actions / 1e6
    measured: dict[str, tuple[Callable[[], object], int]] = {
        "Compiled.makespan": (lambda: compiled.makespan(next(costs)), 1),
        "Compiled.batch of 64": (lambda: compiled.batch(many), 64),
        "Evaluator.makespan": (lambda: order.makespan(order.rows), 1),
    }
    found = []
    for name, (call, times) in measured.items():
        speed = Spread.of([times * million / seconds(call, 2e-2) for _ in range(count)])
        what = f"{name}, {text_of(LARGE)}"
        value = f"{speed.text('.0f')} M actions/s"
        found.append(Row(what, value, f"one core, {compiled.num_actions:,} actions"))
    return found


def batches(count: int) -> list[Row]:
    """How much faster many cost vectors are together than one after another."""
    found = []
    for size, vectors in ((SMALL, 1024), (LARGE, 64)):
        compiled, base = Compiled(schedule_of(size)), wb.CostModel.uniform(hop=0.3)
        rng = np.random.default_rng(0)
        times = rng.random((vectors, 1, 6))
        each = [wb.CostModel(table, hop=0.3) for table in times]
        alone = [compiled.makespan(model) for model in each]
        if compiled.batch(base, times).tolist() != alone:
            raise AssertionError("a batch is not what its members are")
        slow, fast = pairs(
            lambda compiled=compiled, each=each: seconds(
                lambda: [compiled.makespan(model) for model in each]
            ),
            lambda compiled=compiled, base=base, times=times: seconds(
                lambda: compiled.batch(base, times)
            ),
            count,
        )
        what = f"one by one / batch, {vectors} cost vectors, {text_of(size)}"
        found.append(Row(what, ratios(slow, fast).text(".1f"), "same bits, one core"))
    return found


def rows(quick: bool = False) -> list[Row]:
    count = 5 if quick else 21
    found = beside(SMALL, count)
    if not quick:
        found += beside(MIDDLE, count)
    return [*found, *calls(count), *rates(count), *batches(count)]


if __name__ == "__main__":
    for row in rows():
        print("  ".join(row))
