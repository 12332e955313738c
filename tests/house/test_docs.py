"""The examples of the pages run, and every page is linked."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = (
    "adding-a-layer.md",
    "adding-a-schedule.md",
    "bring-your-own-run.md",
    "interchange.md",
    "schedules.md",
    "searching.md",
    "simulator.md",
)


@pytest.mark.parametrize("page", PAGES)
def test_the_examples_of_a_page_run(page: str) -> None:
    found = doctest.testfile(str(DOCS / page), module_relative=False)
    assert found.attempted and not found.failed


def test_every_page_with_examples_is_tested_and_linked() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    for page in DOCS.glob("*.md"):
        text = page.read_text(encoding="utf-8")
        if "python -m doctest docs/" in text:
            assert page.name in PAGES
            assert f"doctest docs/{page.name}`" in text
        assert page.name == "index.md" or f"({page.name})" in index


def test_no_page_is_lost_to_one_of_sphinxs_own() -> None:
    own = {"search", "genindex", "modindex", "py-modindex"}
    assert not own & {page.stem for page in DOCS.rglob("*.md")}
