"""Phones: what lies beside an exported file, so that an app's author need not guess: labels, contract, code to read it.

Names are somebody else's text. They become string literals of the language, in which nothing can act.
"""

from functools import cache
from pathlib import Path
from typing import Any

from instar import contract as contracts
from instar.contract import Contract
from instar.formats import one_line

CODE = {"InstarModel.kt": "kotlin.j2", "InstarModel.swift": "swift.j2"}
_FOR_PHONES = ".tflite"


def write(folder: Path, contract: Contract, *, model: str) -> None:
    """Write labels.txt and contract.json, and for a .tflite file code in Kotlin and Swift that reads it.

    model   name of the model's file in this folder
    """
    (folder / "contract.json").write_text(contracts.text(contract), encoding="utf-8")
    if contract.labels:
        # One a line, as readers of label files expect; a name with a line break in it has \n there.
        text = "".join(f"{one_line(label)}\n" for label in contract.labels)
        (folder / "labels.txt").write_text(text, encoding="utf-8", errors="backslashreplace")
    if model.endswith(_FOR_PHONES):
        for name, template in CODE.items():
            text = _environment().get_template(template).render(contract=contract, model=model)
            (folder / name).write_text(text, encoding="utf-8")


def kotlin(text: str) -> str:
    """A Kotlin string literal of a text."""
    return _quoted(text, also="$", other=lambda code: "".join(f"\\u{unit:04x}" for unit in _utf16(code)))


def swift(text: str) -> str:
    """A Swift string literal of a text."""
    return _quoted(text, also="", other=lambda code: f"\\u{{{code:x}}}")


def _quoted(text: str, *, also: str, other: Any) -> str:
    plain = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return '"' + "".join(_letter(letter, '"\\' + also, other) for letter in plain) + '"'


def _letter(letter: str, special: str, other: Any) -> str:
    if letter in special:
        return f"\\{letter}"
    # Also directions of writing, which could make code look like other code.
    return letter if letter.isprintable() else str(other(ord(letter)))


def _utf16(code: int) -> list[int]:
    data = chr(code).encode("utf-16-be")
    return [int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2)]


@cache
def _environment() -> Any:
    import jinja2

    environment = jinja2.Environment(  # noqa: S701 - not HTML; every text goes through the language's own quoting
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"kotlin": kotlin, "swift": swift}
    return environment
