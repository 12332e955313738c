"""The graph of programs: its arrays on cases small enough to work out by hand."""

from __future__ import annotations

import random

import pytest

from workbench.schedule import (
    BARRIER,
    CAPACITY,
    DATA,
    Graph,
    Program,
    Schedule,
    ScheduleError,
    graph,
    halves,
    lower,
    parse,
)


def programs(*rows: str) -> tuple[Program, ...]:
    return tuple(
        Program(rank, tuple(parse(text) for text in row.split()))
        for rank, row in enumerate(rows)
    )


def edges(found: Graph) -> set[tuple[int, int, int]]:
    """(node, node it waits for, why)."""
    return {(n, d, k) for n in range(len(found)) for d, k in found.waits_for(n)}


# Nodes 0 to 5 on rank 0, 6 to 11 on rank 1.
THREE = programs(
    "0F0 0SEND_F0 0F1 0SEND_F1 0F2 0SEND_F2",
    "1RECV_F0 1F0 1RECV_F1 1F1 1RECV_F2 1F2",
)
MESSAGES = {(6, 1, DATA), (8, 3, DATA), (10, 5, DATA)}


def test_nodes_stand_in_the_order_of_ranks_and_steps() -> None:
    found = graph(THREE)
    assert list(found.node_rank) == [0] * 6 + [1] * 6
    assert list(found.node_step) == [*range(6), *range(6)]
    assert list(found.previous) == [-1, 0, 1, 2, 3, 4, -1, 6, 7, 8, 9, 10]
    assert [str(found.step(node)) for node in range(12)] == [
        str(step) for program in THREE for step in program.steps
    ]


@pytest.mark.parametrize(
    ("capacity", "room"),
    [
        # Rendezvous: a send waits for the step before its receive, if there is one.
        (0, {(3, 7, CAPACITY), (5, 9, CAPACITY)}),
        (1, {(3, 6, CAPACITY), (5, 8, CAPACITY)}),
        (2, {(5, 6, CAPACITY)}),
        (3, set()),
        (None, set()),
    ],
)
def test_a_send_waits_for_the_receive_that_makes_room(
    capacity: int | None, room: set[tuple[int, int, int]]
) -> None:
    assert edges(graph(THREE, capacity)) == MESSAGES | room


def test_optimizer_steps_wait_for_all_gradients_through_one_virtual_node() -> None:
    found = graph(
        programs("0B0 0REDUCE_GRAD 0OPT_STEP", "1B0 1REDUCE_GRAD 1OPT_STEP"), 1
    )
    assert len(found) == 7
    assert (found.node_rank[6], found.previous[6], found.step(6)) == (-1, -1, None)
    assert edges(found) == {(6, 1, BARRIER), (6, 4, BARRIER)} | {
        (2, 6, BARRIER),
        (5, 6, BARRIER),
    }


def test_an_empty_program_has_no_nodes() -> None:
    found = graph(programs("", "0F0", ""))
    assert (list(found.node_rank), list(found.previous)) == ([1], [-1])
    assert len(graph(())) == 0
    assert graph(()).order() == []


def assert_ordered(found: Graph, order: list[int]) -> None:
    at = {node: position for position, node in enumerate(order)}
    assert len(at) == len(order)
    for node in order:
        waits = [d for d, _ in found.waits_for(node)]
        if found.previous[node] >= 0:
            waits.append(found.previous[node])
        assert all(at[d] < at[node] for d in waits)


@pytest.mark.parametrize("capacity", [1, 2, None])
def test_the_order_puts_every_node_behind_what_it_waits_for(
    capacity: int | None,
) -> None:
    for p, m in [(1, 1), (2, 5), (5, 3), (4, 8)]:
        schedule = Schedule.make("1f1b", num_ranks=p, num_microbatches=m)
        found = graph(lower(schedule), capacity)
        order = found.order()
        assert len(order) == len(found)
        assert_ordered(found, order)
        assert found.circle(order) == []


def test_what_a_cycle_holds_up_is_left_out_and_nothing_else() -> None:
    # Ranks 0 and 1 each receive before they send; rank 2 is free, 3 waits for 0.
    found = graph(
        programs(
            "9F0 1RECV_F0 4SEND_F0",
            "5RECV_F0 0SEND_F0 7F0",
            "8F0 8F1",
            "10F0 11RECV_F0 10F1",
        )[:3]
        + (Program(3, tuple(parse(x) for x in ("10F0", "10F1"))),)
    )
    order = found.order()
    assert sorted(order) == [0, 6, 7, 8, 9]
    assert_ordered(found, order)
    assert found.circle(order) == [(1, 4, DATA), (3, 2, DATA)]


def test_a_circle_starts_where_the_ranks_stand_and_closes() -> None:
    rng = random.Random(0)
    for number in range(60):
        schedule = Schedule.make("1f1b", num_ranks=4, num_microbatches=4)
        table = [list(row) for row in schedule.ranks]
        for row in rng.sample(table, 2):
            rng.shuffle(row)
        shuffled = Schedule("shuffled", table, schedule.stage_to_rank)
        try:
            found = graph(lower(shuffled, optimizer=False), number % 3)
        except ScheduleError:
            continue
        order = found.order()
        done, circle = set(order), found.circle(order)
        assert bool(circle) == (len(order) < len(found))
        for (node, target, kind), after in zip(
            circle, circle[1:] + circle[:1], strict=True
        ):
            assert node not in done
            assert target not in done
            assert found.previous[node] in done | {-1}
            assert (target, kind) in found.waits_for(node)
            assert found.node_rank[target] == found.node_rank[after[0]]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (("0SEND_F0", ""), "sent as 0SEND_F0 but received as nothing"),
        (("", "1RECV_F0"), "sent as nothing but received as 1RECV_F0"),
        (("0SEND_F0", "1RECV_F1"), "sent as 0SEND_F0 but received as 1RECV_F1"),
        (("0SEND_F0.1", "1RECV_F0"), "sent as 0SEND_F0.1 but received as 1RECV_F0"),
        (("0RECV_B0", "1SEND_B1"), "B from stage 1 to stage 0"),
    ],
)
def test_ends_that_do_not_match_are_named(rows: tuple[str, str], told: str) -> None:
    with pytest.raises(ScheduleError, match=told) as caught:
        graph(programs(*rows))
    assert caught.value.rule == "matched communication"


def test_the_graph_keeps_every_dependence_of_the_schedule() -> None:
    # A V of stages with split backwards and recomputation; any order the graph allows
    # has to keep what dependencies say.
    rows = [
        "0F0 0F1 3F0 3I0 3F1 0R0 0I0 3I1 3W0 0R1 0I1 3W1 0W0 0W1",
        "1F0 2F0 1F1 2F1 2I0 1I0 2W0 2I1 1I1 1W0 2W1 1W1",
    ]
    schedule = Schedule("v", [row.split() for row in rows], (0, 1, 1, 0)).check(1)
    found = graph(lower(schedule), 1)
    ends = {
        action: position
        for position, node in enumerate(found.order())
        if (step := found.step(node)) is not None
        for action in halves(step)
    }
    for _, _, action in schedule.walk():
        for need in schedule.dependencies(action):
            assert ends[need] < ends[action]
