"""Leaving a process for good. Standard library only.

Python's own way out runs through every library's tear-down. With ranks around that is a trap: gloo's has hidden exit
codes, a signal that comes late kills a process that had already saved, and a rank that is gone can hold up the others.
"""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from instar.engine import deadline
from instar.engine.ranks import place
from instar.errors import AGAIN, DONE, InstarError

_FLUSH_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def leave(code: int) -> NoReturn:
    """End this process at once with `code`, after its output is written and its daemonic children are ended."""
    leave_word(code)
    # The main thread may be stuck while it holds the lock of a stream, so nobody waits for the flush for long.
    flushing = threading.Thread(target=_flush, daemon=True)
    with contextlib.suppress(RuntimeError):  # no thread can be started any more
        flushing.start()
        flushing.join(_FLUSH_SECONDS)
    with contextlib.suppress(Exception):
        for child in multiprocessing.active_children():
            if child.daemon:
                child.kill()
    os._exit(code)


def leave_word(code: int) -> None:
    """Tell the script of the job, which stands outside of launcher and container, how this process ends and why.

    A launcher's own code is no answer: srun gives the largest of all ranks. Rank 0 speaks for those that stopped in
    good order, and every rank that failed for itself.
    """
    file = os.environ.get("INSTAR_EXIT")
    if not file:
        return
    with contextlib.suppress(OSError, InstarError):
        rank = place.here().rank
        if rank == 0 or code not in (DONE, AGAIN):
            Path(f"{file}.{rank}").write_text(f"{code} {deadline.received() or ''}\n", encoding="utf-8")


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


@contextlib.contextmanager
def nothing_left() -> Iterator[None]:
    """Whatever is started inside, and what that starts, has ended afterwards: children of the dead become ours.

    Only for a process that has no other children. Does nothing where the system is not Linux.
    """
    if sys.platform != "linux":
        yield
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        children = Path(f"/proc/self/task/{threading.get_native_id()}/children")
        while left := children.read_text(encoding="ascii").split():
            for pid in map(int, left):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 0)


def die_with(parent: int) -> None:
    """Let the system kill this process as soon as the one with the number `parent` ends, so that none is left over.

    Call it first thing in a child. Does nothing where the system is not Linux.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)
