"""The stream with its sockets: what arrives, what is lost and known to be, and who is
never slowed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import zmq

from workbench.launcher import reporter as reporter_module
from workbench.launcher import wire
from workbench.launcher.hub import MOST_VIEWERS
from workbench.launcher.stream import Hub, Keys, Reporter, Viewer

from .conftest import Net, rows

# ---- what is told --------------------------------------------------------------------


def test_what_a_rank_tells_arrives_in_order_and_whole(net: Net) -> None:
    hub = net.hub(2)
    ranks = [net.reporter(hub, rank) for rank in (0, 1)]
    rng = np.random.default_rng(0)
    sent = [rng.random(int(n)).astype("f4") for n in rng.integers(0, 400_000, 12)]
    for i, array in enumerate(sent):
        copy = array.copy()
        ranks[i % 2].tell("tensor", {"index": i}, {"values": copy})
        copy[:] = -1  # the caller may go on with its arrays
    assert net.until(hub, lambda: len(net.of("tensor")) == len(sent))
    for rank in (0, 1):
        got = [m for m in net.of("tensor") if m.rank == rank]
        assert [m.body["index"] for m in got] == list(range(rank, len(sent), 2))
        for m in got:
            np.testing.assert_array_equal(m.arrays["values"], sent[m.body["index"]])
    assert hub.malformed == 0


def test_commands_reach_one_rank_or_all_also_those_that_come_later(net: Net) -> None:
    hub = net.hub(2)
    hub.tell({"do": "job"})
    ranks = [net.reporter(hub, rank) for rank in (0, 1)]
    got: list[list[str]] = [[], []]

    def heard() -> int:
        for rank in (0, 1):
            got[rank] += [c["do"] for c in ranks[rank].commands()]
        return sum(map(len, got))

    assert net.until(hub, lambda: heard() == 2)
    for i in range(20):
        hub.tell({"do": f"{i}"}, rank=i % 2)
    hub.tell({"do": "bye"})
    assert net.until(hub, lambda: heard() == 24)
    for rank in (0, 1):
        assert got[rank] == ["job", *map(str, range(rank, 20, 2)), "bye"]
    with pytest.raises(ValueError, match="rank=2"):
        hub.tell({"do": "stop"}, rank=2)


def test_a_hundred_megabytes_do_not_starve_the_beats(net: Net) -> None:
    hub = net.hub()
    rank = net.reporter(hub)
    rank.beat = lambda: {"step": 7}
    assert net.until(hub, lambda: net.of("beat"))
    net.found.clear()
    rank.tell("tensor", {}, {"values": np.arange(25_000_000, dtype="f4")})
    rank.tell("bye")
    deadline = time.monotonic() + 60
    while not net.of("bye") and time.monotonic() < deadline:
        # A slow hub: at 2 MiB under way, 100 MB need at least 48 looks, 1.4 seconds.
        time.sleep(0.03)
        net.found += hub.poll(0)
    kinds = [m.kind for m in net.found]
    assert kinds[: kinds.index("tensor")].count("beat") >= 2
    values = net.of("tensor")[0].arrays["values"]
    np.testing.assert_array_equal(values[:: 10**6], np.arange(0, 25 * 10**6, 10**6))
    assert net.of("beat")[0].body == {"step": 7}
    assert rank.silence < 5


def test_a_beat_that_fails_is_told_and_harms_nothing(net: Net) -> None:
    hub = net.hub()
    rank = net.reporter(hub)
    rank.beat = lambda: {"step": 1 // 0}
    assert net.until(hub, lambda: net.of("beat"))
    assert "ZeroDivisionError" in net.of("beat")[0].body["error"]
    rank.tell("hello")
    assert net.until(hub, lambda: net.of("hello"))


# ---- events --------------------------------------------------------------------------


def test_events_arrive_with_their_very_times_on_one_machine(net: Net) -> None:
    hub = net.hub(3)
    rank = net.reporter(hub, 2)
    for i in range(40):
        rank.events(rows(100, 10**15 + 100 * i, rank=2))
    assert net.until(hub, lambda: len(net.starts(2)) == 4000)
    assert net.starts(2) == list(range(10**15, 10**15 + 4000))
    assert hub.lost == {0: 0, 1: 0, 2: 0}
    clock = hub.clock(2)
    assert (clock.offset_ns, clock.drift, clock.residual_ns) == (0, 0.0, 0)
    for m in net.of("events"):
        assert len(m.arrays["events"]) <= wire.BATCH


def test_what_is_dropped_is_counted_exactly(net: Net) -> None:
    hub = net.hub()
    rank = net.reporter(hub)
    most = reporter_module.MOST_WAITING
    batches, size = 40, 10_000  # the hub does not poll: it looks as if it hung
    for i in range(batches):
        rank.events(rows(size, size * i))
    assert rank.dropped >= batches * size - most - 200 * wire.BATCH
    assert net.until(hub, lambda: hub.lost[0] + len(net.starts()) == batches * size)
    starts = net.starts()
    assert starts == sorted(set(starts))
    assert hub.lost[0] == rank.dropped == batches * size - len(starts)
    rank.events(rows(5, 10**6))
    assert net.until(hub, lambda: len(net.starts()) == len(starts) + 5)
    assert hub.lost[0] == rank.dropped


def test_a_hub_that_is_not_there_costs_the_rank_nothing() -> None:
    hub = Hub(1)
    address, keys = hub.address, hub.keys
    hub.close()
    rank = Reporter(address, keys.for_clients(), 0)
    longest = 0.0
    for i in range(300):
        begun = time.thread_time()
        rank.events(rows(1000, 1000 * i))
        longest = max(longest, time.thread_time() - begun)
        rank.tell("state", {"step": i})
        assert rank.commands() == []
    assert rank.dropped == 300_000 - reporter_module.MOST_WAITING
    assert rank.close(0.1) is False
    assert rank.error is None


def test_a_hub_that_comes_back_is_found_and_told_what_the_first_did_not_hear(
    net: Net,
) -> None:
    first = net.hub()
    rank = net.reporter(first)
    rank.tell("hello", {"i": 0})
    rank.events(rows(10))
    assert net.until(first, lambda: net.of("hello") and len(net.starts()) == 10)
    net.poll(first, 0.3)  # long enough for the acknowledgement
    host, *ports = first.address.split(":")
    first.close()
    for i in range(1, 6):
        rank.tell("state", {"i": i}, {"a": np.full(200_000, i)})
    time.sleep(0.3)
    second = net.hub(keys=first.keys, ports=(int(ports[0]), int(ports[1])))
    assert second.address == first.address
    second.tell({"do": "pause"})
    assert net.until(second, lambda: len(net.of("state")) == 5)
    assert [m.body["i"] for m in net.of("state")] == [1, 2, 3, 4, 5]
    rank.events(rows(10, 10))
    assert net.until(second, lambda: len(net.starts()) == 20)
    assert net.starts() == list(range(20))
    assert second.lost[0] == 10  # these went to the first one
    assert net.until(second, lambda: rank.commands() == [{"do": "pause"}])


def test_sixty_four_ranks_lose_nothing_at_twenty_thousand_events_a_second(
    net: Net,
) -> None:
    hub = net.hub(64)
    ranks = [net.reporter(hub, rank) for rank in range(64)]
    assert net.until(hub, lambda: all(r._settled == 0 and r._last for r in ranks))
    told, seconds, begun = [0] * 64, 2.0, time.monotonic()
    while (passed := time.monotonic() - begun) < seconds:
        due = int(min(passed, seconds) * 20_000 / 64)
        for i, rank in enumerate(ranks):
            rank.events(rows(due - told[i], told[i], rank=i))
            told[i] = due
        net.found += hub.poll(0.01)
    assert sum(told) > 0.9 * 20_000 * seconds
    assert net.until(
        hub, lambda: sum(len(m.arrays["events"]) for m in net.of("events")) == sum(told)
    )
    assert sum(hub.lost.values()) == 0
    for i in range(64):
        assert net.starts(i) == list(range(told[i]))
    for rank in ranks:
        rank._closing.set()  # all at once, not one after another
    net.poll(hub, 0.1)


# ---- who gets in ---------------------------------------------------------------------


def _stranger(hub: Hub, keys: Keys | None, kind: int, port: int) -> zmq.Socket:
    socket = zmq.Context.instance().socket(kind)
    socket.linger = 0
    if keys is not None:
        socket.curve_serverkey = bytes.fromhex(keys.server_public)
        socket.curve_publickey = bytes.fromhex(keys.client_public)
        socket.curve_secretkey = bytes.fromhex(keys.client_secret)
    socket.connect("tcp://127.0.0.1:" + hub.address.split(":")[port])
    return socket


@pytest.mark.parametrize("wrong", ["nothing", "client", "server"])
def test_without_the_right_key_no_message_gets_in(net: Net, wrong: str) -> None:
    hub, other = net.hub(), Keys.new()
    keys = {
        "nothing": None,
        "client": other._replace(server_public=hub.keys.server_public),
        "server": hub.keys._replace(server_public=other.server_public),
    }[wrong]
    message = wire.encode("hello", {})
    frames = [
        wire.Frame(wire.DATA, 0, 1, flags=wire.FIRST | wire.LAST, payload=message),
        wire.Frame(wire.EVENTS, 0, 1, payload=rows(3).tobytes()),
    ]
    socks = [
        _stranger(hub, keys, k, i + 1) for i, k in enumerate((zmq.DEALER, zmq.PUSH))
    ]
    for socket, frame in zip(socks, frames, strict=True):
        for _ in range(5):
            socket.send(frame.pack())
    net.poll(hub, 1.0)
    assert net.found == []
    assert hub.malformed == 0  # they did not get as far
    assert (hub.refused > 0) == (wrong == "client")
    for socket in socks:
        socket.close(0)
    # With the right one the very same frames are messages.
    socks = [
        _stranger(hub, hub.keys, k, i + 1) for i, k in enumerate((zmq.DEALER, zmq.PUSH))
    ]
    for socket, frame in zip(socks, frames, strict=True):
        socket.send(frame.pack())
    assert net.until(hub, lambda: net.of("hello"))
    for socket in socks:
        socket.close(0)


def test_a_viewer_with_another_key_hears_nothing(net: Net) -> None:
    hub = net.hub()
    hub_keys = hub.keys
    wrong = Keys.new()._replace(server_public=hub_keys.server_public)
    viewer = net.viewer(hub, wrong)
    polling = threading.Thread(target=lambda: net.poll(hub, 1.0))
    polling.start()
    with pytest.raises(TimeoutError, match=r"no answer.*keys"):
        viewer.ask({"what": "job"}, seconds=0.6)
    polling.join()
    assert net.found == []
    assert hub.refused > 0


@pytest.mark.parametrize("seed", range(3))
def test_noise_from_within_is_counted_and_harms_nothing(net: Net, seed: int) -> None:
    hub = net.hub(2)
    rng = np.random.default_rng(seed)
    control = _stranger(hub, hub.keys, zmq.DEALER, 1)
    events = _stranger(hub, hub.keys, zmq.PUSH, 2)
    good = rows(3)
    bad = good.copy()
    bad["kind"] = 999
    late = good.copy()
    late["start"] = -(2**63)
    heads = [
        wire.Frame(wire.PING, 0, 1, payload=b'{"n": 1e5, "t1": []}'),
        wire.Frame(wire.PING, 0, 1, payload=b'{"n": 1, "t1": 1, "last": [1, 2, 3]}'),
        wire.Frame(
            wire.PING, 0, 1, payload=b'{"n": 1, "t1": 1, "last": [1, 2, 3, 1e9]}'
        ),
        wire.Frame(wire.PING, -1, 1, payload=b'{"n": 1, "t1": 1}'),
        wire.Frame(wire.BEAT, 0, 1, payload=b"NaN"),
        wire.Frame(wire.BEAT, 7, 1, payload=b"{}"),
        wire.Frame(wire.DATA, 0, 1, payload=b"piece"),
        wire.Frame(wire.DATA, 1, 1, flags=3, payload=b"\xff\xff\xff\xff"),
        wire.Frame(wire.DATA, -1, 3, flags=3, payload=wire.encode("ask", {"id": []})),
        wire.Frame(wire.DATA, -1, 4, flags=3, payload=wire.encode("hello", {"id": 1})),
        wire.Frame(wire.EVENTS, 0, 1, payload=good.tobytes()),
    ]
    for frame in heads:
        control.send(frame.pack())
    control.send_multipart([b"two", b"parts"])
    count = len(heads) + 1
    for payload in (
        b"x",
        bad.tobytes(),
        late.tobytes(),
        rows(wire.BATCH + 1).tobytes(),
        rows(1, rank=2).tobytes(),
    ):
        events.send(wire.Frame(wire.EVENTS, 0, 1, payload=payload).pack())
        count += 1
    for _ in range(100):
        noise = rng.bytes(int(rng.integers(0, 300)))
        (control if rng.random() < 0.5 else events).send(noise)
        count += 1
    assert net.until(hub, lambda: hub.malformed == count)
    assert net.found == []
    rank = net.reporter(hub, 1)
    rank.tell("hello")
    rank.events(rows(3, rank=1))
    assert net.until(hub, lambda: net.of("hello") and len(net.starts(1)) == 3)
    assert hub.lost[1] == 0
    control.close(0)
    events.close(0)


def test_the_hub_listens_on_this_machine_only_unless_told(net: Net) -> None:
    assert net.hub().address.startswith("127.0.0.1:")
    with pytest.raises(ValueError, match=r"host='192\.0\.2\.1'"):
        Hub(1, host="192.0.2.1")
    with pytest.raises(ValueError, match="own secret"):
        Hub(1, keys=Keys.new().for_clients())


@pytest.mark.parametrize("address", ["", "host", "host:1", "host:1:x", ":1:2", "h:0:1"])
def test_an_address_that_is_none_is_named(address: str) -> None:
    with pytest.raises(ValueError, match="address="):
        Reporter(address, Keys("a" * 64, "", "b" * 64, "c" * 64), 0)


# ---- viewers -------------------------------------------------------------------------


def test_a_viewer_is_answered_with_arrays_of_any_size(net: Net) -> None:
    hub = net.hub()
    viewer = net.viewer(hub)
    for size in (0, 10, 3_000_000):
        array = np.arange(size, dtype="f8")
        body, arrays = net.ask(
            hub, viewer, lambda m, a=array: ({"asked": m.body["what"]}, {"w": a})
        )
        assert body == {"asked": "x"}
        np.testing.assert_array_equal(arrays["w"], array)


def test_an_answer_that_comes_too_late_is_not_taken_for_the_next(net: Net) -> None:
    hub = net.hub()
    viewer = net.viewer(hub)
    late: list[wire.Message] = []

    def ask() -> None:
        with pytest.raises(TimeoutError):
            viewer.ask({"i": 0}, seconds=0.3)

    asking = threading.Thread(target=ask)
    asking.start()
    while asking.is_alive():
        late += hub.poll(0.02)
    assert len(late) == 1
    hub.answer(late[0], {"i": 0})
    body, _ = net.ask(hub, viewer, lambda m: ({"i": 1}, {}))
    assert body == {"i": 1}


def test_viewers_that_left_do_not_pile_up(net: Net) -> None:
    hub = net.hub()
    for _ in range(MOST_VIEWERS // 8):
        viewer = net.viewer(hub)
        net.ask(hub, viewer, lambda m: ({}, {"a": np.zeros(10)}))
        viewer.close()
    for i in range(3 * MOST_VIEWERS):
        end = wire.Frame(wire.BARE, -1, 100 + i)
        hub._end_of(end)
    assert len(hub._viewers) <= MOST_VIEWERS
    viewer = net.viewer(hub)
    assert net.ask(hub, viewer, lambda m: ({"a": 1}, {}))[0] == {"a": 1}


# ---- clocks, with real processes -----------------------------------------------------

CHILD = """
import sys, time, numpy as np
from cython_kernels import tables
from workbench.launcher.stream import Keys, Reporter
reporter = Reporter(sys.argv[1], Keys.from_text(sys.stdin.readline()), 0)
for i in range(int(sys.argv[2])):
    event = np.zeros(1, tables.EVENT)
    event["start"] = event["bytes"] = time.monotonic_ns()  # bytes: the truth
    event["end"] = event["start"] + 1000
    reporter.events(event)
    time.sleep(0.01)
