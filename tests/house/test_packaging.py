"""pyproject, environment.yml and the command agree."""

from __future__ import annotations

import tomllib
from pathlib import Path

import yaml

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
    optional = {*extras["lab"], *extras["search"], *extras["mpi"]}
    assert set(pip) == {*project()["dependencies"], *optional, "-e ."}


def test_what_users_can_install_is_what_tests_install() -> None:
    extras = project()["optional-dependencies"]
    assert {*extras["mpi"], *extras["search"]} <= set(extras["test"])


def test_version_is_stated_once() -> None:
    assert wb.__version__ == project()["version"]


def test_the_command_uses_a_name_of_our_own() -> None:
    assert project()["scripts"] == {"workbench": "pipeline_workbench:main"}
    assert project()["name"] == "pipeline-workbench"


def test_notebooks_are_saved_without_outputs() -> None:
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        text = path.read_text(encoding="utf-8")
        assert '"output_type"' not in text, path.name
