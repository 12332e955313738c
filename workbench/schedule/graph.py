"""The graph of a set of programs: which step of which rank waits for which.

Check, simulator and engine all use this one graph. A node is one step of one rank; it
waits for the step before it on its rank, for the messages it receives, for room in the
channel it sends to, and, before the optimizer step, for every rank's gradients.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .ir import Action, Kind, Overlap, Program, ScheduleError

#: Why an edge is there.
DATA, CAPACITY, BARRIER = 0, 1, 2

_SENDS = {Kind.SEND_F: 0, Kind.SEND_B: 0}
_RECEIVES = {Kind.RECV_F: -1, Kind.RECV_B: 1}


class Channel(NamedTuple):
    """The way from ``source`` to the next stage (F) or to the one before (B)."""

    source: int
    kind: Kind


@dataclass(frozen=True)
class Graph:
    """Nodes in rank order; edges in CSR form: node i waits for dep[dep_start[i]:...].

    ``previous[i]`` is i - 1 on the same rank, else -1. A last, virtual node with rank
    -1 stands for "all gradients are there" when the programs have optimizer steps.
    """

    programs: tuple[Program, ...]
    node_rank: array[int]
    node_step: array[int]
    previous: array[int]
    dep_start: array[int]
    dep: array[int]
    dep_kind: array[int]

    def __len__(self) -> int:
        return len(self.node_rank)

    def step(self, node: int) -> Action | Overlap | None:
        """The step a node stands for; None for the virtual one."""
        rank = self.node_rank[node]
        return None if rank < 0 else self.programs[rank].steps[self.node_step[node]]

    def waits_for(self, node: int) -> list[tuple[int, int]]:
        """(node, kind of edge) of everything ``node`` waits for on other ranks."""
        row = range(self.dep_start[node], self.dep_start[node + 1])
        return [(self.dep[e], self.dep_kind[e]) for e in row]

    def order(self) -> list[int]:
        """A topological order; nodes on or behind a cycle are missing from it."""
        n = len(self)
        missing = [0] * n
        users: list[list[int]] = [[] for _ in range(n)]
        for node in range(n):
            before = [d for d, _ in self.waits_for(node)]
            if self.previous[node] >= 0:
                before.append(self.previous[node])
            missing[node] = len(before)
            for d in before:
                users[d].append(node)
        order = [node for node in range(n) if missing[node] == 0]
        for node in order:
            for user in users[node]:
                missing[user] -= 1
                if missing[user] == 0:
                    order.append(user)
        return order


def _channel(action: Action) -> Channel:
    kind = Kind.F if action.kind in (Kind.SEND_F, Kind.RECV_F) else Kind.B
    shift = _RECEIVES.get(action.kind, 0)
    return Channel(action.stage + shift, kind)


def _mismatch(
    channel: Channel, number: int, sent: Action | None, got: Action | None
) -> str:
    told = "nothing" if sent is None else str(sent)
    wants = "nothing" if got is None else str(got)
    return (
        f"message {number} from stage {channel.source} ({channel.kind}): sent is {told}, "
        f"received is {wants}"
    )


def _matched(
    channel: Channel,
    sends: Sequence[tuple[int, Action]],
    receives: Sequence[tuple[int, Action]],
) -> None:
    """Both ends must name the same microbatches in the same order."""
    for number in range(max(len(sends), len(receives))):
        sent = sends[number][1] if number < len(sends) else None
        got = receives[number][1] if number < len(receives) else None
        same = sent and got and sent[2:] == got[2:]
        if not same:
            raise ScheduleError(
                _mismatch(channel, number, sent, got),
                "matched communication",
                action=got or sent,
            )


def graph(programs: Sequence[Program], channel_capacity: int | None = None) -> Graph:
    """The graph of programs under a channel capacity (None: channels without limit).

    Raises ScheduleError when sends and receives do not match.
    """
    if channel_capacity is not None and channel_capacity < 0:
        raise ValueError(f"channel_capacity cannot be negative, got {channel_capacity}")
    rank_of, step_of, previous = array("i"), array("i"), array("i")
    sends: dict[Channel, list[tuple[int, Action]]] = {}
    receives: dict[Channel, list[tuple[int, Action]]] = {}
    reduces: list[int] = []
    updates: list[int] = []
    for program in programs:
        for number, step in enumerate(program.steps):
            node = len(rank_of)
            rank_of.append(program.rank)
            step_of.append(number)
            previous.append(node - 1 if number else -1)
            if isinstance(step, Overlap):
                continue
            if step.kind in _SENDS:
                sends.setdefault(_channel(step), []).append((node, step))
            elif step.kind in _RECEIVES:
                receives.setdefault(_channel(step), []).append((node, step))
            elif step.kind is Kind.REDUCE_GRAD:
                reduces.append(node)
            elif step.kind is Kind.OPT_STEP:
                updates.append(node)
    edges: dict[int, list[tuple[int, int]]] = {}
    for channel in sends.keys() | receives.keys():
        there, here = sends.get(channel, []), receives.get(channel, [])
        _matched(channel, there, here)
        _connect(there, here, channel_capacity, previous, edges)
    if updates:
        barrier = len(rank_of)
        rank_of.append(-1)
        step_of.append(0)
        previous.append(-1)
        edges[barrier] = [(node, BARRIER) for node in reduces]
        for node in updates:
            edges[node] = [(barrier, BARRIER)]
    return _packed(tuple(programs), rank_of, step_of, previous, edges)


def _connect(
    sends: Sequence[tuple[int, Action]],
    receives: Sequence[tuple[int, Action]],
    capacity: int | None,
    previous: array[int],
    edges: dict[int, list[tuple[int, int]]],
) -> None:
    for number, ((send, _), (receive, _)) in enumerate(
        zip(sends, receives, strict=True)
    ):
        edges.setdefault(receive, []).append((send, DATA))
        if capacity is None:
            continue
        if capacity == 0:
            # Rendezvous: the receiver must have come as far as its receive.
            if previous[receive] >= 0:
                edges.setdefault(send, []).append((previous[receive], CAPACITY))
        elif number >= capacity:
            edges.setdefault(send, []).append(
                (receives[number - capacity][0], CAPACITY)
            )


def _packed(
    programs: tuple[Program, ...],
    rank_of: array[int],
    step_of: array[int],
    previous: array[int],
    edges: dict[int, list[tuple[int, int]]],
) -> Graph:
    starts, deps, kinds = array("i", [0]), array("i"), array("b")
    for node in range(len(rank_of)):
        for dep, kind in edges.get(node, ()):
            deps.append(dep)
            kinds.append(kind)
        starts.append(len(deps))
    return Graph(programs, rank_of, step_of, previous, starts, deps, kinds)
