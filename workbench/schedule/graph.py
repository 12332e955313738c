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

from .actions import Action, Kind, Overlap
from .ir import Program, ScheduleError, whole

#: Why an edge is there.
DATA, CAPACITY, BARRIER = 0, 1, 2

#: Kind of a message's end -> (what travels, does this end send, source stage - stage).
_ENDS = {
    Kind.SEND_F: (Kind.F, True, 0),
    Kind.RECV_F: (Kind.F, False, -1),
    Kind.SEND_B: (Kind.B, True, 0),
    Kind.RECV_B: (Kind.B, False, 1),
}

End = tuple[int, Action]  # a node and the action it stands for


class Channel(NamedTuple):
    """The way from stage ``source`` to the next stage (F) or to the one before (B)."""

    source: int
    kind: Kind

    def __str__(self) -> str:
        target = self.source + (1 if self.kind is Kind.F else -1)
        return f"{self.kind} from stage {self.source} to stage {target}"


@dataclass(frozen=True)
class Graph:
    """Nodes in rank order; edges in CSR form: node i waits for dep[dep_start[i]:...].

    ``previous[i]`` is i - 1 on the same rank, else -1. ``dep_kind`` says why an edge is
    there: DATA (over a channel; its lag is the hop), CAPACITY (for room), BARRIER. A
    last, virtual node with rank -1 stands for "all gradients are there" when the
    programs have optimizer steps.
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
        """(node, kind of edge) of everything ``node`` waits for besides the step before
        it."""
        row = range(self.dep_start[node], self.dep_start[node + 1])
        return [(self.dep[e], self.dep_kind[e]) for e in row]

    def order(self) -> list[int]:
        """A topological order; nodes on or behind a cycle are missing from it.

        Every rank runs on until a step has to wait, and is woken by what it waits for.
        """
        start, dep, previous = self.dep_start, self.dep, self.previous
        count = len(self)
        done = bytearray(count)
        sleeping: dict[int, list[int]] = {}
        order: list[int] = []
        awake = [node for node in range(count) if previous[node] < 0]
        while awake:
            node = awake.pop()
            while True:
                for edge in range(start[node], start[node + 1]):
                    if not done[dep[edge]]:
                        sleeping.setdefault(dep[edge], []).append(node)
                        break
                else:
                    done[node] = 1
                    order.append(node)
                    if node in sleeping:
                        awake += sleeping.pop(node)
                    node += 1
                    if node < count and previous[node] >= 0:
                        continue
                break
        return order

    def circle(self, order: Sequence[int]) -> list[tuple[int, int, int]]:
        """Who waits for whom when ``order`` is all that can run: a circle of edges.

        One (node, node it waits for, kind of edge) per rank of the circle, where node
        is the very step at which the rank stands; the next entry's rank is that of the
        node waited for. Empty when nothing is left to run.
        """
        done = bytearray(len(self))
        for node in order:
            done[node] = 1
        # The first undone node of every chain: there its rank stands.
        stands: dict[int, int] = {}
        for node, rank in enumerate(self.node_rank):
            if not done[node]:
                stands.setdefault(rank, node)
        path: dict[int, tuple[int, int, int]] = {}
        rank = next(iter(stands), -1)
        while rank in stands and rank not in path:
            node = stands[rank]
            target, kind = next(w for w in self.waits_for(node) if not done[w[0]])
            path[rank] = (node, target, kind)
            rank = self.node_rank[target]
        return list(path.values())[list(path).index(rank) :] if path else []


def _matched(channel: Channel, sends: Sequence[End], receives: Sequence[End]) -> None:
    """Both ends must name the same microbatches in the same order."""
    for number in range(max(len(sends), len(receives))):
        sent = sends[number][1] if number < len(sends) else None
        got = receives[number][1] if number < len(receives) else None
        if sent and got and sent[2:] == got[2:]:
            continue
        raise ScheduleError(
            f"message {number} of the channel {channel} is sent as "
            f"{sent or 'nothing'} but received as {got or 'nothing'}; both ranks must "
            "have these microbatches in one order",
            "matched communication",
            action=got or sent,
        )


@dataclass
class _Nodes:
    """The nodes while they are being laid out, and the ends of every channel."""

    rank: array[int]
    step: array[int]
    previous: array[int]
    sends: dict[Channel, list[End]]
    receives: dict[Channel, list[End]]
    reduces: list[int]
    updates: list[int]


def _nodes(programs: Sequence[Program]) -> _Nodes:
    found = _Nodes(array("i"), array("i"), array("i"), {}, {}, [], [])
    ends: dict[tuple[int, Kind], list[End]] = {}
    base = 0
    for program in programs:
        count = len(program.steps)
        found.rank.extend([program.rank] * count)
        found.step.extend(range(count))
        found.previous.extend([-1, *range(base, base + count - 1)][:count])
        for node, step in enumerate(program.steps, base):
            if isinstance(step, Overlap):
                continue
            kind = step.kind
            if kind in _ENDS:
                ends.setdefault((step.stage, kind), []).append((node, step))
            elif kind is Kind.REDUCE_GRAD:
                found.reduces.append(node)
            elif kind is Kind.OPT_STEP:
                found.updates.append(node)
        base += count
    for (stage, kind), nodes in ends.items():
        travels, sends, shift = _ENDS[kind]
        side = found.sends if sends else found.receives
        side[Channel(stage + shift, travels)] = nodes
    return found


def graph(programs: Sequence[Program], channel_capacity: int | None = None) -> Graph:
    """The graph of programs under a channel capacity (None: channels without limit).

    A receive waits for its send. With room for c messages, c >= 1, send number k of a
    channel waits for receive number k - c; with c = 0 (rendezvous) it waits until the
    receiver has come as far as its receive. Every optimizer step waits for every
    REDUCE_GRAD, through the virtual node.

    Raises ScheduleError when sends and receives do not match, and ValueError for a
    capacity that is no count.
    """
    if channel_capacity is not None:
        channel_capacity = whole(channel_capacity, "channel_capacity", 0)
    nodes = _nodes(programs)
    edges: dict[int, list[tuple[int, int]]] = {}
    for channel in sorted(nodes.sends.keys() | nodes.receives.keys()):
        sends = nodes.sends.get(channel, [])
        receives = nodes.receives.get(channel, [])
        _matched(channel, sends, receives)
        _connect(sends, receives, channel_capacity, nodes.previous, edges)
    if nodes.updates:
        barrier = len(nodes.rank)
        nodes.rank.append(-1)
        nodes.step.append(0)
        nodes.previous.append(-1)
        edges[barrier] = [(node, BARRIER) for node in nodes.reduces]
        for node in nodes.updates:
            edges[node] = [(barrier, BARRIER)]
    return _packed(tuple(programs), nodes, edges)


def _connect(
    sends: Sequence[End],
    receives: Sequence[End],
    capacity: int | None,
    previous: array[int],
    edges: dict[int, list[tuple[int, int]]],
) -> None:
    """The edges of one channel. A message's end belongs to one channel only, so a node
    has the edges it is given here and no others."""
    for (send, _), (receive, _) in zip(sends, receives, strict=True):
        edges[receive] = [(send, DATA)]
    if capacity is None:
        return
    if capacity == 0:
        for (send, _), (receive, _) in zip(sends, receives, strict=True):
            if previous[receive] >= 0:
                edges[send] = [(previous[receive], CAPACITY)]
        return
    for (send, _), (receive, _) in zip(sends[capacity:], receives, strict=False):
        edges[send] = [(receive, CAPACITY)]


def _packed(
    programs: tuple[Program, ...],
    nodes: _Nodes,
    edges: dict[int, list[tuple[int, int]]],
) -> Graph:
    starts, deps, kinds = array("i", [0]), array("i"), array("b")
    for node in range(len(nodes.rank)):
        for dep, kind in edges.get(node, ()):
            deps.append(dep)
            kinds.append(kind)
        starts.append(len(deps))
    return Graph(programs, nodes.rank, nodes.step, nodes.previous, starts, deps, kinds)
