"""A batch script for Slurm, to be read, changed and submitted by people."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from ..engine import Job
from .slurm import Layout

#: Before the time limit: for the step under way, the last checkpoint and the folder.
WARNING_SECONDS = 60

_SCRIPT = """\
#!/usr/bin/env bash
{directives}
# Submit with: sbatch {script}
# {summary}
set -euo pipefail
{setup}job={job}

# Slurm warns this shell {warning} s before the time limit, and scancel --batch
# --signal=TERM does so at any time: the ranks then end with the step under way and write
# the run's folder. (srun itself, told to end, would kill them.)
interrupted=
stop() {{
  interrupted=yes
  scancel --signal=TERM "$SLURM_JOB_ID"
}}
trap stop TERM

# One rank that dies ends them all: --kill-on-bad-exit, without which srun waits on.
{step} \
  workbench run "$job" &
ranks=$!
while
  interrupted=
  status=0
  wait "$ranks" || status=$?
  [[ -n $interrupted ]] # the signal has ended that wait, not the ranks
do :; done
exit "$status"
"""


def _one_line(name: str, text: str) -> str:
    """A value that cannot leave its line. Raises ValueError."""
    if not text or any(ord(c) < 32 for c in text):
        raise ValueError(f"{name}={text!r}: one line of text is wanted")
    return text


def _lines(setup: Sequence[str]) -> str:
    if isinstance(setup, str):
        raise ValueError(
            f"setup={setup!r}: a list of lines is wanted, such as "
            '["module load mpich", "source ~/venv/bin/activate"]'
        )
    kept = [_one_line("setup", line) for line in setup]
    return "\n".join(kept) + "\n" if kept else ""


def slurm_script(
    job: Job,
    *,
    nodes: int | None = None,
    ranks_per_node: int | None = None,
    time: str | int | None = None,
    partition: str | None = None,
    account: str | None = None,
    output: str | None = None,
    setup: Sequence[str] = (),
    mpi: str = "pmi2",
    path: str | Path | None = None,
) -> str:
    """A batch script that trains the job under Slurm, one task per rank.

    It holds no secret and needs nothing of this session. nodes, ranks_per_node: how the
    ranks are spread; consecutive ranks share a node. time: minutes, or Slurm's text,
    such as "1-12:00:00". output: where the job's output goes ("%j" is the job's number;
    default: Slurm's). setup: shell lines before the ranks are started, such as
    ``["source ~/venv/bin/activate"]``. mpi: srun's ``--mpi``: "pmi2" for MPICH, "pmix"
    for Open MPI.

    path: writes the script there and the job beside it, under the same name with
    ``.toml``. Without it the script reads ``job.toml`` (``job.to_toml("job.toml")``) of
    the folder that it is submitted from, or the file named after it:
    ``sbatch script.sh other.toml``.

    Raises ValueError when the nodes cannot hold the job's ranks, or a value is not one
    that Slurm could understand.
    """
    from ..engine.worker import for_processes

    job = for_processes(job)
    layout = Layout(
        ranks=job.executed.num_ranks,
        nodes=nodes,
        ranks_per_node=ranks_per_node,
        time=time,
        partition=partition,
        account=account,
        threads=job.chosen_threads,
        mpi=mpi,
    )
    name = re.sub(r"[^\w.-]+", "-", job.name or "workbench")
    options = [f"--job-name={name}", *layout.options()]
    if output is not None:
        if '"' in output or "\\" in output:
            raise ValueError(f"output={output!r}: Slurm takes no such file's name")
        options.append(f"--output={_one_line('output', output)}")
    options.append(f"--signal=B:TERM@{WARNING_SECONDS}")
    script = None if path is None else Path(path).resolve()
    if script is None:
        file = '"${1:-job.toml}"'
    else:
        file = shlex.quote(_one_line("path", str(script.with_suffix(".toml"))))
        if script.suffix == ".toml":
            raise ValueError(f"path={str(path)!r}: the script, not the job's file")
    text = _SCRIPT.format(
        directives="\n".join(f"#SBATCH {_directive(word)}" for word in options),
        script="this file" if script is None else shlex.quote(script.name),
        summary=_summary(job),
        setup=_lines(setup),
        job=file,
        warning=WARNING_SECONDS,
        step=" ".join(layout.step()),
    )
    if script is not None:
        job.to_toml(script.with_suffix(".toml"))
        script.write_text(text, encoding="utf-8")
        script.chmod(0o755)
    return text


def _directive(word: str) -> str:
    """An option as #SBATCH lines take it: quoted where it has spaces."""
    name, equals, value = word.partition("=")
    bare = re.fullmatch(r"[^\s\"'#\\]*", value)
    return word if bare else f'{name}{equals}"{value}"'


def _summary(job: Job) -> str:
    kind = str(job.model.config["kind"])
    return (
        f"{kind}, {job.model.params:,} parameters, schedule {job.executed.name}, "
        f"{job.executed.num_ranks} ranks, {job.steps} steps"
    )
