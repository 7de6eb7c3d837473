"""Numbers as a person reads them: `3 670`, `87.2 %`, `1:02:03`, `5 min ago`. Nothing here prints."""

import math
import unicodedata
from collections.abc import Sequence

_PLAIN = ("loss", "error", "ece", "brier", "nll")  # scores that are not shares of one


def count(number: int) -> str:
    """A whole number in groups of three: `3 670`."""
    return f"{number:,}".replace(",", " ")


def percent(share: float) -> str:
    """A share of one in per cent, with one digit: `87.2 %`."""
    return f"{100 * share:.1f} %"


def score(name: str, value: float) -> str:
    """A score as its name asks: shares in per cent, losses and anything above one as numbers."""
    if not math.isfinite(value):
        return str(value)
    return percent(value) if 0 <= value <= 1 and is_share(name) else f"{value:.3g}"


def is_share(name: str) -> bool:
    """Whether a score of this name is a share of one, and more of it is better."""
    return not any(word in name for word in _PLAIN)


def words(name: str) -> str:
    """The name of a score in words: `macro f1`, `mean IoU`."""
    return name.replace("_", " ").replace("iou", "IoU")


def loss(value: float) -> str:
    """A loss, as wide as others of its size: `1.020`, `0.034`."""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.4g}"


def epoch(value: float, *, step: float = 0.05) -> str:
    """How far in epochs: `3` at the first step boundary after three of them, else `3.46`.

    step   how much of an epoch one step is
    """
    over = value - int(value + 1e-6)
    return str(int(value + 1e-6)) if over < max(step, 1e-6) else f"{value:.2f}"


def interval(name: str, low: float, high: float) -> str:
    """The ends of an interval of a score, without units: `[87.2, 93.3]`."""
    return f"[{score(name, low).removesuffix(' %')}, {score(name, high).removesuffix(' %')}]"


def rate(number: float) -> str:
    """A rate with three digits that matter: `312`, `9.87`."""
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


def size(number: float) -> str:
    """A number of bytes as disks and downloads are sold: `46.8 MB`, `1.2 TB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 999.5 or unit == "TB":
            break
        number /= 1000
    return f"{number:.0f} {unit}" if unit == "B" or number >= 99.95 else f"{number:.1f} {unit}"


def clock(seconds: float) -> str:
    """A length of time: `0:28`, `12:05`, `1:02:03`."""
    if not math.isfinite(seconds) or seconds < 0:
        return "-:--"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def ago(seconds: float) -> str:
    """How long since something happened: `just now`, `5 min ago`, `3 h ago`, `2 days ago`."""
    if seconds < 60:
        return "just now"
    for length, unit in ((86400, "day"), (3600, "h"), (60, "min")):
        if seconds >= length:
            number = int(seconds // length)
            return f"{number} {unit}{'s' if unit == 'day' and number > 1 else ''} ago"
    raise AssertionError(seconds)


def width(text: str) -> int:
    """Columns that a text takes in a terminal: East Asian wide letters take two, accents none."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return len(text) + wide - sum(bool(unicodedata.combining(letter)) for letter in text)


def cut(text: str, columns: int) -> str:
    """As much of a text as fits, with an ellipsis where something went."""
    if width(text) <= columns:
        return text
    while text and width(text) > columns - 1:
        text = text[:-1]
    return text + "…" if columns > 0 else ""


def one_line(text: str) -> str:
    """A text without line breaks and control characters: a file name must not move the cursor."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def table(rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> list[str]:
    """Lines of a table whose first row is its head; columns named in `right` are flush right."""
    widths = [max(width(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(_padded(cells, widths, right)).rstrip() for cells in rows]


def _padded(cells: Sequence[str], widths: Sequence[int], right: Sequence[int]) -> list[str]:
    blanks = [" " * (wide - width(cell)) for cell, wide in zip(cells, widths, strict=True)]
    return [
        blank + cell if number in right else cell + blank
        for number, (cell, blank) in enumerate(zip(cells, blanks, strict=True))
    ]
