"""MPI, the only file that imports mpi4py: who the other ranks are, and what the C engine
needs to reach them.

Nothing here is called within a step. What ranks tell one another around steps goes
through ``World.gather`` and its kin, which poll with a deadline: a rank that is blocked
inside MPI could neither be interrupted nor say whom it waits for.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from cython_kernels import tables

from .errors import RunError

#: The C libraries that mpi4py's wheels and its own builds load: MPICH and its kin, Open
#: MPI, and the common ABI of MPI 5.
LIBRARIES = (
    "libmpi.so.12",
    "libmpi.so.40",
    "libmpi_abi.so.0",
    "libmpich.so.12",
    "libmpi.12.dylib",
    "libmpi.40.dylib",
    "libmpi_abi.0.dylib",
)
#: Seconds that ranks wait for one another around steps.
PATIENCE = 60.0
_POLL_SECONDS = 0.0005
ABORT_SECONDS = 3.0


def _mpi() -> Any:
    """mpi4py's module, MPI initialised so that one thread at a time may call it."""
    try:
        import mpi4py

        mpi4py.rc.thread_level = "serialized"
        from mpi4py import MPI
    except ImportError as error:
        raise ValueError(
            f"ranks over MPI need mpi4py and an MPI library ({error}): "
            'pip install "pipeline-workbench[mpi]"'
        ) from None
    if MPI.Query_thread() < MPI.THREAD_SERIALIZED:
        raise ValueError(
            "this MPI was started for one thread only; ranks need at least "
            "MPI_THREAD_SERIALIZED"
        )
    return MPI


def _library() -> ctypes.CDLL:
    """The MPI that mpi4py has loaded already."""
    for name in LIBRARIES:
        try:
            return ctypes.CDLL(name, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
        except OSError:
            continue
    own = ctypes.CDLL(None)  # linked in, or loaded for all to see
    if hasattr(own, "MPI_Isend"):
        return own
    raise ValueError(
        f"none of the MPI libraries known here is loaded: {', '.join(LIBRARIES)}"
    )


class World:
    """The processes of one run, each with one rank, numbered as MPI numbers them."""

    def __init__(self, size: int | None = None) -> None:
        """Raises ValueError where there is no mpi4py or no MPI, or when there are
        other than ``size`` processes."""
        self._mpi = _mpi()
        world = self._mpi.COMM_WORLD
        self.rank: int = world.Get_rank()
        self.size: int = world.Get_size()
        self.library: str = self._mpi.Get_library_version().split("\n")[0].rstrip("\0 ")
        if size is not None and size != self.size:
            raise ValueError(wrong_size(self.size, size))
        # Communicators of our own: nobody else's messages come in between.
        self._talk = world.Dup()
        self._messages = world.Dup()
        self._sums = world.Dup()

    # ---- for the C engine ------------------------------------------------------------

    def table(self) -> np.ndarray:
        """One row of ``tables.MPI``."""
        library, handle = _library(), self._mpi._handleof
        row = np.zeros(1, tables.MPI)
        for name in ("Isend", "Irecv", "Iallreduce", "Test", "Cancel"):
            function = ctypes.cast(getattr(library, f"MPI_{name}"), ctypes.c_void_p)
            row[name.lower()] = function.value
        handles = {
            "messages": self._messages,
            "sums": self._sums,
            "byte": self._mpi.BYTE,
            "real64": self._mpi.DOUBLE,
            "sum": self._mpi.SUM,
        }
        for name, value in handles.items():
            row[name] = handle(value) % 2**64  # an int of MPICH may be negative
        return row

    # ---- around steps ----------------------------------------------------------------

    def _finish(self, request: Any, what: str, seconds: float) -> None:
        limit = time.monotonic() + seconds
        while not request.Test():
            if time.monotonic() > limit:
                raise RunError(
                    f"rank {self.rank} waited {seconds:g} s for the other ranks to {what}",
                    self.rank,
                )
            time.sleep(_POLL_SECONDS)

    def gather(self, value: Any, what: str, seconds: float = PATIENCE) -> list[Any]:
        """Every rank's ``value`` (JSON), in the order of ranks, on every rank.

        Raises RunError when the others have not told theirs within ``seconds``;
        ``what`` says in its message what they were to do.
        """
        mine = json.dumps(value).encode()
        sizes = np.zeros(self.size, np.int64)
        request = self._talk.Iallgather(np.array([len(mine)], np.int64), sizes)
        self._finish(request, what, seconds)
        largest = int(sizes.max())
        padded = np.zeros(largest, np.uint8)
        padded[: len(mine)] = np.frombuffer(mine, np.uint8)
        everyone = np.zeros((self.size, largest), np.uint8)
        self._finish(self._talk.Iallgather(padded, everyone), what, seconds)
        return [
            json.loads(bytes(row[:size]))
            for row, size in zip(everyone, sizes, strict=True)
        ]

    def add(self, values: np.ndarray, what: str, seconds: float = PATIENCE) -> None:
        """Replaces float64 ``values`` by their sum over all ranks. Exact where at most
        one rank has other than zeros."""
        total = np.zeros_like(values)
        self._finish(self._talk.Iallreduce(values, total), what, seconds)
        values[...] = total

    def abort(self, status: int) -> None:
        """Ends all processes of the world, this one too: in ABORT_SECONDS at most, where
        MPI itself would wait for a launcher that it has lost."""
        # A thread of C: MPI_Abort may block, and keeps Python's lock meanwhile.
        with Path(os.devnull).open("w", encoding="ascii") as nowhere:
            faulthandler.dump_traceback_later(ABORT_SECONDS, exit=True, file=nowhere)
            try:
                self._mpi.COMM_WORLD.Abort(status)
            finally:  # at Python's own end MPI_Finalize would wait
                os._exit(status)


def wrong_size(found: int, wanted: int) -> str:
    """What to say when a job meets a world of another size."""
    some = "processes" if found > 1 else "process"
    return (
        f"the job's layout has {wanted} ranks but MPI started {found} {some}: start it "
        f"with mpiexec -n {wanted}, or change the layout"
    )
