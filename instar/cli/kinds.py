"""Kinds: what is in a folder, where nobody said: a folder a class, images with masks, or fields."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from instar import plugins

_INDEX = "index.parquet"  # as `instar.packed` has it, which loads NumPy and pyarrow


def of_folder(source: Any, changes: Sequence[str] = ()) -> list[str]:
    """What is to be said of a folder that holds no classes: which reader it wants. Nothing for anything else.

    changes   what the user said, which is not to be contradicted
    """
    said = any(change.partition("=")[0] in ("data.reader", "data.table", "data.root") for change in changes)
    if said or not isinstance(source, str | Path):
        return []
    folder = Path(source)
    if not folder.is_dir() or (folder / "experiment.yaml").is_file():
        return []
    kind = _kind(folder)
    return [f"data.reader={kind}"] if kind else []


def _kind(folder: Path) -> str:
    from instar.readers import _pairs

    if (folder / _INDEX).is_file():
        from instar import packed

        parts = set(packed.read_index(folder)[0]["part"].to_pylist())
        if parts.issuperset(packed.HALVES):
            return "image_pair"
        return "image_mask" if "mask" in parts else "field" if parts - {""} else ""
    if _pairs.looks_like_pairs(folder):
        return "image_mask"
    return "field" if plugins.load("readers", "field").looks_like_fields(folder) else ""
