"""Whether a trial of a search goes on: asked after each evaluation, answered by the search that started it.

INSTAR_TRIAL names the Unix socket of the search. One line of JSON goes each way: {"evaluation", "samples", "epoch",
"value"} there, {"go_on"} back. The training waits for the answer, so a trial stops at exactly the evaluation that
decided, and a killed search gives the same answers again. Where nobody answers any more, it stops, too, and asks when
it carries on. Standard library only.
"""

import json
import os
import socket
from typing import Any

_PATIENCE_SECONDS = 120.0


class Judge:
    """Asks once for each evaluation."""

    def __init__(self, address: str):
        self._address = address
        self._stream: Any = None
        self._answered: tuple[int, bool | None] = (-1, None)

    def goes_on(self, *, evaluation: int, samples: int, epoch: float, value: float) -> bool | None:
        """Whether the training is to go on beyond this evaluation, the first of which is 1; None where nobody says."""
        if self._answered[0] != samples:
            question = {"evaluation": evaluation, "samples": samples, "epoch": round(epoch, 4), "value": value}
            self._answered = (samples, self._ask(question))
        return self._answered[1]

    def _ask(self, question: dict[str, Any]) -> bool | None:
        try:
            if self._stream is None:
                connection = socket.socket(socket.AF_UNIX)
                connection.settimeout(_PATIENCE_SECONDS)
                connection.connect(self._address)
                self._stream = connection.makefile("rwb")
            self._stream.write(json.dumps(question).encode() + b"\n")
            self._stream.flush()
            return bool(json.loads(self._stream.readline())["go_on"])
        except (OSError, ValueError, KeyError, TypeError):
            return None


def here() -> Judge | None:
    """The judge of this process; None where it is no trial."""
    address = os.environ.get("INSTAR_TRIAL")
    return Judge(address) if address else None
