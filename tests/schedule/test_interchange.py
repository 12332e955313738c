"""PyTorch's CSV with communications: what is written runs, what is read is checked."""

from __future__ import annotations

import csv
import io
import random
import re
from collections import Counter
from collections.abc import Sequence

import pytest

from workbench.schedule import (
    SCHEDULES,
    Action,
    Kind,
    Overlap,
    Program,
    Schedule,
    ScheduleError,
    graph,
    halves,
    programs_from_csv,
    programs_to_csv,
)

FOREIGN = {"dualpipe", "chimera", "bitpipe", "seq_1f1b", "1f1b_recompute"}
NATIVE = sorted(SCHEDULES.keys() - FOREIGN)
SENDS = (Kind.SEND_F, Kind.SEND_B)
RECEIVES = (Kind.RECV_F, Kind.RECV_B)
SHARDS = (Kind.UNSHARD, Kind.RESHARD)

TWO = "0F0,0SEND_F0,0RECV_B0,0B0\n1RECV_F0,1F0,1B0,1SEND_B0\n"
#: Ranks 0 and 1 in a loop: stages 0 and 2 on rank 0, 1 and 3 on rank 1.
LOOP = (
    "0F0,0SEND_F0,0F1,0SEND_F1,2RECV_F0,2F0,2SEND_F0,2RECV_F1,2F1,2SEND_F1,"
    "2RECV_B0,2B0,2SEND_B0,2RECV_B1,2B1,2SEND_B1,0RECV_B0,0B0,0RECV_B1,0B1\n"
    "1RECV_F0,1F0,1SEND_F0,1RECV_F1,1F1,1SEND_F1,3RECV_F0,3F0,3RECV_F1,3F1,"
    "3B0,3SEND_B0,3B1,3SEND_B1,1RECV_B0,1B0,1SEND_B0,1RECV_B1,1B1,1SEND_B1\n"
)


def made(name: str, p: int, m: int) -> Schedule:
    p = 1 if name == "single" else p
    return Schedule.make(name, num_ranks=p, num_microbatches=m)


def programs_of(schedule: Schedule, **options: int) -> tuple[Program, ...]:
    return programs_from_csv(schedule.to_csv(communications=True, **options))


@pytest.mark.parametrize(("p", "m"), [(2, 4), (4, 8)])
@pytest.mark.parametrize("name", NATIVE)
def test_the_compute_part_comes_back(name: str, p: int, m: int) -> None:
    schedule = made(name, p, m)
    text = schedule.to_csv(communications=True, unsharded_stages=2)
    assert Schedule.from_csv(text, name=name) == schedule
    assert programs_to_csv(programs_from_csv(text)) == text


@pytest.mark.parametrize(("p", "m"), [(2, 4), (4, 8)])
@pytest.mark.parametrize("name", NATIVE)
def test_what_is_written_ends_even_where_sends_block(name: str, p: int, m: int) -> None:
    found = graph(programs_of(made(name, p, m)), channel_capacity=0)
    assert len(found.order()) == len(found)


@pytest.mark.parametrize("name", NATIVE)
def test_both_ranks_of_a_pair_have_one_order_of_messages(name: str) -> None:
    """In both directions together: NCCL runs the messages of a pair one by one."""
    schedule = made(name, 4, 8)
    home = schedule.stage_to_rank
    orders: dict[tuple[int, int], list[tuple[int, str, int]]] = {}
    for program in programs_of(schedule):
        for step in program.steps:
            for stage, kind, microbatch, _ in halves(step):
                if kind not in SENDS + RECEIVES:
                    continue
                way = 1 if kind in (Kind.SEND_F, Kind.RECV_B) else -1
                peer = home[stage + way]
                source = stage if kind in SENDS else stage + way
                message = (source, kind.value[-1], microbatch)
                orders.setdefault((program.rank, peer), []).append(message)
    for (rank, peer), order in orders.items():
        assert orders[peer, rank] == order


