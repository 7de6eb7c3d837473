"""What a model says about new images: a run, or a file that was exported from one

    instar predict RUN IMAGE.jpg FOLDER        classes and probabilities, one line a file
    instar predict RUN/exports/onnx FOLDER     the same from an exported file, without PyTorch
    instar predict RUN FOLDER to=new.parquet   or to=new.json

    masks=FOLDER   where each pixel has a class: also write the masks there, as PNG of the image's size
    checkpoint=latest   of a run, instead of the best
    device=cpu threads=4
    trust=true     also read a .pt2, which could execute what is in it: only for files you made
    runs=FOLDER    where runs are, instead of runs/
    --json         everything as one JSON object

Images are looked at exactly as in evaluation. One that cannot be read is named, and the others go on.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from instar import caches, formats, terminal
from instar.cli.words import Words, one_of, whole
from instar.errors import DONE, USER_ERROR, ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from instar.exported import Model
    from instar.predict import Predicted

FLAGS = ()
THINGS = (2, 10**6)
_SHOWN = 40
_NAMED = 10


def run(words: Words) -> int:
    from instar import predict as stage

    caches.refuse_network()
    given = words.only("to", "masks", "checkpoint", "device", "threads", "trust", "runs")
    paths = stage.files(words.things[1:])
    with terminal.without_chatter():
        model = stage.opened(
            words.things[0],
            runs_folder=Path(given.get("runs", "runs")),
            checkpoint=one_of("checkpoint", given.get("checkpoint", "best"), ("best", "latest")),
            device=one_of("device", given.get("device", "cpu"), ("cpu", "cuda")),
            threads=whole("threads", given["threads"]) if "threads" in given else None,
            trust=one_of("trust", given.get("trust", "false"), ("true", "false")) == "true",
        )
    if "masks" in given and model.contract.answers != "pixels":
        raise ConfigError("masks=FOLDER is for models that answer each pixel; this one answers once an image.")
    line = terminal.Line(live="json" not in words and "quiet" not in words)
    found = list(stage.predict(model, paths, tick=lambda done: line.draw("predict  ", done, len(paths))))
    line.clear()
    if "to" in given:
        stage.write(model, found, Path(given["to"]))
    masks = stage.write_masks(found, Path(given["masks"])) if "masks" in given else 0
    if "json" in words:
        terminal.say(json.dumps(stage.document(model, found)))
    elif "quiet" not in words:
        written = [given["to"]] if "to" in given else []
        written += [f"{given['masks']}, {formats.count(masks)} masks"] if masks else []
        terminal.say("\n".join(lines(model, found, written)))
    return DONE if any(one.answer is not None for one in found) else USER_ERROR


def lines(model: "Model", found: "Sequence[Predicted]", written: "Sequence[str]") -> list[str]:
    """What was said about each file, the first of them; then what could not be read."""
    said = [one for one in found if one.answer is not None]
    broken = [one for one in found if one.answer is None]
    shown = said if not written else said[:5]
    rows = [[formats.one_line(str(one.path)), *_words(one)] for one in shown[:_SHOWN]]
    told = formats.table(rows, right=(2, 4)) if rows else []
    if len(said) > len(rows):
        hint = "" if written else "; all of them with to=FILE.parquet"
        told.append(f"… and {formats.count(len(said) - len(rows))} more{hint}")
    for one in broken[:_NAMED]:
        told.append(f"broken   {formats.one_line(str(one.path))}: {formats.one_line(one.reason)}")
    left = f", {formats.count(len(broken))} could not be read" if broken else ""
    stored = "" if model.contract.stored == "float32" else f" ({model.contract.stored})"
    told.append(f"predict  {formats.count(len(said))} images by {formats.one_line(model.contract.run)}{stored}{left}")
    return [*told, *(f"look     {formats.one_line(one)}" for one in written)]


def _words(one: "Predicted") -> list[str]:
    """The two most probable classes, or the two with most of the pixels; or how long the vector is."""
    assert one.answer is not None, "the caller looked"
    if one.answer.embedding_D is not None:
        return [f"{len(one.answer.embedding_D)} numbers", "", "", ""]
    first, second, *_ = [*(one.answer.ranking if one.answer.mask_HW is None else one.answer.shares), ("", -1.0)]
    return [
        formats.one_line(first[0]),
        formats.percent(first[1]),
        formats.one_line(second[0]),
        formats.percent(second[1]) if second[1] >= 0 else "",
    ]
