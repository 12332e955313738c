"""Slurm: the words of srun and sbatch for a job, and what they say when it ends badly."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_WORD = re.compile(r"[\w.,:@%+/=-]+")
_TIME = re.compile(r"\d+(-\d{1,2}(:\d{1,2}){0,2}|(:\d{1,2}){0,2})")


@dataclass(frozen=True)
class Layout:
    """How ranks are spread over nodes, and what Slurm is asked for.

    time: minutes, or Slurm's text such as "1-12:00:00". threads: cores per rank.
    Raises ValueError for what cannot hold the ranks or what Slurm would misread.
    """

    ranks: int
    nodes: int | None = None
    ranks_per_node: int | None = None
    time: str | int | None = None
    partition: str | None = None
    account: str | None = None
    threads: int = 1
    mpi: str = "pmi2"
    extra: Sequence[str] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        for name in ("nodes", "ranks_per_node"):
            value = getattr(self, name)
            is_count = isinstance(value, int) and not isinstance(value, bool)
            if value is not None and not (is_count and value >= 1):
                raise ValueError(f"{name}={value!r}: a number of at least 1 is wanted")
        for name in ("partition", "account", "mpi"):
            value = getattr(self, name)
            if value is not None and not _WORD.fullmatch(str(value)):
                raise ValueError(f"{name}={value!r} is no name that Slurm could know")
        if self.time is not None and not _TIME.fullmatch(str(self.time)):
            raise ValueError(
                f'time={self.time!r}: minutes, "hours:minutes:seconds" or '
                '"days-hours" are wanted'
            )
        if self.nodes is not None and self.nodes > self.ranks:
            raise ValueError(
                f"nodes={self.nodes} are more than the layout's {self.ranks} ranks: ask "
                f"for {self.ranks} at most"
            )
        if self.nodes is not None and self.ranks_per_node is not None:
            room = self.nodes * self.ranks_per_node
            if room < self.ranks:
                raise ValueError(
                    f"{self.nodes} nodes of {self.ranks_per_node} ranks have room for "
                    f"{room}, but the layout has {self.ranks} ranks"
                )

    def options(self) -> list[str]:
        """What sbatch and srun both take."""
        nodes, per_node = self.nodes, self.ranks_per_node
        if nodes is None and per_node is not None:
            nodes = -(-self.ranks // per_node)
        if per_node is None and nodes is not None:
            per_node = -(-self.ranks // nodes)
        told = {
            "ntasks": self.ranks,
            "nodes": nodes,
            "ntasks-per-node": per_node,
            "cpus-per-task": self.threads,
            "time": self.time,
            "partition": self.partition,
            "account": self.account,
        }
        return [f"--{name}={v}" for name, v in told.items() if v is not None]

    def step(self) -> list[str]:
        """srun's words for the ranks themselves. Consecutive ranks share a node; one
        that dies ends them all, which srun does not do unasked."""
        return [
            "srun",
            "--kill-on-bad-exit=1",
            f"--mpi={self.mpi}",
            f"--ntasks={self.ranks}",
            f"--cpus-per-task={self.threads}",
            "--distribution=block",
        ]


def need(program: str) -> None:
    """Raises ValueError when this machine does not have one of Slurm's programs."""
    if shutil.which(program) is None:
        raise ValueError(
            f"there is no {program}: launch on a machine of the cluster that has "
            "Slurm's programs (a login node)"
        )


def check_fit(layout: Layout) -> None:
    """Asks Slurm whether it could ever start this, before anything waits in a queue.

    Raises ValueError with Slurm's words when it says no. That is so, too, for as long as
    nodes are drained, so whoever knows better can leave this out.
    """
    words = ["srun", "--test-only", *layout.options(), *layout.extra, "true"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    except subprocess.TimeoutExpired:
        raise ValueError(
            "Slurm does not answer within 30 s: is slurmctld up?"
        ) from None
    if done.returncode:
        said = " ".join((done.stdout + done.stderr).split())
        raise ValueError(
            f"Slurm would not start {layout.ranks} ranks as {' '.join(words[2:-1])}: "
            f"{said}. Ask for what sinfo shows; check=False submits it nevertheless"
        )


def direct(layout: Layout, name: str, rank: Iterable[str]) -> list[str]:
    """argv of an srun that asks for the nodes itself and waits for them."""
    words = [f"--job-name={name}", "--export=ALL", "--label"]
    asked = [w for w in layout.options() if w not in layout.step()]
    return [*layout.step(), *asked, *words, *layout.extra, *rank]


_FOLLOW = """\
#!/usr/bin/env bash
# Submits the job beside this file and stays until it has ended; ended itself, it ends
# the job. A job that is about to end by itself is left to do so.
set -uo pipefail
here={folder}
id=
finish() {{
  trap '' TERM INT
  if [[ -n $id ]]; then
    sleep 0.5
    scancel --state=PENDING "$id"
    scancel --state=RUNNING "$id"
  fi
  exit 143
}}
trap finish TERM INT
id=$(sbatch --parsable {options} "$here/batch.sh") || exit
id=${{id%%;*}}
printf '%s\\n' "$id" > "$here/slurm_job"
while state=$(squeue --noheader --jobs="$id" --format=%T 2>/dev/null) \\
  && [[ $state =~ ^(PENDING|RUNNING|CONFIGURING|SUSPENDED|RESIZING)$ ]]; do
  sleep {every} &
  wait $!
done
[[ -f $here/slurm.log ]] && cat "$here/slurm.log"
exit 0
"""


def batch(
    layout: Layout, name: str, rank: Iterable[str], folder: Path, every: float = 2.0
) -> list[str]:
    """argv of a script that submits a batch job and follows it: what sbatch --wait
    does, and the job ends with it. It asks Slurm every ``every`` seconds."""
    step = shlex.join([*layout.step(), "--label", *rank])
    (folder / "batch.sh").write_text(
        f"#!/usr/bin/env bash\nset -euo pipefail\nexec {step}\n", encoding="utf-8"
    )
    output = str(folder / "slurm.log").replace("%", "%%")
    options = [*layout.options(), f"--job-name={name}", "--export=ALL"]
    options += [f"--output={output}", "--open-mode=append", *layout.extra]
    follow = folder / "follow.sh"
    text = _FOLLOW.format(
        folder=shlex.quote(str(folder)), options=shlex.join(options), every=every
    )
    follow.write_text(text, encoding="utf-8")
    return ["bash", str(follow)]


_TASKS = re.compile(r"srun: error: (\S+): tasks? ([\d,-]+): ([^\n]+)")
_EXIT = re.compile(r"Exited with exit code (\d+)")


def _signals() -> Mapping[str, int]:
    return {text: s for s in signal.valid_signals() if (text := signal.strsignal(s))}


def _numbers(text: str) -> list[int]:
    """ "0,2-3" as [0, 2, 3]."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def deaths(text: str) -> list[tuple[int, str, int | None, int | None]]:
    """(rank, host, signal, exit status) of each task that srun says died, in its
    order."""
    known, found = _signals(), []
    for host, tasks, how in _TASKS.findall(text):
        exit_match = _EXIT.match(how)
        status = int(exit_match[1]) if exit_match else None
        number = known.get(how.removesuffix(" (core dumped)").strip())
        found += [(rank, host, number, status) for rank in _numbers(tasks)]
    return found
