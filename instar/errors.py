"""What can go wrong, and the exit code each kind of mistake leaves behind.

Every message says what is wrong, what was found and what to do, with the value and the place.
"""

from collections.abc import Sequence

DONE = 0
USER_ERROR = 65  # EX_DATAERR of sysexits.h: the same command would fail again
AGAIN = 75  # EX_TEMPFAIL: saved and stopped; the same command carries on


class InstarError(Exception):
    """A mistake we can name. The command line prints it as one block and never as a traceback."""

    exit_code = USER_ERROR


class ConfigError(InstarError):
    """A recipe, an override or a plug-in's settings are wrong; all mistakes of one document together."""

    def __init__(self, mistakes: str | Sequence[str]):
        self.mistakes = [mistakes] if isinstance(mistakes, str) else list(mistakes)
        super().__init__("\n".join(self.mistakes))


class DataError(InstarError):
    """Images, tables or index files cannot be used as they are."""


class WeightsError(InstarError):
    """Weights are missing, foreign, or do not fit the model."""


class RunError(InstarError):
    """A run folder is busy, belongs to another configuration, or lacks what was asked of it."""


class CheckpointError(InstarError):
    """No whole checkpoint is left, or one could not be written."""


class ExportError(InstarError):
    """An exported file cannot be made or read, or does not give the same answers."""


class LearningError(InstarError):
    """Training itself cannot go on: the loss is not finite, or too many samples are bad."""


class Again(InstarError):
    """Everything is saved; the same command carries on from here."""

    exit_code = AGAIN
