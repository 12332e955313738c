"""The table of all schedules: its numbers against what they are said to be."""

from __future__ import annotations

import numpy as np
import pytest

import workbench as wb
from workbench.schedule import SCHEDULES, Kind, halves
from workbench.simulator import for_stages, memory_over_time, priced_for

SIZES = [(4, 8), (2, 4), (3, 6)]


@pytest.mark.parametrize(("p", "m"), SIZES)
def test_every_schedule_does_the_same_work_and_is_there(p: int, m: int) -> None:
    table = wb.compare_schedules(p, m, wb.CostModel.uniform(F=2, I=3, W=1, hop=0.5))
    assert set(table.names) == set(SCHEDULES) - {"single"}
    assert isinstance(table, wb.ScheduleTable)
    for entry in table:
        if entry.problem:
            assert entry.name in ("dualpipe", "chimera", "bitpipe") and p % 2
            assert "nearest" in entry.problem and entry.makespan is None
            continue
        again = sum(a.kind is Kind.R for _, _, a in entry.schedule.walk())
        idle = entry.bubble_fraction * p * entry.makespan
        work = p * entry.makespan - idle
        assert work == pytest.approx(p * m * 6 + 2 * again)
        assert entry.span <= entry.makespan
        entry.schedule.check(channel_capacity=entry.channel_capacity)


def test_known_numbers() -> None:
    p, m = 4, 8
    table = wb.compare_schedules(p, m)
    assert table["1f1b"].bubble_fraction == pytest.approx((p - 1) / (m + p - 1))
    assert table["gpipe"].memory == (m,) * p
    assert table["1f1b"].memory == (4, 3, 2, 1)
    assert table["interleaved_1f1b"].bubble_fraction == pytest.approx(
        (p - 1) / (2 * m + p - 1)
    )
    assert table["zb_v"].span == pytest.approx(3 * m)
    assert table["zb_v"].peak_memory == p
    assert table["1f1b"].volume == 2 * m * (p - 1)
    assert table["interleaved_1f1b"].volume == 2 * m * (2 * p - 1)
    assert table["zb_v"].volume == 2 * m * (2 * p - 2)  # one boundary is inside a rank
    assert table["seq_1f1b"].volume == table["1f1b"].volume
    assert table["seq_1f1b"].messages == 2 * table["1f1b"].messages
    assert {e.name for e in table if e.parameter_copies == 2} == {
        "dualpipe",
        "chimera",
        "bitpipe",
    }


def test_memory_is_what_the_simulator_holds_over_time() -> None:
    for entry in wb.compare_schedules(4, 8):
        if entry.name == "1f1b_recompute":
            continue  # memory_over_time counts what F leaves for R as well
        share = 4 / entry.schedule.chain_length
        held = memory_over_time(entry.schedule).peak * share
        assert held.tolist() == pytest.approx(list(entry.memory)), entry.name


def test_bytes_are_the_messages_own() -> None:
    costs = wb.CostModel.uniform(message_bytes=600)
    for entry in wb.compare_schedules(4, 8, costs):
        assert entry.bytes == 600 * entry.volume, entry.name
        programs = entry.schedule.programs(optimizer=False)
        sends = sum(
            action.kind in (Kind.SEND_F, Kind.SEND_B)
            for program in programs
            for step in program.steps
            for action in halves(step)
        )
        assert sends == entry.messages


def test_a_memory_limit_is_marked_and_kept_by_those_that_can() -> None:
    table = wb.compare_schedules(4, 8, memory_limit=3)
    assert table["zb_auto"].fits and table["zb_auto"].peak_memory <= 3
    assert table["zb_v_greedy"].fits
    assert not table["gpipe"].fits
    line = next(t for t in str(table).splitlines() if t.startswith("gpipe"))
    assert line.endswith(" no")
    assert all(e.fits == (e.peak_memory <= 3) for e in table)


