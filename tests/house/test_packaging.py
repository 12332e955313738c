"""pyproject, environment.yml and the command agree; a foreign ``workbench`` is told apart."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import pipeline_workbench
import workbench as wb

ROOT = Path(__file__).parents[2]


def project() -> dict[str, object]:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)["project"]


def test_conda_users_get_the_same_packages() -> None:
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    entries = yaml.safe_load(text)["dependencies"]
    pip = next(e["pip"] for e in entries if isinstance(e, dict))
    extras = project()["optional-dependencies"]
    wanted = {*project()["dependencies"], *extras["lab"], "-e ."}
    assert set(pip) == wanted


def test_version_is_stated_once() -> None:
    assert wb.__version__ == project()["version"]


def test_the_command_uses_a_name_of_our_own() -> None:
    assert project()["scripts"] == {"workbench": "pipeline_workbench:main"}
    assert project()["name"] == "pipeline-workbench"
    assert pipeline_workbench.check_workbench() == ROOT / "workbench" or (
        (pipeline_workbench.check_workbench() / "schedule" / "ir.py").is_file()
    )


@pytest.mark.parametrize("form", ["workbench/__init__.py", "workbench.py"])
def test_a_foreign_workbench_is_named(tmp_path: Path, form: str) -> None:
    foreign = tmp_path / form
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_text("raise SystemExit('the foreign package ran')\n")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    code = "import sys, pipeline_workbench; sys.exit(pipeline_workbench.main())"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert str(foreign) in done.stderr
    assert "another package of the same name" in done.stderr
    assert "the foreign package ran" not in done.stderr + done.stdout


def test_notebooks_are_saved_without_outputs() -> None:
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        text = path.read_text(encoding="utf-8")
        assert '"output_type"' not in text, path.name
