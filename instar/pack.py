"""Pack: samples in a folder, tar or zip -> a few large files + an index. The same command again carries on.

Read top to bottom: plan the shards, keep those that are finished, make the rest in parallel, write the index last.
A shard is written under a hidden name, synced, and renamed into sight together with a small index of its own; so after
a kill at any moment what can be seen is whole. Nothing of the source is touched.

Legend: N samples.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow as pa
import xxhash

from instar import atomic, packed
from instar.engine import faults
from instar.engine.loading.cores import usable_cpus
from instar.engine.packing import shards, sources
from instar.engine.packing.one_array import one_array
from instar.engine.packing.packer import Options, Packer, index_rows
from instar.engine.packing.pool import Piece, Written, written
from instar.engine.packing.sources import Sources
from instar.errors import DataError
from instar.manifest import Manifest
from instar.packed import About, Packed, Shard

_COPIED, _DECODED = 64, 16  # samples a process takes in one go; fewer of what takes long, for all to end together
_OWN = ("index.parquet", "shard-", ".shard-", ".index.parquet", "images.npy", ".images.npy")

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Outcome:
    """What stands there now. kept: shards of an earlier start that were finished; already: all of it was."""

    pack: Packed
    kept: int
    already: bool = False


def pack(found: Sources, folder: Path, options: Options, *, progress: Progress = lambda done, total: None) -> Outcome:
    """Pack the sources into a folder, or go on with that.

    progress   told how many of how many samples are packed
    Raises DataError where the folder holds something else, where nothing can be read, and where it cannot be written.
    """
    _not_packed(found.place)
    options = _for(found, options)
    _may_be_written(folder, found)
    folder.mkdir(parents=True, exist_ok=True)
    plan = _plan_of(found, options)
    with _alone_in(folder):
        if (folder / packed.INDEX).exists():
            return _already(folder, plan)
        if options.in_place:
            return _indexed_in_place(found, folder, options, plan, progress)
        if (
            options.payload == packed.ARRAYS
            and found.parts is None
            and (made := one_array(found, folder, options, progress=progress))
        ):
            return _indexed(folder, [made], found, options, plan, kept=0, bare=True)
        return _into_shards(found, folder, options, plan, progress)


def verify(pack: Packed, *, progress: Progress = lambda done, total: None) -> list[str]:
    """Read every stored sample again; what is wrong, one sentence each."""
    done = 0

    def check(row: int) -> str:
        try:
            pack.checked(row)
        except DataError as error:
            return f"{pack.index['source'][row].as_py()}: {error}"
        return ""

    wrong = []
    with ThreadPoolExecutor(usable_cpus()) as threads:
        for text in threads.map(check, range(len(pack)), chunksize=64):
            done += 1
            progress(done, len(pack))
            if text:
                wrong.append(text)
    return wrong


def of_manifest(rows: Manifest, *, divided: bool) -> Sources:
    """What a recipe's manifest says is to be packed. divided: whether its splits were given, and not drawn."""
    return sources.of_manifest(rows, divided=divided)


def of_masks(rows: Manifest, members: sources.Members, *, form: str, beside: Sequence[Path], divided: bool) -> Sources:
    """The same where pixels have labels, so that a sample has several members. See `sources.of_masks`."""
    return sources.of_masks(rows, members, form=form, beside=beside, divided=divided)


def found_at(place: Path, *, inside: str | None = None) -> Sources:
    """What is to be packed in a folder or archive without a recipe. Raises DataError where there is nothing.

    inside   only what lies in this folder of an archive
    """
    if not place.exists():
        raise DataError(f"{place}: there is no such folder or archive. Name a folder, a tar, a zip or a recipe.")
    _not_packed(place)
    return sources.of_folder(place) if place.is_dir() else sources.of_archive(place, inside=inside)


# --- before ----------------------------------------------------------------------------------------------------------


def _not_packed(place: Path) -> None:
    if packed.is_packed(place):
        raise DataError(f"{place}: is packed already. Name what it was packed from, or check it with --verify.")


def _for(found: Sources, options: Options) -> Options:
    """The options as these sources need them; raises DataError where they cannot be packed so."""
    if found.form == "field":
        return replace(options, payload=packed.ARRAYS)  # an array is stored as it is
    if found.parts is not None and options.payload in (packed.JPEG256, packed.RAW256):
        raise DataError(
            f"{found.place}: its pixels have labels, and a label of a smaller picture would be another one. Write "
            f"as=original, or as=array."
        )
    return options


