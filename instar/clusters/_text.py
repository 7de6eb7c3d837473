"""Text for a shell: every word of a user's is quoted, and only $NAME is left for the shell to fill in."""

import re
import shlex
from collections.abc import Iterable

# In double quotes these act; a dollar does only before a name.
_ACTIVE = re.compile(r'[\\"`]|\$(?![A-Za-z_{])|\$\{(?![A-Za-z_][A-Za-z0-9_]*\})')


def words(given: Iterable[str]) -> str:
    """Words of a command line, quoted."""
    return " ".join(map(shlex.quote, given))


def one_word(name: str) -> str:
    """A name as a scheduler takes it: letters, digits, dot and dash, at most 60, the first a letter or digit."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-.")[:60] or "instar"


def filled_in(text: str) -> str:
    """One word in which $NAME and ${NAME} stand for variables, and nothing else is done."""
    if "$" not in text:
        return shlex.quote(text)
    return '"' + _ACTIVE.sub(lambda found: "\\" + found[0], text) + '"'


def wrapped(parts: Iterable[str], *, indent: str) -> str:
    """Parts of a long command, one a line."""
    return f" \\\n{indent}".join(part for part in parts if part)
