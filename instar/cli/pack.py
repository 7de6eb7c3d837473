"""Many small files into a few large ones that train the same; the same command again carries on

    instar pack FOLDER to=PACKED          one folder a class, or any images and .npy arrays
    instar pack RECIPE.yaml to=PACKED     what a recipe reads, with its table, groups and index files
    instar pack DATA.tar to=PACKED        a tar or zip, without unpacking it
    instar pack PACKED --verify           read every sample again and compare

    inside=DIR     only what lies in this folder of a tar or zip
    as=original    the bytes of the files, untouched (the default)
    as=jpeg256     short side 256, JPEG: small, and fast to read; an approximation
    as=raw256      short side 256, no compression: large, and faster still
    as=array       every value exactly, of any type; images of one small size become one .npy
    shard=1GB      how large a file is, about
    workers=4      processes; by default one a core
    key=value      any setting of the recipe

    --in-place     leave the samples in the tar they are in, and write the index only
    --verify       read everything again when it is packed

Then the same recipe with data.root=PACKED trains on it: same rows, same order, same split. The files are ordinary tar
shards that `tar xf` and WebDataset read too, and index.parquet.
"""

import difflib
import json
import os
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instar import formats, plugins, terminal
from instar.cli import kinds
from instar.cli.words import Words, to_type
from instar.errors import DONE, USER_ERROR, ConfigError

if TYPE_CHECKING:
    from instar.engine.packing.sources import Sources
    from instar.experiment import Data
    from instar.machine import Packing
    from instar.manifest import Manifest
    from instar.pack import Options, Outcome

FLAGS = ("verify", "in-place")
THINGS = (1, 1)
_SHOWN = 5


def run(words: Words) -> int:
    from instar import packed
    from instar.engine import faults
    from instar.machine import Packing
    from instar.validation import validate

    faults.arm(os.environ.get("INSTAR_FAULT", ""))
    names = {field.alias or name for name, field in Packing.model_fields.items()}
    own = [change for change in words.changes if change.partition("=")[0] in names]
    rest = [change for change in words.changes if change not in own]
    settings = validate(Packing, {}, own)
    place = Path(words.things[0])
    if settings.to is None:
        if "verify" in words and packed.is_packed(place):
            return _verify(words, place)
        raise ConfigError("where to? Name a new folder: to=FOLDER")
    return _pack(words, place, settings.to.expanduser(), settings, rest)


def _pack(words: Words, place: Path, folder: Path, settings: "Packing", changes: list[str]) -> int:
    from instar import pack as stage

    line = terminal.Line(live="json" not in words and "quiet" not in words)
    found, data = _sources(place, settings.inside, changes, line)
    options = stage.Options(
        payload=settings.as_,
        shard=settings.shard,
        processes=None if settings.workers == "auto" else settings.workers,
        in_place="in-place" in words,
    )
    began = time.monotonic()
    try:
        made = stage.pack(found, folder, _like(options, data), progress=lambda n, of: line.draw("pack     ", n, of))
    finally:
        line.clear()
    wrong = stage.verify(made.pack, progress=lambda n, of: line.draw("verify   ", n, of)) if "verify" in words else []
    line.clear()
    tell(words, made, folder, wrong, seconds=time.monotonic() - began)
    return USER_ERROR if wrong else DONE


