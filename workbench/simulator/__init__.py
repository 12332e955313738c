"""Simulation: programs and costs to a trace, evaluated in C."""

from .compiled import Compiled
from .costs import CostModel
from .evaluator import Evaluator
from .figures import schedule_figure
from .memory import MemoryOverTime, deltas, memory_over_time
from .simulate import simulate
from .stages import for_stages, known_costs, priced_for

__all__ = [
    "Compiled",
    "CostModel",
    "Evaluator",
    "MemoryOverTime",
    "deltas",
    "for_stages",
    "known_costs",
    "memory_over_time",
    "priced_for",
    "schedule_figure",
    "simulate",
]
