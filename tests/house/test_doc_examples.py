"""The examples of the pages that promise to run."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [
        page.name
        for page in sorted(DOCS.glob("*.md"))
        if ">>>" in page.read_text(encoding="utf-8")
    ],
)
def test_examples_give_what_the_page_says(page: str) -> None:
    found = doctest.testfile(str(DOCS / page), module_relative=False, encoding="utf-8")
    assert found.attempted > 0
    assert found.failed == 0
