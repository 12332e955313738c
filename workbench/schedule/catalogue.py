"""The generators by name. A generator is one function in a file of its family."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any

from .automatic import zb_auto
from .bitpipe import bitpipe
from .chimera import chimera
from .controllable import one_f_one_b_v, v_half, v_min
from .dualpipe import dualpipe, dualpipe_v
from .eager import eager_1f1b
from .gpipe import gpipe
from .hanayo import hanayo
from .interleaved import interleaved_1f1b, looped_bfs
from .ir import Schedule, whole
from .one_f_one_b import one_f_one_b
from .recompute import one_f_one_b_recompute
from .sequence import seq_1f1b
from .single import single
from .zb_v import zb_v, zb_v_greedy
from .zero_bubble import interleaved_zb, zb_h1, zb_h2

SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "gpipe": gpipe,
    "1f1b": one_f_one_b,
    "eager_1f1b": eager_1f1b,
    "interleaved_1f1b": interleaved_1f1b,
    "looped_bfs": looped_bfs,
    "zb_h1": zb_h1,
    "zb_h2": zb_h2,
    "zb_auto": zb_auto,
    "interleaved_zb": interleaved_zb,
    "zb_v": zb_v,
    "zb_v_greedy": zb_v_greedy,
    "v_half": v_half,
    "v_min": v_min,
    "1f1b_v": one_f_one_b_v,
    "dualpipe": dualpipe,
    "dualpipe_v": dualpipe_v,
    "chimera": chimera,
    "hanayo": hanayo,
    "bitpipe": bitpipe,
    "seq_1f1b": seq_1f1b,
    "1f1b_recompute": one_f_one_b_recompute,
    "single": single,
}


def make(name: str, num_ranks: int, num_microbatches: int, **options: Any) -> Schedule:
    """See ``Schedule.make``."""
    if name not in SCHEDULES:
        near = difflib.get_close_matches(str(name).lower(), SCHEDULES, n=1, cutoff=0.3)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"no schedule named {name!r}: {hint}There are {', '.join(SCHEDULES)}"
        )
    num_ranks = whole(num_ranks, "num_ranks", 1)
    num_microbatches = whole(num_microbatches, "num_microbatches", 1)
    generator = SCHEDULES[name]
    known = list(inspect.signature(generator).parameters)[2:]
    for option in options:
        if option not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes no options"
            raise ValueError(f"schedule {name!r} has no option {option!r}; {takes}")
    return generator(num_ranks, num_microbatches, **options)
