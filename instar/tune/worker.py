"""One worker of a study: takes places, runs their trials, answers their questions, counts how they ended.

Any number of workers, on any number of machines, do this with the same folder at the same time. None of them is needed:
what one leaves behind when it is killed, the next one finds and carries on.
"""

import selectors
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, Protocol

from instar.engine import deadline
from instar.engine.ranks import process
from instar.engine.ranks.lease import Lease
from instar.errors import Again, ConfigError
from instar.run import write_atomically
from instar.search import Effort
from instar.study import Study
from instar.tune import trial as trials
from instar.tune.claims import Claims
from instar.tune.forks import Command
from instar.tune.lanes import Lane
from instar.tune.searcher import Searcher
from instar.tune.trial import Ending, Running

_TURN_SECONDS = 0.5
_OVER = ("finished", "pruned", "failed")


class View(Protocol):
    """Somebody who watches a search."""

    def began(self, place: int, settings: Mapping[str, Any], *, again: bool) -> None:
        """A trial began, or carries on."""

    def evaluated(self, place: int, question: Mapping[str, Any]) -> None:
        """A trial has evaluated."""

    def ended(self, place: int, ending: Ending, settings: Mapping[str, Any], seconds: float) -> None:
        """A trial ended, or stopped."""

    def note(self, text: str) -> None:
        """Something one should know, in one sentence."""


@dataclass(frozen=True)
class _Bench:
    """What trials are started with, and waited for.

    sockets   a folder on this machine with a short name
    """

    claims: Claims
    sockets: Path
    selector: selectors.BaseSelector


