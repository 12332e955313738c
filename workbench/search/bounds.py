"""Lower bounds: what no order of these stages on these ranks can beat.

Three arguments, the largest of which counts. Where they need an order of microbatches,
the ascending one is no loss (see problem.py).

1. Longest paths, with the memory limit as edges: when a rank can hold M activations of
   a stage, F number k waits for the end of number k - M.
2. One rank as a single machine: every action has a head (no earlier start), its
   duration, and a tail (time that must follow). Jackson's preemptive order gives the
   least possible end (Carlier 1982). Heads count the work of all actions of the same
   rank that must come before, not only the path.
3. A rank's own gaps: before its first I it can do only forwards, as many as it can
   hold; after its last F only backwards of what it holds (SCHEDULES' zero-bubble
   bounds, arXiv:2401.10241 section 2, here for unequal stages).

The same heads and tails, counted from the rank's own first action to its own last, bound
the span.
"""

from __future__ import annotations

import heapq
from dataclasses import replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ..schedule import Action, Kind
from .problem import Problem

Ints = npt.NDArray[np.int64]
Prefixes = list[list[int]]
_NEVER = -1


def lower_bound(problem: Problem, objective: str, rough: bool = False) -> float:
    """What no order of the problem's actions can beat, in the costs' unit; ``rough``:
    by paths and work alone, for large problems in a hurry.

    With a price for overlapping pairs every cost counts as the cheapest pair makes it:
    a pair is then no shorter than both its halves one after the other.
    """
    factor = overlap_factor(problem)
    bound = Bound(problem, sharpen=not rough)
    ticks = bound.makespan() if objective == "makespan" else bound.span()
    if factor < 1:
        return factor * ticks * problem.tick * (1 - 1e-9)
    return bound.problem.units(ticks)


def overlap_factor(problem: Problem) -> float:
    """The least share of its halves' costs that an overlapping pair can have, at most
    1."""
    costs, stages = problem.costs, range(problem.num_stages)
    if costs.overlap is None:
        return 1.0

    def cost(stage: int, kind: Kind, microbatch: int) -> float:
        return costs.seconds(Action(stage, kind, microbatch))

    m = range(problem.num_microbatches)
    forward = np.array([max(cost(s, Kind.F, k) for k in m) for s in stages])
    backward = np.array([max(cost(s, Kind.B, k) for k in m) for s in stages])
    grid = np.indices((len(stages), len(stages))).reshape(2, -1)
    pairs = costs.pairs(grid[0], grid[1])
    assert pairs is not None
    halves = forward[grid[0]] + backward[grid[1]]
    shares = pairs[halves > 0] / halves[halves > 0]
    return min(1.0, float(shares.min(initial=1.0)))


