"""A built wheel holds what runs and nothing else."""

from __future__ import annotations

import email
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("workbench", "cython_kernels", "pipeline_workbench")
SOURCES = (".c", ".h", ".pyx", ".pxd", ".pxi", ".cmake", "CMakeLists.txt")

pytestmark = pytest.mark.slow


def inputs() -> list[Path]:
    files = [ROOT / "pyproject.toml"]
    for package in PACKAGES:
        files += [
            path
            for path in (ROOT / package).rglob("*")
            if path.is_file() and path.suffix not in (".pyc", ".so")
        ]
    return files


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The one that ``make wheel`` left, if nothing changed since; else a new one."""
    newest = max(path.stat().st_mtime for path in inputs())
    for path in (ROOT / "wheelhouse").glob("*.whl"):
        if path.stat().st_mtime > newest:
            return zipfile.ZipFile(path)
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(out)]
    done = subprocess.run([*command, str(ROOT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


def test_it_holds_no_sources(wheel: zipfile.ZipFile) -> None:
    assert [name for name in wheel.namelist() if name.endswith(SOURCES)] == []


def test_it_holds_the_packages_and_nothing_beside_them(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    (info,) = (top for top in tops if top.endswith(".dist-info"))
    assert tops - {info} == set(PACKAGES)


def test_it_holds_every_python_file_and_its_data(wheel: zipfile.ZipFile) -> None:
    wanted = {
        str(path.relative_to(ROOT))
        for path in inputs()[1:]
        if "__pycache__" not in path.parts
        and path.relative_to(ROOT).parts[:2] != ("cython_kernels", "src")
        and not path.name.endswith(SOURCES)
    }
    assert wanted <= set(wheel.namelist())
    assert "workbench/trace/timeline.js" in wanted


def test_it_holds_one_extension_for_each_pyx(wheel: zipfile.ZipFile) -> None:
    built = {
        name.split("/")[1].split(".")[0]
        for name in wheel.namelist()
        if name.endswith(".so")
    }
    assert built == {path.stem for path in (ROOT / "cython_kernels").glob("*.pyx")}


def test_it_names_its_licence_and_its_command(wheel: zipfile.ZipFile) -> None:
    (info,) = {n.split("/")[0] for n in wheel.namelist() if ".dist-info/" in n}
    metadata = email.message_from_bytes(wheel.read(f"{info}/METADATA"))
    assert metadata["Name"] == "pipeline-workbench"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    licence = wheel.read(f"{info}/licenses/LICENSE")
    assert licence == (ROOT / "LICENSE").read_bytes()
    points = wheel.read(f"{info}/entry_points.txt").decode()
    assert "workbench = pipeline_workbench:main" in points
