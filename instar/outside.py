"""Outside: asking another program, which may be missing, hang, or answer anything. Standard library only."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

_MOST = 1_000_000  # characters of an answer that are looked at


@dataclass(frozen=True)
class Answer:
    """What a program said.

    code      its exit code; None where it did not end in time or could not be started
    problem   why there is no exit code, in words; else empty
    """

    code: int | None
    out: str
    error: str
    seconds: float
    problem: str = ""

    @property
    def good(self) -> bool:
        return self.code == 0


def ask(command: Sequence[str], *, seconds: float = 5.0, environment: Mapping[str, str] | None = None) -> Answer:
    """Run a program without input, for so many seconds at most, and everything it started with it; never raises."""
    begun = time.monotonic()
    try:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=None if environment is None else dict(environment),
        )
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return Answer(None, "", "", time.monotonic() - begun, f"cannot be started: {reason}")
    return answer(process, seconds=seconds, begun=begun, limit=seconds)


def answer(process: "subprocess.Popen[bytes]", *, seconds: float, begun: float, limit: float) -> Answer:
    """What a program that was started in a session of its own says in time; after that it is ended.

    seconds   how long it may still take, of `limit` in all
    """
    problem = ""
    try:
        out, error = process.communicate(timeout=max(0.0, seconds))
    except subprocess.TimeoutExpired:
        problem = f"gave no answer in {limit:g} s"
        # A child that hangs may have children that hold its output open: the whole session must go.
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        out, error = _rest(process)
    code = None if problem else process.returncode
    return Answer(code, _text(out), _text(error), time.monotonic() - begun, problem)


def _rest(process: "subprocess.Popen[bytes]") -> tuple[bytes, bytes]:
    try:
        return process.communicate(timeout=1.0)
    except subprocess.TimeoutExpired:  # in a wait of the kernel that no signal ends, such as for a dead file system
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        return b"", b""


def _text(output: bytes | None) -> str:
    return (output or b"")[:_MOST].decode("utf-8", "replace")
