import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]
Ticks = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]

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
def evaluate_again(
    order: Ints,
    previous: Ints,
    dep_start: Ints,
    dep: Ints,
    duration: Ticks,
    lag: Ticks,
) -> tuple[Ticks, Ticks, Ticks]: ...

class Program:
    num_records: int
    num_slots: int
    def __init__(
        self,
        order: Ints,
        previous: Ints,
        dep_start: Ints,
        dep: Ints,
        key: Ints,
        lag: Ints,
        num_keys: int,
        asked: npt.ArrayLike,
    ) -> None: ...
    def run(self, cost: Doubles) -> Ticks: ...
    def run_latest(self, cost: Doubles) -> int: ...
    def run_many(self, costs: Doubles) -> Doubles: ...

class Prices:
    def __init__(
        self,
        num_prices: int,
        first: npt.ArrayLike,
        second: npt.ArrayLike,
        pairs: npt.ArrayLike,
        count: npt.ArrayLike,
    ) -> None: ...
    def fill(self, price: Doubles, cost: Doubles) -> float: ...
    def fill_many(self, price: Doubles, cost: Doubles) -> Doubles: ...

class Orders:
    peak: Doubles
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
    def walk_many(self, rows: Ints, peaks: Doubles | None = None) -> Ticks: ...
