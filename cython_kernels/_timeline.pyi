import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]
Ticks = npt.NDArray[np.int64]

def topological_order(previous: Ints, dep_start: Ints, dep: Ints) -> Ints: ...
def evaluate(
    order: Ints,
    previous: Ints,
    dep_start: Ints,
    dep: Ints,
    duration: Ticks,
    lag: Ticks | None = None,
    origin: Ticks | None = None,
) -> tuple[Ticks, Ticks, Ticks]: ...

class Orders:
    peak: npt.NDArray[np.float64]
    start: Ticks
    end: Ticks
    def __init__(
        self,
        num_ranks: int,
        num_stages: int,
        rank: npt.ArrayLike,
        stage: npt.ArrayLike,
        channel: npt.ArrayLike,
        need_start: npt.ArrayLike,
        need: npt.ArrayLike,
        duration: npt.ArrayLike,
        post: npt.ArrayLike,
        flight: npt.ArrayLike,
        delta: npt.ArrayLike,
        forward: npt.ArrayLike,
        gradient: npt.ArrayLike,
        overlap: npt.ArrayLike | None = None,
        reduce: npt.ArrayLike | None = None,
        optimizer: npt.ArrayLike | None = None,
    ) -> None: ...
    def walk(self, rows: Ints) -> int: ...
    def walk_times(self, rows: Ints) -> int: ...
    def walk_many(
        self, rows: Ints, peaks: npt.NDArray[np.float64] | None = None
    ) -> Ticks: ...
