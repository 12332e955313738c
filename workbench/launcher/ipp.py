"""The engines of an ipyparallel cluster as ranks: people have such clusters already,
started by MPI, Slurm, SSH, PBS, LSF or HTCondor.

An engine's number is not its rank in MPI, so each is asked for its rank. The run is
collected and watched over as any other; a failure of a run leaves the engines alive.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Mapping
from typing import Any

_DIED = re.compile(r"Engine (\d+) died")

#: Seconds for idle engines to say who they are.
_ANSWER_SECONDS = 60.0
_SETTLE_SECONDS = 4.0


def is_cluster(on: Any) -> bool:
    """An ipyparallel Cluster or Client? Told without importing the package."""
    return type(on).__module__.split(".")[0] == "ipyparallel"


def who() -> tuple[int, int, str, int]:
    """(rank, size, host, pid) of the engine that runs this."""
    import platform

    from mpi4py import MPI

    world = MPI.COMM_WORLD
    return world.Get_rank(), world.Get_size(), platform.node(), os.getpid()


def run_engine(address: str, keys: str) -> str:
    """An engine's rank of a run: trains, tells, and returns the run's state."""
    from workbench.launcher.rank import serve_engine

    return serve_engine(address, keys)


class Engines:
    """The engines of a client, by their ranks in MPI."""

    def __init__(self, on: Any, size: int) -> None:
        """Raises ValueError when the engines are busy, fewer or more than ``size``,
        were not started by MPI, or cannot say who they are."""
        self.client = on.connect_client_sync() if hasattr(on, "start_cluster") else on
        limit = time.monotonic() + _SETTLE_SECONDS
        while len(self.client.ids) < size and time.monotonic() < limit:
            time.sleep(0.05)  # a new client hears of its engines one by one
        engines = list(self.client.ids)
        if not engines:
            raise ValueError(
                "this ipyparallel cluster has no engines: Cluster(n=..., "
                'engines="mpi").start_cluster_sync(), then wait for them'
            )
        self._check_idle()
        self.by_rank = self._ranks(engines)
        if len(self.by_rank) != size:
            raise ValueError(
                f"the job's layout has {size} ranks but the cluster has "
                f"{len(self.by_rank)} engines: start it with n={size}, or change the "
                "layout"
            )

    def _check_idle(self) -> None:
        limit = time.monotonic() + _SETTLE_SECONDS
        while (busy := self._busy()) and time.monotonic() < limit:
            time.sleep(0.05)  # a run that has just ended still says goodbye
        if busy:
            raise ValueError(
                f"engines {', '.join(busy)} are busy; wait for what they do, or stop "
                "that run, before another is launched on them"
            )

    def _busy(self) -> list[str]:
        status: Mapping[Any, Any] = self.client.queue_status()
        return [
            str(engine)
            for engine, counts in status.items()
            if isinstance(counts, Mapping)
            and (counts.get("queue", 0) or counts.get("tasks", 0))
        ]

    def _ranks(self, engines: list[int]) -> dict[int, int]:
        """MPI rank -> engine."""
        asked = self.client[engines].apply_async(who)
        try:
            told = asked.get(timeout=_ANSWER_SECONDS)
        except Exception as error:  # ipyparallel wraps whatever happened there
            raise ValueError(
                f"the engines cannot say which ranks of MPI they are: {error}. They "
                'need mpi4py and this package, pip install "pipeline-workbench[mpi]", '
                "in the environment that they run in"
            ) from None
        sizes = {size for _, size, _, _ in told}
        if sizes != {len(engines)}:
            raise ValueError(
                f"these {len(engines)} engines are no one MPI world (each sees "
                f"{', '.join(map(str, sorted(sizes)))} ranks): start them by MPI, as "
                'Cluster(n=..., engines="mpi") does'
            )
        ranks = {rank: engine for (rank, *_), engine in zip(told, engines, strict=True)}
        return dict(sorted(ranks.items()))

    def start(self, address: str, keys: str) -> Any:
        """Has every engine run its rank; ipyparallel's handle of that."""
        view = self.client[list(self.by_rank.values())]
        return view.apply_async(run_engine, address, keys)

    def explain(self, asked: Any) -> str | None:
        """What went wrong on the engines, if anything did; waits for them."""
        rank_of = {engine: rank for rank, engine in self.by_rank.items()}
        try:
            asked.get()
        except Exception as error:
            told = [f"{name}: {value}" for name, value, *_ in _parts(error)]
            dead = [int(n) for text in told for n in _DIED.findall(text)]
            if dead:
                ranks = ", ".join(str(rank_of.get(n, "?")) for n in sorted(dead))
                return (
                    f"the engines of ranks {ranks} died (MPI ends all when one does; the "
                    "cluster's own output says which was the first)"
                )
            return "\n".join(dict.fromkeys(told)) or f"{type(error).__name__}: {error}"
        return None


def _parts(error: Exception) -> list[Any]:
    """What ipyparallel's error is made of: (name, value, ...) of each engine's."""
    return list(getattr(error, "elist", None) or [(type(error).__name__, str(error))])


def follow(engines: Engines, asked: Any, run: Any) -> None:
    """Tells the run, from a thread, what ipyparallel says of its engines: one that died,
    or could not even begin."""

    def wait() -> None:
        problem = engines.explain(asked)
        if problem is not None:
            run.blame(problem)

    threading.Thread(target=wait, name=f"engines-{run.id}", daemon=True).start()
