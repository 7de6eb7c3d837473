"""What was exported of a run, as cards: does it answer alike, what does it weigh, how long does it take."""

from collections.abc import Mapping, Sequence
from typing import Any

from instar import formats
from instar.report.blocks import Bar, Bars, Note, Section, Table, Text

Card = Mapping[str, Any]
THIN = "\N{NARROW NO-BREAK SPACE}"
LEAD = "Rows of the run went through PyTorch and through each file by its own runtime."
_COLUMNS = ("file", "size", "same answer", "max |dp|", "mean |dp|", "score", "latency", "p95")


def section(cards: Sequence[Card]) -> Section | None:
    """The cards of all exports; None where there are none."""
    if not cards:
        return None
    asked = {(card["checkpoint"], card["split"], card["rows"]): card for card in cards}
    rows = (*(_of_pytorch(card) for card in asked.values()), *(_row(card) for card in cards))
    table = Table(_COLUMNS, rows, numeric=frozenset(_COLUMNS[1:]))
    notes = [note for card in cards for note in _notes(card)]
    return Section("Exports", (table, Text(_how(cards[-1])), *notes), LEAD)


def _row(card: Card) -> tuple[str, ...]:
    return (
        f"{card.get('folder', card['label'])}/{card['file']}",
        formats.size(card["bytes"]),
        _percent(card["agreement"]),
        f"{card['dp_max']:.1e}",
        f"{card['dp_mean']:.1e}",
        _scored(card.get("theirs")),
        _time(card["latency"]["median"]),
        _time(card["latency"]["p95"]),
    )


def _of_pytorch(card: Card) -> tuple[str, ...]:
    """What a file was compared with."""
    times = (_time(card["pytorch"][name]) for name in ("median", "p95"))
    return (f"PyTorch, {card['rows']} {card['split']} rows", *[""] * 4, _scored(card.get("ours")), *times)


def _how(card: Card) -> str:
    threads = card["latency"]["threads"]
    image = " x ".join(str(side) for side in card["latency"]["image"])
    return (
        f"{card['rows']} rows of the {card['split']} split; |dp| is how far a probability moved. Latency is one image "
        f"of {image} from decoded pixels to the answer, on {threads} thread{'s' if threads > 1 else ''}, the median of "
        f"{card['latency']['runs']}; PyTorch's, eager, is from pixels that were cropped already. "
        f"Whoever calls the file: {' '.join(card['steps'])}"
    )


def _notes(card: Card) -> list[Any]:
    """What resizing without antialiasing would do; and what 8 bits cost each class."""
    found: list[Any] = []
    plain = card.get("plain")
    if plain:
        score = f" and the score becomes {_scored(plain.get('theirs'))}" if plain.get("theirs") else ""
        found.append(
            Note(
                f"{card['label']}: the app resizes. Without antialiasing, {_percent(plain['agreement'])} of the "
                f"answers are the same{score}."
            )
        )
    rows = [one for one in card.get("classes", ()) if one[2] is not None and one[3] is not None]
    if card["stored"] == "int8" and rows:
        rows.sort(key=lambda one: one[3] - one[2])
        bars = tuple(Bar(name, count, (theirs, ours)) for name, count, ours, theirs in rows)
        found += [
            Text(f"{card['label']}: each class, the one that lost most first."),
            Bars(("in 8 bits", "PyTorch"), bars),
        ]
    return found


def _scored(score: Sequence[float] | None) -> str:
    if not score:
        return ""
    spread = f" [{100 * score[1]:.1f}, {100 * score[2]:.1f}]" if len(score) > 2 else ""
    return f"{_percent(score[0])}{spread}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}{THIN}%"


def _time(seconds: float) -> str:
    return f"{1000 * seconds:.3g}{THIN}ms"
