"""Who may import whom: the table of docs/design.md, walked over every file's imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: What each room names itself; it may use those and what they may use.
DIRECT: dict[str, set[str]] = {
    "schedule": set(),
    "model": {"cython_kernels"},
    "data": set(),
    "partition": {"model"},
    "memory": {"model", "partition", "schedule"},
    "trace": {"schedule", "cython_kernels"},
    "simulator": {"schedule", "trace", "cython_kernels"},
    "search": {"simulator", "partition", "memory"},
    "checkpoint": {"model"},
    "engine": {
        "schedule",
        "partition",
        "memory",
        "data",
        "trace",
        "checkpoint",
        "cython_kernels",
    },
    "launcher": {"engine", "checkpoint", "data"},
}
EVERYTHING = {"ui", "cli"}
STANDARD_ONLY = {"schedule"}
LAZY = {
    "ipywidgets",
    "anywidget",
    "plotly",
    "IPython",
    "mpi4py",
    "tqdm",
    "ortools",
    "zmq",
}


def allowed(room: str) -> set[str]:
    found = {room}
    for other in DIRECT.get(room, set()):
        found |= {other} | (allowed(other) if other in DIRECT else set())
    return found


def imports(path: Path, package: str) -> Iterator[tuple[int, str]]:
    """(line, absolute module) of every import in a file of ``package``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join(parts) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            yield node.lineno, module
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"


def room_files() -> list[tuple[str, Path]]:
    folder = ROOT / "workbench"
    return [
        (path.relative_to(folder).parts[0], path)
        for path in sorted(folder.rglob("*.py"))
        if len(path.relative_to(folder).parts) > 1
    ]


@pytest.mark.parametrize(
    ("room", "path"), room_files(), ids=lambda v: getattr(v, "name", v)
)
def test_rooms_import_only_what_they_may(room: str, path: Path) -> None:
    if room in EVERYTHING:
        return
    may, package = allowed(room), f"workbench.{room}"
    for line, module in imports(path, package):
        parts = module.split(".")
        if parts[0] == "workbench" and len(parts) > 1:
            assert parts[1] in may, f"{path}:{line} imports {module}"
        elif parts[0] == "cython_kernels":
            assert "cython_kernels" in may, f"{path}:{line} imports {module}"
        elif room in STANDARD_ONLY:
            standard = parts[0] in sys.stdlib_module_names
            assert standard, f"{path}:{line} imports {module}"


def test_the_table_has_every_room() -> None:
    rooms = {room for room, _ in room_files()}
    assert rooms == set(DIRECT) | (rooms & EVERYTHING)


def test_kernels_know_nothing_of_workbench() -> None:
    for path in (ROOT / "cython_kernels").rglob("*.py*"):
        if path.suffix in (".py", ".pyx", ".pyi"):
            text = path.read_text(encoding="utf-8")
            assert "import workbench" not in text, path
            assert "from workbench" not in text, path


def test_importing_workbench_loads_no_widgets() -> None:
    code = (
        "import sys, workbench; "
        f"print(sorted(m for m in {sorted(LAZY)} if m in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_public_names_exist_and_are_documented() -> None:
    import workbench as wb

    for name in wb.__all__:
        value = getattr(wb, name)
        documented = isinstance(value, dict) or (value.__doc__ or "").strip()
        assert documented, f"wb.{name} has no docstring"


def test_one_header_holds_the_kinds() -> None:
    from workbench.schedule import KIND_CODE

    header = ROOT / "cython_kernels" / "src" / "runtime" / "kinds.h"
    body = header.read_text(encoding="utf-8").split("enum rk_kind {")[1].split("}")[0]
    names = [name.strip() for name in body.replace("\n", " ").split(",")]
    assert names == [f"RK_{kind}" for kind in KIND_CODE] + ["RK_NUM_KINDS"]
