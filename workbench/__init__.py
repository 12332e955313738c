"""Pipeline Workbench: pipeline-parallel training in a notebook.

One schedule is checked, simulated, executed in C and drawn. Import as ``import
workbench as wb``. This page is the whole public interface; what needs widgets is loaded
when it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .data import Data
from .engine import SGD, AdamW, Constant, Job, Run, RunError, WarmupCosine
from .launcher import RemoteRun, SavedRun, attach, launch, slurm_script
from .memory import MemoryPlan
from .model import Model
from .partition import Partition
from .schedule import (
    SCHEDULES,
    Action,
    Kind,
    Overlap,
    Program,
    Schedule,
    ScheduleError,
    side_by_side,
)
from .trace import BubbleReport, Trace, compare

if TYPE_CHECKING:
    from .launcher.jobs import Queue
    from .search import (
        ScheduleTable,
        SearchResult,
        compare_schedules,
        search_schedules,
        search_splits,
    )
    from .simulator import CostModel, schedule_figure, simulate
    from .ui import Timeline

__version__ = "0.1.0"

#: What a rank does not need, widgets least of all: loaded on first use, so that ranks
#: start fast and headless.
_LAZY = {
    **dict.fromkeys(("CostModel", "schedule_figure", "simulate"), ".simulator"),
    **dict.fromkeys(("ScheduleTable", "SearchResult", "compare_schedules"), ".search"),
    **dict.fromkeys(("search_schedules", "search_splits"), ".search"),
    "Queue": ".launcher.jobs",
    "Timeline": ".ui",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name], __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'workbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


__all__ = [
    "SCHEDULES",
    "SGD",
    "Action",
    "AdamW",
    "BubbleReport",
    "Constant",
    "CostModel",
    "Data",
    "Job",
    "Kind",
    "MemoryPlan",
    "Model",
    "Overlap",
    "Partition",
    "Program",
    "Queue",
    "Run",
    "RemoteRun",
    "RunError",
    "SavedRun",
    "Schedule",
    "ScheduleError",
    "ScheduleTable",
    "SearchResult",
    "Timeline",
    "Trace",
    "WarmupCosine",
    "attach",
    "compare",
    "compare_schedules",
    "launch",
    "schedule_figure",
    "search_schedules",
    "search_splits",
    "side_by_side",
    "simulate",
    "slurm_script",
]
