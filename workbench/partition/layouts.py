"""Partitions as other projects write them: Megatron's layout string and torchtitan's
lists of module names, both ways. Neither says more than a ``Partition`` does, but for
the rank of a stage: in Megatron stage j lives on rank j modulo the number of ranks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import accumulate, groupby, pairwise

from ..model import Model

#: Letters of Megatron's layout string.
_LETTERS = {
    "E": "embedding",
    "t": "transformer layer",
    "m": "layer for multi-token prediction",
    "L": "loss, with the head",
}
_PIECE = re.compile(
    r"\((?P<text>[^()]+)\)\*(?P<times>\d+)|(?P<letter>[EtmL|])(?:\*(?P<count>\d+))?",
    re.ASCII,
)
#: Longer than any model; a slip of the finger must not fill the memory.
_LONGEST = 1_000_000


# ---- Megatron ------------------------------------------------------------------------


def _wrong_at(text: str, place: int) -> str:
    told = f"the layout {text!r} cannot be read at {text[place:]!r}: "
    found = text[place]
    if found == "(":
        rest = text[place + 1 :]
        nested = "(" in rest.split(")")[0]
        if nested:
            return told + "parentheses do not nest"
        return told + "parentheses hold a text and are repeated, as in (tt|)*3"
    if found == "*":
        return told + "* stands after one letter or after ) and takes a whole number"
    if found == ")":
        return told + "no parenthesis is open"
    other = found.swapcase()
    if other in _LETTERS:
        return told + f"did you mean {other}, the {_LETTERS[other]}?"
    known = ", ".join(f"{letter} {name}" for letter, name in _LETTERS.items())
    return told + f"{found!r} is no letter of a layer; there are {known}, and | ends "
    "a stage"


def _unrolled(text: str, whole: str) -> str:
    pieces: list[str] = []
    place = length = 0
    while place < len(text):
        found = _PIECE.match(text, place)
        if found is None:
            raise ValueError(_wrong_at(whole, whole.index(text) + place))
        inner, times = found["letter"], found["count"]
        if inner is None:
            inner, times = _unrolled(found["text"], whole), found["times"]
        count = int(times) if times else 1
        length += count * len(inner)
        if length > _LONGEST:
            raise ValueError(
                f"the layout {whole!r} has more than {_LONGEST:,} layers at "
                f"{found[0]!r}"
            )
        pieces.append(inner * count)
        place = found.end()
    return "".join(pieces)


def read_layout(text: str) -> tuple[str, ...]:
    """The stages of a Megatron layout string, each as its letters: ``E*1t*2|tL`` gives
    ("Ett", "tL").

    The grammar is that of ``--pipeline-model-parallel-layout`` in Megatron-Core:
    commas mean nothing; ``(text)*n`` repeats a text, which may hold ``|`` but no
    parentheses; ``x*n`` repeats one letter; ``|`` stands between stages. Raises
    ValueError for anything else, naming the place and the rule.
    """
    if not isinstance(text, str):
        raise ValueError(f"a layout is a text such as 'Et|tL', got {text!r}")
    bare = text.replace(",", "")
    return tuple(_unrolled(bare, bare).split("|"))


def check_layout(
    stages: Sequence[str],
    num_layers: int,
    num_ranks: int | None = None,
    num_mtp_layers: int = 0,
) -> None:
    """Megatron's rules for a layout: E and L once, first and last; ``num_layers`` times
    t; with ``num_ranks``, a multiple of it stages. m: ``num_mtp_layers`` times, after
    every t, in one stage that is the last of its rank, not rank 0's when ranks have
    several. Raises ValueError naming the rule."""
    flat = "".join(stages)
    for letter, end, name in (("E", flat[:1], "first"), ("L", flat[-1:], "last")):
        count = flat.count(letter)
        if count != 1:
            raise ValueError(
                f"{letter} must stand exactly once, but stands {count} times"
            )
        if end != letter:
            raise ValueError(f"the {name} layer must be {letter}, but is {end}")
    if flat.count("t") != num_layers:
        raise ValueError(
            f"the layout has {flat.count('t')} transformer layers (t), but the model has "
            f"{num_layers}"
        )
    if flat.count("m") != num_mtp_layers:
        raise ValueError(
            f"the layout has {flat.count('m')} layers for multi-token prediction (m), but "
            f"the model has {num_mtp_layers}"
        )
    _check_ranks(len(stages), num_ranks)
    if num_mtp_layers:
        _check_mtp(stages, num_ranks or len(stages))


def _check_ranks(num_stages: int, num_ranks: int | None) -> None:
    if num_ranks is None:
        return
    if isinstance(num_ranks, bool) or not isinstance(num_ranks, int) or num_ranks < 1:
        raise ValueError(
            f"num_ranks must be a whole number of at least 1, got {num_ranks!r}"
        )
    if num_stages % num_ranks:
        raise ValueError(
            f"{num_stages} stages are not a multiple of num_ranks {num_ranks}: Megatron "
            "puts stage j on rank j modulo num_ranks, as many on each"
        )


def _check_mtp(stages: Sequence[str], num_ranks: int) -> None:
    holders = [j for j, stage in enumerate(stages) if "m" in stage]
    flat = "".join(stages)
    if flat.index("m") < flat.rindex("t"):
        raise ValueError("every t must stand before the first m")
    if len(holders) > 1:
        raise ValueError(f"m must stand in one stage, but stands in {holders}")
    stage = holders[0]
    if stage < len(stages) - num_ranks:
        raise ValueError(
            f"m must stand in the last stage of its rank, but stage {stage} is followed "
            f"by stage {stage + num_ranks} there"
        )
    if stage % num_ranks == 0 and len(stages) > num_ranks:
        raise ValueError(f"m must not stand on rank 0, but stage {stage} lives there")


def megatron_boundaries(
    model: Model, text: str, num_ranks: int | None
) -> tuple[int, ...]:
    """See ``Partition.from_megatron_layout``."""
    num_blocks = _num_blocks(model, "Megatron's layout")
    stages = read_layout(text)
    check_layout(stages, num_blocks, num_ranks)
    empty = [j for j, stage in enumerate(stages) if not stage]
    if empty:
        raise ValueError(
            f"stage {empty[0]} is empty: Megatron allows that, but here every stage needs "
            "at least one layer; move one there, or take a | away"
        )
    return (0, *accumulate(len(stage) for stage in stages))


def megatron_layout(
    model: Model, boundaries: Sequence[int], num_ranks: int | None
) -> str:
    """See ``Partition.to_megatron_layout``."""
    flat = "E" + "t" * _num_blocks(model, "Megatron's layout") + "L"
    _check_ranks(len(boundaries) - 1, num_ranks)
    stages = [
        re.sub("t{4,}", lambda run: f"t*{len(run[0])}", flat[begin:end])
        for begin, end in pairwise(boundaries)
    ]
    text = ""
    for stage, run in groupby(stages[:-1]):
        times = len(list(run))
        text += f"({stage}|)*{times}" if times > 1 else f"{stage}|"
    return text + stages[-1]


# ---- torchtitan ----------------------------------------------------------------------

_EMBEDDING, _NORM, _OUTPUT = "tok_embeddings", "norm", "output"
#: Models that share Llama's names call the head so.
_ALSO = {"lm_head": _OUTPUT}


def _num_blocks(model: Model, what: str) -> int:
    if not model.is_language_model:
        raise ValueError(
            f"{what} is for language models; a model of kind "
            f"{model.config['kind']!r} has no embedding, blocks and head"
        )
    return model.num_layers - 2


def _module_names(model: Model) -> list[tuple[str, ...]]:
    """torchtitan's names of each layer's modules; our head holds two of them."""
    blocks = range(_num_blocks(model, "torchtitan's list of modules"))
    return [(_EMBEDDING,), *((f"layers.{i}",) for i in blocks), (_NORM, _OUTPUT)]


def torchtitan_modules(model: Model, boundaries: Sequence[int]) -> list[list[str]]:
    """See ``Partition.to_torchtitan``."""
    names = _module_names(model)
    return [
        [name for layer in names[begin:end] for name in layer]
        for begin, end in pairwise(boundaries)
    ]


def torchtitan_boundaries(
    model: Model, modules: Iterable[Iterable[str]]
) -> tuple[int, ...]:
    """See ``Partition.from_torchtitan``."""
    names = _module_names(model)
    layer_of = {name: i for i, layer in enumerate(names) for name in layer}
    stage_of: dict[str, int] = {}
    if isinstance(modules, str) or not isinstance(modules, Iterable):
        raise ValueError(
            f"give a list of names per stage, such as [[{_EMBEDDING!r}], ...], got "
            f"{modules!r}"
        )
    parts = list(modules)
    for stage, part in enumerate(parts):
        if isinstance(part, str) or not isinstance(part, Iterable):
            raise ValueError(f"stage {stage} must be a list of names, got {part!r}")
        found = list(part)
        if not found:
            raise ValueError(f"stage {stage} is empty; every stage needs a module")
        for given in found:
            name = _ALSO.get(given, given)
            if name not in layer_of:
                known = f"{_EMBEDDING}, layers.0 to {names[-2][0]}, {_NORM}, {_OUTPUT}"
                raise ValueError(
                    f"stage {stage}: no module {given!r}; there are {known}"
                )
            if name in stage_of:
                raise ValueError(
                    f"stage {stage}: {given} lies in stage {stage_of[name]} already"
                )
            stage_of[name] = stage
    return _boundaries(names, stage_of, len(parts))


def _boundaries(
    names: Sequence[tuple[str, ...]], stage_of: dict[str, int], num_stages: int
) -> tuple[int, ...]:
    missing = [name for layer in names for name in layer if name not in stage_of]
    if missing:
        raise ValueError(f"no stage has {', '.join(missing)}")
    if stage_of[_NORM] != stage_of[_OUTPUT]:
        raise ValueError(
            f"{_NORM} lies in stage {stage_of[_NORM]} and {_OUTPUT} in stage "
            f"{stage_of[_OUTPUT]}; here they are one layer, the head: put them together"
        )
    order = [stage_of[layer[0]] for layer in names]
    for before, after, layer in zip(order, order[1:], names[1:], strict=False):
        if after < before:
            raise ValueError(
                f"{layer[0]} lies in stage {after}, but what comes before it in stage "
                f"{before}; stages hold the model's layers in order"
            )
    return (*(order.index(stage) for stage in range(num_stages)), len(names))