def _may_be_written(folder: Path, found: Sources) -> None:
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: this is a file. Name a folder that is to hold the packed data.")
    ours = (*_OWN, *(name for one in found.beside for name in (one.name, f".{one.name}")))
    strange = [one.name for one in folder.iterdir() if not one.name.startswith(ours)] if folder.is_dir() else []
    if strange:
        raise DataError(f"{folder}: holds other files ({strange[0]!r} …). Name a new folder: to=FOLDER")


def _plan_of(found: Sources, options: Options) -> str:
    """A fingerprint of what is packed and how: shards of another one cannot be used."""
    changed = found.place.stat().st_mtime_ns if found.form in ("tar", "zip") else 0
    how = {**asdict(replace(options, processes=None)), "place": os.fspath(found.place), "changed": changed}
    how["beside"] = [[one.name, packed.xxh3_of(one)] for one in found.beside]
    whole = xxhash.xxh3_128(json.dumps(how, sort_keys=True).encode())
    of_rows = (found.names, found.labels, found.groups, found.splits, found.keys, found.parts, found.contents)
    for column in of_rows:
        whole.update(json.dumps(column and list(column)).encode())
    if found.ids is not None:
        whole.update(json.dumps(list(found.ids)).encode())
    whole.update(found.size_N.tobytes())
    whole.update(found.changed_N.tobytes())
    return whole.hexdigest()


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """One packing a folder at a time, where the file system can tell."""
    number = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{folder}: another process is packing into it. Wait for it, or stop it.") from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(number)


def _already(folder: Path, plan: str) -> Outcome:
    pack = packed.read(folder)
    if pack.about.plan != plan:
        raise DataError(
            f"{folder}: holds packed data made from something else, or in another way. Name a new folder, or remove it."
        )
    return Outcome(pack, len(pack.about.shards), already=True)


# --- tar shards ------------------------------------------------------------------------------------------------------


def _into_shards(found: Sources, folder: Path, options: Options, plan: str, progress: Progress) -> Outcome:
    # Of a field the size of what is stored is known.
    payload = packed.ORIGINAL if found.form == "field" else options.payload
    weight_N = shards.expected(found.size_N, found.pixels_N, payload=payload)
    rows = _COPIED if payload == packed.ORIGINAL else _DECODED
    chunks = shards.planned(weight_N, found.size_N, most=options.shard, keys=found.keys, rows=rows)
    finished = {number for number in {chunk.shard for chunk in chunks} if _is_finished(folder, number, plan)}
    _remove_unfinished(folder, finished)
    todo = [number for number, chunk in enumerate(chunks) if chunk.shard not in finished]
    pieces = [Piece(number, chunks[number].shard, _part(folder, chunks[number].shard)) for number in todo]
    last = {piece.file: piece.number for piece in pieces}
    done = sum(chunk.last - chunk.first for chunk in chunks) - sum(chunks[n].last - chunks[n].first for n in todo)
    packer = Packer(found, options, chunks)
    gathered: list[Written] = []
    ends: list[Future[None]] = []
    # A shard is hashed and synced beside the next one, so that nobody waits for the disk who could pack.
    with ThreadPoolExecutor(1) as finishing:
        for one in written(pieces, packer.make, processes=options.processes or usable_cpus()):
            gathered.append(one)
            chunk = chunks[one.piece.number]
            done += chunk.last - chunk.first
            progress(done, len(found))
            faults.point("pack.chunk")
            if last[one.piece.file] == one.piece.number:
                ends.append(finishing.submit(_finish, folder, one.piece, gathered, found, plan))
                gathered = []
            if ends and ends[0].done():
                ends.pop(0).result()
        for end in ends:
            end.result()
    parts = [packed.read_index_file(_sidecar(folder, number)) for number in sorted({chunk.shard for chunk in chunks})]
    return _indexed(folder, parts, found, options, plan, kept=len(finished))


