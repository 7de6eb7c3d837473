"""This machine, or the site's login node -> findings: what is well, what will hurt, and one remedy each.

A probe that fails is a finding and never a traceback; every program that is asked has a time limit.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from instar.doctor import disks, gpus, machine, network, ranks, scheduler, versions
from instar.job import Finding

T = TypeVar("T")
Probe = Callable[[], list[Finding]]


@dataclass(frozen=True)
class Section:
    """Findings about one thing."""

    name: str
    findings: list[Finding]


def examine(
    *, quick: bool = False, hub: bool = False, folders: Sequence[Path] = (), seconds: float = 14.0
) -> Iterator[Section]:
    """Look at everything, and tell it in the same order every time.

    quick     leave out what may take longer than a second: torch, collective operations, speeds, the scheduler's answer
    hub       ask whether the hub of weights can be reached
    folders   to look at beside those one writes into anyway
    seconds   for all probes, which run beside one another
    """
    driver = _begin(gpus.driver)
    probes: dict[str, Probe] = {
        "versions": versions.look,
        "machine": machine.look,
        "gpus": lambda: gpus.look(driver.result()),
        "disks": lambda: disks.look(folders, speeds=not quick),
        "scheduler": lambda: scheduler.look(answers=not quick),
    }
    if hub:
        probes["network"] = network.look
    if not quick:
        probes["ranks"] = lambda: ranks.look(driver.result, seconds=max(1.0, seconds - 2))
    begun = time.monotonic()
    answers = {name: _begin(probe) for name, probe in probes.items()}
    for name, answer in answers.items():
        yield Section(name, _answer(name, answer, limit=seconds, left=begun + seconds - time.monotonic()))


def _begin(ask: Callable[[], T]) -> "Future[T]":
    """Ask beside everything else. A thread that never comes back, from a dead file system, keeps nobody waiting."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(ask())
        except Exception as error:  # whatever a strange machine answers, the other findings are still wanted
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def _answer(name: str, answer: "Future[list[Finding]]", *, limit: float, left: float) -> list[Finding]:
    try:
        return answer.result(max(0.0, left))
    except TimeoutError:
        found = f"no answer in {limit:g} s"
        return [Finding("error", name, found, "look by hand: a file system or a driver may hang on this machine")]
    except Exception as error:
        found = f"this probe failed: {type(error).__name__}: {error}"
        return [Finding("error", name, found, "report this line; the other lines still hold")]
