"""How the benchmarks measure: in pairs, interleaved, told with their spread.

A peer and we run turn by turn, A B B A ..., so that whatever else the machine does
meets both; each pair gives one ratio, and a table tells the median and the quartiles of
the ratios, never the ratio of two best runs.
"""

from __future__ import annotations

import platform
import statistics
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple


class Spread(NamedTuple):
    """A median and the quartiles around it."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        if len(values) < 2:
            return cls(*[float(values[0])] * 3)
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(low, statistics.median(values), high)

    def text(self, form: str = ".3f") -> str:
        return f"{self.median:{form}} [{self.low:{form}}, {self.high:{form}}]"


class Row(NamedTuple):
    """One line of the table. comparison: its class, or why it was not run."""

    what: str
    value: str
    comparison: str


def pairs(
    first: Callable[[], float], second: Callable[[], float], count: int
) -> tuple[list[float], list[float]]:
    """Calls the two in turn ``count`` times each, every other pair turned round."""
    a: list[float] = []
    b: list[float] = []
    for i in range(count):
        if i % 2:
            b.append(second())
            a.append(first())
        else:
            a.append(first())
            b.append(second())
    return a, b


def ratios(above: Sequence[float], below: Sequence[float]) -> Spread:
    """Spread of above / below, pair by pair."""
    return Spread.of([x / y for x, y in zip(above, below, strict=True)])


def processor() -> str:
    """The processor's name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.machine()


def machine() -> list[str]:
    """What the figures were measured on, as lines."""
    from cython_kernels import _kernels
    from workbench.engine import cores

    available = ", ".join(_kernels.available_isas())
    system = f"{platform.system()} {platform.machine()}"
    return [
        f"machine    {processor()}, {cores.usable()} usable cores, {system}",
        f"kernels    {_kernels.isa()} (this machine runs: {available})",
        f"python     {platform.python_version()}",
    ]


def table(rows: Sequence[Row]) -> str:
    """The rows as aligned text."""
    head = Row("what", "median [quartiles]", "comparison class")
    lines = [head, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(3)]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    ]
    return "\n".join(
        [text[0].rstrip(), "-" * sum(widths), *(t.rstrip() for t in text[1:])]
    )


def arguments(about: str, quick: str = "fewer pairs; more spread") -> ArgumentParser:
    """What every benchmark can be told; ``quick`` says what its short form does."""
    parser = ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    return parser


def tell(text: str, output: Path | None) -> int:
    """Prints what was measured, and writes it where that is asked for; returns the
    exit status."""
    print(text)
    if output:
        output.write_text(text + "\n", encoding="utf-8")
    return 0
