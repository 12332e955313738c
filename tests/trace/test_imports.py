"""Runs of others: read exactly, waits derived as they were, clocks set by messages."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.schedule import Kind, Schedule, halves
from workbench.simulator import CostModel, simulate
from workbench.trace import COMPUTE_LANE, WAIT_LANE, Trace

SCHEDULES = ("gpipe", "1f1b", "zb_h1", "interleaved_1f1b", "zb_v", "dualpipe_v")
Row = dict[str, Any]


def made(name: str, p: int, m: int) -> Schedule:
    return Schedule.make(name, num_ranks=p, num_microbatches=m)


def rows_of(trace: Trace, lanes: tuple[int, ...] = (COMPUTE_LANE,)) -> list[Row]:
    """The events of these lanes as a foreign table would have them, in ticks."""
    rows = []
    columns = (trace.rank, trace.step, trace.start, trace.end, trace.lane)
    values = zip(*(c.tolist() for c in columns), strict=True)
    for action, (rank, step, start, end, lane) in zip(
        trace.actions(), values, strict=True
    ):
        if lane not in lanes:
            continue
        row = dict(rank=rank, stage=action.stage, kind=str(action.kind), step=step)
        row |= dict(microbatch=action.microbatch, start=start, end=end)
        rows.append(row)
    return rows


def parts(trace: Trace) -> tuple[Mapping[str, int], ...]:
    return trace.bubbles().ranks


def simulated(name: str, p: int, m: int, **costs: Any) -> Trace:
    return simulate(made(name, p, m), CostModel.uniform(**costs))


@st.composite
def runs(draw: st.DrawFn) -> tuple[Any, ...]:
    """name, ranks, microbatches, F, I and W of every stage, hop."""
    name = draw(st.sampled_from(SCHEDULES))
    p = draw(st.sampled_from([2, 4] if name == "dualpipe_v" else [1, 2, 3, 4]))
    m = p * draw(st.integers(2 if name == "dualpipe_v" else 1, 3))
    count = made(name, p, m).num_stages
    cost = st.lists(st.integers(1, 9), min_size=count, max_size=count)
    return name, p, m, draw(cost), draw(cost), draw(cost), draw(st.integers(0, 5))


def simulate_run(run: tuple[Any, ...]) -> Trace:
    name, p, m, f, i, w, hop = run
    return simulated(name, p, m, F=f, I=i, W=w, hop=hop)


# ---- waits derived from the order ----------------------------------------------------


@settings(deadline=None, max_examples=80)
@given(runs())
def test_idle_time_has_the_causes_it_had(run: tuple[Any, ...]) -> None:
    """Only compute is told; a simulation knows every cause."""
    trace = simulate_run(run)
    found = Trace.from_rows(rows_of(trace), unit="ns")
    assert found.source == "imported"
    total = trace.num_ranks * int(trace.end.max())
    assert sum(sum(row.values()) for row in parts(found)) == total
    for mine, theirs in zip(parts(found), parts(trace), strict=True):
        # Where no rank waited for a message before it was sent, nothing tells how long
        # it flew: idle time of that kind is not called communication then.
        unknown = mine["engine_overhead"]
        assert (
            mine["exposed_communication"] + unknown == theirs["exposed_communication"]
        )
        for part in ("compute", "warmup", "steady", "cooldown"):
            assert mine[part] == theirs[part], part


@settings(deadline=None, max_examples=40)
@given(runs())
def test_told_messages_give_the_same_report(run: tuple[Any, ...]) -> None:
    trace = simulate_run(run)
    found = Trace.from_rows(rows_of(trace, (COMPUTE_LANE, WAIT_LANE)), unit="ns")
    assert parts(found) == parts(trace)


@settings(deadline=None, max_examples=40)
@given(runs())
def test_costs_and_order_come_back(run: tuple[Any, ...]) -> None:
    trace = simulate_run(run)
    found = Trace.from_rows(rows_of(trace), unit="ns")
    mine, theirs = CostModel.from_trace(found), CostModel.from_trace(trace)
    # A tick is a billionth in both; only the unit's name differs.
    assert mine.times == pytest.approx(theirs.times)
    assert mine.hop <= theirs.hop
    assert _flat(found.schedule()) == _flat(made(*run[:3]))


def _flat(schedule: Schedule) -> list[list[str]]:
    """The rows with overlaps taken apart."""
    return [
        [str(action) for item in row for action in halves(item)]
        for row in schedule.ranks
    ]


def test_causes_by_hand() -> None:
    """Two ranks, one hop of 2: rank 1 starts late, rank 0 waits for its gradient."""
    table = [
        (0, 0, "F", 0, 0, 10),
        (1, 1, "F", 0, 12, 22),
        (1, 1, "B", 0, 22, 42),
        (0, 0, "B", 0, 44, 64),
    ]
    first, second = parts(Trace.from_rows(table, unit="ns"))
    assert first["compute"] == 30
    assert first["exposed_communication"] == 2
    # Before its first backward, that is.
    assert first["warmup"] == 32
    assert second == {**dict.fromkeys(second, 0), "compute": 30} | {
        "warmup": 10,
        "exposed_communication": 2,
        "cooldown": 22,
    }


def test_a_gap_without_a_message_is_overhead() -> None:
    table = [
        (0, 0, "F", 0, 0, 10),
        (0, 0, "F", 1, 13, 23),
        (0, 0, "B", 0, 23, 30),
        (0, 0, "B", 1, 31, 40),
    ]
    (only,) = parts(Trace.from_rows(table, unit="ns"))
    assert only["engine_overhead"] == 4
    assert only["compute"] == 36


def test_between_two_steps_is_neither_steady_nor_warmup() -> None:
    step = [(0, 0, "F", 0, 0, 10), (1, 1, "F", 0, 10, 20)]
    step += [(1, 1, "B", 0, 20, 30), (0, 0, "B", 0, 30, 40)]
    later = [(*row[:4], row[4] + 100, row[5] + 100) for row in step]
    table = [(*row, 0, 0) for row in step] + [(*row, 0, 1) for row in later]
    one = parts(Trace.from_rows(step, unit="ns"))
    two = parts(Trace.from_rows(table, unit="ns"))
    for rank in range(2):
        twice = {part: 2 * ticks for part, ticks in one[rank].items()}
        assert two[rank] == twice | {"engine_overhead": 60}


def test_a_send_beside_compute_does_not_keep_the_rank() -> None:
    table = [
        (0, 0, "F", 0, 0, 10),
        (0, 0, "SEND_F", 0, 10, 19),
        (0, 0, "F", 1, 10, 20),
        (1, 1, "F", 0, 19, 29),
    ]
    first, second = parts(Trace.from_rows(table, unit="ns"))
    assert first["exposed_communication"] == 0
    assert (second["warmup"], second["exposed_communication"]) == (10, 9)


# ---- tables --------------------------------------------------------------------------


class Frame:
    """As much of a data frame as is needed."""

    def __init__(self, columns: dict[str, list[Any]]) -> None:
        self._columns = columns
        self.columns = list(columns)

    def __getitem__(self, name: str) -> np.ndarray:
        return np.array(self._columns[name])


def as_columns(rows: list[Row]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def test_every_form_of_a_table_reads_alike() -> None:
    rows = rows_of(simulated("1f1b", 2, 3))
    order = ("rank", "stage", "kind", "microbatch", "start", "end")
    columns = as_columns(rows)
    kinds = [("U8" if name == "kind" else "i8") for name in columns]
    array = np.array(
        [tuple(row.values()) for row in rows], list(zip(columns, kinds, strict=True))
    )
    forms = [columns, Frame(columns), array, [[row[n] for n in order] for row in rows]]
    expected = Trace.from_rows(rows, unit="ns")
    for form in forms:
        found = Trace.from_rows(form, unit="ns")
        assert list(found.actions()) == list(expected.actions())
        assert (found.start == expected.start).all()
        assert (found.end == expected.end).all()


@pytest.mark.parametrize(
    ("unit", "factor"), [("s", 1e-9), ("ms", 1e-6), ("us", 1e-3), ("ns", 1)]
)
def test_units_mean_the_same_times(unit: str, factor: float) -> None:
    table = [(0, 0, "F", 0, 5_000, 7_000), (0, 0, "B", 0, 7_000, 11_000)]
    scaled = [(*row[:4], row[4] * factor, row[5] * factor) for row in table]
    found = Trace.from_rows(scaled, unit=unit)
    assert found.makespan == pytest.approx(6e-6)
    assert found.unit == "s"
    assert (found.end - found.start).tolist() == [2000, 4000]


def test_seconds_since_the_epoch_keep_what_a_float_holds() -> None:
    begin = 1_790_000_000.25
    found = Trace.from_rows([(0, 0, "F", 0, begin, begin + 0.5)], unit="s")
    assert found.start.tolist() == [0]
    assert found.end.tolist() == [500_000_000]


def test_times_without_a_unit_keep_theirs() -> None:
    found = Trace.from_rows([(0, 0, "F", 0, 0, 1.5)], unit="unit")
    assert (found.unit, found.makespan) == ("unit", 1.5)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("forward-compute", Kind.F),
        ("backward_compute", Kind.B),
        ("Forward", Kind.F),
        ("wgrad", Kind.W),
        ("b", Kind.B),
        ("optimizer", Kind.OPT_STEP),
        (Kind.I, Kind.I),
    ],
)
def test_names_of_others_are_known(name: str, kind: Kind) -> None:
    row = (0, 0, name, -1 if kind is Kind.OPT_STEP else 1, 0, 1)
    found = Trace.from_rows([(0, 0, "F", 0, 0, 0), row], unit="s")
    assert kind in [action.kind for action in found.actions()]


GOOD = (0, 0, "F", 0, 0, 1)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ([], "no rows"),
        ("0,0,F", "rows, a dict of columns or a data frame"),
        (5, "rows, a dict of columns or a data frame"),
        ([(0, 0, "F", 0, 0)], "row 0 has 5 values"),
        ([GOOD, dict(rank=0)], "row 1 has"),
        ({"rank": [0], "stage": [0]}, "lacks kind, microbatch, start, end"),
        (
            {k: [0] for k in ("rank", "stage", "kind", "start", "end")},
            "lacks microbatch",
        ),
        (
            dict(
                rank=[0, 0], stage=[0], kind=["F"], microbatch=[0], start=[0], end=[1]
            ),
            "different lengths",
        ),
        ([(0, 0, "X", 0, 0, 1)], "row 0: no kind 'X'; there are F, I, W"),
        (
            [GOOD, (0, 0, "F", 1, 3, 2)],
            "row 1 ends at 2, before its start 3; .* no duration",
        ),
        (
            [(0, 0, "F", 0, 0, float("nan"))],
            "row 0: end must be a finite number, got nan",
        ),
        (
            [(0, 0, "F", 0, "0", 1)],
            "start must be a finite number, got '0'; convert texts with float",
        ),
        ([(-1, 0, "F", 0, 0, 1)], "row 0: rank must be a whole number"),
        ([(0, 0.5, "F", 0, 0, 1)], "row 0: stage must be a whole number"),
        ([(0, 0, "F", None, 0, 1)], "row 0: microbatch must be a whole number"),
        ([GOOD, (0, 0, "F", 0, 2, 3)], "0F0 stands twice in step 0"),
        ([GOOD, (1, 0, "F", 1, 2, 3)], "stage 0 is on rank 0 and, with 0F1"),
    ],
)
def test_a_wrong_table_is_told(table: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Trace.from_rows(table)


def test_an_unknown_unit_is_told() -> None:
    with pytest.raises(ValueError, match="unit must be one of s, ms, us, ns, unit"):
        Trace.from_rows([GOOD], unit="minutes")


# ---- clocks --------------------------------------------------------------------------


def shifted(rows: list[Row], offsets: list[int]) -> list[Row]:
    moved = []
    for row in rows:
        by = offsets[row["rank"]]
        moved.append(row | dict(start=row["start"] + by, end=row["end"] + by))
    return moved


OFFSETS = st.lists(st.integers(-(10**6), 10**6), min_size=4, max_size=4)


@settings(deadline=None, max_examples=50)
@given(st.sampled_from(["1f1b", "gpipe", "interleaved_1f1b"]), OFFSETS)
def test_clocks_that_are_off_are_set_by_the_messages(
    name: str, offsets: list[int]
) -> None:
    # On every pair a message flies just its hop both ways, so nothing is uncertain.
    trace = simulated(name, 4, 8, F=3, I=2, W=1, hop=1)
    rows = shifted(rows_of(trace), [offset * 10**9 for offset in offsets])
    found = Trace.from_rows(rows, unit="ns", align_clocks=True)
    set_by = [offsets[0] - offset for offset in offsets]
    assert found.metadata["clock_offsets"] == pytest.approx(set_by, rel=1e-15)
    assert found.metadata["clock_residual"] == 0
    straight = Trace.from_rows(rows_of(trace), unit="ns")
    assert (found.end - found.end[0] == straight.end - straight.end[0]).all()


@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=5),
    st.integers(-1000, 1000),
)
def test_two_clocks_are_off_by_no_more_than_told(
    flights: list[tuple[int, int]], offset: int
) -> None:
    rows, clock = [], 0
    for number, (there, back) in enumerate(flights):
        for rank, kind, wait in (
            (0, "F", 0),
            (1, "F", there),
            (1, "B", 0),
            (0, "B", back),
        ):
            clock += wait
            rows.append((rank, rank, kind, number, clock, clock + 10))
            clock += 10
    moved = [(*r[:4], r[4] + offset * r[0], r[5] + offset * r[0]) for r in rows]
    about = Trace.from_rows(moved, unit="ns", align_clocks=True).metadata
    error = abs(about["clock_offsets"][1] + offset * 1e-9)
    assert error <= about["clock_uncertainty"] + 1.001e-9
    assert about["clock_residual"] <= 1.001e-9


def test_what_no_offset_can_reconcile_is_told() -> None:
    """Rank 1 has it 5 too early and sends back 5 too early: one clock went wrong."""
    table = [
        (0, 0, "F", 0, 0, 10),
        (1, 1, "F", 0, 5, 15),
        (1, 1, "B", 0, 15, 25),
        (0, 0, "B", 0, 20, 30),
    ]
    about = Trace.from_rows(table, unit="ns", align_clocks=True).metadata
    assert about["clock_residual"] == pytest.approx(5e-9)


def test_clocks_stay_unless_asked() -> None:
    table = [(0, 0, "F", 0, 0, 10), (1, 1, "F", 0, 5, 15)]
    found = Trace.from_rows(table, unit="ns")
    assert found.start[found.of_kind(Kind.F)].tolist() == [0, 5]
    assert "clock_residual" not in found.metadata


# ---- files of PyTorch's profiler -----------------------------------------------------


def event(name: str, start: float, end: float, **more: Any) -> dict[str, Any]:
    about = dict(ph="X", cat="user_annotation", name=name, pid=7, tid=7)
    return about | dict(ts=start / 1000, dur=(end - start) / 1000) | more


def write(path: Path, events: list[dict[str, Any]], **more: Any) -> None:
    document = {"traceEvents": events, **more}
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(json.dumps(document).encode()))
    else:
        path.write_text(json.dumps(document))


def distributed(rank: int) -> dict[str, Any]:
    return {"distributedInfo": {"backend": "gloo", "rank": rank, "world_size": 2}}


def host_events(trace: Trace, rank: int, at: int = 0) -> Iterator[dict[str, Any]]:
    """What a host's profiler records: an action's range begins when its wait does, and
    the back end's receive lies from the posting to the wait's end."""
    rows = rows_of(trace, (COMPUTE_LANE, WAIT_LANE))
    mine = [row for row in rows if row["rank"] == rank]
    waits = {
        (row["stage"], row["kind"][-1], row["microbatch"]): row
        for row in mine
        if row["kind"].startswith("RECV")
    }
    for row in mine:
        kind, start, end = row["kind"], at + row["start"], at + row["end"]
        name = f"PP:{row['stage']}{kind}{row['microbatch']}"
        if kind.startswith("RECV"):
            yield event(name, start, start)
            yield event("gloo:recv", start, end, cat="user_annotation")
            continue
        key = (row["stage"], "F" if kind == "F" else "B", row["microbatch"])
        wait = waits.get(key) if kind in "FIB" else None
        yield event(name, at + wait["start"] if wait else start, end)


def device_events(trace: Trace, rank: int, at: int = 0) -> Iterator[dict[str, Any]]:
    """What a device's profiler records besides: ranges on the host are launches, ahead
    of time; the device's copies are where the work was."""
    rows = [r for r in rows_of(trace, (COMPUTE_LANE, WAIT_LANE)) if r["rank"] == rank]
    for number, row in enumerate(rows, at):
        kind, start, end = row["kind"], at + row["start"], at + row["end"]
        name = f"PP:{row['stage']}{kind}{row['microbatch']}"
        link = {"args": {"External id": number}}
        launch = number - 1000
        yield event(name, launch, launch + 1, **link)
        stream = 20 if "_" in kind else 7
        about = dict(cat="gpu_user_annotation", pid=0, tid=stream)
        yield event(name, start, end, **about, **link)
        if kind == "F":
            # A piece of it on another stream, as for a sharded model's gathering.
            yield event(name, start - 1, start, **(about | dict(tid=30)), **link)


