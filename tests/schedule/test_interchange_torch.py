"""What is exported is loaded and run by torch.distributed.pipelining itself, on CPU
with gloo: the losses of training are those of plain PyTorch on whole batches."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from workbench.schedule import SCHEDULES, Schedule, programs_from_csv, programs_to_csv

pytest.importorskip("torch", reason="the compare extra is not installed")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "peers"))
from torch_runs import TorchRun, run

pytestmark = pytest.mark.torch

FOREIGN = {"dualpipe", "chimera", "bitpipe", "seq_1f1b", "1f1b_recompute", "single"}
NATIVE = sorted(SCHEDULES.keys() - FOREIGN)
#: At four ranks, one of each placement: a row, a loop, a V, and a wave.
FOUR = ("1f1b", "interleaved_1f1b", "zb_v", "dualpipe_v", "hanayo")


@pytest.mark.parametrize(("p", "m", "names"), [(2, 4, NATIVE), (4, 8, FOUR)])
def test_pytorch_trains_alike_on_every_schedule(
    tmp_path: Path, p: int, m: int, names: list[str]
) -> None:
    runs = []
    for name in names:
        schedule = Schedule.make(name, num_ranks=p, num_microbatches=m)
        runs.append(TorchRun(name, schedule, plain=True, steps=3))
        shards = {"communications": True, "unsharded_stages": 2}
        runs.append(TorchRun(f"{name}, communications", schedule, steps=3, **shards))
    ranks = run(runs, tmp_path)
    for one in runs:
        plain = ranks[0][one.name.split(",")[0]]["plain"]
        last = one.schedule.stage_to_rank[-1]
        losses = ranks[last][one.name]["losses"]
        assert len(losses) == 3
        assert losses == pytest.approx(plain, abs=1e-5), one.name
    assert len({round(loss, 4) for loss in plain}) == 3


@pytest.mark.parametrize("name", NATIVE)
def test_what_pytorch_lowers_itself_is_read_and_written_back(
    name: str, tmp_path: Path
) -> None:
    """PyTorch's own passes on our compute-only CSV give a file that passes here."""
    torch_schedules = pytest.importorskip(
        "torch.distributed.pipelining.schedules",
        reason="the compare extra is not installed",
    )
    schedule = Schedule.make(name, num_ranks=2, num_microbatches=4)
    path = tmp_path / "lowered.csv"

    class Stand(torch_schedules._PipelineScheduleRuntime):
        """The loader without stages to run."""

        def __init__(self) -> None:
            self.pp_group_size, self._num_stages = 2, schedule.num_stages
            self._n_microbatches, self._stages = 4, []
            self._defer_pp_recv, self.pipeline_order = False, {}

    stand = Stand()
    (tmp_path / "compute.csv").write_text(schedule.to_csv())
    stand._load_csv(str(tmp_path / "compute.csv"))
    stand._dump_csv(str(path))
    text = path.read_text()
    assert Schedule.from_csv(path, name=name) == schedule
    assert programs_to_csv(programs_from_csv(path)).split() == text.split()
