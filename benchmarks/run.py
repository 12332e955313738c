"""What ``make bench`` runs: every comparison, as one table on the standard output.

    python benchmarks/run.py [--quick] [--only step,overhead,simulate] [--output FILE]

Writes nothing unless it is told a file. A peer that is not installed is told as
"not run".
"""

from __future__ import annotations

import sys

import jobs
import measure
import overhead
import predicted
import processes
import simulate
import step
import watching

PARTS = {
    "overhead": overhead,
    "predicted": predicted,
    "processes": processes,
    "simulate": simulate,
    "step": step,
    "watching": watching,
}


def sizes() -> str:
    job = jobs.main_job()
    config = job.model.config
    return (
        f"model      {config['num_layers']} blocks, width {config['width']}, "
        f"{config['num_heads']} heads, context {config['context']}, "
        f"{job.model.params:,} parameters; {job.num_microbatches} microbatches of "
        f"{job.microbatch_size}: {job.tokens_per_step:,} tokens a step"
    )


def main() -> int:
    parser = measure.arguments(__doc__)
    parser.add_argument("--only", default=",".join(PARTS), help="which, with commas")
    options = parser.parse_args()
    chosen = options.only.split(",")
    unknown = [name for name in chosen if name not in PARTS]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}; there are {', '.join(PARTS)}")
    rows: list[measure.Row] = []
    for name in chosen:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        rows += PARTS[name].rows(options.quick)
    text = "\n".join([*measure.machine(), sizes(), "", measure.table(rows)])
    return measure.tell(text, options.output)


if __name__ == "__main__":
    sys.exit(main())
