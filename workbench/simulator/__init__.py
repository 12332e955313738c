"""Simulation: programs and costs to a trace, evaluated in C."""

from .compiled import Compiled
from .costs import CostModel
from .evaluator import Evaluator
from .memory import MemoryOverTime, deltas, memory_over_time
from .simulate import simulate

__all__ = [
    "Compiled",
    "CostModel",
    "Evaluator",
    "MemoryOverTime",
    "deltas",
    "memory_over_time",
    "simulate",
]
