"""`devices=2` on one machine: the same command once a rank, ended together, with one account of what went wrong.

The launcher only starts, passes signals on, waits and reads. It never imports torch, so it starts ranks at once and
cannot fail for their reasons. Ranks die with it, and it ends what is left when one of them fails.

INSTAR_RANK INSTAR_WORLD INSTAR_LOCAL_RANK INSTAR_LOCAL_WORLD INSTAR_LAUNCH    what `place.find` reads in a rank
INSTAR_REPORT    `pipe:launcher`, over which a rank tells why it failed (see `reports`)
"""

import contextlib
import os
import secrets
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from instar.engine import deadline
from instar.engine.loading.cores import usable_cpus
from instar.engine.ranks import exits, place, reports
from instar.engine.ranks.reports import Report
from instar.errors import AGAIN, DONE, ConfigError

# After one rank failed the others get ten seconds in all; what is left after seven is killed.
_GRACE_SECONDS = 7.0
_TURN_SECONDS = 0.05
_KEPT_BYTES = 64 * 1024
# Signals that end a rank from outside: it did nothing wrong, and the same command carries on.
_FROM_OUTSIDE = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP, -signal.SIGUSR1, -signal.SIGUSR2}


def ranks(
    line: Sequence[str],
    n: int,
    *,
    command: Sequence[str] = (sys.executable, "-m", "instar"),
    environ: Mapping[str, str] | None = None,
) -> int:
    """Run `command` with the arguments `line` as n ranks on this machine, and wait for them; returns the exit code.

    0 where every rank left with 0; 75 where they saved and stopped, or one was killed from outside; what the first
    rank that failed left with (65 for a mistake of the user's); else 1.

    Raises ConfigError where another launcher started this process among others already.
    """
    environ = os.environ if environ is None else environ
    if is_rank(environ):
        raise ConfigError(
            f"devices={n} cannot start ranks here: {place.find(environ).source} has started several already."
        )
    with _signals() as waiting:
        if deadline.received():  # before our handlers stood
            return AGAIN
        launch = secrets.token_hex(8)
        started = [_Rank([*command, *line], rank, n, launch, environ) for rank in range(n)]
        _see_to_the_end(started, waiting)
    code, report = verdict([one.end for one in started], [report for one in started for report in one.reports])
    if report is not None:
        reports.show(report, world=n)
    else:
        _explain(started)
    return code


def is_rank(environ: Mapping[str, str]) -> bool:
    """Whether a launcher (srun, mpirun, torchrun or ours) started this process among others."""
    return (place.here() if environ is os.environ else place.find(environ)).world > 1


def count_devices(device: str, *, environ: Mapping[str, str] = os.environ) -> int:
    """How many ranks a machine with these devices should have: one a GPU, or one. Asks no driver, imports nothing.

    device   auto, cpu or cuda
    """
    if device == "cpu":
        return 1
    if "CUDA_VISIBLE_DEVICES" in environ:
        shown = [part for part in environ["CUDA_VISIBLE_DEVICES"].split(",") if part.strip()]
        # As CUDA does: what follows an invalid entry does not count.
        valid = shown[: shown.index("-1")] if "-1" in shown else shown
        return max(1, len(valid))
    return max(1, sum(1 for file in Path("/dev").glob("nvidia[0-9]*") if file.name[6:].isdigit()))


@dataclass(frozen=True)
class End:
    """How a rank ended.

    code     as Python gives it: negative for a signal
    at       monotonic seconds
    by_us    whether we ended it, because of another one
    """

    rank: int
    code: int
    at: float
    by_us: bool = False

    @property
    def is_bad(self) -> bool:
        return self.code not in (DONE, AGAIN) and not self.by_us

    @property
    def is_from_outside(self) -> bool:
        return self.code in _FROM_OUTSIDE


def verdict(ends: Sequence[End], told: Sequence[Report]) -> tuple[int, Report | None]:
    """The exit code of all ranks together, and the one report worth reading, if there is one."""
    # A rank that stopped in good order is no cause where another one failed.
    failed = sorted((each for each in told if each.kind == "failed"), key=lambda each: (each.code == AGAIN, each.at))
    if failed:
        return failed[0].code, failed[0]
    others = sorted(told, key=lambda report: report.at)
    first = _first_bad(ends)
    if first is not None and not first.is_from_outside:
        # It crashed without a word: all that the others can say is that it is gone.
        return (first.code if first.code > 0 else reports.CRASH), None
    if first is not None or others or any(end.code == AGAIN for end in ends):
        return AGAIN, others[0] if others else None
    return DONE, None


def _first_bad(ends: Sequence["End"]) -> "End | None":
    return min((end for end in ends if end.is_bad), key=lambda end: end.at, default=None)


