"""Patient: many things looked at in turn, and one that does not come is left behind, not waited for.

A read from a mount that hangs cannot be broken off. It is left to its thread, and another goes on behind it.
"""

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

TOO_LONG = "reading it takes more than {:g} s"

_GLANCE = 0.5  # seconds between two looks at how far a thread is

T = TypeVar("T")
R = TypeVar("R")


def answers(look: Callable[[T], R], things: Sequence[T], *, patience: float, given_up: Callable[[T], R]) -> list[R]:
    """What `look` says of each thing; `given_up` says it of one that takes longer than `patience` seconds."""
    found: list[R] = []
    while len(found) < len(things):
        more: list[R] = []
        wrong: list[BaseException] = []
        left = threading.Event()
        rest = things[len(found) :]
        thread = threading.Thread(target=_look_until, args=(look, rest, more, wrong, left), daemon=True)
        thread.start()
        through = _gets_through(thread, more, patience)
        left.set()
        if wrong:
            raise wrong[0]
        found += more
        if not through and len(found) < len(things):
            found.append(given_up(things[len(found)]))
    return found


def _look_until(
    look: Callable[[T], R], things: Sequence[T], found: list[R], wrong: list[BaseException], left: threading.Event
) -> None:
    """Add what is found of each until nobody waits for it any more; or what was raised."""
    try:
        for thing in things:
            answer = look(thing)
            if left.is_set():
                return
            found.append(answer)
    except BaseException as error:
        wrong.append(error)


def _gets_through(thread: threading.Thread, found: Sequence[object], patience: float) -> bool:
    """Wait for a thread; False where it stays at one thing for too long."""
    waited, before = 0.0, 0
    while True:
        # Time is counted in glances, not by a clock: a check that was suspended must not blame a file.
        thread.join(min(_GLANCE, patience))
        if not thread.is_alive():
            return True
        waited = waited + min(_GLANCE, patience) if len(found) == before else 0.0
        before = len(found)
        if waited >= patience:
            return False
