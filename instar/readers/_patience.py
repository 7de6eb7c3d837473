"""Patience: a network file system may fail for a moment, and is asked again."""

import errno
import time
from collections.abc import Callable
from typing import TypeVar

from instar.readers._images import BadImage

T = TypeVar("T")

# A file that is not there any more is no such failure.
_PASSING = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EREMOTEIO}
_PAUSES = (0.1, 1.0)  # seconds


def patiently(read: Callable[[], T]) -> T:
    """What `read` gives, after up to two pauses if the file system says that it is having trouble."""
    for pause in _PAUSES:
        try:
            return read()
        except BadImage as error:
            if not (isinstance(error.__cause__, OSError) and error.__cause__.errno in _PASSING):
                raise
            time.sleep(pause)
    return read()
