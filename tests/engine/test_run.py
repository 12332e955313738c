"""A run under control: watched, paused, stopped, interrupted, failing."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import workbench as wb
from workbench.schedule import Kind

MakeJob = Callable[..., wb.Job]


@pytest.mark.parametrize("clock", ["wall", "virtual"])
def test_measured_order_is_the_program_s_order(
    make_job: MakeJob, tmp_path: Path, clock: str
) -> None:
    job = make_job([0, 2, 4, 6], "1f1b", 4, clock=clock)
    run = wb.launch(job, folder=tmp_path / "r").wait(60)
    assert run.trace.source == {"wall": "measured", "virtual": "assembled"}[clock]
    for program in job.schedule.programs():
        for step in range(job.steps):
            trace = run.trace
            here = (trace.rank == program.rank) & (trace.step == step)
            waits = trace.of_kind(Kind.OPT_STEP) & (trace.lane == 1)
            found = list(trace.select(here & ~waits).actions())
            assert found == list(program.steps)


@pytest.mark.parametrize("clock", ["wall", "virtual"])
def test_no_action_starts_before_what_it_needs_has_ended(
    make_job: MakeJob, tmp_path: Path, clock: str
) -> None:
    job = make_job([0, 1, 3, 6], "1f1b", 4, clock=clock)
    trace = wb.launch(job, folder=tmp_path / "r").wait(60).trace
    for step in range(job.steps):
        events = trace.select((trace.step == step) & (trace.lane == 0))
        times = dict(
            zip(
                events.actions(),
                zip(events.start.tolist(), events.end.tolist(), strict=True),
                strict=True,
            )
        )
        for action, (start, _) in times.items():
            for need in job.schedule.dependencies(action):
                assert times[need][1] <= start, (action, need)


def test_events_of_a_rank_do_not_overlap_and_parts_add_up(
    make_job: MakeJob, tmp_path: Path
) -> None:
    run = wb.launch(make_job(steps=10), folder=tmp_path / "r").wait(60)
    report = run.trace.bubbles()
    total = sum(sum(row.values()) for row in report.ranks)
    makespan = int(run.trace.end.max() - run.trace.start.min())
    assert total == makespan * run.num_ranks
    for rank in range(run.num_ranks):
        mine = run.trace.select(run.trace.rank == rank)
        order = np.argsort(mine.start, kind="stable")
        assert (mine.start[order][1:] >= mine.end[order][:-1]).all()


def test_launch_returns_before_the_run_is_over(
    make_job: MakeJob, tmp_path: Path
) -> None:
    run = wb.launch(make_job(steps=3000), folder=tmp_path / "r")
    assert run.state in ("starting", "running")
    run.stop()
    assert run.state == "stopped"
    assert 0 <= run.steps_done < 3000
    assert len(run.losses) == run.steps_done
    assert np.isfinite(run.losses).all()
    assert (tmp_path / "r" / "weights.safetensors").is_file()


def test_stopped_run_goes_on_and_ends_like_an_unstopped_one(
    make_job: MakeJob, tmp_path: Path
) -> None:
    straight = wb.launch(make_job(steps=40), folder=tmp_path / "a").wait(60)
    run = wb.launch(make_job(steps=40), folder=tmp_path / "b")
    time.sleep(0.05)
    run.stop()
    if run.state == "stopped":
        run.resume()
    run.wait(60)
    assert run.state == "finished"
    assert run.weights_hash() == straight.weights_hash()
    assert run.losses.tobytes() == straight.losses.tobytes()


def test_interrupt_in_wait_gives_the_prompt_back_and_stops_cleanly(
    make_job: MakeJob, tmp_path: Path, interrupts: None
) -> None:
    run = wb.launch(make_job(steps=100_000), folder=tmp_path / "r")
    timer = threading.Timer(0.3, signal.raise_signal, [signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        run.wait(30)
    limit = time.monotonic() + 20
    while run.state != "stopped" and time.monotonic() < limit:
        time.sleep(0.01)
    assert run.state == "stopped"
    done = run.steps_done
    assert 0 < done < 100_000
    assert np.isfinite(run.losses).all()
    run.resume()
    time.sleep(0.1)
    run.stop()
    assert run.steps_done > done


def test_loss_that_is_not_finite_stops_the_run_before_the_update(
    make_job: MakeJob, tmp_path: Path
) -> None:
    job = make_job(steps=200, optimizer=wb.SGD(lr=1e30), clip=None)
    run = wb.launch(job, folder=tmp_path / "r")
    with pytest.raises(wb.RunError, match="not finite") as caught:
        run.wait(60)
    assert run.state == "failed"
    assert caught.value.step == run.steps_done
    assert "smaller learning rate" in str(caught.value)
    with pytest.raises(RuntimeError, match="failed"):
        run.resume()


def test_stalled_run_names_who_waits_for_what(
    make_job: MakeJob, tmp_path: Path
) -> None:
    """A wait limit shorter than a stage's own work: the neighbour gives up and says why."""
    model = wb.Model.gpt(
        num_layers=8, width=192, num_heads=6, vocab_size=64, context=128
    )
    job = make_job(
        [0, 1, 10], "1f1b", 1, model=model, wait_limit=1e-3, clock="wall",
        microbatch_size=8,
    )  # fmt: skip
    run = wb.launch(job, folder=tmp_path / "r")
    with pytest.raises(wb.RunError, match="waited longer than wait_limit") as caught:
        run.wait(60)
    told = str(caught.value)
    assert caught.value.rank == 0
    assert "0RECV_B0" in told
    assert "rank 1's 1SEND_B0" in told
    assert "rank 1 is in step 0" in told


