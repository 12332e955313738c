"""Simulation: programs and costs to a trace, evaluated in C."""

from .costs import CostModel
from .simulate import simulate

__all__ = ["CostModel", "simulate"]