class Bound:
    """The bound's graph for one placement. Times are ticks."""

    def __init__(self, problem: Problem, sharpen: bool = True) -> None:
        self.problem = replace(problem, down=True)
        m = self.problem.num_microbatches
        #: Per action, what it takes at least; of a kind whose cost depends on the
        #: microbatch, the least: the ascending order is then no loss again.
        self.duration = self.problem.duration
        if self.problem.by_microbatch:
            self.duration = [
                min(self.duration[a - a % m : a - a % m + m])
                for a in range(self.problem.size)
            ]
        #: Without: paths alone, and in ``makespan`` and ``span`` no gaps either.
        self.sharpen = sharpen
        self.needs = self._edges()
        self.order = self._order()
        self.feeds: list[list[int]] = [[] for _ in range(problem.size)]
        for action in self.order:
            for need in self.needs[action]:
                self.feeds[need].append(action)
        per_stage = len(problem.kinds) * problem.num_microbatches
        self.own = [
            [
                stage * per_stage + i
                for stage, home in enumerate(problem.stage_to_rank)
                if home == rank
                for i in range(per_stage)
            ]
            for rank in range(problem.num_ranks)
        ]

    def _edges(self) -> list[tuple[int, ...]]:
        """Waits, and those that the memory limit makes."""
        problem = self.problem
        needs, last = list(problem.waits), len(problem.kinds) - 1
        if problem.capacity is None:
            return needs
        for stage, weight in enumerate(problem.weights):
            room = problem.num_microbatches
            if weight:
                room = problem.capacity // weight
            for microbatch in range(room, problem.num_microbatches):
                forward = problem.action(stage, 0, microbatch)
                freed = problem.action(stage, last, microbatch - room)
                needs[forward] = (*needs[forward], freed)
        return needs

    def _order(self) -> list[int]:
        """A topological order."""
        missing = [len(needs) for needs in self.needs]
        feeds: list[list[int]] = [[] for _ in self.needs]
        for action, needs in enumerate(self.needs):
            for need in needs:
                feeds[need].append(action)
        order = [action for action, count in enumerate(missing) if not count]
        for action in order:
            for after in feeds[action]:
                missing[after] -= 1
                if not missing[after]:
                    order.append(after)
        return order

    @cached_property
    def _plain(self) -> Bound:
        """The same graph with nothing but paths."""
        return Bound(self.problem, sharpen=False) if self.sharpen else self

    # ---- heads and tails -------------------------------------------------------------

    def lag(self, need: int, action: int) -> int:
        problem = self.problem
        return problem.lag[action] if problem.message_from[action] == need else 0

    def heads(self, source: int | None = None) -> list[int]:
        """The earliest start of every action, from the step's start; or from the start
        of ``source``, and -1 for what does not come after it."""
        duration = self.duration
        head = [_NEVER] * self.problem.size
        known = np.full(len(head), _NEVER)
        before = self._counts(self.order, self.needs) if self.sharpen else None
        for action in self.order:
            found = 0 if source is None or action == source else _NEVER
            for need in self.needs[action]:
                if head[need] >= 0:
                    found = max(
                        found, head[need] + duration[need] + self.lag(need, action)
                    )
            if before is not None and found >= 0:
                if self._many:
                    done = self._after_many(before[action], action, known, False)
                else:
                    done = self._after_all(before[action], action, head, False)
                found = max(found, done)
            head[action] = known[action] = found
        return head

    def tails(self, rank: int | None = None) -> list[int]:
        """The least time from the end of every action to the step's end; or to the end
        of the rank's last action, and -1 for what has none of the rank's after it."""
        problem, duration = self.problem, self.duration
        tail = [_NEVER] * problem.size
        known = np.full(len(tail), _NEVER)
        backwards = self.order[::-1]
        after = self._counts(backwards, self.feeds) if self.sharpen else None
        for action in backwards:
            found = 0 if rank is None or problem.rank_of[action] == rank else _NEVER
            for follower in self.feeds[action]:
                if tail[follower] >= 0:
                    through = tail[follower] + duration[follower]
                    found = max(found, through + self.lag(action, follower))
            if after is not None and found >= 0:
                if self._many:
                    done = self._after_many(after[action], action, known, True)
                else:
                    done = self._after_all(after[action], action, tail, True)
                found = max(found, done)
            tail[action] = known[action] = found
        return tail

    def _counts(self, order: list[int], needs: list) -> Prefixes:
        """Per action and token, how many of the token's microbatches (the first ones;
        the last ones where ``order`` runs backwards) must come before it."""
        m, tokens = self.problem.num_microbatches, self.problem.num_tokens
        forwards = order is self.order
        found: Prefixes = [[] for _ in order]
        for action in order:
            row = [0] * tokens
            for need in needs[action]:
                row = list(map(max, row, found[need]))
                token, number = divmod(need, m)
                row[token] = max(row[token], number + 1 if forwards else m - number)
            found[action] = row
        return found

    def _after_all(
        self, counts: list[int], action: int, known: list[int], backwards: bool
    ) -> int:
        """One machine: when everything that must be done on the same rank first can be
        done, given heads (or, backwards, tails)."""
        m = self.problem.num_microbatches
        jobs = []
        for token in self._tokens[self.problem.rank_of[action]]:
            first, count = token * m, counts[token]
            begin = first + m - count if backwards else first
            for job in range(begin, begin + count):
                if known[job] >= 0:
                    jobs.append((known[job], self.duration[job]))
        jobs.sort()
        clock = 0
        for ready, work in jobs:
            clock = max(clock, ready) + work
        return clock

    def _after_many(
        self, counts: list[int], action: int, known: Ints, backwards: bool
    ) -> int:
        """``_after_all`` for many jobs: the latest of what begins with some job and
        goes on with all that are not ready before it."""
        m, work = self.problem.num_microbatches, self._work_of
        ready, lasts = [], []
        for token in self._tokens[self.problem.rank_of[action]]:
            first, count = token * m, counts[token]
            begin = first + m - count if backwards else first
            ready.append(known[begin : begin + count])
            lasts.append(work[begin : begin + count])
        since, duration = np.concatenate(ready), np.concatenate(lasts)
        if since.min(initial=0) < 0:
            duration, since = duration[since >= 0], since[since >= 0]
        if not len(since):
            return 0
        order = since.argsort(kind="stable")
        left = duration[order][::-1].cumsum()[::-1]
        return int((since[order] + left).max())

    @cached_property
    def _many(self) -> bool:
        """Whether ranks have so many jobs that arrays are faster than lists."""
        return len(self.order) > 100 * len(self.own)

    @cached_property
    def _work_of(self) -> Ints:
        return np.array(self.duration, np.int64)

    @cached_property
    def _tokens(self) -> list[list[int]]:
        """Per rank, the tokens of its stages."""
        per_stage = len(self.problem.kinds)
        return [
            [
                token
                for stage, home in enumerate(self.problem.stage_to_rank)
                if home == rank
                for token in range(stage * per_stage, (stage + 1) * per_stage)
            ]
            for rank in range(self.problem.num_ranks)
        ]

    # ---- bounds ----------------------------------------------------------------------

    def makespan(self) -> int:
        """No order has a smaller makespan."""
        heads, tails = self.heads(), self.tails()
        duration = self.duration
        best = max(h + d + t for h, d, t in zip(heads, duration, tails, strict=True))
        for rank, own in enumerate(self.own):
            if own:
                best = max(best, self._one_machine(own, heads, tails))
                start = min(heads[a] for a in own)
                gaps = self._gaps(rank) if self.sharpen else 0
                best = max(best, start + self._work(own) + gaps)
        return best

    def span(self) -> int:
        """No order has a smaller span, however late a rank begins."""
        best = 0
        for rank, own in enumerate(self.own):
            if own and not self.sharpen:
                best = max(best, self._work(own))
            elif own:
                heads, tails = self.heads(own[0]), self.tails(rank)
                best = max(best, self._one_machine(own, heads, tails))
                best = max(best, self._work(own) + self._gaps(rank))
        return best

    def _work(self, own: list[int]) -> int:
        return sum(self.problem.duration[a] for a in own)

    def _one_machine(self, own: list[int], heads: list[int], tails: list[int]) -> int:
        """Jackson's preemptive order: always the ready action with the longest tail."""
        jobs = sorted((heads[a], self.duration[a], tails[a]) for a in own)
        ready: list[tuple[int, int]] = []
        clock = best = at = 0
        while at < len(jobs) or ready:
            if not ready:
                clock = max(clock, jobs[at][0])
            while at < len(jobs) and jobs[at][0] <= clock:
                heapq.heappush(ready, (-jobs[at][2], jobs[at][1]))
                at += 1
            tail, left = heapq.heappop(ready)
            run = left if at == len(jobs) else min(left, jobs[at][0] - clock)
            clock += run
            if run < left:
                heapq.heappush(ready, (tail, left - run))
            else:
                best = max(best, clock - tail)
        return best

    def _gaps(self, rank: int) -> int:
        """Idle time that the rank cannot avoid before its first backward and after its
        last forward."""
        problem = self.problem
        if problem.by_microbatch:
            return 0
        m, last = problem.num_microbatches, len(problem.kinds) - 1
        stages = [s for s, home in enumerate(problem.stage_to_rank) if home == rank]
        low, high = stages[0], stages[-1]
        forward = {s: self._first(s, 0) for s in stages}
        backward = {
            s: sum(self._first(s, kind) for kind in range(1, last + 1)) for s in stages
        }
        wait = self._plain.heads(problem.action(low, 0, 0))[problem.action(high, 1, 0)]
        warmup = max(0, wait - self._most(forward, 0))
        since = problem.action(high, 0, m - 1)
        until = self._plain.heads(since)[problem.action(low, last, m - 1)]
        until += self._first(low, last) - forward[high]
        # The last microbatch itself is held on every stage of the rank by then.
        others = self._most(backward, 1)
        cooldown = max(0, until - others - sum(backward.values()))
        total = m * sum(problem.weights[s] for s in stages)
        full = problem.capacity is not None and total > problem.capacity
        # Only then must a backward come before the last forward.
        return warmup + cooldown if full else max(warmup, cooldown)

    def _first(self, stage: int, kind: int) -> int:
        """What a kind takes, without its gradient's reduction."""
        plain = self.problem.plain_ticks
        return plain[self.problem.action(stage, kind, 0)]

    def _most(self, work: dict[int, int], held: int) -> int:
        """The most work on what a rank can hold at once, besides ``held`` microbatches
        on each of its stages: a knapsack filled with fractions, rounded up."""
        problem = self.problem
        left = problem.num_microbatches - held
        if problem.capacity is None:
            return left * sum(work.values())
        room = problem.capacity - held * sum(problem.weights[s] for s in work)
        best = 0
        # Weightless stages first: they are done for nothing.
        for stage in sorted(
            work, key=lambda s: work[s] / (problem.weights[s] or 1e-9), reverse=True
        ):
            weight = problem.weights[stage]
            if left * weight > room:
                return best - (-room * work[stage] // weight)
            best += left * work[stage]
            room -= left * weight
        return best
