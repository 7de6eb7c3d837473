"""Turn a run into a file for phones, browsers and other programs, proved to give the same answers

    instar export RUN to=onnx                  for onnxruntime, anywhere
    instar export RUN to=litert quantise=int8  for phones: .tflite, with code in Kotlin and Swift that reads it
    instar export RUN to=onnx,litert,torch_export

    quantise=fp16  weights in half the room; int8 a quarter, and faster
    rows=200       rows of the test split that go through PyTorch and through the file
    agree=0.99     share of them that must be answered alike, or there is no file; drop=0.01 of the score may be lost
    calibration=128   rows of the validation split that show int8 how large numbers become
    threads=1      where time is taken
    timeout=30min  for one conversion
    checkpoint=latest   instead of the best
    runs=FOLDER    where runs are, instead of runs/
    --json         what was made and measured as one JSON object

The model takes the bytes of an image and gives probabilities: cropping (where the format can), scaling, normalising
and softmax are inside. Writes RUN/exports/FORMAT/ and a card into the run page.
"""

import json
from typing import TYPE_CHECKING, Any

from instar import caches, formats, terminal
from instar.cli.words import Words, to_type
from instar.errors import DONE, USER_ERROR

if TYPE_CHECKING:
    from collections.abc import Sequence

    from instar.export import Made
    from instar.run import Run

FLAGS = ()
THINGS = (1, 1)


def run(words: Words) -> int:
    from instar import run as runs
    from instar.machine import Exporting
    from instar.validation import validate

    caches.refuse_network()
    settings = validate(Exporting, {}, words.changes)
    found = runs.find(words.things[0], settings.runs)

    from instar import evaluate
    from instar import export as stage

    options = stage.Options(
        stored="float32" if settings.quantise == "none" else settings.quantise,
        checkpoint=settings.checkpoint,
        rows=settings.rows,
        calibration=settings.calibration,
        agreement=settings.agree,
        drop=settings.drop,
        threads=settings.threads,
        seconds=settings.timeout.seconds,
    )
    hushed = bool({"json", "quiet"} & words.flags)
    told = (lambda what: None) if hushed else (lambda what: terminal.say(f"export   {what} …"))
    made = stage.export(found, to=settings.to, options=options, told=told)
    evaluate.report(found)
    if "json" in words:
        terminal.say(json.dumps({"run": str(found.path), "exports": [facts(one) for one in made]}))
    elif not hushed:
        terminal.say("\n".join(lines(found, made)))
    for one in made:
        if one.error:
            terminal.say(f"instar: {formats.one_line(one.kind)}: {one.error}", error=True)
    return USER_ERROR if any(one.error for one in made) else DONE


def facts(one: "Made") -> dict[str, Any]:
    """One format as plain values."""
    folder = None if one.folder is None else str(one.folder)
    return {"format": one.kind, "folder": folder, "error": one.error, "already": one.already, "card": one.card}


def lines(found: "Run", made: "Sequence[Made]") -> list[str]:
    """What was made, a line a format, and what to type next."""
    good = [one for one in made if one.folder is not None]
    if not good:
        return [f"next     instar why {to_type(found.path)}"]
    table = [("format", "size", "agree", "max |dp|", "score", "latency", "PyTorch"), *(_row(one.card) for one in good)]
    card, folder = good[0].card, good[0].folder
    assert folder is not None, "these are the good ones"
    already = [one.kind for one in good if one.already]
    threads = card["latency"]["threads"]
    return [
        *(f"         {line}" for line in formats.table(table, right=(1, 2, 3, 4, 5, 6))),
        f"         {card['rows']} {card['split']} rows; latency is the median of one image, {threads} thread"
        f"{'s' if threads > 1 else ''}",
        *([f"note     {', '.join(already)} was exported before, from the same weights"] if already else []),
        *(f"look     {formats.one_line(str(one.folder))}/" for one in good),
        f"         {formats.one_line(str(found.report))}",
        f"next     instar predict {to_type(folder)} IMAGES",
    ]


def _row(card: dict[str, Any]) -> tuple[str, ...]:
    score = formats.percent(card["theirs"][0]) if card.get("theirs") else ""
    return (
        card["label"],
        formats.size(card["bytes"]),
        formats.percent(card["agreement"]),
        f"{card['dp_max']:.2g}",
        score,
        milliseconds(card["latency"]["median"]),
        milliseconds(card["pytorch"]["median"]),
    )


def milliseconds(seconds: float) -> str:
    """A short time: `12.3 ms`."""
    return f"{1000 * seconds:.3g} ms"