Writer = Callable[..., Iterator[dict[str, Any]]]
SIMULATED = ("1f1b", "zb_v", "interleaved_1f1b")


@pytest.mark.parametrize("name", SIMULATED)
@pytest.mark.parametrize("writer", [host_events, device_events])
def test_profiler_files_give_the_run_back(
    tmp_path: Path, name: str, writer: Writer
) -> None:
    trace = simulated(name, 2, 4, F=3e-6, I=2e-6, W=1e-6, hop=1e-6)
    for rank in range(2):
        base = 1_790_000_000_000_000_000
        path = tmp_path / ("a.json" if rank else "b.pt.trace.json.gz")
        events = [*writer(trace, rank, at=5000)]
        write(
            path, events, baseTimeNanoseconds=base, host_name="h", **distributed(rank)
        )
    found = Trace.from_torch_profiler(tmp_path)
    assert found.metadata["ranges"] == ("host" if writer is host_events else "device")
    assert found.metadata["clock_residual"] == 0
    assert found.schedule().ranks == made(name, 2, 4).ranks
    assert parts(found) == parts(trace)
    assert (found.tick, found.unit, found.num_ranks) == (1e-9, "s", 2)


@pytest.mark.parametrize("writer", [host_events, device_events])
@pytest.mark.parametrize("marked", [True, False])
def test_steps_are_told_apart(tmp_path: Path, writer: Writer, marked: bool) -> None:
    trace = simulated("1f1b", 2, 3, F=3e-6, I=2e-6, W=1e-6)
    long = int(trace.end.max()) + 5000
    for rank in range(2):
        events = []
        for step in range(3):
            at = 5000 + step * long
            events += writer(trace, rank, at=at)
            if marked:
                name = f"ProfilerStep#{step + 7}"
                events.append(event(name, at - 2000, at + long - 2000))
        write(tmp_path / f"rank{rank}.json", events)
    found = Trace.from_torch_profiler(str(tmp_path))
    assert found.steps == ((7, 8, 9) if marked else (0, 1, 2))
    for step in found.steps:
        assert parts(found.step_range(step, step + 1)) == parts(trace)