@dataclass
class Worker:
    """Everything the loop of one worker turns.

    samples   places there are
    metric    name of the score that decides
    recipe    settings of a trial -> its recipe as YAML; raises ConfigError where they do not go together
    words     further words of the command of a trial
    server    what its process is forked off
    told      called after each trial that was counted
    """

    study: Study
    searcher: Searcher
    effort: Effort
    samples: int
    metric: str
    lanes: Sequence[Lane]
    recipe: Callable[[Mapping[str, Any]], str]
    words: Sequence[str]
    command: Command
    server: ForkServerContext
    clock: deadline.Clock
    view: View
    told: Callable[[], None]
    lock: bytes | None = None
    halt: Path | None = None
    running: list[Running] = field(default_factory=list)
    stuck: str = ""

    def work(self) -> None:
        """Run trials until there is nothing left to take; raises Again where it was told to stop, with all saved."""
        claims = Claims(self.study.claim_file)
        claims.watch(place for place, state in self.searcher.places().items() if state == "running")
        begun = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="instar-") as folder, selectors.DefaultSelector() as selector:
            bench = _Bench(claims, Path(folder), selector)
            try:
                with _woken(selector):
                    while not (why := self._must_stop()) or self.running:
                        if not why and not self._is_late(begun):
                            self._fill(bench)
                        if not self.running:
                            return
                        self._turn(selector, why)
                raise Again(why)
            finally:
                for one in self.running:
                    one.kill()
                    one.process.join()
                    one.claim.release()

    # --- what to do next -------------------------------------------------------------------------------------------

    def _must_stop(self) -> str:
        halted = "told to stop" if self.halt is not None and self.halt.exists() else ""
        return self.stuck or deadline.reason(self.clock) or halted

    def _is_late(self, begun: float) -> bool:
        return self.effort.time is not None and time.monotonic() - begun > self.effort.time.seconds

    def _fill(self, bench: _Bench) -> None:
        """Begin trials in all lanes that are free."""
        while free := [lane for lane in self.lanes if all(lane != one.lane for one in self.running)]:
            if not self._begin(free[0], bench):
                return

    def _begin(self, lane: Lane, bench: _Bench) -> bool:
        """Take the first place that is nobody's, and begin its trial; False where there is none."""
        known = self.searcher.places()
        left = [place for place, state in sorted(known.items()) if state == "running"]
        fresh = [place for place in range(self.samples) if place not in known] if self._may_begin() else []
        mine = {one.place for one in self.running}
        for place in [*left, *fresh]:
            if place in mine or (claim := bench.claims.take(place)) is None:
                continue
            if self.searcher.places().get(place) in _OVER:  # since we looked
                claim.release()
                continue
            try:
                settings = self.searcher.settings(place)
                self._write_recipe(place, settings)
            except ConfigError as error:
                self.view.began(place, settings, again=False)
                self._count(place, Ending("failed", reason=str(error)), seconds=0.0)
                claim.release()
                return True
            except BaseException:
                claim.release()
                raise
            self._start(place, settings, lane=lane, claim=claim, bench=bench)
            return True
        return False

    def _may_begin(self) -> bool:
        """Whether the budget lasts; what was begun is carried on either way."""
        budget = self.effort.budget
        return budget is None or spent(self.searcher.trials())[budget.unit] < budget.hours

    def _write_recipe(self, place: int, settings: Mapping[str, Any]) -> None:
        file = self.study.trial_recipe(place)
        if not file.exists():
            write_atomically(file, self.recipe(settings))
            if self.lock is not None:
                write_atomically(file.with_name("trial.lock.yaml"), self.lock)

    def _start(self, place: int, settings: Mapping[str, Any], *, lane: Lane, claim: Lease, bench: _Bench) -> None:
        run = self.study.trial(place)
        about = self._about(place)
        words = ["train", str(self.study.trial_recipe(place)), f"run={run.path}", "score=false", *self.words]
        one = trials.start(
            place,
            run,
            words,
            lane=lane,
            claim=claim,
            command=self.command,
            log=self.study.trial_log(place),
            sockets=bench.sockets,
            before=float(about.get("seconds", 0.0)),
            server=self.server,
        )
        self.running.append(one)
        bench.selector.register(one.listening, selectors.EVENT_READ, one)
        bench.selector.register(one.process.sentinel, selectors.EVENT_READ, one)
        self.view.began(place, settings, again=bool(about))
        self.study.log_event("trial_carries_on" if about else "trial_began", trial=place, settings=dict(settings))
        self._note(one)

    # --- what happens ----------------------------------------------------------------------------------------------

    def _turn(self, selector: selectors.BaseSelector, why: str) -> None:
        """Wait for a question or an end, and see to it."""
        limit = self.effort.limit.seconds if self.effort.limit else None
        for one in self.running:
            if why:
                one.stop(why)
            elif limit is not None and one.seconds > limit:
                one.stop(f"{trials.TOO_LONG} than {self.effort.limit}")
            if time.monotonic() > one.killed_at:
                one.kill()
        for key, _ in selector.select(_TURN_SECONDS):
            if key.data is None:
                key.fileobj.recv(64)  # type: ignore[union-attr]  # a signal came
            elif isinstance(key.data, Running) and key.fileobj is key.data.listening:
                asking, _ = key.data.listening.accept()
                selector.register(asking, selectors.EVENT_READ, (key.data, asking))
            elif isinstance(key.data, Running):
                self._ended(key.data, selector)
            else:
                self._asked(key.data[0], key.data[1], selector)

    def _asked(self, one: Running, asking: socket.socket, selector: selectors.BaseSelector) -> None:
        found = trials.question(asking)
        if found is None:
            selector.unregister(asking)
            asking.close()
            return
        self.view.evaluated(one.place, found)
        self._note(one, samples=found["samples"], epoch=found["epoch"])
        go_on = self.searcher.goes_on(one.place, int(found["evaluation"]), float(found["value"]))
        trials.answer(asking, go_on=go_on)

    def _ended(self, one: Running, selector: selectors.BaseSelector) -> None:
        one.process.join()
        for key in list(selector.get_map().values()):
            if key.data is one or (isinstance(key.data, tuple) and key.data[0] is one):
                selector.unregister(key.fileobj)
                if isinstance(key.fileobj, socket.socket):
                    key.fileobj.close()
        self.running.remove(one)
        self._read_curve(one)
        pruned = self.searcher.places()[one.place] == "pruned"
        ending = trials.ending(one, pruned=pruned, log=self.study.trial_log(one.place))
        if ending.state == "again":
            one.run.log_event("trial_killed", reason=ending.reason)
        if ending.state == "stuck":
            self.stuck = ending.reason
        self._note(one, end=True)
        self._count(one.place, ending, seconds=one.seconds)
        one.claim.release()

    def _count(self, place: int, ending: Ending, *, seconds: float) -> None:
        """Write down how a trial ended, where that is an end, and tell."""
        if ending.state in ("finished", "failed"):
            self.searcher.end(place, ending.state, value=ending.value, reason=ending.reason)  # type: ignore[arg-type]
        name = "trial_ended" if ending.state in _OVER else "trial_stopped"
        told = {"reason": ending.reason} if ending.reason else {}
        self.study.log_event(name, trial=place, state=ending.state, value=ending.value, **told)
        self.view.ended(place, ending, self.searcher.settings(place), seconds)
        if ending.state in _OVER:
            self.told()

    def _read_curve(self, one: Running) -> None:
        """Evaluations that nobody asked about: the last one, and those whose answer a kill cut off."""
        if self.searcher.places()[one.place] != "running":
            return
        lines = [line for line in one.run.metrics() if line.get("kind") == "val" and self.metric in line]
        self.searcher.curve(one.place, [float(line[self.metric]) for line in lines])

    def _about(self, place: int) -> dict[str, Any]:
        found = [one for one in self.searcher.trials() if one.place == place]
        return found[0].about if found else {}

    def _note(self, one: Running, *, end: bool = False, **more: Any) -> None:
        """Keep what the trial has cost so far, and how far everything is, which tells a chain of jobs that it moves."""
        about = {
            **self._about(one.place),
            "seconds": round(one.seconds, 3),
            "gpus": len(one.lane.gpus) / self.effort.share,
            "cores": one.lane.threads,
            "host": process.me().host,
            **more,
        }
        if end:
            point = next(iter(one.run.metrics()[-1:]), {})
            about |= {name: point[name] for name in ("samples", "epoch") if name in point}
        self.searcher.note(one.place, about)
        samples = sum(int(known.about.get("samples", 0)) for known in self.searcher.trials())
        with suppress(OSError):
            write_atomically(self.study.path / "progress", f"samples-{samples}\n")


def spent(found: Sequence[Any]) -> dict[str, float]:
    """Hours of GPUs and of cores that trials have taken so far."""
    seconds = [(float(one.about.get("seconds", 0.0)), one.about) for one in found if one.place is not None]
    return {
        "gpu": sum(taken * float(about.get("gpus", 0)) for taken, about in seconds) / 3600,
        "cpu": sum(taken * float(about.get("cores", 1)) for taken, about in seconds) / 3600,
    }


@contextmanager
def _woken(selector: selectors.BaseSelector) -> Iterator[None]:
    """Inside, a signal ends the wait for questions at once."""
    reading, writing = socket.socketpair()
    with reading, writing:
        reading.setblocking(False)
        writing.setblocking(False)
        selector.register(reading, selectors.EVENT_READ, None)
        before = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            selector.unregister(reading)
