"""Which costs a graph asks for: one key per distinct cost, and the costs of all keys.

A vector of costs holds, in this order: nothing (key 0), the flights of messages, the
overlaps, the actions. Where actions of one stage and kind cost the same, a key stands
for all of them, and the vector is short however long the programs are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from cython_kernels import _timeline

from ..schedule import DATA, KIND_CODE, KINDS, Graph, Kind, Overlap, halves
from .costs import COLUMN, COSTED, CostModel

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Small = npt.NDArray[np.int32]

_COSTED = frozenset((*COSTED, Kind.B))
_SENDS = (Kind.SEND_F, Kind.SEND_B)


def _distinct(rows: Ints) -> tuple[Ints, Ints]:
    """(distinct columns of a (fields, n) table, by column the number of its own)."""
    if not rows.shape[1]:
        return rows, np.empty(0, np.int64)
    found, inverse = np.unique(rows, axis=1, return_inverse=True)
    return found, inverse.reshape(-1)


@dataclass(frozen=True, eq=False)
class Keys:
    """Keys of nodes and edges, and what they stand for, as arrays with one column each:

    actions: rank, stage, kind, microbatch, slice; messages: sender, receiver, stage, is
    it a forward's; pairs: two columns of actions that run together.
    """

    actions: Ints
    messages: Ints
    pairs: Ints
    node: Small
    edge: Small

    @cached_property
    def _sides(self) -> tuple[Ints, Ints, Ints]:
        """Of pairs: stage of the forward, stage of the backward, rank."""
        first, second = self.actions[:, self.pairs[0]], self.actions[:, self.pairs[1]]
        forward = KIND_CODE[Kind.F]
        swap = (first[2] != forward) & (second[2] == forward)
        return (
            np.where(swap, second[1], first[1]),
            np.where(swap, first[1], second[1]),
            first[0],
        )

    @property
    def _starts(self) -> tuple[int, int]:
        """Where pairs and actions begin."""
        pairs = 1 + self.messages.shape[1]
        return pairs, pairs + self.pairs.shape[1]

    def __len__(self) -> int:
        return self._starts[1] + self.actions.shape[1]

    @cached_property
    def counts(self) -> Floats:
        """(keys,): how many nodes and edges have each."""
        both = np.concatenate([self.node, self.edge])
        return np.bincount(both, minlength=len(self)).astype(np.float64)

    # ---- the costs of all keys -------------------------------------------------------

    def fill(self, costs: CostModel, num_ranks: int, out: Floats) -> float:
        """Fills ``out``, (keys,), with whole ticks, as doubles; returns the tick."""
        if costs.plain:
            prices, room = self._plain(len(costs.times), costs.overlap is not None)
            room[0] = costs.hop
            room[1] = costs.overlap or 0.0
            room[2:] = costs.times.reshape(-1)
            return prices.fill(room, out)
        prices, room = self._any(costs.overlap is not None)
        with np.errstate(over="ignore"):  # fill names what is too much
            self._prices(costs, num_ranks, room)
        return prices.fill(room, out)

    def fill_many(self, costs: CostModel, times: Floats, out: Floats) -> Floats:
        """As fill, for a plain model with other times, (k, rows, 6), in its place: fills
        ``out``, (k, keys), and returns the ticks, (k,)."""
        prices, _ = self._plain(times.shape[1], costs.overlap is not None)
        room = np.empty((len(times), 2 + times[0].size))
        room[:, 0] = costs.hop
        room[:, 1] = costs.overlap or 0.0
        room[:, 2:] = times.reshape(len(times), -1)
        return prices.fill_many(room, out)

    def _prices(self, costs: CostModel, num_ranks: int, out: Floats) -> None:
        """Fills ``out``, (keys,), in the costs' unit."""
        pairs, actions = self._starts
        factor = costs.factors(num_ranks)
        if pairs > 1:
            sender, receiver, stage, forward = self.messages
            out[1:pairs] = costs.flights(sender, receiver, stage, forward != 0)
        rank, *fields = self.actions
        out[actions:] = costs.durations(*fields) * factor[rank]
        forwards, backwards, rank = self._sides
        priced = costs.pairs(forwards, backwards)
        if priced is not None:
            out[pairs:actions] = priced * factor[rank]

    @cached_property
    def _kept(self) -> dict[tuple[int, bool], tuple[_timeline.Prices, Floats]]:
        return {}

    def _sums(self, priced: bool) -> Ints:
        """(n, 3): pairs that cost what their two actions do, as keys."""
        pairs, actions = self._starts
        if priced:
            return np.empty((0, 3), np.int64)
        keys = np.arange(pairs, actions)
        return np.stack([keys, *(self.pairs + actions)], axis=1)

    def _any(self, priced: bool) -> tuple[_timeline.Prices, Floats]:
        """From one price per key; and room for these."""
        if (0, priced) not in self._kept:
            own, none = np.arange(len(self)), np.full(len(self), -1)
            prices = _timeline.Prices(
                len(self), own, none, self._sums(priced), self.counts
            )
            self._kept[0, priced] = prices, np.zeros(len(self))
        return self._kept[0, priced]

    def _plain(self, rows: int, priced: bool) -> tuple[_timeline.Prices, Floats]:
        """From hop, overlap and times of so many rows: a B is the sum of I and W; and
        room for these."""
        if (rows, priced) not in self._kept:
            pairs, actions = self._starts
            first, second = np.full((2, len(self)), -1)
            first[1:pairs] = 0
            if priced:
                first[pairs:actions] = 1
            row = 2 + len(COSTED) * (self.actions[1] if rows > 1 else 0)
            kind = self.actions[2]
            column = np.array([COLUMN.get(k, COLUMN[Kind.I]) for k in KINDS])
            first[actions:] = row + column[kind]
            full = kind == KIND_CODE[Kind.B]
            second[actions:] = np.where(full, row + COLUMN[Kind.W], -1)
            size = 2 + len(COSTED) * rows
            sums = self._sums(priced)
            prices = _timeline.Prices(size, first, second, sums, self.counts)
            self._kept[rows, priced] = prices, np.zeros(size)
        return self._kept[rows, priced]