def test_a_step_that_one_rank_lacks_is_left_out_and_told(tmp_path: Path) -> None:
    trace = simulated("1f1b", 2, 3, F=3e-6, I=2e-6, W=1e-6)
    for rank in range(2):
        events = [*host_events(trace, rank), event("ProfilerStep#1", 0, 90000)]
        if rank:
            events += [*host_events(trace, rank, 10**6)]
            events += [event("ProfilerStep#2", 10**6, 2 * 10**6)]
        write(tmp_path / f"rank{rank}.json", events)
    found = Trace.from_torch_profiler(tmp_path)
    assert found.steps == (1,)
    assert found.metadata["dropped_steps"] == [2]


def test_hosts_with_clocks_apart_are_put_together(tmp_path: Path) -> None:
    trace = simulated("1f1b", 2, 4, F=3e-6, I=2e-6, W=1e-6, hop=1e-6)
    for rank in range(2):
        events = [*host_events(trace, rank, at=rank * 10**7)]
        write(tmp_path / f"rank{rank}.json", events, host_name=f"node{rank}")
    found = Trace.from_torch_profiler(tmp_path)
    assert found.metadata["clock_offsets"] == pytest.approx([0, -1e-2], abs=2e-9)
    assert found.makespan == pytest.approx(trace.makespan, abs=5e-9)


