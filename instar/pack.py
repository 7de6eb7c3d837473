"""Pack: samples in a folder, tar or zip -> a few large files + an index. The same command again carries on.

Read top to bottom: plan the shards, keep those that are finished, make the rest in parallel, write the index last.
A shard is written under a hidden name, synced, and renamed into sight together with a small index of its own; so after
a kill at any moment what can be seen is whole. Nothing of the source is touched.

Legend: N samples.
"""

import fcntl
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from instar import atomic, packed
from instar.engine import faults
from instar.engine.loading.cores import usable_cpus
from instar.engine.packing import payloads, shards, sources
from instar.engine.packing.pool import Piece, Written, written
from instar.engine.packing.shards import Chunk
from instar.engine.packing.sources import Sources
from instar.errors import DataError
from instar.manifest import Manifest
from instar.packed import About, Packed, Shard
from instar.readers._pixels import Form

GB = 10**9
_COPIED, _DECODED = 64, 16  # samples a process takes in one go; fewer of what takes long, for all to end together
_TINY = 128  # pixels a side up to which images of one size become one array
_OWN = ("index.parquet", "shard-", ".shard-", ".index.parquet", "images.npy", ".images.npy")

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Options:
    """How to pack.

    payload      original, jpeg256, raw256 or array
    shard        bytes of a shard, about
    processes    how many pack; null for one a core
    in_place     leave the samples in the tar they are in, and write the index only
    background   what shows through transparent images, where they are decoded
    span         values that become black and white in deep ones, where they become 8 bit
    """

    payload: str = packed.ORIGINAL
    shard: int = GB
    processes: int | None = None
    in_place: bool = False
    background: tuple[int, int, int] = (255, 255, 255)
    span: tuple[float, float] | None = None


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
            and (made := _one_array(found, folder, options, plan, progress))
        ):
            return made
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
    packer = _Packer(found, options, chunks)
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


class _Packer:
    """Makes the bytes of a chunk, in another process."""

    def __init__(self, found: Sources, options: Options, chunks: Sequence[Chunk], *, bare: bool = False):
        self._found, self._options, self._chunks, self._bare = found, options, chunks, bare
        self._form = Form(0, 3, options.background, 0, options.span)
        self._numbers = {name: number for number, name in enumerate(found.classes)}

    def make(self, number: int) -> tuple[list[bytes], list[Any]]:
        """Bytes, and for each row (row, offset, length, columns) or (row, reason)."""
        chunk, found = self._chunks[number], self._found
        pieces: list[bytes] = []
        facts: list[Any] = []
        at = 0
        for row in range(chunk.first, chunk.last):
            try:
                stored = self.stored(row)
            except (DataError, OSError) as error:
                facts.append((row, _reason(error)))
                continue
            if self._bare:
                members, begins = [stored.data], 0
            elif self._options.in_place:
                members, begins = [], int(found.at_N[row]) - at
            else:
                label = found.labels[row] if found.labels else None
                cls = None if label is None else self._numbers[label]
                ending = f"{found.parts[row]}.{stored.ending}" if found.parts and found.parts[row] else stored.ending
                members, begins = shards.sample(_key(found, row), ending, stored.data, cls)
            facts.append((row, at + begins, len(stored.data), stored.facts))
            pieces += members
            at += sum(map(len, members))
        return pieces, facts

    def stored(self, row: int) -> payloads.Stored:
        """What is stored of a row."""
        found = self._found
        data = sources.load(found.place, found.form, found.names[row], int(found.at_N[row]), int(found.size_N[row]))
        name = ".npy" if found.form == "field" else found.names[row]
        # What stands in a mask are names of classes, which no conversion may touch.
        payload = packed.ORIGINAL if found.parts and found.parts[row] else self._options.payload
        made = payloads.stored(data, name, payload=payload, form=self._form, bare=self._bare)
        return made if found.contents is None else replace(made, facts=made.facts | {"content": found.contents[row]})


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
    rows, skipped = _rows(gathered, found, number=piece.file)
    packed.write_index(_sidecar(folder, piece.file), rows, About("", (about,), skipped=skipped, plan=plan))
    faults.point("pack.shard")
    part.replace(shard)
    atomic.sync(folder)


