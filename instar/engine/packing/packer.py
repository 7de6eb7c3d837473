"""Packer: what processes make of the samples they are given, and the rows of the index that come of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from instar import packed
from instar.engine.packing import payloads, shards, sources
from instar.engine.packing.pool import Written
from instar.engine.packing.shards import Chunk
from instar.engine.packing.sources import Sources
from instar.errors import DataError
from instar.readers._pixels import Form

_GB = 10**9


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
    shard: int = _GB
    processes: int | None = None
    in_place: bool = False
    background: tuple[int, int, int] = (255, 255, 255)
    span: tuple[float, float] | None = None


class Packer:
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


def index_rows(
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


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "no such file"
    return str(error) if isinstance(error, DataError) else f"cannot be read: {error.args[-1] if error.args else error}"