def _sources(place: Path, inside: str | None, changes: list[str], line: terminal.Line) -> "tuple[Sources, Data | None]":
    """What to pack, and what a recipe says of it."""
    from instar import experiment as experiments
    from instar import pack as stage
    from instar import prepare
    from instar.errors import DataError

    if place.is_file() and place.suffix.lower() in (".yaml", ".yml"):
        recipe = experiments.load(place, changes)
        rows = prepare.manifest(recipe.data, recipe.seed, progress=lambda n, of: line.draw("data     ", n, of))
        line.clear()
        return _of_rows(rows, recipe.data), recipe.data
    if changes:
        near = difflib.get_close_matches(changes[0].partition("=")[0], ("to", "as", "shard", "workers", "inside"), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"settings of a recipe go with a recipe; {place} is none"
        raise ConfigError(f"{changes[0]!r}: {hint}")
    if place.is_dir():
        try:
            data = experiments.load(place, kinds.of_folder(place)).data.model_copy(update={"max_bad": 0.99})
            rows = prepare.manifest(data, 0, progress=lambda n, of: line.draw("data     ", n, of))
            line.clear()
            return _of_rows(rows, data), data
        except DataError:
            line.clear()  # no folder of classes: any images and arrays will do
    return stage.found_at(place, inside=inside), None


def _of_rows(rows: "Manifest", data: "Data") -> "Sources":
    """What is packed of a manifest's rows: a file each, or where pixels have labels what their reader says."""
    from instar import pack as stage

    reader, divided = plugins.load("readers", data.reader.kind), bool(rows.statistics.get("divided"))
    if "mask" not in reader.gives:
        return stage.of_manifest(rows, divided=divided)
    return stage.of_masks(
        rows,
        partial(reader.members, data.reader),
        form=reader.packed_from,
        beside=reader.beside(data.reader, rows.root),
        divided=divided,
    )


def _like(options: "Options", data: "Data | None") -> "Options":
    """The options with what a recipe's reader says of transparent and deep images."""
    from dataclasses import replace

    if data is None or data.reader.kind not in ("image_label", "image_mask"):
        return options
    background = plugins.load("readers", "image_label").colour(data.reader.background)
    return replace(options, background=background, span=data.reader.span)


def tell(words: Words, made: "Outcome", folder: Path, wrong: list[str], *, seconds: float) -> None:
    """Say what stands there now, as lines or as JSON."""
    about = made.pack.about
    of_parts = any(made.pack.index["part"].to_pylist())
    facts: dict[str, Any] = {
        "packed": str(folder),
        "rows": len(made.pack),
        "samples": len(set(made.pack.index["key"].to_pylist())) if of_parts else len(made.pack),
        "shards": len(about.shards),
        "bytes": sum(shard.size for shard in about.shards),
        "payload": about.payload,
        "skipped": [list(one) for one in about.skipped],
        "kept": made.kept,
        "already": made.already,
        "wrong": wrong,
        "seconds": round(seconds, 3),
    }
    if "json" in words:
        terminal.say(json.dumps(facts))
        return
    if "quiet" not in words:
        how = "was packed before" if made.already else f"in {formats.clock(seconds)}"
        kept = f", {made.kept} of them from an earlier start" if made.kept and not made.already else ""
        files = f"{len(about.shards)} file{'s' if len(about.shards) > 1 else ''}"
        terminal.say(
            f"pack     {formats.count(facts['samples'])} samples as {about.payload}, {files} of "
            f"{formats.size(facts['bytes'])}{kept}, {how}"
        )
    for file, reason in about.skipped[:_SHOWN]:
        terminal.say(f"note     skipped {formats.one_line(file)}: {reason}")
    if len(about.skipped) > _SHOWN:
        terminal.say(f"note     and {formats.count(len(about.skipped) - _SHOWN)} more, listed in index.parquet")
    _tell_wrong(wrong)
    if "quiet" not in words:
        for note in about.notes:
            terminal.say(f"note     {note}")
        terminal.say(f"look     {formats.one_line(str(folder))}")
        if made.pack.index["label"].null_count and not of_parts:
            terminal.say(f"next     instar pack {to_type(folder)} --verify")
            return
        recipe = f"{to_type(Path(words.things[0]))} data.root=" if words.things[0].endswith((".yaml", ".yml")) else ""
        terminal.say(f"next     instar train {recipe}{to_type(folder)}")


def _verify(words: Words, folder: Path) -> int:
    from instar import pack as stage
    from instar import packed

    pack = packed.read(folder)
    line = terminal.Line(live="json" not in words and "quiet" not in words)
    wrong = stage.verify(pack, progress=lambda n, of: line.draw("verify   ", n, of))
    line.clear()
    if "json" in words:
        terminal.say(json.dumps({"packed": str(folder), "rows": len(pack), "wrong": wrong}))
    elif not wrong:
        terminal.say(f"verify   {formats.count(len(pack))} samples are what was packed")
    else:
        _tell_wrong(wrong)
    return USER_ERROR if wrong else DONE


def _tell_wrong(wrong: list[str]) -> None:
    for text in wrong[:_SHOWN]:
        terminal.say(f"wrong    {formats.one_line(text)}")
    if wrong:
        terminal.say(f"wrong    {formats.count(len(wrong))} samples in all. Pack again into a new folder.")
