"""Local search on rows: simulated annealing whose moves aim at the critical path.

Only what lies on a longest path can shorten it: a run of actions that one rank does
without a pause is left earlier or later by moving an action out of it, which are the
moves of job-shop scheduling (Nowicki and Smutnicki 1996; Balas and Vazacopoulos 1998).
"""

from __future__ import annotations

from math import log
from random import Random

from .budget import Budget
from .evaluate import Objective, Times
from .problem import Problem, Rows


def path(problem: Problem, rows: Rows, times: Times, rank: int, random: Random) -> Rows:
    """A longest path to the rank's last action, as blocks: each a list of actions that
    one rank does without a pause."""
    source, lag, tick = problem.message_from, problem.lag, problem.tick
    start, end = times.start, times.end
    row, at = rows[rank], len(rows[rank]) - 1
    blocks: Rows = [[row[at]]]
    while True:
        action = row[at]
        need = source[action]
        on_row = at > 0 and end[row[at - 1]] >= start[action]
        arrival = end[need] + lag[action] * tick if need >= 0 else -1.0
        by_message = need >= 0 and arrival > start[action] - tick / 2
        if on_row and not (by_message and random.random() < 0.5):
            at -= 1
            blocks[-1].append(row[at])
        elif by_message:
            row = rows[problem.rank_of[need]]
            at = row.index(need)
            blocks.append([need])
        else:
            break
    return [block[::-1] for block in blocks if len(block) > 1]


def _shift(
    problem: Problem, row: list[int], start: int, target: int
) -> tuple[int, int, list[int]] | None:
    """(first and last position that change, the row) with the action at ``start`` moved
    towards ``target``, as far as what it needs, or what needs it, lets it; None where it
    cannot move."""
    action, waits = row[start], problem.waits
    at = start
    if target > start:
        while at < target and action not in waits[row[at + 1]]:
            at += 1
    else:
        needs = waits[action]
        while at > target and row[at - 1] not in needs:
            at -= 1
    if at == start:
        return None
    moved = row[:start] + row[start + 1 :]
    moved.insert(at, action)
    return min(start, at), max(start, at), moved


class Annealer:
    """Rows that get better."""

    def __init__(self, objective: Objective, random: Random) -> None:
        self.objective, self.problem = objective, objective.problem
        self.random = random
        plain = [d for d in self.problem.duration if d]
        self.unit = self.problem.tick * (sum(plain) / len(plain) if plain else 1.0)

    def run(self, rows: Rows, budget: Budget, target: float, heat: float) -> Rows:
        """Anneals from ``rows`` (which must be feasible) until the budget or the target
        is reached; returns the best rows of this run. ``heat``: the temperature at
        first, in mean durations."""
        objective, random = self.objective, self.random
        order = objective.order(rows)
        cost = objective.value(order)
        best, least = rows, cost
        blocks: Rows = []
        fresh = False
        while least > target and budget.more():
            if not blocks or (not fresh and random.random() < 0.3):
                times = objective.times(order)
                blocks = path(self.problem, rows, times, self._worst(times), random)
                fresh = True
            move = self._move(rows, blocks)
            if move is None:
                continue
            rank, low, high, row = move
            changed = objective.shifted(order, rank, low, row[low : high + 1])
            price = objective.value(changed)
            if price < 0:
                continue
            warmth = heat * self.unit * (1 - budget.done) ** 2
            if price <= cost - warmth * log(1 - random.random() * (1 - 1e-12)):
                rows = [*rows[:rank], row, *rows[rank + 1 :]]
                order, cost, fresh = changed, price, False
                if cost < least:
                    best, least, blocks = rows, cost, []
        return best

    def _worst(self, times: Times) -> int:
        """A rank that ends last (for the span: that takes longest)."""
        if self.objective.name == "makespan":
            reach = times.last
        else:
            reach = [e - s for s, e in zip(times.first, times.last, strict=True)]
        most = max(reach)
        return self.random.choice([r for r, t in enumerate(reach) if t == most])

    def _move(self, rows: Rows, blocks: Rows) -> tuple[int, int, int, list[int]] | None:
        """(rank, first and last position that change, its row after a random move), or
        None where the move drawn is none."""
        random, problem = self.random, self.problem
        if not blocks or random.random() < 0.15:
            rank = random.randrange(len(rows))
            row = rows[rank]
            if len(row) < 2:
                return None
            start = random.randrange(len(row))
            reach = 1 + int(random.random() ** 3 * len(row))
            target = start + (reach if random.random() < 0.5 else -reach)
            target = max(0, min(len(row) - 1, target))
            moved = _shift(problem, row, start, target)
            return None if moved is None else (rank, *moved)
        block = random.choice(blocks)
        rank = problem.rank_of[block[0]]
        row = rows[rank]
        low = row.index(block[0])
        # The block may be of rows some moves ago.
        high = min(len(row), low + len(block)) - 1
        start = random.randrange(low, high + 1)
        draw = random.random()
        if draw < 0.3:
            start, target = (
                (low, low + 1) if random.random() < 0.5 else (high, high - 1)
            )
        elif draw < 0.6:
            target = high
        elif draw < 0.85:
            target = low
        else:
            # A weight gradient has nothing waiting for it: out of the block with it.
            target = min(len(row) - 1, high + random.randrange(1, 4))
        moved = _shift(problem, row, start, target)
        return None if moved is None else (rank, *moved)