@pytest.mark.parametrize("name", NATIVE)
def test_every_stage_reduces_once_after_its_gradients(name: str) -> None:
    schedule = made(name, 4, 8)
    found: Counter[int] = Counter()
    for program in programs_of(schedule):
        done: Counter[int] = Counter()
        for step in program.steps:
            for action in halves(step):
                done[action.stage] += action.kind in (Kind.B, Kind.W)
                if action.kind is Kind.REDUCE_GRAD:
                    found[action.stage] += 1
                    assert done[action.stage] == schedule.num_microbatches
    assert found == Counter(range(schedule.num_stages))


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("name", NATIVE)
def test_stages_are_whole_while_they_compute_and_no_more_than_asked(
    name: str, count: int
) -> None:
    for program in programs_of(made(name, 4, 8), unsharded_stages=count):
        held: set[int] = set()
        widest = max(len(halves(step)) for step in program.steps)
        for step in program.steps:
            actions = halves(step)
            for stage, kind, *_ in actions:
                if kind is Kind.UNSHARD:
                    assert stage not in held
                    held.add(stage)
                elif kind is Kind.RESHARD:
                    held.remove(stage)
                elif kind not in (*SENDS, *RECEIVES, Kind.REDUCE_GRAD):
                    assert stage in held
            assert len(held) <= max(count, widest)
        assert not held


def test_a_limit_of_stages_belongs_to_communications() -> None:
    schedule = made("gpipe", 2, 2)
    with pytest.raises(ValueError, match="goes with communications=True"):
        schedule.to_csv(unsharded_stages=2)
    with pytest.raises(ValueError, match="unsharded_stages .* at least 1, got 0"):
        schedule.to_csv(communications=True, unsharded_stages=0)


def test_what_does_not_run_is_not_written() -> None:
    rows = [["0F0", "0B0", "0F1", "0B1"], ["1F0", "1F1", "1B0", "1B1"]]
    schedule = Schedule("stuck", rows, (0, 1))
    assert schedule.to_csv()
    with pytest.raises(ScheduleError, match="no deadlock"):
        schedule.to_csv(communications=True)


def test_lowered_programs_with_optimizer_steps_are_not_pytorchs() -> None:
    programs = made("gpipe", 2, 2).programs(optimizer=True)
    with pytest.raises(ValueError, match="PyTorch's format has no 0OPT_STEP"):
        programs_to_csv(programs)


# ---- reading by hand -----------------------------------------------------------------


@pytest.mark.parametrize("text", [TWO, LOOP])
def test_a_file_by_hand_reads(text: str) -> None:
    schedule = Schedule.from_csv(text)
    kinds = {a.kind for _, _, a in schedule.walk()}
    assert kinds == {Kind.F, Kind.B}
    assert programs_to_csv(programs_from_csv(text)) == text


def test_receives_may_be_posted_long_before() -> None:
    early = "0RECV_B0,0F0,0SEND_F0,0B0\n1RECV_F0,1F0,1B0,1SEND_B0\n"
    assert Schedule.from_csv(early) == Schedule.from_csv(TWO)


WRONG = [
    # what is changed, into what, the rule, where, what is said
    (",0SEND_F0", "", "matched", "line 1 .*column 1, 0F0", "0SEND_F0, which is miss"),
    ("1RECV_F0,", "", "matched", "line 2 .*column 1, 1F0", "1RECV_F0, which is miss"),
    ("0F0,0SEND_F0", "0SEND_F0,0F0", "matched", "column 1", "sent before 0F0"),
    ("0RECV_B0,0B0", "0B0,0RECV_B0", "matched", "column 4", "0B0 needs it before"),
    ("0F0", "0F0,0SEND_F1", "matched", "column 2, 0SEND_F1", "no such message"),
    ("1B0", "1B0,1SEND_F0", "matched", "column 4, 1SEND_F0", "no such message"),
    ("0B0", "0B0,0SEND_B0", "matched", "column 5, 0SEND_B0", "no such message"),
    ("0B0\n", "0B0,0REDUCE_GRAD\n", "completeness", "1REDUCE_GRAD", "stage 0 has one"),
    ("0F0", "0UNSHARD,0F0", "sharding", "column 1, 0UNSHARD", "no RESHARD follows"),
    ("0F0", "0RESHARD,0F0", "sharding", "column 1, 0RESHARD", "has no UNSHARD"),
    ("0F0", "0UNSHARD,0UNSHARD,0F0", "sharding", "column 2", "since column 1"),
    ("0F0", "1UNSHARD,0F0", "sharding", "column 1, 1UNSHARD", "not on this rank"),
    ("0F0", "0F0,0UNSHARD,0RESHARD", "sharding", "column 1, 0F0", "has no UNSHARD"),
]


