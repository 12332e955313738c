"""The process that watches over a launched run, as it begins.

It starts the ranks before anything large is imported, so that both begin together, then
hands over to ``workbench.launcher.monitor``. Standard library only.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

#: All keys of the stream, the hub's secret too: for this process alone.
HUB_KEYS = "WORKBENCH_HUB_KEYS"


def _start(plan: dict[str, Any], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(
            plan["argv"],
            env={**os.environ, **plan["env"]},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def main(folder: str) -> int:
    """``folder``: the run's, with launch.json and job.toml in it."""
    path = Path(folder)
    plan = json.loads((path / "launch.json").read_text(encoding="utf-8"))
    keys = os.environ.pop(HUB_KEYS)
    begun, failure = None, None
    if plan["argv"] is not None:  # else the ranks are there already
        try:
            begun = _start(plan, path / "ranks.log")
        except OSError as error:
            failure = f"{plan['argv'][0]} cannot be started: {error}"
    from workbench.launcher.monitor import watch

    return watch(path, plan, keys, begun, failure)
