"""Children: forks of this process that do a part of its work, each with a pipe of its own.

So there is no lock that a killed one could leave taken. A child takes no part in the signals meant for its parent, and
ends with it, however that ends. Standard library only.
"""

import contextlib
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterable
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from instar.engine.ranks.exits import die_with

_NOT_THEIRS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def possible() -> bool:
    """Whether this system has forks."""
    return hasattr(os, "fork")


def forked(serve: Callable[[Connection], None], *, siblings: Iterable[Connection]) -> tuple[int, Connection]:
    """The number of a new child, and our end of its pipe. It serves the other end, and is gone when that returns.

    siblings   our ends of the pipes of other children: held open by this one, they would not close with us
    Raises OSError where there are too many processes, or too little memory.
    """
    ours, theirs = Pipe()
    parent = os.getpid()
    # The parent decides when to stop. What a terminal or a scheduler sends to all its processes is not for a child,
    # from its first moment on.
    heard = signal.pthread_sigmask(signal.SIG_BLOCK, _NOT_THEIRS)
    try:
        with warnings.catch_warnings():
            # Python 3.12 warns where there are threads; a child uses NumPy, Pillow and one thread of PyTorch, and no
            # lock of those that may be held here.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            try:
                die_with(parent)
                for name in _NOT_THEIRS:
                    signal.signal(name, signal.SIG_IGN)
                signal.pthread_sigmask(signal.SIG_SETMASK, heard)
                for pipe in (*siblings, ours):
                    pipe.close()
                serve(theirs)
            finally:
                os._exit(0)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)
    theirs.close()
    return pid, ours


def end(children: Iterable[tuple[int, Connection]]) -> None:
    """End children, whatever they are doing."""
    children = list(children)
    for pid, pipe in children:
        pipe.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for pid, _ in children:
        end_of(pid)


def end_of(pid: int) -> str:
    """How a child ended, in words. Waits two seconds at most: what hangs in a file system cannot even be killed."""
    for pause in (*[0.001] * 20, *[0.01] * 198):
        try:
            found, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            break
        if found:
            code = os.waitstatus_to_exitcode(status)
            if code >= 0:
                return f"ended with exit code {code}"
            killed = f"was killed by {signal.Signals(-code).name}"
            return f"{killed}, as the system does when memory runs out" if -code == signal.SIGKILL else killed
        time.sleep(pause)
    return "is gone"
