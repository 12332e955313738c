"""The live timeline in a real JupyterLab, fed by a made-up pipeline: what a person sees
and may do while a run goes on, and what is left when it has ended."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import run_all, set_theme, wait_kernel

pytestmark = pytest.mark.browser

LIVE = "[data-testid=wb-timeline]"
SOURCE = Path(__file__).parents[1] / "ui" / "live_source.py"


MODEL = "window.jupyterapp.shell.currentWidget.content.model"


def notebook(path: Path, cells: list[str]) -> Path:
    made = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {
            "kernelspec": {"name": "python3", "display_name": "p", "language": "python"}
        },
        "cells": [
            {
                "cell_type": "code",
                "id": f"cell{i}",
                "metadata": {},
                "execution_count": None,
                "outputs": [],
                "source": text,
            }
            for i, text in enumerate(cells)
        ],
    }
    path.write_text(json.dumps(made), encoding="utf-8")
    return path


def live(path: Path, seconds: float, *more: str) -> Path:
    """A notebook that watches a made-up run of so many seconds."""
    begin = f"from workbench.ui import watch\nsource = LiveSource({seconds})\n"
    return notebook(path, [SOURCE.read_text(), begin + "watch(source)", *more])


def pixels(canvas: Any) -> str:
    """The canvas's own pixels, as text."""
    return str(canvas.evaluate("(canvas) => canvas.toDataURL()"))


def events(page: Any, i: int = 0) -> int:
    return int(page.locator(LIVE).nth(i).get_attribute("data-events") or 0)


def cells(page: Any) -> list[str]:
    """The ids of the notebook's cells."""
    found = page.evaluate(f"() => [...{MODEL}.cells].map((cell) => cell.id)")
    return [str(name) for name in found]


def test_a_run_is_seen_while_it_goes_on_and_stays_as_html(
    open_notebook: Callable[..., Any], tmp_path: Path
) -> None:
    page = open_notebook(live(tmp_path / "live.ipynb", 20, "watch(source)"))
    run_all(page)
    wait_kernel(page)  # both cells have returned, and the run goes on
    page.wait_for_selector(f"{LIVE}[data-state=running]")
    page.wait_for_function(f"() => document.querySelectorAll('{LIVE}').length === 2")
    canvas = page.locator(f"{LIVE} canvas").first
    canvas.scroll_into_view_if_needed()
    page.wait_for_function(
        f"() => +document.querySelector('{LIVE}').dataset.events > 0"
    )

    # Pixels change while the source goes on.
    seen = set()
    for _ in range(4):
        seen.add(pixels(canvas))
        page.wait_for_timeout(400)
    assert len(seen) == 4

    # The second view, opened later, has what the first one has.
    page.wait_for_function(
        f"""() => {{
          const [a, b] = document.querySelectorAll('{LIVE}');
          return +b.dataset.events > 0 && a.dataset.events === b.dataset.events;
        }}"""
    )
    text = page.locator(f"{LIVE} .wb-summary").first.inner_text()
    assert text.startswith("running, step ")
    assert "tokens/s" in text
    assert "rank 3 50 %" in page.locator(f"{LIVE} .wb-busy").first.inner_text()

    # Keys move the view; none of them reaches the notebook, where A and B insert a cell,
    # X and D, D delete one, and Enter begins to edit.
    before = cells(page)
    canvas.focus()
    for key in "wasdaddbx":
        page.keyboard.press(key)
        assert cells(page) == before, key
    follow = page.get_by_role("button", name="follow the newest events").first
    assert follow.get_attribute("aria-pressed") == "false"
    follow.focus()
    page.keyboard.press("Enter")
    assert follow.get_attribute("aria-pressed") == "true"
    assert cells(page) == before
    # Keys with Ctrl do reach it: this one saves.
    page.wait_for_function(f"() => {MODEL}.dirty")
    canvas.focus()
    page.keyboard.press("Control+s")
    page.wait_for_function(f"() => !{MODEL}.dirty")

    # The dark theme is followed.
    set_theme(page, "JupyterLab Dark")
    page.wait_for_function(
        f"""() => document.querySelector('{LIVE} canvas').getContext('2d')
          .getImageData(1, 1, 1, 1).data[0] < 60"""
    )

    # At the end both give way to HTML that needs no kernel, and is saved as such.
    frozen = page.locator(".jp-OutputArea-output:has-text('finished, step')")
    frozen.first.wait_for(timeout=40_000)
    page.wait_for_function(f"() => !document.querySelector('{LIVE}')")
    assert frozen.count() == 2
    assert frozen.first.locator("svg").count() == 1
    saved = page.evaluate(
        """async () => {
          const widget = window.jupyterapp.shell.currentWidget;
          await widget.context.save();
          return JSON.stringify(widget.content.model.toJSON());
        }"""
    )
    assert len(saved) < 300_000
    outputs = [o for c in json.loads(saved)["cells"] for o in c["outputs"]]
    assert [set(o["data"]) for o in outputs] == [{"text/html", "text/plain"}] * 2
    set_theme(page, "JupyterLab Light")


def test_a_page_that_is_loaded_again_shows_the_run_again(
    open_notebook: Callable[..., Any], tmp_path: Path
) -> None:
    page = open_notebook(live(tmp_path / "again.ipynb", 60))
    run_all(page)
    page.wait_for_selector(f"{LIVE}[data-state=running]")
    page.wait_for_function(
        f"() => +document.querySelector('{LIVE}').dataset.events > 500"
    )
    had = events(page)
    page.evaluate("() => window.jupyterapp.shell.currentWidget.context.save()")
    page.reload()
    page.wait_for_selector(f"{LIVE}[data-state=running]", timeout=60_000)
    # From the first event on: once what the page has asked for has come, nothing is
    # missing.
    page.wait_for_function(
        f"""(had) => {{
          const box = document.querySelector('{LIVE}');
          return +box.dataset.events > had && !box.wbTimeline.forgotten;
        }}""",
        arg=had,
    )


def test_a_kernel_that_is_busy_from_the_start_still_shows_the_whole_run(
    open_notebook: Callable[..., Any], tmp_path: Path
) -> None:
    """Run all, and a next cell that blocks: the kernel cannot hear the page ask."""
    path = live(tmp_path / "busy.ipynb", 40, "time.sleep(30)")
    page = open_notebook(path)
    run_all(page)
    page.wait_for_selector(f"{LIVE}[data-state=running]", timeout=30_000)
    page.wait_for_function(
        f"""() => {{
          const box = document.querySelector('{LIVE}');
          return box && +box.dataset.events > 0 && !box.wbTimeline.forgotten;
        }}""",
        timeout=15_000,
    )
