"""The process that watches over a launched run, as it begins.

It starts the ranks before anything large is imported, so that both begin together, then
hands over to ``workbench.launcher.monitor``. Standard library only.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

#: All keys of the stream, the hub's secret too: for this process alone.
HUB_KEYS = "WORKBENCH_HUB_KEYS"


def main(folder: str) -> int:
    """``folder``: the run's, with launch.json and job.toml in it."""
    path = Path(folder)
    plan = json.loads((path / "launch.json").read_text(encoding="utf-8"))
    keys = os.environ.pop(HUB_KEYS)
    begun, failure = None, None
    with (path / "ranks.log").open("ab") as log:
        try:
            begun = subprocess.Popen(
                plan["argv"],
                env={**os.environ, **plan["env"]},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            failure = f"{plan['argv'][0]} cannot be started: {error}"
    from workbench.launcher.monitor import watch

    return watch(path, plan, keys, begun, failure)
