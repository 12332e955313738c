"""The flat tables an engine is built from, as NumPy dtypes of the structs in
``runtime.h``.

The layouts are checked against the compiled structs when ``cython_kernels._runtime`` is
used, so a field that is added on one side only cannot go unnoticed.
"""

import numpy as np

MAX_POINTERS, MAX_SIZES, MAX_SCALARS = 8, 9, 2

REGIONS = (
    "PARAM",
    "GRAD",
    "CONSTANT",
    "SCRATCH",
    "SAVED",
    "HELD",
    "INPUT",
    "OUTPUT",
    "DOUTPUT",
    "DINPUT",
)

CALL = np.dtype(
    [
        ("offset", "i8", MAX_POINTERS),
        ("size", "i8", MAX_SIZES),
        ("scalar", "f4", MAX_SCALARS),
        ("op", "i4"),
        ("region", "i4", MAX_POINTERS),
        ("unused", "i4"),
    ],
    align=True,
)

STAGE = np.dtype(
    [
        *((name, "i8") for name in ("param", "grad", "constant", "scratch")),
        *((name, "i8") for name in ("saved", "held", "spare")),
        *((name, "i8") for name in ("grad_stride", "saved_stride", "held_stride")),
        ("rank", "i4"),
        ("tapes", "i4"),
        *((f"channel_{end}", "i4") for end in ("in", "out", "din", "dout")),
        ("param_first", "i4"),
        ("param_count", "i4"),
        ("reduce_first", "i4"),
        ("reduce_count", "i4"),
        ("update_first", "i4"),
        ("update_count", "i4"),
    ],
    align=True,
)

TAPE = np.dtype([("first", "i4"), ("count", "i4")], align=True)

CHANNEL = np.dtype(
    [
        *((name, "i8") for name in ("offset", "source_offset", "buffer_bytes")),
        *((name, "i4") for name in ("producer", "consumer", "num_buffers", "capacity")),
        ("source_buffers", "i4"),
        ("unused", "i4"),
    ],
    align=True,
)

PARAM = np.dtype(
    [
        ("offset", "i8"),
        ("count", "i8"),
        ("weight_decay", "f4"),
        *((name, "i4") for name in ("stage", "first_use", "next_use")),
    ],
    align=True,
)

#: ``begin`` of a piece is a multiple of this: the block of ``sum_squares``.
BLOCK = 4096

PIECE = np.dtype(
    [
        *((name, "i8") for name in ("begin", "count", "first_moment", "second_moment")),
        ("param", "i4"),
        ("unused", "i4"),
    ],
    align=True,
)

TRANSFER = np.dtype(
    [
        *((name, "i8") for name in ("source_offset", "target_offset", "bytes")),
        *((name, "i4") for name in ("kind", "source", "target", "stage", "piece")),
        *((name, "i4") for name in ("param", "group", "tag")),
    ],
    align=True,
)

STEP = np.dtype(
    [
        ("bytes", "i8"),
        ("live", "i8"),
        ("kind", "i4"),
        ("stage", "i4"),
        ("microbatch", "i4"),
        ("slice", "i4"),
        ("saved_slot", "i4"),
        ("held_slot", "i4"),
        ("group", "i4"),
        ("unused", "i4"),
    ],
    align=True,
)

CONFIG = np.dtype(
    [
        *((name, "f8") for name in ("beta1", "beta2", "epsilon", "clip", "wait_limit")),
        ("ring_events", "i8"),
        *((f"num_{n}", "i4") for n in ("ranks", "stages", "microbatches", "channels")),
        ("num_params", "i4"),
        *((name, "i4") for name in ("gradient_groups", "threads_per_rank", "batch")),
        *(
            (name, "i4")
            for name in ("optimizer", "spin", "virtual_clock", "keep_gradients")
        ),
        *((name, "i4") for name in ("copies", "num_slices", "here", "num_pieces")),
        ("zero", "i4"),
        ("unused", "i4"),
    ],
    align=True,
)

EVENT = np.dtype(
    [
        *((name, "i8") for name in ("start", "end", "bytes", "live")),
        *((name, "i4") for name in ("step", "microbatch", "stage")),
        *((name, "i2") for name in ("rank", "slice", "kind", "lane")),
        ("unused", "i4"),
    ],
    align=True,
)

#: What the engine calls of MPI, as addresses, and the handles that it passes.
MPI = np.dtype(
    [
        *((name, "u8") for name in ("isend", "irecv", "iallreduce", "test", "cancel")),
        *((name, "u8") for name in ("messages", "sums", "byte", "real64", "sum")),
    ],
    align=True,
)

#: Bytes at the end of a buffer that goes to another process.
TRAILER = 64

ADAMW, SGD = 0, 1
ROOT, TOTAL, WEIGHTS = 0, 1, 2
TRAIN, EVALUATE = 0, 1
ERRORS = ("ok", "stalled", "aborted", "nonfinite", "mismatched", "no_thread", "broken")