# ---- from a graph --------------------------------------------------------------------


@dataclass
class Asked:
    """What the nodes of a graph ask for, one by one."""

    actions: list[tuple[int, ...]]
    pairs: list[tuple[int, int]]
    messages: Ints
    of_node: list[tuple[int, int]]
    of_edge: Ints

    @classmethod
    def of(cls, graph: Graph) -> Asked:
        """of_node: (what it is, number): nothing, an action, a pair, a send."""
        found = cls([], [], np.empty((4, 0), np.int64), [], np.empty(0, np.int64))
        for program in graph.programs:
            for step in program.steps:
                found._add(program.rank, step)
        extra = len(graph) - len(found.of_node)  # the virtual node
        found.of_node += [(_NOTHING, 0)] * extra
        found._connect(graph)
        return found

    def _add(self, rank: int, step: Any) -> None:
        parts = halves(step)
        if isinstance(step, Overlap):
            self.of_node.append((_PAIR, len(self.pairs)))
            self.pairs.append((len(self.actions), len(self.actions) + 1))
        elif step.kind in _COSTED:
            self.of_node.append((_ACTION, len(self.actions)))
        else:
            self.of_node.append((_SEND if step.kind in _SENDS else _NOTHING, 0))
            return
        for stage, kind, microbatch, part in parts:
            self.actions.append((rank, stage, KIND_CODE[kind], microbatch, part))

    def _connect(self, graph: Graph) -> None:
        """Numbers the messages: one per edge over a channel."""
        data = np.flatnonzero(np.asarray(graph.dep_kind, np.int8) == DATA)
        starts = np.asarray(graph.dep_start, np.int64)
        ranks = np.asarray(graph.node_rank, np.int64)
        sends = np.asarray(graph.dep, np.int64)[data]
        receives = np.searchsorted(starts, data, side="right") - 1
        about = []
        for number, node in enumerate(sends.tolist()):
            step = graph.step(node)
            assert step is not None and not isinstance(step, Overlap)
            about.append((step.stage, step.kind is Kind.SEND_F))
            self.of_node[node] = (_SEND, number)
        told = np.array(about, np.int64).reshape(-1, 2).T
        self.messages = np.stack([ranks[sends], ranks[receives], *told])
        self.of_edge = np.full(len(graph.dep), -1, np.int64)
        self.of_edge[data] = np.arange(len(data))

    def keys(self, by_action: bool, blocking: bool) -> Keys:
        """One key per action, or one for all that are alike but for their microbatch
        and slice. With ``blocking`` sends a message's flight is the send's duration."""
        actions = np.array(self.actions, np.int64).reshape(-1, 5).T
        pairs = np.array(self.pairs, np.int64).reshape(-1, 2).T
        of_action, of_pair = np.arange(actions.shape[1]), np.arange(pairs.shape[1])
        if not by_action:
            actions[3:] = 0
            actions, of_action = _distinct(actions)
            pairs, of_pair = _distinct(of_action[pairs])
        messages, of_message = _distinct(self.messages)
        base = np.cumsum([1, messages.shape[1], pairs.shape[1]])
        what, number = np.array(self.of_node, np.int64).reshape(-1, 2).T
        node, edge = (
            np.zeros(len(what), np.int32),
            np.zeros(len(self.of_edge), np.int32),
        )
        tables: Sequence[tuple[int, Ints]] = ((_PAIR, of_pair), (_ACTION, of_action))
        for (kind, table), start in zip(tables, base[1:], strict=True):
            node[what == kind] = start + table[number[what == kind]]
        flown = 1 + of_message
        if blocking:
            node[what == _SEND] = flown[number[what == _SEND]]
        else:
            edge[self.of_edge >= 0] = flown
        return Keys(actions, messages, pairs, node, edge)


_NOTHING, _ACTION, _PAIR, _SEND = range(4)
