"""How long a search may go on: until a time, or for a number of trials.

A trial is one order built or evaluated. Counting them makes a search repeatable;
watching the clock makes it end in time.
"""

from __future__ import annotations

import time

#: Seconds that a search may take whatever it was given: small cases get the whole
#: catalogue and the sharp bound.
_FIRST = 0.5


class Budget:
    """``more()`` before every trial; ``done`` in [0, 1] says how much is used."""

    def __init__(self, seconds: float, iterations: int | None = None) -> None:
        self.seconds, self.iterations = seconds, iterations
        self.begun = time.monotonic()
        self.trials = 0
        self._done = 0.0

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.begun

    @property
    def done(self) -> float:
        return min(1.0, self._done)

    def more(self) -> bool:
        """Counts a trial; False when the budget is used up."""
        if self.iterations is not None:
            self._done = (self.trials + 1) / max(1, self.iterations)
            if self.trials >= self.iterations:
                return False
        else:
            # A trial takes microseconds at the least: the clock is no burden.
            self._done = self.elapsed / self.seconds if self.seconds > 0 else 1.0
            if self._done >= 1:
                return False
        self.trials += 1
        return True

    def allows(self, seconds: float, fraction: float) -> bool:
        """Whether work of about so many seconds ends within a fraction of the budget,
        or its first second. A count of trials, or no time at all, asks for everything
        whatever it takes."""
        if self.iterations is not None or not self.seconds:
            return True
        return self.elapsed + seconds <= max(_FIRST, fraction * self.seconds)

    @property
    def left(self) -> float:
        """Seconds; infinity where trials are counted."""
        if self.iterations is not None:
            return float("inf")
        return self.seconds - self.elapsed

    def share(self, fraction: float) -> Budget:
        """A budget of a part of what is left, to be returned with ``give_back``."""
        if self.iterations is not None:
            left = max(0, self.iterations - self.trials)
            return Budget(0.0, int(left * fraction))
        return Budget(max(0.0, self.seconds - self.elapsed) * fraction)

    def give_back(self, part: Budget) -> None:
        """Takes account of the trials of a part."""
        self.trials += part.trials
        if self.iterations is not None:
            self._done = self.trials / max(1, self.iterations)
        else:
            self._done = self.elapsed / self.seconds if self.seconds > 0 else 1.0