def _rows(
    gathered: Sequence[Written], found: Sources, *, number: int, in_place: bool = False
) -> tuple[pa.Table, tuple[tuple[str, str], ...]]:
    """The index of what was written, and what could not be read."""
    columns: dict[str, list[Any]] = {name: [] for name in packed.SCHEMA.names}
    skipped = []
    for one in gathered:
        for row, *rest in one.facts:
            name = found.names[row]
            if len(rest) == 1:
                skipped.append((name, rest[0]))
                continue
            offset, length, facts = rest
            key = name.rpartition("/")[0] + "/" + name.rpartition("/")[2].partition(".")[0]
            values = {
                "key": key.lstrip("/") if in_place else _key(found, row),
                "part": found.parts[row] if found.parts else "",
                "source": name,
                "id": found.ids[row] if found.ids else None,
                "shard": number,
                "offset": one.offset + offset,
                "length": length,
                "label": found.labels[row] if found.labels else None,
                "group": found.groups[row] if found.groups else None,
                "split": found.splits[row] if found.splits else None,
                **facts,
            }
            for column, value in values.items():
                columns[column].append(value)
    return pa.table(columns, schema=packed.SCHEMA), tuple(skipped)


def _key(found: Sources, row: int) -> str:
    return shards.key_of(found.keys[row] if found.keys else row)


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
    packer = _Packer(found, options, chunks)
    for one in written(pieces, packer.make, processes=options.processes or usable_cpus()):
        gathered.append(one)
        done += chunks[one.piece.number].last - chunks[one.piece.number].first
        progress(done, len(found))
    rows, skipped = _rows(gathered, found, number=0, in_place=True)
    tar = found.place.resolve()
    name = tar.name if tar.parent == folder.resolve() else os.fspath(tar)
    about = About("", (Shard(name, tar.stat().st_size, ""),), skipped=skipped)
    return _indexed(folder, [(rows, about)], found, options, plan, kept=0)


# --- one array -------------------------------------------------------------------------------------------------------


class _Mixed(Exception):
    """Not all images have one size and type."""


def _one_array(found: Sources, folder: Path, options: Options, plan: str, progress: Progress) -> Outcome | None:
    """Images of one small size as one array; None where they are not."""
    part = folder / f".{packed.ARRAY}.part"
    part.unlink(missing_ok=True)
    chunks = shards.planned(np.zeros_like(found.size_N), found.size_N, most=1)
    packer = _Packer(found, options, chunks, bare=True)
    if not _first_is_tiny(packer, found):
        return None
    head = len(_npy_head((1, 1, 1, 1), "uint8"))
    gathered, done, kinds = [], 0, set()
    try:
        pieces = [Piece(number, 0, os.fspath(part)) for number in range(len(chunks))]
        for one in written(pieces, packer.make, processes=options.processes or usable_cpus(), begin=head):
            gathered.append(one)
            for _, *rest in one.facts:
                if len(rest) == 3:
                    kinds.add(tuple(rest[2][name] for name in ("height", "width", "channels", "dtype")))
            if len(kinds) > 1:
                raise _Mixed
            done += chunks[one.piece.number].last - chunks[one.piece.number].first
            progress(done, len(found))
    except _Mixed:
        part.unlink(missing_ok=True)
        return None
    rows, skipped = _rows(gathered, found, number=0)
    height, width, channels, dtype = kinds.pop()
    with open(part, "r+b") as file:
        file.write(_npy_head((len(rows), height, width, channels), dtype))
        file.flush()
        os.fsync(file.fileno())
    about = Shard(packed.ARRAY, part.stat().st_size, packed.xxh3_of(part))
    part.replace(folder / packed.ARRAY)
    atomic.sync(folder)
    return _indexed(folder, [(rows, About("", (about,), skipped=skipped))], found, options, plan, kept=0, bare=True)


def _first_is_tiny(packer: _Packer, found: Sources) -> bool:
    for row in range(min(len(found), 16)):
        if found.names[row].lower().endswith(".npy"):
            return False
        with suppress(DataError, OSError):
            facts = packer.stored(row).facts
            return max(facts["width"], facts["height"]) <= _TINY
    return False


def _npy_head(shape: tuple[int, ...], dtype: str) -> bytes:
    """The beginning of an .npy file; NumPy leaves room in it, so it is as long for one row as for any number."""
    file = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "no such file"
    return str(error) if isinstance(error, DataError) else f"cannot be read: {error.args[-1] if error.args else error}"
