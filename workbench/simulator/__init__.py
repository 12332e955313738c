"""Simulation: programs and costs to a trace, evaluated in C."""

from .costs import CostModel
from .evaluator import Evaluator
from .simulate import simulate

__all__ = ["CostModel", "Evaluator", "simulate"]
