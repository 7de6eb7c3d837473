"""HDF5 and NetCDF files into .npy files or packed data; the same command again carries on

    instar convert FOLDER to=ARRAYS                       one .npy for each array of each file
    instar convert FOLDER to=PACKED as=packed             a few large files, with an index
    srun -n 64 instar convert FOLDER to=ARRAYS            divided over ranks (Slurm, Open MPI, MPICH, PBS)

    arrays=climate/data,climate/labels_0   which arrays; by default all that the first file holds
    workers=4          processes; by default one a core
    channels=last      first or none: where the channels are, for --stats
    shard=1GB          how large a packed file is, about

    --fix              read what is there again, and make anew what is broken
    --stats            mean, std, least and most of every channel over all files: stats.json
    --json, --quiet

Every byte goes through xxh3. Statistics leave out what is no finite number, and are the same to the last bit on any
number of ranks. Exit code 65 where a file could not be read; the others are converted all the same.
"""

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instar import formats, terminal
from instar.cli.words import Words
from instar.errors import DONE, USER_ERROR

if TYPE_CHECKING:
    from instar.convert import Outcome, Task
    from instar.machine import Converting

FLAGS = ("fix", "stats")
THINGS = (1, 1)
_SHOWN = 5
_CHANNELS = 16


def run(words: Words) -> int:
    from instar.engine import faults
    from instar.engine.ranks import place
    from instar.machine import Converting
    from instar.validation import validate

    settings = validate(Converting, {}, list(words.changes))
    faults.arm(os.environ.get("INSTAR_FAULT", ""))
    here = place.here()

    from instar import convert as stage

    root, folder = Path(words.things[0]), settings.to.expanduser()
    todo = stage.tasks(root, settings.arrays)
    if settings.as_ == "packed":
        return _packed(words, root, todo, settings) if here.rank == 0 else DONE
    options = stage.Options(
        fix="fix" in words,
        stats="stats" in words,
        channels=settings.channels,
        processes=None if settings.workers == "auto" else settings.workers,
    )
    line = terminal.Line(live=here.rank == 0 and "json" not in words and "quiet" not in words)
    began = time.monotonic()
    try:
        made = stage.convert(root, todo, folder, options, here, progress=lambda n, of: line.draw("convert  ", n, of))
    finally:
        line.clear()
    _tell(words, made, folder, rank=here.rank, world=here.world, seconds=time.monotonic() - began)
    return USER_ERROR if made.broken else DONE


def _packed(words: Words, root: Path, todo: "list[Task]", settings: "Converting") -> int:
    """Pack the arrays; one process of many does it, with processes of its own."""
    from instar import convert as stage
    from instar import pack
    from instar.cli.pack import tell

    options = pack.Options(
        payload="array", shard=settings.shard, processes=None if settings.workers == "auto" else settings.workers
    )
    line = terminal.Line(live="json" not in words and "quiet" not in words)
    began = time.monotonic()
    try:
        made = pack.pack(
            stage.sources(root, todo),
            settings.to.expanduser(),
            options,
            progress=lambda n, of: line.draw("pack     ", n, of),
        )
    finally:
        line.clear()
    tell(words, made, settings.to, [], seconds=time.monotonic() - began)
    return USER_ERROR if made.pack.about.skipped else DONE


def _tell(words: Words, made: "Outcome", folder: Path, *, rank: int, world: int, seconds: float) -> None:
    if "json" in words:
        facts: dict[str, Any] = {
            "converted": str(folder),
            "rank": rank,
            "made": made.made,
            "kept": made.kept,
            "bytes": made.bytes,
            "whole": made.whole,
            "broken": [list(one) for one in made.broken],
            "seconds": round(seconds, 3),
        }
        terminal.say(json.dumps(facts))
        return
    for source, reason in made.broken[:_SHOWN]:
        terminal.say(f"broken   {formats.one_line(source)}: {formats.one_line(reason)}")
    if len(made.broken) > _SHOWN:
        terminal.say(f"broken   and {formats.count(len(made.broken) - _SHOWN)} more")
    if "quiet" in words or (rank and not made.whole):
        return
    of = f" by rank {rank} of {world}" if world > 1 else ""
    kept = f", {formats.count(made.kept)} were there" if made.kept else ""
    terminal.say(
        f"convert  {formats.count(made.made)} arrays{of}{kept}, {formats.size(made.bytes)} in {formats.clock(seconds)}"
    )
    for name, one in (made.statistics or {}).items():
        for channel, (mean, std) in enumerate(zip(one.mean[:_CHANNELS], one.std, strict=False)):
            least, most = one.least[channel], one.most[channel]
            terminal.say(
                f"stats    {formats.one_line(name)} channel {channel}: mean {mean:.6g}, std {std:.6g}, "
                f"{least:.6g} to {most:.6g}, {formats.count(one.missing[channel])} missing"
            )
        if len(one.mean) > _CHANNELS:
            terminal.say(f"stats    and {formats.count(len(one.mean) - _CHANNELS)} more channels in stats.json")
    terminal.say(f"look     {formats.one_line(str(folder))}")
    terminal.say("next     the same command with --fix reads all of it again")
