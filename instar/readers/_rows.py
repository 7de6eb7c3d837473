"""Rows: what a reader of pixel labels finds in a folder, as plain data."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Found:
    """Files and their masks, below a folder, with forward slashes. Lists of equal length.

    masks     the file each mask is in
    splits    train, val or test; None where nobody divided the files yet
    skipped   files that no row can be made of, with reasons
    ignored   number of other files
    notes     sentences for the user
    rows      of packed data: the rows of the index that a sample begins and ends with
    labels    the class of each; None where pixels have the labels
    ids       what each is called; None where they are called as their files
    """

    files: list[str]
    masks: list[str]
    splits: list[str] | None = None
    skipped: list[tuple[str, str]] = field(default_factory=list)
    ignored: int = 0
    notes: list[str] = field(default_factory=list)
    rows: list[tuple[int, int]] = field(default_factory=list)
    labels: list[str] | None = None
    ids: list[str] | None = None


@dataclass(frozen=True)
class Look:
    """What the header of one row says. reason: why it cannot be used, '' where it can."""

    width: int = 0
    height: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Survey:
    """What was found by reading some of the masks.

    classes      their names, in the order of their numbers
    pixels_K     how many pixels each has
    statistics   plain JSON values that the reader needs again
    """

    classes: tuple[str, ...]
    pixels_K: list[int]
    statistics: dict[str, object] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
