"""Shapes of the catalogue's schedules, legal by the rules that their papers state."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from workbench.schedule import SCHEDULES, Schedule

RANKS = (1, 2, 3, 4, 5, 6, 7, 8, 12)
MICROBATCHES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16, 24)

#: Options beyond the default ones.
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "interleaved_1f1b": [{"stages_per_rank": v} for v in (2, 3, 4)],
    "looped_bfs": [{"stages_per_rank": v} for v in (2, 3)],
    "interleaved_zb": [{"stages_per_rank": v} for v in (2, 3)],
    "zb_auto": [{}, {"memory_limit": 2}],
    "hanayo": [{"num_waves": 1}, {"num_waves": 2}],
    "seq_1f1b": [{"num_slices": k} for k in (1, 2, 4)],
}


class Shape(NamedTuple):
    """A name of the catalogue and what ``Schedule.make`` needs for it."""

    name: str
    p: int
    m: int
    options: dict[str, Any]

    def make(self) -> Schedule:
        return Schedule.make(
            self.name, num_ranks=self.p, num_microbatches=self.m, **self.options
        )


def is_legal(name: str, p: int, m: int) -> bool:
    """The rules, written down a second time."""
    if name in ("interleaved_1f1b", "interleaved_zb"):
        return m % max(1, m // p) == 0
    if name == "dualpipe":
        return p % 2 == 0 and m % 2 == 0 and m >= 2 * p
    if name == "dualpipe_v":
        return m >= 2 * p
    if name == "chimera":
        return p % 2 == 0 and m % 2 == 0 and (m <= p or m % p == 0)
    if name == "bitpipe":
        return p % 2 == 0 and m % 2 == 0
    return name != "single"


def shapes(name: str) -> Iterator[Shape]:
    """Every legal shape of a schedule on the grid."""
    for p in RANKS:
        for m in MICROBATCHES:
            if is_legal(name, p, m):
                for options in OPTIONS.get(name, [{}]):
                    yield Shape(name, p, m, options)


NAMES = tuple(name for name in SCHEDULES if name != "single")