def test_it_is_sorted_shown_and_looked_up() -> None:
    table = wb.compare_schedules(3, 4, names=["gpipe", "dualpipe", "zb_h1"])
    assert [entry.name for entry in table] == ["zb_h1", "gpipe", "dualpipe"]
    by_memory = table.sorted("peak_memory")
    assert [e.name for e in by_memory] == ["zb_h1", "gpipe", "dualpipe"]
    assert [e.name for e in table.sorted("name")] == ["dualpipe", "gpipe", "zb_h1"]
    for text in (str(table), table._repr_html_()):
        assert "not made: num_ranks is 3" in text
        assert text.index("zb_h1") < text.index("gpipe") < text.index("dualpipe")
    assert table[0] is table["zb_h1"] and len(table.rows()) == len(table) == 3
    with pytest.raises(KeyError, match="no 'zb' in the table"):
        table["zb"]
    with pytest.raises(ValueError, match="no column 'speed'"):
        table.sorted("speed")
    assert list(table.figure().data[0].text) == ["zb_h1", "gpipe"]


#: Idle time of a rank beyond its own work, by the makespan or the span, where F, I, W
#: and B = I + W are times of a rank's share: what docs/schedules.md says.
BUBBLES = {
    "gpipe": ("makespan", lambda p, F, I, W, h: (p - 1) * (F + I + W + 2 * h)),
    "eager_1f1b": ("makespan", lambda p, F, I, W, h: (p - 1) * (F + I + W + 2 * h)),
    "zb_h1": ("span", lambda p, F, I, W, h: (p - 1) * (F + I - W + 4 * h)),
    "zb_auto": ("span", lambda p, F, I, W, h: (p - 1) * (F + I - W + 4 * h)),
    "interleaved_1f1b": ("makespan", lambda p, F, I, W, h: (p - 1) * (F + I + W) / 2),
    "looped_bfs": ("makespan", lambda p, F, I, W, h: (p - 1) * (F + I + W) / 2),
    "seq_1f1b": ("makespan", lambda p, F, I, W, h: (p - 1) * (F + I + W) / 2),
}


@pytest.mark.parametrize("costs", [(1, 1, 1, 0), (3, 3.5, 2.5, 0), (1, 1, 1, 0.125)])
@pytest.mark.parametrize(("p", "m"), [(2, 8), (3, 9), (4, 8), (5, 20)])
def test_bubbles_in_times_of_a_ranks_share(
    p: int, m: int, costs: tuple[float, ...]
) -> None:
    F, I, W, hop = costs
    model = wb.CostModel.uniform(F=F, I=I, W=W, hop=hop)
    for entry in wb.compare_schedules(p, m, model, names=BUBBLES):
        by, bubble = BUBBLES[entry.name]
        if hop and entry.name in ("interleaved_1f1b", "looped_bfs", "seq_1f1b"):
            continue  # said without hops
        idle = getattr(entry, by) - m * (F + I + W)
        assert idle == pytest.approx(bubble(p, F, I, W, hop)), entry.name


@pytest.mark.parametrize(
    ("p", "m", "options"), [(4, 8, {"memory_limit": 4}), (8, 16, {}), (2, 4, {})]
)
def test_no_label_of_the_figure_hides_another(
    p: int, m: int, options: dict[str, float]
) -> None:
    table = wb.compare_schedules(p, m, wb.CostModel.uniform(hop=0.1), **options)
    figure = table.figure()
    wide, tall = 700, 420  # of the axes, in pixels, about as in a notebook
    boxes = []
    named = []
    for part in figure.data:
        for x, y, text, place in zip(
            part.x, part.y, part.text, part.textposition, strict=True
        ):
            named += text.split(", ")
            entry = table[named[-1]]
            assert x == entry.peak_memory
            assert y == pytest.approx(100 * entry.bubble_fraction, abs=1e-3)
            up, side = place.split()
            left = wide * x / figure.layout.xaxis.range[1]
            below = tall * y / figure.layout.yaxis.range[1]
            size = 6 * len(text)
            left += {"left": -8 - size, "center": -size / 2, "right": 8}[side]
            below += {"bottom": -20, "middle": -6, "top": 8}[up]
            boxes.append((left, below, left + size, below + 12))
    assert sorted(named) == sorted(e.name for e in table if e.schedule)
    for i, (left, low, right, high) in enumerate(boxes):
        for other in boxes[:i]:
            apart = other[0] >= right or other[2] <= left
            assert apart or other[1] >= high or other[3] <= low


def test_a_figure_of_nothing_that_can_be_made_is_empty() -> None:
    table = wb.compare_schedules(3, 4, names=["dualpipe", "chimera"])
    assert not table.figure().data