@pytest.mark.parametrize(("old", "new", "rule", "where", "told"), WRONG)
def test_broken_communication_is_named(
    old: str, new: str, rule: str, where: str, told: str
) -> None:
    with pytest.raises(ScheduleError, match=f"^{rule}.*{where}.*{told}"):
        Schedule.from_csv(TWO.replace(old, new, 1))


def test_a_gradient_reduced_too_early_is_named() -> None:
    text = "0F0,0F1,0B0,0REDUCE_GRAD,0B1\n"
    with pytest.raises(ScheduleError, match="column 4.*0B1 still adds.*column 5"):
        Schedule.from_csv(text)


@pytest.mark.parametrize("cell", ["0SEND_F0", "1RECV_F0", "0REDUCE_GRAD", "0F0"])
def test_a_repeated_cell_names_both_places(cell: str) -> None:
    text = TWO.replace("0F0", "0REDUCE_GRAD,0F0", 1).replace(cell, f"{cell},{cell}", 1)
    with pytest.raises(ValueError, match=f"column [234]: {cell} stands at line ., col"):
        Schedule.from_csv(text)


def test_idle_slots_belong_to_the_compute_only_format() -> None:
    with pytest.raises(ValueError, match=r"line 1 \(rank 0\), column 2 is empty"):
        Schedule.from_csv(TWO.replace("0F0,", "0F0,,", 1))


def test_messages_of_one_pair_must_have_one_order_across_stages() -> None:
    """Each channel by itself is in order; the pair of ranks is not."""
    crossed = LOOP.replace(
        "1RECV_F1,1F1,1SEND_F1,3RECV_F0,3F0", "3RECV_F0,1RECV_F1,1F1,1SEND_F1,3F0"
    )
    assert crossed != LOOP
    told = r"line 2 .*3RECV_F0: as message 1 from rank 0 to rank 1 .* 0SEND_F1 sends"
    with pytest.raises(ScheduleError, match=told):
        Schedule.from_csv(crossed)


def test_a_send_behind_what_waits_for_it_is_a_deadlock() -> None:
    text = (
        "0F0,0F1,0SEND_F0,0RECV_B0,0B0,0SEND_F1,0RECV_B1,0B1\n"
        "1RECV_F0,1F0,1RECV_F1,1F1,1B0,1SEND_B0,1B1,1SEND_B1\n"
    )
    with pytest.raises(ScheduleError, match="no deadlock") as caught:
        Schedule.from_csv(text)
    assert "rank 0 waits at 0B0 for 1SEND_B0" in str(caught.value)
    assert "rank 1 waits at 1F1 for 0SEND_F1" in str(caught.value)
    assert caught.value.rule == "no deadlock"


def test_the_compute_part_is_checked_too() -> None:
    with pytest.raises(ScheduleError, match="completeness"):
        Schedule.from_csv("0F0,0SEND_F0\n1RECV_F0,1F0,1B0\n")


# ---- mutations against an executor ---------------------------------------------------


