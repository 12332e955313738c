"""A job run for real: tapes bound to arenas, ranks in C, and the handle that watches
them."""

from .build import build
from .built import Built
from .errors import RunError
from .job import Job
from .optimizers import SGD, AdamW, Constant, WarmupCosine
from .run import Run

__all__ = [
    "SGD",
    "AdamW",
    "Built",
    "Constant",
    "Job",
    "Run",
    "RunError",
    "WarmupCosine",
    "build",
]