sys.exit(not reporter.close(10))
"""


@pytest.mark.parametrize("skew", ["7200000000000,50", "-86400000000000,-80", None])
def test_clocks_of_real_processes_are_aligned(net: Net, skew: str | None) -> None:
    hub = net.hub()
    environment = {k: v for k, v in os.environ.items() if k != "WORKBENCH_FAKE_SKEW"}
    if skew is not None:
        environment["WORKBENCH_FAKE_SKEW"] = skew
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, hub.address, "250"],
        stdin=subprocess.PIPE,
        env=environment,
        text=True,
    )
    assert child.stdin is not None
    child.stdin.write(hub.keys.for_clients().to_text() + "\n")
    child.stdin.close()
    errors, bounds = [], []

    def done() -> bool:
        for m in net.of("events"):
            events = m.arrays["events"]
            errors.extend((events["start"] - events["bytes"]).tolist())
            bounds.extend([hub.clock(0).residual_ns] * len(events))
        net.found.clear()
        return child.poll() is not None

    assert net.until(hub, done, 60)
    assert child.wait() == 0
    assert len(errors) == 250
    assert hub.lost[0] == 0
    if skew is None:
        assert set(errors) == {0}
        assert hub.clock(0).residual_ns == 0
    else:
        offset, drift = (float(part) for part in skew.split(","))
        truth = -offset - drift * 1e-6 * time.monotonic_ns()
        assert hub.clock(0).offset_ns == pytest.approx(truth, abs=10**7)
        assert np.abs(errors).max() <= max(bounds)
        assert 0 < hub.clock(0).residual_ns < 10**9


# ---- the end -------------------------------------------------------------------------


def test_closing_tells_everything_first_and_leaves_nothing(net: Net) -> None:
    before = set(threading.enumerate())
    hub = net.hub()
    rank = net.reporter(hub)
    rank.events(rows(5000))
    rank.tell("tensor", {}, {"a": np.zeros(2_000_000)})
    rank.tell("bye")
    closed: list[bool] = []
    closing = threading.Thread(target=lambda: closed.append(rank.close(20)))
    closing.start()
    assert net.until(hub, lambda: not closing.is_alive())
    net.found += hub.poll(0)
    assert closed == [True]
    assert net.starts() == list(range(5000))
    assert net.of("bye")
    assert rank.close() is True  # twice does no harm
    hub.close()
    hub.close()
    viewer = Viewer(hub.address, hub.keys.for_clients())
    viewer.close()
    viewer.close()
    with pytest.raises(ValueError, match="closed"):
        viewer.ask({})
    assert set(threading.enumerate()) <= before


def test_a_process_that_forgets_to_close_ends_all_the_same() -> None:
    code = (
        "import numpy as np\n"
        "from workbench.launcher.stream import *\n"
        "hub = Hub(1)\n"
        "reporter = Reporter(hub.address, hub.keys.for_clients(), 0)\n"
        "viewer = Viewer(hub.address, hub.keys.for_clients())\n"
        "reporter.tell('x', {}, {'a': np.zeros(1_000_000)})\n"
        "hub.poll(0.3)\n"
        "print('end')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], timeout=30, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def test_a_viewer_that_was_forgotten_asks_on(net: Net) -> None:
    hub = net.hub()
    viewer = net.viewer(hub)
    for i in range(3):
        array = np.full(200_000, i)
        answer = net.ask(hub, viewer, lambda m, i=i, a=array: ({"i": i}, {"a": a}))
        assert answer[0] == {"i": i}
        np.testing.assert_array_equal(answer[1]["a"], array)
        hub._viewers.clear()  # as after a long silence
