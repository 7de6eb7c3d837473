"""Our plain docstrings as Markdown: names with what they mean become a list, indented blocks stay as they are."""

import re

_NAMED = re.compile(r"(?P<name>[\w*,./=|<> ]*?[\w>])  +(?P<text>\S.*)")


def markdown(text: str) -> str:
    """The docstring with its `name   meaning` lines as a list of names."""
    return "\n\n".join(_block(block) for block in text.split("\n\n"))


def _block(block: str) -> str:
    lines = block.splitlines()
    if not all(
        _NAMED.fullmatch(lines[0]) and (_NAMED.fullmatch(line) or line.startswith("  ")) for line in lines if line
    ):
        return block
    told: list[list[str]] = []
    for line in lines:
        found = _NAMED.fullmatch(line)
        if found:
            told.append([found["name"], found["text"]])
        elif told:
            told[-1][1] += f" {line.strip()}"
    return "\n".join(f"- `{name}` – {meaning}" for name, meaning in told)
