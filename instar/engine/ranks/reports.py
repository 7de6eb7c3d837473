"""Why a rank ended, told once: to the launcher where there is one, else on standard error. Standard library only.

A rank that fails drags the others down with errors of their own ("connection closed by peer"). Only the first cause is
worth reading, so ranks do not print: they report, and the launcher prints what came first.
"""

import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from instar.errors import AGAIN, InstarError

CRASH = 1
INTERRUPTED = 130

# One write of at most this much never waits for the launcher: a pipe holds 64 KiB.
_MOST_BYTES = 32_000


@dataclass(frozen=True)
class Report:
    """Why a run of several ranks ends.

    kind    failed: a rank raised an error. lost: a rank is gone or silent. stalled: no rank gets on
    rank    who reports
    ranks   who is to blame
    code    the exit code that everybody leaves with
    text    what a person should read
    at      monotonic seconds, comparable between the processes of one machine
    """

    kind: Literal["failed", "lost", "stalled"]
    rank: int
    ranks: tuple[int, ...]
    code: int
    text: str
    host: str = field(default_factory=socket.gethostname)
    at: float = field(default_factory=time.monotonic)

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "text": self.text[-_MOST_BYTES // 4 :]})


def from_json(text: str) -> Report:
    """The report a rank wrote."""
    facts = json.loads(text)
    return Report(**{**facts, "ranks": tuple(facts["ranks"])})


def of(error: BaseException, rank: int) -> Report:
    """The report of an error of this rank: a mistake we can name as its message, others with their traceback."""
    if isinstance(error, InstarError):
        return Report("failed", rank, (rank,), error.exit_code, str(error))
    text = "".join(traceback.format_exception(error)).rstrip()
    return Report("failed", rank, (rank,), INTERRUPTED if isinstance(error, KeyboardInterrupt) else CRASH, text)


def say(report: Report, *, environ: Mapping[str, str] = os.environ) -> None:
    """Hand the report to the launcher, or print it where there is none."""
    if not tell(report, environ=environ):
        show(report)


def tell(report: Report, *, environ: Mapping[str, str] = os.environ) -> bool:
    """Hand the report to the launcher; False where this process was not started by one."""
    descriptor, _, launcher = environ.get("INSTAR_REPORT", "").partition(":")
    # Workers that a rank forks inherit the variable, but not the right to speak for it.
    if not launcher or os.getppid() != int(launcher):
        return False
    try:
        os.write(int(descriptor), (report.to_json() + "\n").encode())
    except OSError:
        return False
    return True


def show(report: Report, *, world: int | None = None) -> None:
    """Print the report for people."""
    of_world = f" of {world}" if world is not None else ""
    who = f"rank {', '.join(map(str, report.ranks))}{of_world} on {report.host}"
    if report.kind != "failed":
        text = f"instar: {report.text}"
    elif report.code in (CRASH, INTERRUPTED):
        text = f"{report.text}\ninstar: {who} failed; all ranks stopped."
    elif report.code == AGAIN:
        text = f"stopped  {report.text}"
    else:
        text = f"instar: {report.text} ({who})"
    # One write, so that lines of several ranks do not mix.
    os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, (text + "\n").encode("utf-8", "replace"))
