"""What is trained: layers, models, presets, and the tapes that a stage's layers
make."""

from .block import Block
from .init import initial_values, initial_weights
from .layers import Dense, Embedding, Head, Layer, LayerCost, Parameter
from .model import Model
from .moe import MoEBlock
from .presets import PRESETS
from .tape import Call, Emitter, Ref, SliceTapes, Slot, StageTapes, aligned, emit_stage

__all__ = [
    "PRESETS",
    "Block",
    "Call",
    "Dense",
    "Embedding",
    "Emitter",
    "Head",
    "Layer",
    "LayerCost",
    "MoEBlock",
    "Model",
    "Parameter",
    "Ref",
    "SliceTapes",
    "Slot",
    "StageTapes",
    "aligned",
    "emit_stage",
    "initial_values",
    "initial_weights",
]
