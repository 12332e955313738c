"""The self-contained page as text: nothing is loaded, nothing gets out of its place."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import workbench as wb
from workbench.trace.encode import EVENT_BYTES
from workbench.trace.html import SCRIPTS, renderer, write_timeline

HOSTILE = "</script><img src=x onerror=alert(1)>"


@pytest.fixture
def trace() -> wb.Trace:
    schedule = wb.Schedule.make("1f1b", num_ranks=4, num_microbatches=8)
    return wb.simulate(schedule, wb.CostModel.uniform())


def test_the_page_holds_every_event(trace: wb.Trace, tmp_path: Path) -> None:
    write_timeline(trace, tmp_path / "t.html")
    page = (tmp_path / "t.html").read_text()
    (data,) = re.findall(r', "([A-Za-z0-9+/=]+)", (?:\d+)\);', page)
    assert len(base64.b64decode(data)) == len(trace) * EVENT_BYTES


def test_the_page_loads_nothing(trace: wb.Trace, tmp_path: Path) -> None:
    write_timeline(trace, tmp_path / "t.html")
    page = (tmp_path / "t.html").read_text()
    assert "default-src 'none'" in page
    assert not re.search(r"\b(src|href)\s*=|https?://|\bimport\s*[({\"']|fetch\(", page)


def test_names_are_escaped(trace: wb.Trace, tmp_path: Path) -> None:
    write_timeline(trace, tmp_path / "t.html", title=HOSTILE)
    page = (tmp_path / "t.html").read_text()
    assert "<img" not in page
    assert page.count("</script>") == 1


def test_the_renderer_is_one_module_that_imports_nothing() -> None:
    source = renderer()
    assert not re.search(r"^\s*import\b", source, re.MULTILINE)
    assert "export default" in source
    assert "</script" not in source
    assert source.isascii()


@pytest.mark.parametrize("name", [*SCRIPTS, None])
def test_the_scripts_parse(name: str | None, tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    folder = Path(wb.__file__).parent / "trace"
    source = renderer() if name is None else (folder / name).read_text()
    path = tmp_path / "script.mjs"
    path.write_text(source)
    done = subprocess.run([node, "--check", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
