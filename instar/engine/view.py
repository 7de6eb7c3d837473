"""What the loop tells whoever watches. `instar/terminal.py` shows it; ranks other than 0 and tests keep quiet."""

from typing import Any, Protocol


class View(Protocol):
    """Someone who watches a training. Calls come often and must return at once."""

    def step(self, samples: int) -> None:
        """A step ended at this position."""

    def losses(self, line: dict[str, Any]) -> None:
        """A train line went into metrics.jsonl."""

    def evaluating(self, done: int, rows: int) -> None:
        """So many of the rows of an evaluation are done."""

    def epoch(self, line: dict[str, Any], *, best: bool) -> None:
        """A val line went into metrics.jsonl."""

    def note(self, text: str) -> None:
        """Something the user should know, in one sentence."""


class Quiet:
    """A view that shows nothing."""

    def step(self, samples: int) -> None:
        pass

    def losses(self, line: dict[str, Any]) -> None:
        pass

    def evaluating(self, done: int, rows: int) -> None:
        pass

    def epoch(self, line: dict[str, Any], *, best: bool) -> None:
        pass

    def note(self, text: str) -> None:
        pass
