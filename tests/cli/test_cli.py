"""The command line: a whole run, and mistakes told without a traceback."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import workbench as wb
from workbench.cli import main

TINY = ["run", "--model", "byte-gpt-tiny", "--stages", "2", "--microbatches", "4"]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog\n" * 400)
    return path


def test_run_trains_and_leaves_its_folder(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    arguments = [*TINY, "--text", str(text), "--steps", "30", "--folder", str(folder)]
    assert main([*arguments, "--sample", "20", "--prompt", "the "]) == 0
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "job.toml",
        "losses.csv",
        "summary.json",
        "timeline.html",
        "events.npy",
        "trace.json",
        "weights.safetensors",
    }
    told = capsys.readouterr().out
    assert "bubble_fraction" in told
    assert "Sample after 'the '" in told
    summary = json.loads((folder / "summary.json").read_text())
    before, after = summary["held_out_loss"]["0"], summary["held_out_loss"]["30"]
    assert after < before
    assert summary["weights_sha256"] in told
    rows = (folder / "losses.csv").read_text().splitlines()
    assert len(rows) == 31
    trace = json.loads((folder / "trace.json").read_text())
    assert trace["otherData"]["source"] in ("measured", "assembled")


@pytest.mark.parametrize("options", [[], ["--replicas", "2", "--zero", "1"]])
def test_a_job_file_repeats_the_run_bit_for_bit(
    options: list[str], tmp_path: Path, text: Path
) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    arguments = [*TINY, *options, "--text", str(text), "--steps", "5", "--sample", "0"]
    assert main([*arguments, "--folder", str(first)]) == 0
    again = ["run", str(first / "job.toml"), "--folder", str(second), "--sample", "0"]
    assert main(again) == 0
    told = [json.loads((f / "summary.json").read_text()) for f in (first, second)]
    assert told[0]["weights_sha256"] == told[1]["weights_sha256"]
    assert told[0]["held_out_loss"] == told[1]["held_out_loss"]


def test_saved_weights_can_be_trained_on(tmp_path: Path, text: Path) -> None:
    folder = tmp_path / "a"
    arguments = [*TINY, "--text", str(text), "--steps", "5", "--sample", "0"]
    assert main([*arguments, "--folder", str(folder)]) == 0
    model = wb.Model.from_safetensors(folder)
    job = wb.Job(
        model=model,
        partition=wb.Partition.balanced(model, num_stages=1, by="layers"),
        schedule=wb.Schedule.make("single", num_ranks=1, num_microbatches=4),
        data=wb.Data.text(text),
        steps=1,
        evaluate=0,
    )
    run = wb.launch(job, folder=tmp_path / "b", start=False)
    saved = json.loads((folder / "summary.json").read_text())["weights_sha256"]
    assert run.weights_hash() == saved


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "--schedule", "1f1"], "did you mean '1f1b'"),
        (["run", "--stages", "11"], "11"),
        (["run", "--model", "gtp"], "no preset"),
        (["run", "--text", "no-such-file.txt"], "no-such-file.txt"),
        (["run", "no-such-job.toml"], "no job file"),
        (["run", "--lr", "-1"], "lr must be"),
        (["schedule", "gpip"], "did you mean 'gpipe'"),
    ],
)
def test_mistakes_are_told_in_a_line(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert says in told
    assert "Traceback" not in told


def test_schedule_draws_and_writes_csv(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s.csv"
    assert main(["schedule", "1f1b", "--ranks", "2", "--csv", str(path)]) == 0
    assert "0F0" in capsys.readouterr().out
    made = wb.Schedule.make("1f1b", num_ranks=2, num_microbatches=8)
    assert wb.Schedule.from_csv(path).ranks == made.ranks


def test_schedules_are_drawn_one_below_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["schedule", "1f1b", "zb_v", "--ranks", "2"]) == 0
    told = capsys.readouterr().out
    made = [
        wb.Schedule.make(name, num_ranks=2, num_microbatches=8)
        for name in ("1f1b", "zb_v")
    ]
    assert str(wb.side_by_side(*made)) in told
    # A rank's share costs the same in both: 8 (1 + 2), and what is idle.
    assert "makespan 27 unit" in told
    assert "makespan 24.5 unit" in told
    path = tmp_path / "s.csv"
    assert main(["schedule", "1f1b", "zb_v", "--csv", str(path)]) == 2
    assert "--csv writes one schedule" in capsys.readouterr().err


def test_all_schedules_are_told_in_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    limits = ["--memory-limit", "3", "--hop", "0.5", "--sort", "peak_memory"]
    assert main(["schedules", "--ranks", "3", "--microbatches", "6", *limits]) == 0
    costs = wb.CostModel.uniform(hop=0.5)
    table = wb.compare_schedules(3, 6, costs, memory_limit=3)
    assert capsys.readouterr().out == f"{table.sorted('peak_memory')}\n"
    assert main(["schedules", "--sort", "speed"]) == 2
    assert "no column 'speed'" in capsys.readouterr().err


def test_doctor_names_the_kernels(capsys: pytest.CaptureFixture[str]) -> None:
    from cython_kernels import _kernels

    assert main(["doctor"]) == 0
    assert _kernels.isa() in capsys.readouterr().out


def test_losses_in_the_file_are_exact(tmp_path: Path, text: Path) -> None:
    folder = tmp_path / "a"
    job_arguments = [*TINY, "--text", str(text), "--steps", "3", "--sample", "0"]
    assert main([*job_arguments, "--folder", str(folder)]) == 0
    job = wb.Job.from_toml(folder / "job.toml")
    run = wb.launch(job, folder=tmp_path / "b").wait(60)
    rows = (folder / "losses.csv").read_text().splitlines()[1:]
    saved = np.array([float(row.split(",")[1]) for row in rows])
    assert saved.tobytes() == run.losses.tobytes()
