"""Layers into stages: by hand, or with the largest stage as small as it can be."""

from .balance import split_evenly
from .measures import MEASURES, LayerMemory, in_flight, layer_memory
from .partition import Partition

__all__ = [
    "MEASURES",
    "LayerMemory",
    "Partition",
    "in_flight",
    "layer_memory",
    "split_evenly",
]
