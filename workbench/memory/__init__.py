"""What a rank allocates, and its bytes over time; shared by engine and planner."""

from .holders import Holder, Piece, uses
from .plan import (
    OPTIMIZER_STATES,
    ChannelPlan,
    MemoryPlan,
    StagePlan,
    plan,
    stage_tapes,
)
from .walk import PlannedStep, flat

__all__ = [
    "OPTIMIZER_STATES",
    "ChannelPlan",
    "Holder",
    "MemoryPlan",
    "Piece",
    "PlannedStep",
    "StagePlan",
    "flat",
    "plan",
    "stage_tapes",
    "uses",
]