def _finish(folder: Path, piece: Piece, gathered: Sequence[Written], found: Sources, plan: str) -> None:
    """End a shard, make it outlive a power cut, and let it be seen."""
    part, shard = Path(piece.path), folder / shards.name_of(piece.file)
    end = gathered[-1].offset + gathered[-1].size
    with open(part, "r+b" if part.exists() else "w+b") as file:
        file.seek(end)
        file.write(shards.END)
        file.flush()
        os.fsync(file.fileno())
    about = Shard(shard.name, end + len(shards.END), packed.xxh3_of(part))
    rows, skipped = index_rows(gathered, found, number=piece.file)
    packed.write_index(_sidecar(folder, piece.file), rows, About("", (about,), skipped=skipped, plan=plan))
    faults.point("pack.shard")
    part.replace(shard)
    atomic.sync(folder)


def _indexed(
    folder: Path,
    parts: Sequence[tuple[pa.Table, About]],
    found: Sources,
    options: Options,
    plan: str,
    *,
    kept: int,
    bare: bool = False,
) -> Outcome:
    """Write the one index over all shards, last of all; then the small ones can go."""
    rows = pa.concat_tables([rows for rows, _ in parts])
    bad = tuple(one for _, about in parts for one in about.skipped)
    if not len(rows):
        shown = "; ".join(f"{name!r}: {reason}" for name, reason in bad[:5])
        raise DataError(f"{found.place}: not one of {len(bad)} samples can be packed. {shown}")
    skipped = (*((one.file, one.reason) for one in found.skipped), *bad)
    about = About(
        options.payload,
        tuple(shard for _, one in parts for shard in one.shards),
        bare=bare,
        skipped=skipped,
        plan=plan,
        notes=tuple(found.notes),
        beside=tuple(_copied(one, folder) for one in found.beside),
    )
    faults.point("pack.index")
    packed.write_index(folder / packed.INDEX, rows, about)
    for number in range(len(about.shards)):
        _sidecar(folder, number).unlink(missing_ok=True)
    return Outcome(packed.read(folder), kept)


def _copied(file: Path, folder: Path) -> Shard:
    """A file that is of all samples, brought beside them whole or not at all."""
    part = folder / f".{file.name}.part"
    shutil.copyfile(file, part)
    part.replace(folder / file.name)
    atomic.sync(folder)
    return Shard(file.name, (folder / file.name).stat().st_size, packed.xxh3_of(folder / file.name))


def _is_finished(folder: Path, number: int, plan: str) -> bool:
    shard, sidecar = folder / shards.name_of(number), _sidecar(folder, number)
    if not (shard.is_file() and sidecar.is_file()):
        return False
    try:
        about = packed.read_index_file(sidecar)[1]
    except DataError:
        return False
    return about.plan == plan and about.shards[0].size == shard.stat().st_size


def _remove_unfinished(folder: Path, finished: set[int]) -> None:
    keep = {shards.name_of(number) for number in finished} | {_sidecar(folder, number).name for number in finished}
    for path in folder.iterdir():
        if path.name.startswith(("shard-", ".shard-", ".index.parquet", ".images.npy")) and path.name not in keep:
            path.unlink()


def _part(folder: Path, number: int) -> str:
    return f"{folder}/.{shards.name_of(number)}.part"


def _sidecar(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:06d}.parquet"


# --- a tar that stays where it is ------------------------------------------------------------------------------------


def _indexed_in_place(found: Sources, folder: Path, options: Options, plan: str, progress: Progress) -> Outcome:
    if found.form != "tar" or options.payload != packed.ORIGINAL:
        raise DataError(f"{found.place}: only an uncompressed tar can stay where it is, with as=original.")
    chunks = shards.planned(found.size_N, found.size_N, most=1 << 62)
    pieces = [Piece(number, 0, "") for number in range(len(chunks))]
    gathered, done = [], 0
    packer = Packer(found, options, chunks)
    for one in written(pieces, packer.make, processes=options.processes or usable_cpus()):
        gathered.append(one)
        done += chunks[one.piece.number].last - chunks[one.piece.number].first
        progress(done, len(found))
    rows, skipped = index_rows(gathered, found, number=0, in_place=True)
    tar = found.place.resolve()
    name = tar.name if tar.parent == folder.resolve() else os.fspath(tar)
    about = About("", (Shard(name, tar.stat().st_size, ""),), skipped=skipped)
    return _indexed(folder, [(rows, about)], found, options, plan, kept=0)
