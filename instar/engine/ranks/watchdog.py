"""The watchdog: it tells the other ranks that this one lives, and ends this rank when another one is gone.

Without it a rank that dies leaves the others in a collective for half an hour. Every half second each rank writes its
mark into the shared store. Rank 0 reads all of them and the others read rank 0's, so the store's work grows with the
number of ranks and not with its square. Who finds fault writes a verdict, once for all; every rank that reads it
leaves with its code. Where the store itself does not answer, rank 0, which serves it, is the one that is gone.

Only monotonic clocks are used, and only time during which the watching thread itself was running.
"""

import contextlib
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import NoReturn

import torch.distributed as dist

from instar.engine.ranks import exits, marks, reports
from instar.engine.ranks.marks import Mark, Moving, Watched
from instar.engine.ranks.process import AwakeClock
from instar.engine.ranks.reports import Report
from instar.engine.ranks.world import World
from instar.errors import AGAIN, DONE, Again, InstarError

BEAT_SECONDS = 0.5
_CARRIES_ON = "The same command carries on from the last save."
_BROKEN_CONNECTION = re.compile(r"gloo|nccl|connection (closed|reset)|broken pipe|socket", re.IGNORECASE)

OnEvent = Callable[..., None]


class Watchdog:
    """Watches over the ranks of a world; a context manager around the training.

    patience   seconds without a heartbeat after which a rank counts as gone
    stall      seconds without a step anywhere after which the run is given up
    on_event   told, on one rank, what no rank can say itself: on_event("stopped", rank=..., reason=..., step=...)

    With other ranks, an error that leaves the `with` block ends this process: every rank hears of it, and it is printed
    once. `Again` is no such error: every rank leaves with it at the same step. One that a single rank raises must go
    through `failed`.
    """

    def __init__(
        self,
        world: World,
        *,
        patience: float = 8.0,
        stall: float = 600.0,
        on_event: OnEvent = lambda event, **facts: None,
    ):
        self._world = world
        self._patience, self._stall, self._on_event = patience, stall, on_event
        self._step, self._phase, self._moves, self._beats = 0, "start", 0, 0
        self._next_in_line = 1
        self._main = threading.get_ident()
        self._seen: set[int] = set()
        self._ended = threading.Event()
        self._leaving = threading.Lock()
        self._threads: list[threading.Thread] = []

    def at(self, step: int, phase: str) -> None:
        """Note where this rank is. Costs three assignments, so it may stand in every step."""
        self._step = step
        self._phase = phase
        self._moves += 1

    def start(self) -> None:
        """Begin to watch."""
        work = [self._guard]
        if self._world.store is not None:
            self._store = dist.PrefixStore("watchdog", self._world.store)
            # A client of a store serves one request at a time, and a request may block: the thread has its own.
            self._line = self._store.clone()
            self._line.set_timeout(timedelta(seconds=self._patience))
            self._write(self._store, self._mark())
            work.append(self._talk)
        self._threads = [threading.Thread(target=each, name="watchdog", daemon=True) for each in work]
        for thread in self._threads:
            thread.start()

    def stop(self, code: int = DONE) -> None:
        """Stop watching, in good order: rank 0 waits, at most ten seconds, until the others need its store no more."""
        if self._ended.is_set():
            return
        self._ended.set()
        for thread in self._threads:
            thread.join(2 * BEAT_SECONDS)
        self._bid_farewell(code, seconds=10)

    def failed(self, error: BaseException) -> int:
        """Account for an error of this rank; in a world of one returns its exit code, else ends the process.

        Where the error only follows from another rank's, that one is named instead.
        """
        report = reports.of(error, self._world.rank)
        if self._world.store is None:
            return report.code
        if follows_from_another(error):
            report = self._await_the_cause(error)
        with contextlib.suppress(dist.DistError):  # rank 0 is gone: then we speak for ourselves
            verdict = self._accuse(report, self._store)
            if verdict != report:
                self._obey(verdict)
        self._leave_first(report)

    def __enter__(self) -> "Watchdog":
        self.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if error is not None and not isinstance(error, Again) and self._world.store is not None:
            self.failed(error)
        self.stop(DONE if error is None else reports.of(error, 0).code)

    # --- the two threads --------------------------------------------------------------------------------------------

    def _talk(self) -> None:
        """Beat, read what the others wrote, and judge it."""
        world = self._world
        watched = range(1, world.size) if world.rank == 0 else range(1)
        others = {rank: Watched(world.processes[rank]) for rank in watched}
        clock, moving = AwakeClock(most=2 * BEAT_SECONDS), Moving()
        try:
            while not self._ended.wait(BEAT_SECONDS):
                self._write(self._line, self._mark())
                self._look_for_a_verdict()
                now = clock.tick()
                for rank, mark in self._read(others).items():
                    others[rank].read(mark, now)
                self._judge(others, moving, now)
                self._beats += 1
        except dist.DistError as error:
            if not self._ended.is_set():
                self._lose_rank_0(f"its connection ended ({_first_line(error)})")

    def _guard(self) -> None:
        """Watch the talking thread, which blocks where rank 0 does not answer; alone, watch the training itself."""
        clock, moving = AwakeClock(most=2 * BEAT_SECONDS), Moving()
        while not self._ended.wait(BEAT_SECONDS / 2):
            now = clock.tick()
            if self._world.store is None:
                if moving.stands_still(self._moves, now) > self._stall:
                    self._obey(self._stalled({0: self._mark()}))
            elif moving.stands_still(self._beats, now) == 0.0:
                self._next_in_line = self._speaker_after_rank_0()
            elif moving.stands_still(self._beats, now) > self._patience:
                self._lose_rank_0(f"it did not answer for {self._patience:g} s")

    def _judge(self, others: dict[int, Watched], moving: Moving, now: float) -> None:
        gone = {rank: why for rank, other in others.items() if (why := other.fault(self._patience))}
        # A process is gone right after it said that it leaves, so its last word is read once more.
        last_words = self._read(gone) if gone else {}
        gone = {rank: why for rank, why in gone.items() if rank not in last_words or last_words[rank].left is None}
        if gone:
            self._look_for_a_verdict()
            self._obey(self._accuse(self._lost(tuple(gone), "; ".join(gone.values())), self._line))
        if self._world.rank == 0:
            everybody = {0: self._mark(), **{rank: other.mark for rank, other in others.items()}}
            if moving.stands_still([mark.moves for mark in everybody.values()], now) > self._stall:
                self._obey(self._accuse(self._stalled(everybody), self._line))

    # --- the store --------------------------------------------------------------------------------------------------

    def _mark(self, left: int | None = None) -> Mark:
        return Mark(self._beats, self._moves, self._step, self._phase, left)

    def _write(self, store: dist.Store, mark: Mark) -> None:
        store.set(f"at/{self._world.rank}", mark.to_text())

    def _read(self, ranks: Iterable[int]) -> dict[int, Mark]:
        """The marks of those ranks that have begun to watch; one that is still building its model has none."""
        for rank in ranks:
            if rank not in self._seen and self._line.check([f"at/{rank}"]):
                self._seen.add(rank)
        begun = [rank for rank in ranks if rank in self._seen]
        texts = self._line.multi_get([f"at/{rank}" for rank in begun]) if begun else []
        return {rank: marks.from_text(text.decode()) for rank, text in zip(begun, texts, strict=True)}

    def _look_for_a_verdict(self) -> None:
        if self._line.check(["verdict"]):
            self._obey(reports.from_json(self._line.get("verdict").decode()))

    def _accuse(self, report: Report, store: dist.Store) -> Report:
        """Make this the verdict, unless there is one already; returns the verdict."""
        return reports.from_json(store.compare_set("verdict", "", report.to_json()).decode())

    def _bid_farewell(self, code: int, *, seconds: float, gone: tuple[int, ...] = ()) -> None:
        """Say that this rank leaves; rank 0, which serves the store, waits until the others have said so too."""
        if self._world.store is None:
            return
        with contextlib.suppress(dist.DistError):
            self._write(self._store, self._mark(code))
            end = time.monotonic() + seconds
            while self._world.rank == 0 and time.monotonic() < end and self._somebody_stays(gone):
                time.sleep(0.02)

    def _somebody_stays(self, gone: tuple[int, ...]) -> bool:
        return any(
            self._left(rank) is None and self._world.processes[rank].state() not in ("gone", "stopped")
            for rank in range(1, self._world.size)
            if rank not in gone
        )

    def _left(self, rank: int) -> int | None:
        key = f"at/{rank}"
        return marks.from_text(self._store.get(key).decode()).left if self._store.check([key]) else None

    # --- leaving ----------------------------------------------------------------------------------------------------

    def _await_the_cause(self, error: BaseException) -> Report:
        """Give the rank that broke the connection time to be found; our own threads then end this process."""
        end = time.monotonic() + self._patience + 3 * BEAT_SECONDS
        try:
            while time.monotonic() < end:
                time.sleep(BEAT_SECONDS / 5)
                codes = [self._left(rank) for rank in range(self._world.size)]
                if any(codes) and not self._store.check(["verdict"]):
                    self._only_once()
                    self._take_leave(max(code for code in codes if code))
        except dist.DistError as lost:
            self._lose_rank_0(f"its connection ended ({_first_line(lost)})")
        rank = self._world.rank
        text = f"the connection between the ranks broke, and none of them is gone: {_first_line(error)}. {_CARRIES_ON}"
        return Report("lost", rank, (rank,), AGAIN, text)

    def _lost(self, ranks: tuple[int, ...], why: str) -> Report:
        return Report("lost", self._world.rank, ranks, AGAIN, f"{self._names(ranks)} is gone: {why}. {_CARRIES_ON}")

    def _stalled(self, everybody: dict[int, Mark]) -> Report:
        ranks = marks.behind(everybody)
        last = everybody[ranks[0]]
        text = (
            f"no rank took a step for {self._stall:g} s: {self._names(ranks)} is behind, at step {last.step} "
            f"({last.phase}). {_CARRIES_ON}"
        )
        return Report("stalled", self._world.rank, ranks, AGAIN, text)

    def _names(self, ranks: tuple[int, ...]) -> str:
        hosts = sorted({self._world.processes[rank].host for rank in ranks})
        return f"rank {', '.join(map(str, ranks))} of {self._world.size} on {', '.join(hosts)}"

    def _speaker_after_rank_0(self) -> int:
        """Who speaks if rank 0 is lost. Settled while all is well: afterwards each finds the others gone or going."""
        first, *others = self._world.processes
        elsewhere = [rank for rank, each in enumerate(others, 1) if each.host != first.host]
        if elsewhere:
            return elsewhere[0]  # a whole machine may go at once
        return next((rank for rank, each in enumerate(others, 1) if each.state() not in ("gone", "stopped")), 1)

    def _lose_rank_0(self, why: str) -> NoReturn:
        """The store is rank 0's, so nothing can be told to anybody through it: every rank finds out for itself."""
        process = self._world.processes[0]
        why = f"process {process.pid} ended" if process.state() == "gone" else f"process {process.pid}: {why}"
        self._only_once()
        report = self._lost((0,), why)
        if self._world.rank == self._next_in_line:
            self._speak(report)
        exits.leave(report.code)

    def _obey(self, verdict: Report) -> NoReturn:
        """Leave as the verdict says. One rank speaks for all: one that hangs shows where, else one not to blame."""
        self._only_once()
        rank, everybody = self._world.rank, range(self._world.size)
        if verdict.kind == "stalled":
            speaker = verdict.ranks[0]
            if rank == speaker:
                verdict = Report("stalled", rank, verdict.ranks, verdict.code, f"{self._stack()}\n{verdict.text}")
        else:
            speaker = min((each for each in everybody if each not in verdict.ranks), default=0)
        if rank == speaker:
            self._speak(verdict)
        self._bid_farewell(verdict.code, seconds=3, gone=verdict.ranks if verdict.kind == "lost" else ())
        exits.leave(verdict.code)

    def _leave_first(self, report: Report) -> NoReturn:
        """Leave as the rank that everybody else follows."""
        self._only_once()
        reports.say(report)
        self._take_leave(report.code)

    def _take_leave(self, code: int) -> NoReturn:
        self._ended.set()
        self._bid_farewell(code, seconds=3)
        exits.leave(code)

    def _only_once(self) -> None:
        """Let one thread of this process leave; another that also wants to waits for its end."""
        if not self._leaving.acquire(blocking=False):
            threading.Event().wait()

    def _speak(self, verdict: Report) -> None:
        if verdict.kind == "failed":
            return  # the rank that failed has spoken
        culprit = self._world.processes[verdict.ranks[0]]
        facts = {"rank": verdict.ranks[0], "host": culprit.host, "pid": culprit.pid, "step": self._step}
        facts["reason"] = verdict.text.splitlines()[-1]
        # Never wait for a disk that hangs.
        logging = threading.Thread(target=self._on_event, args=("stopped",), kwargs=facts, daemon=True)
        logging.start()
        logging.join(2.0)
        reports.say(verdict)

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._main)
        return "".join(traceback.format_stack(frame)).rstrip() if frame is not None else ""


def follows_from_another(error: BaseException) -> bool:
    """Whether this error says that a connection to another rank broke, and so nothing about its cause."""
    if isinstance(error, InstarError) or not isinstance(error, RuntimeError):
        return False
    return isinstance(error, dist.DistError) or _BROKEN_CONNECTION.search(str(error)) is not None


def _first_line(error: BaseException) -> str:
    """The part of a message that says what happened; gloo's go on at length."""
    return str(error).partition("\n")[0].partition(". ")[0][:200]
