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
    duration, source, lag = problem.duration, problem.message_from, problem.lag
    before: dict[int, int] = {}
    for row in rows:
        before.update(zip(row[1:], row, strict=False))
    end, action = times.end, rows[rank][-1]
    blocks: Rows = [[action]]
    while True:
        start = end[action] - duration[action]
        prior, need = before.get(action, -1), source[action]
        on_row = prior >= 0 and end[prior] == start
        by_message = need >= 0 and end[need] + lag[action] == start
        if on_row and not (by_message and random.random() < 0.5):
            blocks[-1].append(prior)
            action = prior
        elif by_message:
            blocks.append([need])
            action = need
        else:
            break
    return [block[::-1] for block in blocks if len(block) > 1]


def _shift(
    problem: Problem, row: list[int], start: int, target: int
) -> list[int] | None:
    """The row with the action at ``start`` moved towards ``target``, as far as what it
    needs, or what needs it, lets it; None where it cannot move or memory runs out."""
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
    held = problem.holds[action]
    risky = held > 0 if at < start else held < 0
    return None if risky and not problem.fits(moved) else moved


class Annealer:
    """Rows that get better. ``best`` and ``best_cost`` are the best so far."""

    def __init__(self, objective: Objective, random: Random) -> None:
        self.objective, self.problem = objective, objective.problem
        self.random = random
        self.best: Rows = []
        self.best_cost = -1
        plain = [d for d in self.problem.duration if d]
        self.unit = sum(plain) / len(plain) if plain else 1.0

    def run(self, rows: Rows, budget: Budget, target: int, heat: float) -> Rows:
        """Anneals from ``rows`` (which must be feasible) until the budget or the target
        is reached; returns the best rows of this run. ``heat``: the temperature at
        first, in mean durations."""
        objective, random = self.objective, self.random
        times = objective.times(rows)
        assert times is not None
        cost = objective.of(times)
        best, best_cost = rows, cost
        blocks: Rows = []
        fresh = False
        while best_cost > target and budget.more():
            if not fresh or random.random() < 0.05:
                blocks = path(self.problem, rows, times, self._worst(times), random)
                fresh = True
            move = self._move(rows, blocks)
            if move is None:
                continue
            rank, row = move
            changed = [*rows]
            changed[rank] = row
            after = objective.times(changed)
            if after is None:
                continue
            price = objective.of(after)
            warmth = heat * self.unit * (1 - budget.done) ** 2
            if price <= cost - warmth * log(1 - random.random() * (1 - 1e-12)):
                rows, times, cost, fresh = changed, after, price, False
                if cost < best_cost:
                    best, best_cost = rows, cost
        if self.best_cost < 0 or best_cost < self.best_cost:
            self.best, self.best_cost = best, best_cost
        return best

    def _worst(self, times: Times) -> int:
        """A rank that ends last (for the span: that takes longest)."""
        if self.objective.name == "makespan":
            reach = times.last
        else:
            reach = [e - s for s, e in zip(times.first, times.last, strict=True)]
        most = max(reach)
        return self.random.choice([r for r, t in enumerate(reach) if t == most])

    def _move(self, rows: Rows, blocks: Rows) -> tuple[int, list[int]] | None:
        """(rank, its row after a random move), or None where the move drawn is none."""
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
            return None if moved is None else (rank, moved)
        block = random.choice(blocks)
        rank = problem.rank_of[block[0]]
        row = rows[rank]
        low = row.index(block[0])
        high = low + len(block) - 1
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
        return None if moved is None else (rank, moved)
