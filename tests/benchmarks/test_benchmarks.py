"""The benchmarks run, tell their spread, and write nothing on their own."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("measure")


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / "run.py"), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_pairs_are_interleaved_and_every_other_one_is_turned_round(
    measure: ModuleType,
) -> None:
    order: list[str] = []

    def call(name: str) -> float:
        order.append(name)
        return len(order)

    first, second = measure.pairs(lambda: call("a"), lambda: call("b"), 3)
    assert "".join(order) == "abbaab"
    assert first == [1, 4, 5] and second == [2, 3, 6]


def test_ratios_are_taken_pair_by_pair(measure: ModuleType) -> None:
    # A machine that turns ten times slower halfway does not move the ratio.
    assert measure.ratios([2, 20, 2, 20], [1, 10, 1, 10]) == (2, 2, 2)
    spread = measure.Spread.of([1, 2, 3, 4, 100])
    assert (spread.low, spread.median, spread.high) == (2, 3, 4)


def test_run_prints_one_table_and_writes_nothing_unless_asked(tmp_path: Path) -> None:
    done = run(tmp_path, "--quick", "--only", "overhead")
    assert done.returncode == 0, done.stderr
    for part in ("machine", "kernels", "parameters", "comparison class", " ns"):
        assert part in done.stdout
    assert list(tmp_path.iterdir()) == []
    done = run(tmp_path, "--quick", "--only", "overhead", "--output", "table.txt")
    assert (tmp_path / "table.txt").read_text() == done.stdout


def test_a_benchmark_that_there_is_not_is_told(tmp_path: Path) -> None:
    done = run(tmp_path, "--only", "spede")
    assert done.returncode == 2
    assert "spede" in done.stderr and "overhead" in done.stderr
