"""Packs: the rows of packed data, as if they were listed and looked at where they came from."""

import hashlib
from pathlib import Path

import numpy as np

from instar import packed
from instar.engine.scan.headers import Headers
from instar.engine.scan.listing import Listing
from instar.errors import DataError
from instar.experiment import Data
from instar.manifest import Skipped


def of_packed(folder: Path, data: Data) -> tuple[Listing, Headers, str]:
    """Files, what is known of each, and a fingerprint of the stored bytes: '' where those are the files' own.

    Raises DataError where the samples have no labels, or a shard is not there or not whole.
    """
    pack = packed.read(folder)  # of an address the index only
    index = pack.index
    if index["label"].null_count:
        raise DataError(
            f"{folder}: {index['label'].null_count} of {len(pack)} packed samples have no label. Pack a folder with "
            f"one folder a class, or a recipe with a table of labels."
        )
    listing = Listing(folder, files=index["source"].to_pylist(), labels=index["label"].to_pylist())
    if index["group"].null_count < len(pack):
        listing.groups = index["group"].to_pylist()
    if not index["split"].null_count:
        listing.splits = index["split"].to_pylist()
    listing.skipped = [Skipped(*one) for one in pack.about.skipped]
    listing.notes = list(pack.about.notes)
    if data.table or data.index:
        listing.notes.append("labels and splits are those that were packed; data.table and data.index are not read")
    heads = Headers(
        index["width"].to_numpy(),
        index["height"].to_numpy(),
        index["content"].to_numpy(),
        np.array(index["mode"].to_pylist(), object),
        np.full(len(pack), "", object),
    )
    return listing, heads, stored_as(pack)


def stored_as(pack: packed.Packed) -> str:
    """A fingerprint of the stored bytes; '' where those are the files' own, of which the rows have one already."""
    if pack.about.payload == packed.ORIGINAL:
        return ""
    return f"{pack.about.payload} {hashlib.sha256(b''.join(pack.index['xxh3'].to_pylist())).hexdigest()}"
