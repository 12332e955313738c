"""The order of a pipeline step as data: written, checked, lowered, drawn. Standard
library only."""

from .actions import (
    COMPUTE,
    KIND_CODE,
    KINDS,
    WHOLE_STAGE,
    Action,
    Kind,
    Overlap,
    halves,
    parse,
)
from .catalogue import SCHEDULES
from .csv import programs_from_csv, programs_to_csv
from .draw import side_by_side
from .graph import BARRIER, CAPACITY, DATA, Graph, graph
from .ir import Program, Schedule, ScheduleError, in_flight_changes
from .lower import lower, lower_forward
from .replicate import replicate

__all__ = [
    "BARRIER",
    "CAPACITY",
    "COMPUTE",
    "DATA",
    "KINDS",
    "KIND_CODE",
    "SCHEDULES",
    "WHOLE_STAGE",
    "Action",
    "Graph",
    "Kind",
    "Overlap",
    "Program",
    "Schedule",
    "ScheduleError",
    "graph",
    "halves",
    "in_flight_changes",
    "lower",
    "lower_forward",
    "parse",
    "programs_from_csv",
    "programs_to_csv",
    "replicate",
    "side_by_side",
]