def test_held_out_loss_falls_below_the_unigram_entropy(tmp_path: Path) -> None:
    data = wb.Data.synthetic(vocab_size=32, size=40_000, seed=1)
    model = wb.Model.gpt(num_layers=2, width=32, num_heads=2, vocab_size=32, context=32)
    job = wb.Job(
        model=model,
        partition=wb.Partition.balanced(model, num_stages=2, by="flops"),
        schedule=wb.Schedule.make("1f1b", num_ranks=2, num_microbatches=4),
        data=data,
        optimizer=wb.AdamW(lr=3e-3),
        steps=150,
    )
    run = wb.launch(job, folder=tmp_path / "r").wait(120)
    assert run.evaluations[150] < data.unigram_entropy() - 0.05
    assert run.evaluations[0] == pytest.approx(np.log(32), abs=0.05)


def test_evaluation_does_not_touch_weights_or_trace(
    make_job: MakeJob, tmp_path: Path
) -> None:
    run = wb.launch(make_job(), folder=tmp_path / "r").wait(60)
    before, events = run.weights_hash(), len(run.trace)
    assert run.evaluate() == run.evaluate()
    assert run.weights_hash() == before
    assert len(run.trace) == events


def test_arena_is_what_was_planned_and_classes_add_up(make_job: MakeJob) -> None:
    from workbench.engine import build

    job = make_job([0, 1, 5, 6], "1f1b", 4)
    plan, built = job.memory(), build(job)
    assert isinstance(plan, wb.MemoryPlan)
    for rank, arena in enumerate(built.arenas):
        assert arena.nbytes == plan.arena_bytes[rank]
        assert sum(plan.classes[rank].values()) == plan.arena_bytes[rank]


def test_early_stages_hold_more_activations_under_1f1b(make_job: MakeJob) -> None:
    plan = make_job([0, 2, 4, 6], "1f1b", 8).memory()
    assert [stage.saved_slots for stage in plan.stages] == [3, 2, 1]
    plan = make_job([0, 2, 4, 6], "gpipe", 8).memory()
    assert [stage.saved_slots for stage in plan.stages] == [8, 8, 8]


def test_live_memory_never_exceeds_the_arena(make_job: MakeJob, tmp_path: Path) -> None:
    run = wb.launch(make_job(), folder=tmp_path / "r").wait(60)
    plan = run.job.memory()
    for rank in range(run.num_ranks):
        live = run.trace.live[run.trace.rank == rank]
        classes = plan.classes[rank]
        room = classes["activations"] + classes["held"] + classes["channels"]
        assert 0 < live.max() <= room
        assert live[-1] == 0


def test_generated_text_begins_with_the_prompt(tmp_path: Path) -> None:
    model = wb.Model.preset("byte-gpt-tiny")
    job = wb.Job(
        model=model,
        partition=wb.Partition.balanced(model, num_stages=2, by="flops"),
        schedule=wb.Schedule.make("1f1b", num_ranks=2, num_microbatches=2),
        data=wb.Data.text(),
        steps=2,
        evaluate=0,
    )
    run = wb.launch(job, folder=tmp_path / "r").wait(60)
    text = run.generate("def f", 10, seed=4)
    assert text.startswith("def f")
    assert text == run.generate("def f", 10, seed=4)
    for wrong in ({"prompt": ""}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match="prompt|temperature"):
            run.generate(**{"prompt": "x", "num_tokens": 1, **wrong})


def test_watching_from_a_script_does_nothing(make_job: MakeJob, tmp_path: Path) -> None:
    run = wb.launch(make_job(), folder=tmp_path / "r")
    assert run.watch() is None
    run.wait(60)


def test_events_arrive_once_each_through_snapshots(
    make_job: MakeJob, tmp_path: Path
) -> None:
    run = wb.launch(make_job(steps=200), folder=tmp_path / "r")
    cursor, seen = 0, 0
    while run.state in ("starting", "running"):
        cursor, columns = run.snapshot(cursor)
        seen += len(columns["start"])
        time.sleep(0.002)
    cursor, columns = run.snapshot(cursor)
    seen += len(columns["start"])
    run.wait(60)
    assert run.events_dropped == 0
    assert seen == len(run.trace)