class _Rank:
    """One started rank: rank 0 speaks for all, what the others print is kept in case they fail."""

    def __init__(self, command: list[str], rank: int, n: int, launch: str, environ: Mapping[str, str]):
        reading, writing = os.pipe()
        launcher = os.getpid()
        quiet = rank > 0
        self.rank = rank
        self.process = subprocess.Popen(
            command,
            env=_environment(environ, rank, n, launch, f"{writing}:{launcher}"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if quiet else None,
            stderr=subprocess.PIPE if quiet else None,
            pass_fds=(writing,),
            start_new_session=True,  # Ctrl-C comes to us, and `killpg` reaches its workers
            preexec_fn=lambda: exits.die_with(launcher),  # noqa: PLW1509  # we have no threads
        )
        os.close(writing)
        self.end = End(rank, DONE, 0.0)
        self.has_ended = False
        self._told_to_end = False
        self.printed = b""
        self._told = b""
        self.pipes = {reading: "told"}
        os.set_blocking(reading, False)
        if self.process.stderr is not None:
            self.pipes[self.process.stderr.fileno()] = "printed"
            os.set_blocking(self.process.stderr.fileno(), False)

    @property
    def reports(self) -> list[Report]:
        whole = self._told[: self._told.rfind(b"\n") + 1]
        return [reports.from_json(line) for line in whole.decode().splitlines()]

    @property
    def has_failed(self) -> bool:
        """Whether it told of a failure; one that stopped in good order leaves the others their time to save."""
        return any(report.kind != "failed" or report.code != AGAIN for report in self.reports)

    def read(self, pipe: int) -> bool:
        """Take what is there; False at its end."""
        try:
            data = os.read(pipe, 65536)
        except BlockingIOError:
            return True
        if self.pipes[pipe] == "told":
            self._told += data
        else:
            self.printed = (self.printed + data)[-_KEPT_BYTES:]
        return bool(data)

    def send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def end_it(self) -> None:
        """Ask it to end, because another one failed."""
        if not self.has_ended:
            self._told_to_end = True
            self.send(signal.SIGTERM)

    def kill(self, *, because_of_another: bool = True) -> None:
        """End it and whatever it started."""
        if not self.has_ended:
            self._told_to_end |= because_of_another
            _kill_group(self.process.pid)

    def close(self) -> None:
        for pipe, what in self.pipes.items():
            if what == "told":
                os.close(pipe)
        if self.process.stderr is not None:
            self.process.stderr.close()

    def look(self) -> None:
        """Note whether it has ended, and sweep up the workers it left."""
        if self.has_ended or not self._is_over():
            return
        _kill_group(self.process.pid)  # before its number is free for others
        code = self.process.wait()
        self.has_ended = True
        self.end = End(self.rank, code, time.monotonic(), by_us=self._told_to_end and code in _FROM_OUTSIDE)

    def _is_over(self) -> bool:
        if not hasattr(os, "waitid"):  # macOS before Python 3.13
            return self.process.poll() is not None
        return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _see_to_the_end(started: list[_Rank], waiting: list[int]) -> None:
    """Pass signals on and read until every rank has ended; end the rest where one fails."""
    failed_at: float | None = None
    interrupts = 0
    with selectors.DefaultSelector() as selector:
        for rank in started:
            for pipe in rank.pipes:
                selector.register(pipe, selectors.EVENT_READ, rank)
        while not all(rank.has_ended for rank in started):
            while waiting:
                number = waiting.pop(0)
                interrupts += number == signal.SIGINT
                for rank in started:
                    rank.kill(because_of_another=False) if interrupts > 2 else rank.send(number)
            _read(selector, _TURN_SECONDS)
            for rank in started:
                rank.look()
            if failed_at is None and any(rank.end.is_bad or rank.has_failed for rank in started):
                failed_at = time.monotonic()
                _end_the_rest(started)
            if failed_at is not None and time.monotonic() - failed_at > _GRACE_SECONDS:
                for rank in started:
                    rank.kill()
        while _read(selector, 0):
            pass
    for rank in started:
        rank.close()


def _end_the_rest(started: list[_Rank]) -> None:
    lost = {gone for rank in started for each in rank.reports if each.kind == "lost" for gone in each.ranks}
    for rank in started:
        # A stopped process hears no request, and the others have watched it long enough.
        rank.kill() if rank.rank in lost else rank.end_it()


def _read(selector: selectors.BaseSelector, seconds: float) -> int:
    """Read what the ranks wrote; returns how many pipes had something."""
    if not selector.get_map():
        time.sleep(seconds)
        return 0
    ready = selector.select(seconds)
    for key, _ in ready:
        if not key.data.read(key.fd):
            selector.unregister(key.fd)
    return len(ready)


def _explain(started: list[_Rank]) -> None:
    """Say which rank ended badly without a word, with the last that it printed."""
    first = _first_bad([rank.end for rank in started])
    if first is None:
        return
    who = f"rank {first.rank} of {len(started)} (process {started[first.rank].process.pid})"
    if first.code < 0:
        text = f"instar: {who} was killed by {signal.Signals(-first.code).name}."
        text += " The same command carries on from the last save." if first.is_from_outside else ""
    else:
        text = f"instar: {who} left with code {first.code}."
    # Rank 0 prints for itself; another rank's last words count only where rank 0 did not fail by itself.
    last_words = started[first.rank].printed.decode("utf-8", "replace").rstrip()
    if last_words and not started[0].end.is_bad:
        text = f"{last_words}\n{text}"
    print(text, file=sys.stderr, flush=True)


def _environment(environ: Mapping[str, str], rank: int, n: int, launch: str, report: str) -> dict[str, str]:
    return {
        # Two ranks with a thread a core each would fight over the cores.
        "OMP_NUM_THREADS": str(max(1, usable_cpus() // n)),
        # Torch's C++ side explains at length that a connection broke; the launcher says why.
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        **environ,
        "INSTAR_RANK": str(rank),
        "INSTAR_WORLD": str(n),
        "INSTAR_LOCAL_RANK": str(rank),
        "INSTAR_LOCAL_WORLD": str(n),
        "INSTAR_LAUNCH": launch,
        "INSTAR_REPORT": report,
    }


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """A list that signals are put into, as what the ranks shall get; handlers do nothing else."""
    waiting: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        waiting.append(signal.SIGTERM if number == signal.SIGHUP else number)  # a closed terminal: save and stop

    before = {number: signal.signal(number, note) for number in (*deadline.STOP_SIGNALS, signal.SIGHUP)}
    try:
        yield waiting
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
