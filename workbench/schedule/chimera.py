"""Chimera (Li and Hoefler 2021, arXiv:2107.06925): two copies, opposite directions."""

from __future__ import annotations

from .actions import Action, Kind
from .ir import Schedule
from .placement import even, mirrored, nearest, waves


def chimera(num_ranks: int, num_microbatches: int) -> Schedule:
    """Stage s on rank s, its copy p + s on rank p - 1 - s; half of the microbatches
    pass either way, in units of p that follow one another directly.

    Makespan for F = B = 1 and m a multiple of p: 2m + p - 2; with B = 2F bubbles come
    between the units. Peak in flight: p/2 + 1 to p. Raises ValueError unless p is even
    and m is even and at most p, or a multiple of p.
    """
    p = even(num_ranks, "num_ranks", "Chimera pairs ranks from both ends")
    m = num_microbatches
    if m % 2 or (m > p and m % p):
        legal = [n for n in range(2, 2 * m + p) if n % p == 0 or (n < p and n % 2 == 0)]
        raise ValueError(
            f"num_microbatches is {m}, but Chimera's units have num_ranks={p} each, one "
            f"unit alone any even number; the nearest are {nearest(m, legal)}"
        )
    placed: list[list[tuple[int, Action]]] = [[] for _ in range(p)]
    per_unit = min(m, p) // 2
    for number in range(m // 2):
        unit, k = divmod(number, per_unit)
        for stage in range(p):
            begin = 2 * p * unit + 2 * k
            for copy, rank in ((0, stage), (1, p - 1 - stage)):
                where = copy * p + stage
                which = copy * (m // 2) + number
                row = placed[rank]
                row.append((begin + stage, Action(where, Kind.F, which)))
                row.append((begin + 2 * p - 1 - stage, Action(where, Kind.B, which)))
    rows = [[action for _, action in sorted(row)] for row in placed]
    down = waves(p, 1)
    return Schedule(
        "chimera",
        rows,
        (*down, *mirrored(down)),
        num_microbatches=m,
        copy_of=(*range(p), *range(p)),
        route=[0] * (m // 2) + [1] * (m // 2),
    )
