"""Rows: every sample that the settings of a data set name and its list does not leave out, wherever it lies."""

import os
from pathlib import Path
from types import ModuleType

import numpy as np

from instar import manifest as manifests
from instar.engine.scan import contents, exclusion, listing, masked, packs, pairs, split, tables, usable
from instar.engine.scan.headers import Headers
from instar.engine.scan.listing import Listing
from instar.errors import DataError
from instar.experiment import Data
from instar.manifest import SPLITS
from instar.remote import is_address


def listed(data: Data, seed: int) -> tuple[Listing, dict[str, int]]:
    """Every file that is not excluded, with its label; for index files also its split, and the classes that were left
    out before it."""
    found, rare = _all_listed(data, seed)
    if data.exclude is not None:
        found = exclusion.left(found, exclusion.read(data.exclude))
    return found, rare


def _of_manifest(path: Path, root: Path) -> Listing:
    """The rows of a manifest file with the splits they have in it."""
    rows = manifests.read(path)
    columns = {name: rows.table[name].to_pylist() for name in rows.table.column_names}
    return Listing(
        root,
        columns["file"],
        [rows.classes[target] for target in columns["target"]],
        ids=columns["id"],
        others=columns.get("other"),
        groups=columns["group"] if any(group is not None for group in columns["group"]) else None,
        splits=columns["split"],
    )


def _all_listed(data: Data, seed: int) -> tuple[Listing, dict[str, int]]:
    root = Path(os.path.abspath(data.root))  # noqa: PTH100 - links stay as they are written
    if data.manifest is not None:
        return _of_manifest(data.manifest, root), {}
    if data.table is not None:
        if data.index is not None:
            raise DataError(
                "data.table and data.index are both given; index files are positions in class folders. Choose."
            )
        columns = data.columns
        named_so = {name: column for name, column in dict(columns).items() if name != "mask"}
        return tables.of_table(data.table, root, **named_so), {}
    if data.pairs is not None:
        return pairs.of_pairs(root, data.pairs), {}
    if data.index is None:
        return listing.of_folder(root), {}
    found = listing.of_folder(root, as_torchvision=True)
    large, rare = usable.large_enough(found.labels, data.min_per_class)
    return _indexed(found.take(large), data, seed), rare


def _indexed(found: Listing, data: Data, seed: int) -> Listing:
    """The rows that index files name, each with its split. Validation rows are cut from training rows if unnamed."""
    assert data.index is not None, "the caller looked"
    files = {name: path for name in SPLITS if (path := getattr(data.index, name)) is not None}
    positions = tables.of_index(files, len(found.files), f"the class folders of {found.root}")
    if "val" not in positions and data.split.val > 0 and data.split.method == "shuffle":
        # In the order of the file: that is what a division made elsewhere followed.
        train = positions["train"]
        _, target_N = np.unique(np.array(found.labels, object)[train].astype(str), return_inverse=True)
        cut = split.shuffled(target_N, data.split.val, seed=seed, stratify=data.split.stratify)
        positions |= {"train": train[cut.kept], "val": train[cut.taken]}
    split_of = np.full(len(found.files), "", object)
    for name, rows in positions.items():
        split_of[rows] = name
    chosen = np.flatnonzero(split_of != "")
    if len(chosen) < len(found.files):
        found.notes.append(f"{len(found.files) - len(chosen)} images are in no index file and are not used")
    found.splits = split_of.tolist()
    return found.take(chosen.tolist())


def masked_files(data: Data, reader: ModuleType) -> Listing:
    """Every image with its mask that is not excluded, where each pixel has a label."""
    if data.index is not None:
        raise DataError("data.index names positions in class folders, but pixels have labels here. Leave it out.")
    found = masked.listed(data, reader)
    if data.exclude is None:
        return found

    def hashes() -> list[list[str]]:
        inside = [contents.of_arrays(found.root, names) for names in masked.arrays(found, data, reader)]
        return [exclusion.of_files(found), *inside]

    return exclusion.left(found, exclusion.read(data.exclude), hashes=hashes)


def packed_rows(data: Data, reader: ModuleType) -> tuple[Listing, Headers, str]:
    """The rows of packed data that are not excluded, what is known of each, and how they are stored."""
    place = data.root if is_address(data.root) else data.root.absolute()
    if "mask" in reader.gives:
        found, heads, stored_as = packs.of_masks(place, data, reader)
    else:
        found, heads, stored_as = packs.of_packed(place, data)
    if data.exclude is None:
        return found, heads, stored_as

    def hashes() -> list[list[str]]:
        inside = masked.arrays(found, data, reader) if "mask" in reader.gives else []
        stored = [packs.checksums(place, names, arrays=True) for names in inside]
        return [packs.checksums(place, found.files), *stored]

    left = exclusion.left(found, exclusion.read(data.exclude), hashes=hashes)
    kept = set(left.files)
    return left, heads.take([row for row, file in enumerate(found.files) if file in kept]), stored_as
