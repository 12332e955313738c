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
