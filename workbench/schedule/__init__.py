"""The order of a pipeline step as data: written, checked, lowered, drawn. Standard
library only."""

from .catalogue import SCHEDULES
from .graph import BARRIER, CAPACITY, DATA, Graph, graph
from .ir import (
    COMPUTE,
    KIND_CODE,
    KINDS,
    Action,
    Kind,
    Overlap,
    Program,
    Schedule,
    ScheduleError,
    halves,
    parse,
)
from .lower import lower, lower_forward

__all__ = [
    "BARRIER",
    "CAPACITY",
    "COMPUTE",
    "DATA",
    "KINDS",
    "KIND_CODE",
    "SCHEDULES",
    "Action",
    "Graph",
    "Kind",
    "Overlap",
    "Program",
    "Schedule",
    "ScheduleError",
    "graph",
    "halves",
    "lower",
    "lower_forward",
    "parse",
]
