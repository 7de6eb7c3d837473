"""Our end of the writer process: start it, send it orders, hear its answers, notice its death. Never waits unasked."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

from instar.engine.checkpoint import writer


class WriterDied(Exception):
    """The process ended without being told to."""


class WriterProcess:
    """One running writer.

    Start it from the main thread: Linux ends the writer when the thread that started it ends, which is how it never
    outlives a training that is killed.
    """

    def __init__(self, memory: int, **settings: Any):
        """memory is the descriptor of the shared memory; settings are those of `writer.Writer`."""
        # Blocked signals stay blocked in the child, so it cannot die of one before it has learnt to ignore it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, writer.STOPPING)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-P", writer.__file__, str(memory), str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[memory],
                bufsize=0,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._orders, self._answers = self._process.stdin, self._process.stdout
        os.set_blocking(self._answers.fileno(), False)
        self._heard = b""
        self._say(settings)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def order(self, order: dict[str, Any]) -> None:
        """Hand over one save."""
        self._say(order)

    def answer(self, seconds: float | None) -> dict[str, Any] | None:
        """The next answer; None where there is none within so many seconds (None: as long as it takes).

        Raises WriterDied.
        """
        until = None if seconds is None else time.monotonic() + seconds
        poll = select.poll()
        poll.register(self._answers, select.POLLIN | select.POLLHUP)
        while b"\n" not in self._heard:
            left = None if until is None else max(0.0, until - time.monotonic()) * 1000
            if not poll.poll(left):
                return None
            some = self._answers.read(65536)
            if some == b"":
                raise WriterDied(f"ended with {_how(self._process.wait())}")
            self._heard += some or b""
        line, _, self._heard = self._heard.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self, seconds: float | None = None) -> None:
        """Let it finish what it does and wait for its end; after so many seconds it is killed."""
        try:
            with suppress(OSError, ValueError):
                self._orders.write(b"\n")
            self._orders.close()
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        finally:
            self._answers.close()

    def _say(self, words: dict[str, Any]) -> None:
        with suppress(BrokenPipeError):  # `answer` will find out
            # Shorter than a pipe holds, so this cannot block.
            self._orders.write(json.dumps(words).encode() + b"\n")


def _how(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"status {status}"
