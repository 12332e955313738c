"""Token streams and rows to train on, and which sample each step of a run takes."""

from .data import Data
from .sampling import sample_hash, sample_offsets

__all__ = ["Data", "sample_hash", "sample_offsets"]
