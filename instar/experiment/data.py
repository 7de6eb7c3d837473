"""What is learnt from: images, their labels, and how they are divided."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PlainSerializer, field_validator

from instar.remote import address, is_address
from instar.settings import Settings, Shelf

Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]


class Columns(Settings):
    """Which columns of a table say what."""

    path: str = "path"
    """Column with the file of each image, relative to `root`."""
    label: str = "label"
    """Column with the name of its class."""
    mask: str = "mask"
    """Column with the file of its mask, relative to `root`, where pixels have labels."""
    group: str | None = None
    """Column whose equal values must stay in one split: the animal, the site, the slide. Null for none."""
    split: str | None = None
    """Column that says train, val or test; null for a column called `split`, if there is one."""


class Pairs(Settings):
    """Samples of two files each. A small text file a pair names both, one a line; its folder is the label."""

    files: Path = Path("pairs")
    """Folder of the pair files, below `root`; one folder a class or node."""
    first: Path = Path("rgb")
    """Folder that the first line's file lies in, below `root`."""
    second: Path = Path("thermal")
    """Folder that the second line's file lies in, below `root`."""
    agree: str | None = r"(\d{8}-\d{6})|position(\d+)"
    """Regular expression of what two names must say alike where both say it, each group by itself: time and position.
    Other pairs are left out. Null: any."""

    @field_validator("agree")
    @classmethod
    def _is_a_pattern(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"must be a regular expression ({error})") from error
        return value


class Index(Settings):
    """Splits somebody made before: NumPy files of positions in the sorted listing of the class folders."""

    train: Path
    """File of the rows to train on."""
    val: Path | None = None
    """File of the rows to validate on; null to take `split.val` of the rows to train on."""
    test: Path | None = None
    """File of the rows to test on."""


class Split(Settings):
    """How rows are divided. A folder that has train/ and val/ or test/ in it keeps that division."""

    test: Share = 0.1
    """Share of all rows that is kept for the test."""
    val: Share = 1 / 9
    """Share of the rest that validates: 1/9 of 90 % is 10 % of all."""
    stratify: bool = True
    """Whether every split has the classes in the same proportions."""
    method: Literal["shuffle", "keyed"] = "shuffle"
    """How: `shuffle` is scikit-learn's train_test_split with this experiment's seed. `keyed` goes by a hash of each
    row, so that files that are added later move only a few. Groups stay whole."""
    key: Literal["content", "id"] = "content"
    """What `keyed` hashes: the file's content, so that copies stay together and names do not matter, or its name."""


class Data(Settings):
    """Images, their labels, and how they are divided."""

    root: Annotated[Path, PlainSerializer(address, return_type=str, when_used="json")]
    """Folder of the images: one folder a class, or whatever `table` points into. Or packed data, also at s3://…"""
    reader: Annotated[Any, Shelf("readers", default="image_label")] = "image_label"
    """What a row is read as."""
    table: Path | None = None
    """CSV or Parquet file with one row an image, instead of one folder a class."""
    columns: Columns = Columns()
    """Names of the columns of `table`."""
    index: Index | None = None
    """Index files that make the split."""
    pairs: Pairs | None = None
    """Pair files, where a sample is two files."""
    manifest: Path | None = None
    """Manifest that `instar prepare` wrote: these rows in these splits, and nothing is listed or divided anew."""
    exclude: Path | None = None
    """List of what is left out: ids, paths or hashes, one a line, or a CSV file with such a column."""
    split: Split = Split()
    """How the rows are divided where nothing else says so."""
    min_per_class: Positive = 1
    """Classes with fewer images are left out; no file is touched."""
    max_bad: Share = 0.05
    """Largest share of unreadable files to go on with."""
    recheck: Literal["auto", "files", "folders"] = "auto"
    """What shows at a later start that images are unchanged: size and time of every file, or the time of every folder,
    which is quick and does not show a file that was written over in place. auto: folders beyond 20,000 images."""


def absolute(data: Data) -> Data:
    """The same data by absolute paths: a run must find its images from any folder."""
    index = data.index and data.index.model_copy(
        update={name: path.expanduser().absolute() for name, path in dict(data.index).items() if path is not None}
    )
    files = {
        name: path.expanduser().absolute()
        for name in ("root", "table", "manifest", "exclude")
        if (path := getattr(data, name)) is not None and not is_address(path)
    }
    return data.model_copy(update=files | {"index": index})
