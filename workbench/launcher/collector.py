"""The collector: takes what ranks tell, watches over them, answers viewers, and writes
the run's folder.

It lives in the monitor's process for a launched run, and in rank 0's for one that
mpiexec or srun started. Whoever owns it calls ``turn`` all the time.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..checkpoint import RunFolder
from ..engine import Job, RunError, output
from ..engine.observed import OVER, Observed
from ..engine.run import PROGRESS_SECONDS
from ..engine.saver import Saver
from ..engine.state import Assembly, Piece
from .roll import Member, Roll
from .stream import Hub, Keys, Message, write_live

#: Silence after which a rank counts as lost, so that it is told within 3 s. It beats
#: four times a second, from a thread that a busy rank does not hold up: four ranks beside
#: 24 spinning processes on two cores were never silent for longer than 0.7 s.
LOST_SECONDS = 2.5
#: Between a failure and its end: for the other ranks' last words.
LAST_WORDS_SECONDS = 1.5
#: After all ranks' goodbyes: for events that are still on their way.
LATE_SECONDS = 2.0
#: How long the end is told to viewers that have not heard all of it.
LINGER_SECONDS = 5.0
#: Events in one answer, at most.
ANSWER_EVENTS = 20_000
#: A hub that was itself held up must not take its ranks for silent.
_OWN_DELAY = 0.5


class Collected(Observed):
    """A run whose ranks are elsewhere, as far as they have told."""

    def __init__(self, job: Job, folder: RunFolder) -> None:
        super().__init__(job, folder)
        self.tensors: dict[int, tuple[str, np.ndarray]] = {}

    def weights(self) -> dict[str, np.ndarray]:
        """By name, in layer order; those that have been told."""
        return dict(self.tensors[index] for index in sorted(self.tensors))


class Collector:
    """Takes what the ranks of one run tell, from its first hello to the run's folder.

    host, ports: where it listens; loopback unless asked. Raises ValueError where that
    cannot be.
    """

    def __init__(
        self,
        job: Job,
        folder: RunFolder,
        *,
        host: str = "127.0.0.1",
        ports: tuple[int, int] = (0, 0),
        keys: Keys | None = None,
    ) -> None:
        self.job = job
        self.size = job.executed.num_ranks
        self.run = Collected(job, folder)
        self.hub = Hub(self.size, host, keys, ports)
        self._folder = folder
        self._origin = time.monotonic_ns()
        self._roll = Roll(job)
        self.members = self._roll.members
        self._assemblies: dict[int, Assembly] = {}
        self._told_checkpoint: dict[int, int] = {}
        self._saver = Saver(folder.path, job.keep_checkpoints)
        self._progress_at = 0.0
        self._turned = time.monotonic()
        self._ending: float | None = None  # when the last words have been waited for
        self._late: float | None = None  # until when late events are waited for
        self._is_consequence = False  # of a failure that is still to be told
        self._viewers: dict[bytes, bool] = {}  # has it heard the end?
        #: Whether a rank's process is known to have ended; the monitor knows of some.
        self.has_gone: Callable[[Member], bool] = lambda member: False
        folder.write_text("job.toml", job.to_toml())
        write_live(
            folder.path,
            self.hub.address,
            self.hub.keys,
            pid=os.getpid(),
            host=platform.node(),
        )

    @property
    def is_over(self) -> bool:
        return self.run.state in OVER

    def give_job(self, resume: str | None = None) -> None:
        """Tells every rank what to train, and from which checkpoint it goes on."""
        self.hub.tell({"do": "job", "toml": self.job.to_toml(), "resume": resume})

    # ---- all the time ----------------------------------------------------------------

    def turn(self, seconds: float = 0.05) -> None:
        """Takes what has come, and looks after the ranks."""
        for message in self.hub.poll(seconds):
            if message.rank is None:
                self._answer(message)
                continue
            try:
                self._take(message.rank, message)
            except (KeyError, ValueError, TypeError, IndexError) as error:
                self.fail(
                    f"rank {message.rank} told {message.kind!r} in a way that cannot be "
                    f"read ({error}): is its pipeline-workbench of another version?",
                    self.members[message.rank],
                )
        self.run._events.lost = sum(self.hub.lost.values())
        self._tell_progress()
        self._watch()

    def _tell_progress(self) -> None:
        now = time.monotonic()
        if now - self._progress_at < PROGRESS_SECONDS or self.is_over:
            return
        self._progress_at = now
        self._note_clocks()
        try:
            output.write_progress(self.run, self._folder)
        except OSError:  # a full disk is told when the run ends
            return

    def _watch(self) -> None:
        now = time.monotonic()
        delayed, self._turned = now - self._turned > _OWN_DELAY, now
        if self.is_over or delayed:
            return
        if self._ending is not None:
            if now > self._ending or not (self._is_consequence or self._awaited()):
                self.end("failed")
                self.hub.tell({"do": "bye"})  # ranks may now end this very process
            return
        silent = [
            member
            for member in self.members
            if member.pid is not None
            and not member.is_over
            and self.hub.heard(member.rank) > LOST_SECONDS
        ]
        if silent:
            self._lose(silent)
            return
        if all(member.is_over for member in self.members):
            # Events come by another way than goodbyes, perhaps later.
            self._late = self._late or now + LATE_SECONDS
            missing = any(self.hub.numbered(m.rank) < m.events for m in self.members)
            if not missing or now > self._late:
                self.end(self.members[0].state)

    def _lose(self, silent: list[Member]) -> None:
        first = silent[0]
        # Those on the same host fall silent together, but not in the same moment.
        host = [m for m in self.members if m.host == first.host and not m.is_over]
        quiet = all(self.hub.heard(m.rank) > LOST_SECONDS / 2 for m in host)
        if len(host) > 1 and quiet:
            ranks = ", ".join(str(member.rank) for member in host)
            who = f"all of host {first.host} (ranks {ranks})"
        else:
            who = self._roll.place_of(first)
        self.fail(
            f"{who} has not been heard of for {self.hub.heard(first.rank):.1f} s"
            f"{self._standing_at(first)}: stopped, or its host or the network is gone",
            first,
        )

    def _awaited(self) -> bool:
        """Is there anybody left who may have last words?"""
        return any(
            not member.is_over
            and member.pid is not None
            and not self.has_gone(member)
            and self.hub.heard(member.rank) < LAST_WORDS_SECONDS
            for member in self.members
        )

    # ---- what ranks tell -------------------------------------------------------------

    def _take(self, rank: int, message: Message) -> None:
        member, body, arrays = self.members[rank], message.body, message.arrays
        if message.kind == "events":
            events = arrays["events"]
            events["start"] -= self._origin
            events["end"] -= self._origin
            self.run._events.append(events)
            if len(events):
                self._roll.stands_after(member, events[-1])
        elif message.kind == "beat":
            self._roll.stands(
                member, int(body.get("step", 0)), int(body.get("counter", 0))
            )
        elif message.kind == "hello":
            member.host, member.pid = str(body.get("host")), int(body["pid"])
            member.about = body
        elif message.kind == "state":
            self._take_state(member, str(body.get("state")))
        elif message.kind == "steps":
            self.run._take_losses(int(body["first"]), arrays["losses"], arrays["norms"])
        elif message.kind == "evaluation":
            self.run.evaluations[int(body["step"])] = float(body["loss"])
        elif message.kind == "tensor" and body.get("what") == "weights":
            entry = (str(body["name"]), arrays["values"])
            self.run.tensors[int(body["index"])] = entry
        elif message.kind == "tensor" and body.get("what") == "checkpoint":
            self._take_piece(int(body["step"]), body, arrays["values"])
        elif message.kind == "checkpoint":
            self._take_checkpoint(int(body["step"]))
        elif message.kind == "failed":
            member.is_over = True
            weak = bool(body.get("is_consequence"))
            self.fail(str(body.get("text")), member, is_consequence=weak)
        elif message.kind == "killed":
            member.is_over = False  # whatever it said before, this is why
            self.killed(rank, int(body["signal"]), None)
        elif message.kind == "bye":
            member.is_over = True
            member.events = int(body.get("events", 0))

    def _take_piece(
        self, step: int, body: Mapping[str, Any], values: np.ndarray
    ) -> None:
        whole = self._assemblies.setdefault(step, Assembly(self.job, step))
        piece = Piece(str(body["part"]), str(body["name"]), int(body["begin"]), values)
        whole.add(piece)

    def _take_checkpoint(self, step: int) -> None:
        """A rank has told all of its part; the last one's lets it be written."""
        told = self._told_checkpoint[step] = self._told_checkpoint.get(step, 0) + 1
        if told < self.size:
            return
        run, whole = self.run, self._assemblies.pop(step)
        del self._told_checkpoint[step]
        self._saver.offer(whole.finish(run._losses, run._norms, run._rates))

    def _take_state(self, member: Member, state: str) -> None:
        member.state = state
        if state == "running" and self.run.state in ("starting", "paused"):
            self.run._marks.clear()
            self.run._set_state("running")
        if state == "paused" and all(m.state == "paused" for m in self.members):
            self.run._set_state("paused")

    # ---- failures --------------------------------------------------------------------

    def _standing_at(self, member: Member) -> str:
        """ " in step 37, microbatch 5 (2F5)", while the run goes on."""
        return self._roll.standing_at(member) if self.run.state == "running" else ""

    def fail(
        self, text: str, member: Member | None = None, is_consequence: bool = False
    ) -> None:
        """Notes the first failure, has all ranks end, and waits for their last words. A
        consequence of another failure gives way to that when it is told."""
        if self.is_over or (self._ending is not None and not self._is_consequence):
            return
        if self._ending is not None and is_consequence:
            return
        self._is_consequence = is_consequence
        lines = [text]
        if self.run.state == "running" and member is not None:
            lines += self._roll.others()
        rank = None if member is None else member.rank
        step = None if member is None else member.step
        action = None if member is None else self._roll.action_of(member)
        self.run.error = RunError("\n".join(lines), rank, step, action)
        self.hub.tell({"do": "abort"})
        self._ending = time.monotonic() + LAST_WORDS_SECONDS

    def killed(
        self, rank: int, signal: int | None, status: int | None, why: str = ""
    ) -> None:
        """The launcher says that this rank's process has ended so."""
        member = self.members[rank]
        how = f"was killed by signal {signal}" if signal else f"ended with {status}"
        member.is_over = True
        self.fail(
            f"{self._roll.place_of(member)} {how}{self._standing_at(member)}{why}",
            member,
        )

    def _note_clocks(self) -> None:
        """How far each rank's clock is off, and within what that is known."""
        residual = 0
        for rank in range(self.size):
            clock = self.hub.clock(rank)
            residual = max(residual, clock.residual_ns)
            self.run._about[f"clock of rank {rank}"] = (
                f"offset {clock.offset_ns} ns, drift {1e6 * clock.drift:.3f} ppm, "
                f"within {clock.residual_ns} ns"
            )
        self.run._about["clock_residual_ns"] = residual

    def end(self, state: str) -> None:
        """Writes the folder. Whatever goes wrong there fails the run."""
        if state not in OVER:
            state = "failed"
        self._note_clocks()
        self._saver.wait()
        self.run.checkpoint_error = self._saver.error
        try:
            output.write(self.run, self.run.weights(), self._folder, state)
        except Exception as error:
            self.run.error = self.run.error or error
            state = "failed"
        self.run._set_state(state)
        (self._folder.path / "live.json").unlink(missing_ok=True)

    def give_up(self, error: Exception) -> None:
        """Its owner cannot go on, for a reason that has nothing to do with the ranks:
        what there is goes into the folder."""
        if not self.is_over:
            self.run.error = RunError(
                "the process that watches over the run broke: "
                f"{type(error).__name__}: {error}"
            )
            self.end("failed")

    def linger(
        self, others: Callable[[], bool], seconds: float = LINGER_SECONDS
    ) -> None:
        """Goes on while ``others`` does or viewers have not heard all of the end, but
        not for long."""
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            if all(self._viewers.values()) and not others():
                return
            self.turn(0.02)

    # ---- viewers ---------------------------------------------------------------------

    def _answer(self, message: Message) -> None:
        try:
            body, arrays = self._answer_of(message)
        except (ValueError, TypeError) as error:  # a viewer's mistake is its own
            body, arrays = {"error": f"that cannot be answered: {error}"}, {}
        self.hub.answer(message, body, arrays)

    def _answer_of(
        self, message: Message
    ) -> tuple[dict[str, Any], Mapping[str, np.ndarray]]:
        what = message.body.get("what")
        if what == "since":
            return self._since(message)
        if what == "job":
            return {"toml": self.job.to_toml(), "folder": str(self._folder.path)}, {}
        if what == "do":
            return self._do(str(message.body.get("command"))), {}
        if what == "blame":
            self.fail(str(message.body.get("text")))
            return {}, {}
        if what == "weights":
            return {}, self.run.weights()
        return {"error": f"nothing is known of {what!r}"}, {}

    def _do(self, command: str) -> dict[str, Any]:
        if command not in ("pause", "resume", "stop", "abort", "checkpoint"):
            return {"error": f"no command {command!r}"}
        self.hub.tell({"do": command})
        if command == "abort":
            self.fail("the run was aborted")
        return {}

    def _since(
        self, message: Message
    ) -> tuple[dict[str, Any], Mapping[str, np.ndarray]]:
        run = self.run
        cursor = int(message.body.get("cursor", 0))
        known = min(max(0, int(message.body.get("losses", 0))), run.steps_done)
        after, events = run._events.since(cursor, ANSWER_EVENTS)
        first, last = after - len(events), run._events.end
        done = run.steps_done
        over = self.is_over
        self._viewers[message.reply_to[:8]] = over and after == last
        body = {
            "state": run.state,
            "step": done,
            "steps": self.job.steps,
            "evaluations": {str(k): v for k, v in run.evaluations.items()},
            "first": first,
            "cursor": after,
            "is_last": after == last,
            "lost": run._events.lost,
            "losses_from": known,
            "error": None if run.error is None else str(run.error),
            "about": run._about,
            "ranks": [
                {"rank": m.rank, "host": m.host, "pid": m.pid, "step": m.step}
                for m in self.members
            ],
        }
        arrays = {
            "events": events,
            "losses": run._losses[known:done],
            "norms": run._norms[known:done],
        }
        return body, arrays
