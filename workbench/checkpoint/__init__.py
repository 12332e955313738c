"""What a run leaves on disk, written whole or not at all."""

from .checkpoint import (
    CheckpointState,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from .run_folder import RunFolder
from .weights import load_weights, save_weights, weights_hash
from .write import replace_file, write_bytes, write_text

__all__ = [
    "CheckpointState",
    "RunFolder",
    "find_checkpoint",
    "load_checkpoint",
    "load_weights",
    "replace_file",
    "save_checkpoint",
    "save_weights",
    "weights_hash",
    "write_bytes",
    "write_text",
]