def test_costs_are_cut_and_added_up() -> None:
    costs = wb.CostModel.uniform(
        F=[1, 2, 3, 4], message_bytes=[10, 20, 30, 40], overlap=np.ones((4, 4))
    )
    cut = for_stages(costs, 4, 8)
    assert cut.times[:, 0].tolist() == [0.5, 0.5, 1, 1, 1.5, 1.5, 2, 2]
    assert cut.message_bytes.tolist() == [10, 10, 20, 20, 30, 30, 40, 40]
    assert cut.overlap.shape == (8, 8) and cut.overlap[0, 7] == 0.5
    added = for_stages(wb.CostModel.uniform(F=[1, 2, 3, 4]), 2, 2)
    assert added.times[:, 0].tolist() == [3, 7]
    with pytest.raises(ValueError, match="overlap given stage by stage"):
        for_stages(costs, 2, 2)
    with pytest.raises(ValueError, match="3 stages, which costs for 4"):
        for_stages(costs, 3, 3)
    # One row is a rank's share: twice as many stages of half the time each.
    assert for_stages(wb.CostModel.uniform(), 4, 8).times[0, 0] == 0.5
    both = wb.Schedule.make("dualpipe", num_ranks=4, num_microbatches=8)
    priced = priced_for(both, wb.CostModel.uniform(F=[1, 2, 3, 4]))
    assert priced.times[:, 0].tolist() == [1, 2, 3, 4, 1, 2, 3, 4]


def test_bad_input_is_told() -> None:
    with pytest.raises(ValueError, match="no schedule named 'zbv'"):
        wb.compare_schedules(4, 8, names=["zbv"])
    with pytest.raises(ValueError, match="memory_limit must be above 0"):
        wb.compare_schedules(4, 8, memory_limit=0)
    with pytest.raises(ValueError, match="num_ranks"):
        wb.compare_schedules(0, 8)
    with pytest.raises(ValueError, match="memory_limit must be above 0, got 'x'"):
        wb.compare_schedules(4, 8, memory_limit="x")
    with pytest.raises(ValueError, match="no schedule named 3"):
        wb.compare_schedules(4, 8, names=3)
    schedule = wb.Schedule.make("1f1b", num_ranks=2, num_microbatches=2)
    for call in (wb.compare_schedules, wb.schedule_figure):
        with pytest.raises(ValueError, match="costs must be a CostModel, got 3.0"):
            call(*((4, 8) if call is wb.compare_schedules else [schedule]), costs=3.0)
    for show in (wb.schedule_figure, wb.side_by_side):
        with pytest.raises(ValueError, match="one by one"):
            show([schedule, schedule])


def test_a_figure_shows_schedules_one_below_the_other() -> None:
    shown = [
        wb.Schedule.make(name, num_ranks=4, num_microbatches=8)
        for name in ("1f1b", "dualpipe", "seq_1f1b")
    ]
    trace = wb.simulate(shown[0], wb.CostModel.uniform(F=2))
    figure = wb.schedule_figure(*shown, trace)
    titles = [note.text for note in figure.layout.annotations]
    assert titles[0] == "1f1b (simulated): bubble 27.3 %, makespan 33 unit"
    assert len(titles) == 4
    every = [a for s in (*shown, shown[0]) for _, _, a in s.walk()]
    assert sum(len(bar.x) for bar in figure.data) == len(every)
    # An overlap's halves share a row; both copies of the parameters are told apart.
    second = [bar for bar in figure.data if bar.yaxis == "y2"]
    assert {float(w) for bar in second for w in bar.width} == {0.42, 0.85}
    for bar in second:
        colours = {True: set(), False: set()}
        for (name, _), colour in zip(bar.customdata, bar.marker.color, strict=True):
            rank_of = shown[1].stage_to_rank
            first = rank_of.index(rank_of[int(name[0])])
            colours[int(name[0]) == first].add(colour)
        assert len(colours[True]) == len(colours[False]) == 1
        assert colours[True] != colours[False]
        assert bar.marker.color[0] in colours[True]  # the legend's
    named = [bar.name for bar in figure.data if bar.showlegend]
    assert sorted(named) == sorted({bar.name for bar in figure.data})
    with pytest.raises(ValueError, match="nothing to draw"):
        wb.schedule_figure()
