from typing import Any

import numpy as np
import numpy.typing as npt

OPS: dict[str, int]

def now() -> int: ...

class Arena:
    def __buffer__(self, flags: int, /) -> memoryview: ...

class Engine:
    def __init__(
        self,
        config: npt.NDArray[Any],
        stages: npt.NDArray[Any],
        channels: npt.NDArray[Any],
        params: npt.NDArray[Any],
        pieces: npt.NDArray[Any],
        transfers: npt.NDArray[Any],
        tapes: npt.NDArray[Any],
        calls: npt.NDArray[Any],
        arena_bytes: npt.NDArray[np.int64],
    ) -> None: ...
    def connect(self, mpi: npt.NDArray[Any]) -> None: ...
    def disconnect(self) -> None: ...
    def arena(self, rank: int) -> Arena: ...
    def set_program(self, program: int, rank: int, steps: npt.NDArray[Any]) -> None: ...
    def set_graph(
        self,
        program: int,
        order: npt.NDArray[np.int32],
        previous: npt.NDArray[np.int32],
        dep_start: npt.NDArray[np.int32],
        dep: npt.NDArray[np.int32],
        node_rank: npt.NDArray[np.int32],
        node_step: npt.NDArray[np.int32],
    ) -> None: ...
    def start(
        self,
        program: int,
        first: int,
        last: int,
        inputs: npt.NDArray[Any],
        targets: npt.NDArray[Any],
        kind: int,
        windows: int,
        seed: int,
        sequential: int,
        stride: int,
        learning_rate: npt.NDArray[np.float32],
        losses: npt.NDArray[np.float64],
        norms: npt.NDArray[np.float64],
        time_origin: int,
    ) -> None: ...
    def stop(self) -> None: ...
    def abort(self) -> None: ...
    def finish(self) -> int: ...
    @property
    def running(self) -> bool: ...
    @property
    def done_steps(self) -> int: ...
    @property
    def error(self) -> tuple[str, int, int, int] | None: ...
    def positions(self) -> list[tuple[int, int]]: ...
    def read_events(
        self, rank: int, cursor: int, out: npt.NDArray[Any]
    ) -> tuple[int, int, int]: ...
