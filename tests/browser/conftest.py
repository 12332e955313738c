"""A real JupyterLab and a real Chromium, for tests that look at what a person sees."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

playwright_api = pytest.importorskip(
    "playwright.sync_api", reason="the test extra is not installed"
)
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or ""
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
READY = """async () => {
  const widget = window.jupyterapp.shell.currentWidget;
  await widget.context.ready;
  await widget.sessionContext.ready;
  await widget.sessionContext.session.kernel.info;
}"""


@pytest.fixture(scope="session")
def browser() -> Iterator[playwright_api.Browser]:
    if not CHROMIUM:
        pytest.skip("chromium is not installed")
    with playwright_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _settings(folder: Path) -> None:
    """No news pop-up: it would cover a corner of the page."""
    folder.mkdir(parents=True)
    quiet = {
        "@jupyterlab/apputils-extension:notification": {
            "fetchNews": "false",
            "checkForUpdates": False,
        }
    }
    (folder / "overrides.json").write_text(json.dumps(quiet), encoding="utf-8")


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, Path]]:
    """(address, token, folder of notebooks) of a JupyterLab of our own."""
    home = tmp_path_factory.mktemp("lab")
    work, port, token = home / "work", _free_port(), secrets.token_hex(16)
    work.mkdir()
    _settings(home / "share" / "lab" / "settings")
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root"]
    command += [f"--port={port}", "--ip=127.0.0.1", f"--ServerApp.root_dir={work}"]
    command += [f"--IdentityProvider.token={token}"]
    command += ["--LabApp.expose_app_in_browser=True"]
    command += [f"--LabApp.user_settings_dir={home / 'user'}"]
    command += [f"--LabApp.workspaces_dir={home / 'workspaces'}"]
    command += [
        f"--LabServerApp.app_settings_dir={home / 'share' / 'lab' / 'settings'}"
    ]
    environment = {**os.environ, "JUPYTER_CONFIG_DIR": str(home / "config")}
    log = (home / "lab.log").open("w")
    server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(address, token, server, home / "lab.log")
        yield address, token, work
    finally:
        server.terminate()
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:  # it waits for its kernels to answer
            server.kill()
            server.wait()
        log.close()


def _wait_for(
    address: str, token: str, server: subprocess.Popen[bytes], log: Path
) -> None:
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{address}/api?token={token}", timeout=2):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


@pytest.fixture
def open_notebook(
    browser: playwright_api.Browser, lab: tuple[str, str, Path]
) -> Iterator[Callable[..., playwright_api.Page]]:
    """open_notebook(path, dark=False): the page of a copy, its kernel ready."""
    address, token, work = lab
    pages = []

    def open_it(notebook: Path, dark: bool = False) -> playwright_api.Page:
        shutil.copy(notebook, work / notebook.name)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        pages.append(page)
        page.goto(f"{address}/lab/tree/{notebook.name}?token={token}&reset")
        page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
        page.evaluate(READY)
        if dark:
            set_theme(page, "JupyterLab Dark")
        return page

    yield open_it
    for page in pages:
        page.close()
    _end_sessions(address, token)


def _end_sessions(address: str, token: str) -> None:
    with urllib.request.urlopen(f"{address}/api/sessions?token={token}") as reply:
        sessions = json.load(reply)
    for session in sessions:
        request = urllib.request.Request(
            f"{address}/api/sessions/{session['id']}?token={token}", method="DELETE"
        )
        urllib.request.urlopen(request).close()


def run_all(page: playwright_api.Page) -> None:
    """Runs all cells; returns at once (awaiting the command may hang)."""
    page.evaluate(
        "() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }"
    )


def set_theme(page: playwright_api.Page, theme: str) -> None:
    """ "JupyterLab Dark" or "JupyterLab Light"; waits until the page has it."""
    page.evaluate(
        """(theme) => { window.jupyterapp.commands.execute(
          'apputils:change-theme', {theme}); }""",
        theme,
    )
    page.wait_for_selector(f"body[data-jp-theme-name='{theme}']", state="attached")


def wait_kernel(page: playwright_api.Page, timeout: float = 60.0) -> None:
    """Waits until every code cell that was run has ended; seconds."""
    page.wait_for_function(
        """() => {
          const cells = window.jupyterapp.shell.currentWidget.content.widgets;
          const code = cells.filter((cell) => cell.model.type === 'code'
            && cell.model.sharedModel.source.trim());
          return code.length > 0 && code.every((cell) =>
            cell.model.executionState === 'idle' && cell.model.executionCount !== null);
        }""",
        timeout=1000 * timeout,
    )


#: Of every code cell: its execution count and its outputs.
OUTPUTS = """() => [...window.jupyterapp.shell.currentWidget.content.model.cells]
  .filter((cell) => cell.type === 'code')
  .map((cell) => ({ran: cell.executionCount, outputs: cell.outputs.toJSON()}))"""


def outputs_of_all(page: playwright_api.Page) -> list[dict[str, Any]]:
    """Runs every cell; the outputs in order, none of which is an error."""
    run_all(page)
    page.wait_for_function(
        f"() => ({OUTPUTS})().every((cell) => cell.ran)", timeout=240_000
    )
    page.wait_for_function(
        """() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel
          .status === 'idle'""",
        timeout=120_000,
    )
    outputs = [output for cell in page.evaluate(OUTPUTS) for output in cell["outputs"]]
    assert not [o for o in outputs if o["output_type"] == "error"]
    return outputs