def test_one_hosts_clock_is_believed_until_messages_contradict(tmp_path: Path) -> None:
    trace = simulated("1f1b", 2, 4, F=3e-4, I=2e-4, W=1e-4, hop=1e-4)
    for off, expected in ((0, 0.0), (-(10**7), 1e-2)):
        for rank in range(2):
            events = [*host_events(trace, rank, at=rank * off)]
            write(tmp_path / f"rank{rank}.json", events, host_name="same")
        about = Trace.from_torch_profiler(tmp_path).metadata
        assert about["clock_offsets"] == pytest.approx([0, expected], abs=2e-9)


def test_without_a_back_ends_word_the_first_operator_ends_the_wait(
    tmp_path: Path,
) -> None:
    first = [event("PP:0F0", 0, 10000), event("PP:0SEND_F0", 10000, 10000)]
    second = [event("PP:1RECV_F0", 0, 100), event("PP:1F0", 100, 30000)]
    second.append(event("aten::mm", 20000, 29000, cat="cpu_op"))
    write(tmp_path / "rank0.json", first)
    write(tmp_path / "rank1.json", second)
    found = Trace.from_torch_profiler(tmp_path)
    last = found.of_kind(Kind.F) & (found.stage == 1)
    assert found.start[last].tolist() == [20000]
    assert parts(found)[1]["compute"] == 10000