def runs(rows: Sequence[Sequence[Action | Overlap]], home: Sequence[int]) -> bool:
    """Whether PyTorch's runtime would compute what the names say: sends put into a
    queue per pair of ranks, receives claim its next place, consumers wait."""
    queues: dict[tuple[int, int], list[tuple[int, str, int]]] = {}
    claims: dict[tuple[int, int], int] = {}
    pending: dict[tuple[int, str, int], tuple[tuple[int, int], int]] = {}
    done: set[Action] = set()
    at = [0] * len(rows)
    last = len(home) - 1

    def ready(action: Action) -> bool:
        stage, kind, microbatch, _ = action
        way = "F" if kind is Kind.F else "B"
        if kind is Kind.W or stage == (0 if way == "F" else last):
            return True
        before = stage - 1 if way == "F" else stage + 1
        if home[before] == home[stage]:
            return True
        if (stage, way, microbatch) not in pending:
            raise RuntimeError("computed before it was received")
        pair, place = pending[stage, way, microbatch]
        queue = queues.get(pair, [])
        if place >= len(queue):
            return False
        if queue[place] != (before, way, microbatch):
            raise RuntimeError("another message")
        return True

    def perform(rank: int, action: Action) -> None:
        stage, kind, microbatch, _ = action
        if kind in SENDS + RECEIVES:
            way = kind.value[-1]
            step = 1 if kind in (Kind.SEND_F, Kind.RECV_B) else -1
            if not 0 <= stage + step <= last or home[stage] != rank:
                raise RuntimeError("nobody there")
            peer = home[stage + step]
            if kind in SENDS:
                kinds = (Kind.F,) if way == "F" else (Kind.B, Kind.I)
                if not {Action(stage, k, microbatch) for k in kinds} & done:
                    raise RuntimeError("nothing to send")
                queues.setdefault((rank, peer), []).append((stage, way, microbatch))
            elif (stage, way, microbatch) in pending:
                raise RuntimeError("received twice")
            else:
                place = claims.get((peer, rank), 0)
                claims[peer, rank] = place + 1
                pending[stage, way, microbatch] = ((peer, rank), place)
        done.add(action)

    try:
        progress = True
        while progress:
            progress = False
            for rank, row in enumerate(rows):
                while at[rank] < len(row):
                    actions = halves(row[at[rank]])
                    compute = [a for a in actions if a.kind in ("F", "I", "B", "W")]
                    if not all(ready(a) for a in compute):
                        break
                    for action in actions:
                        perform(rank, action)
                    at[rank] += 1
                    progress = True
    except RuntimeError:
        return False
    ended = all(at[r] == len(row) for r, row in enumerate(rows))
    even = all(len(queue) == claims.get(pair, 0) for pair, queue in queues.items())
    return ended and even and sum(claims.values()) == sum(map(len, queues.values()))


def mutate(rows: list[list[str]], draw: random.Random) -> None:
    """One change to the messages: dropped, repeated, moved or changed in a number."""
    places = [
        (r, c)
        for r, row in enumerate(rows)
        for c, cell in enumerate(row)
        if "_" in cell
    ]
    places = [(r, c) for r, c in places if re.search("SEND|RECV", rows[r][c])]
    rank, column = draw.choice(places)
    how = draw.choice(["drop", "repeat", "move", "retarget"])
    row = rows[rank]
    if how == "drop":
        del row[column]
    elif how == "repeat":
        row.insert(draw.randrange(len(row) + 1), row[column])
    elif how == "move":
        row.insert(draw.randrange(len(row)), row.pop(column))
    else:
        stage, kind, microbatch = re.fullmatch(r"(\d+)(\D+)(\d+)", row[column]).groups()
        row[column] = f"{stage}{kind}{(int(microbatch) + 1) % 3}"


@pytest.mark.parametrize("name", ["1f1b", "interleaved_1f1b", "zb_v", "dualpipe_v"])
def test_what_would_hang_or_mix_messages_up_is_never_read(name: str) -> None:
    draw = random.Random(name)
    schedule = made(name, 2, 4)
    text = schedule.to_csv(communications=True)
    accepted = 0
    for _ in range(250):
        rows = list(csv.reader(io.StringIO(text)))
        for _ in range(draw.choice([1, 1, 2])):
            mutate(rows, draw)
        mutant = "\n".join(",".join(row) for row in rows)
        items = [[parsed(cell) for cell in row] for row in rows]
        fine = runs(items, schedule.stage_to_rank)
        try:
            Schedule.from_csv(mutant)
        except ValueError:
            assert not fine, mutant
        else:
            accepted += 1
            assert fine, mutant
    assert 0 < accepted < 250


def parsed(cell: str) -> Action | Overlap:
    return Overlap.parse(cell) if cell.startswith("(") else Action.parse(cell)


def test_the_executor_of_these_tests_tells_right_from_wrong() -> None:
    rows = [list(program.steps) for program in programs_from_csv(LOOP)]
    home = (0, 1, 0, 1)
    assert runs(rows, home)
    assert not runs([rows[0], rows[1][1:]], home)
    assert not runs([rows[0][:-2], rows[1][:5] + rows[1][6:]], home)