def test_an_overlaps_halves_share_its_time_as_they_usually_do(tmp_path: Path) -> None:
    events = [event("PP:0F0", 0, 10000), event("PP:0F1", 10000, 20000)]
    events += [event("PP:0B0", 20000, 50000)]
    events += [event("PP:(0F2;0B1)OVERLAP_F_B", 50000, 98000)]
    events += [event("PP:0B2", 98000, 128000)]
    write(tmp_path / "rank0.json", events)
    found = Trace.from_torch_profiler(tmp_path)
    long = dict(zip(map(str, found.actions()), found.end - found.start, strict=True))
    assert (long["0F2"], long["0B1"]) == (12000, 36000)
    assert sum(parts(found)[0].values()) == 128000


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "has no trace of a pipeline: no JSON file there is a trace"),
        ({"rank0.json": "{}"}, "no JSON file there is a trace"),
        ({"rank0.json": '{"traceEvents": []}'}, r"none of them has ranges PP:<action>"),
        ({"rank0.json": "{"}, "rank0.json cannot be read as JSON"),
        ({"rank0.json.gz": "not gzip"}, "rank0.json.gz cannot be read as JSON"),
        ({"trace.json": [event("PP:0F0", 0, 1)]}, "does not say its rank"),
        (
            {"rank0.json": [event("PP:0BW0", 0, 1)]},
            "range 'PP:0BW0': '0BW0' is no action",
        ),
        (
            {
                "rank0.json": [event("PP:0F0", 0, 1)],
                "rank00.json": [event("PP:0F0", 0, 1)],
            },
            "both of rank 0",
        ),
        (
            {
                "rank0.json": [event("PP:0F0", 0, 1)],
                "rank1.json": [event("PP:0F0", 0, 1)],
            },
            "stage 0 is on rank 0 and.*give ranks=",
        ),
        (
            {
                "rank0.json": [event("PP:0F0", 0, 1)],
                "rank2.json": [event("PP:2F0", 0, 1)],
            },
            "no file has stage 1, but one has stage 2",
        ),
        (
            {"rank0.json": [event("PP:0F0", 0, 1), event("PP:0SEND_F0", 1, 1)]},
            "no file has stage 1, but 0SEND_F0 of rank 0 is a message of it",
        ),
        (
            {"rank0.json": [event("PP:0F0", 0, 1) | {"ts": None}]},
            "rank0.json: event 'PP:0F0' says no times.*ts, .* is None",
        ),
        (
            {"rank0.json": [event("PP:0F0", 0, 1) | {"dur": "long"}]},
            "rank0.json: event 'PP:0F0' says no times.*dur 'long'",
        ),
    ],
)
def test_files_that_are_wrong_are_told(
    tmp_path: Path, files: dict[str, Any], told: str
) -> None:
    for name, text in files.items():
        if isinstance(text, str):
            (tmp_path / name).write_text(text)
        else:
            write(tmp_path / name, text)
    with pytest.raises(ValueError, match=told):
        Trace.from_torch_profiler(tmp_path)


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no folder"):
        Trace.from_torch_profiler(tmp_path / "missing")


def test_one_pipeline_among_replicas_is_chosen(tmp_path: Path) -> None:
    trace = simulated("1f1b", 2, 3, F=3e-6, I=2e-6, W=1e-6)
    for rank in range(4):
        write(tmp_path / f"rank{rank}.json", [*host_events(trace, rank // 2)])
    (tmp_path / "notes.json").write_text('{"a": 1}')
    found = Trace.from_torch_profiler(tmp_path, ranks=[1, 3])
    assert found.metadata["torch_ranks"] == [1, 3]
    assert found.metadata["skipped_files"] == [str(tmp_path / "notes.json")]
    assert parts(found) == parts(trace)
    with pytest.raises(ValueError, match="no trace of rank 5"):
        Trace.from_torch_profiler(tmp_path, ranks=[1, 5])


# ---- the order that was run ----------------------------------------------------------


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_traces_schedule_is_the_one_that_was_simulated(name: str) -> None:
    schedule = made(name, 2, 4)
    found = simulate(schedule, CostModel.uniform(F=3, I=2, W=1)).schedule()
    assert _flat(found) == _flat(schedule)
    assert found.stage_to_rank == schedule.stage_to_rank


def test_a_step_that_is_not_there_is_told() -> None:
    with pytest.raises(ValueError, match="no step 3"):
        simulated("1f1b", 2, 2).schedule(3)
