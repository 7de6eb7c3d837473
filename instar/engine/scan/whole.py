"""Whole: a data set that is as it was is not looked through again."""

_BY_FOLDER = 20_000  # images from which the folders' times are looked at instead of every file's


def by_file(recheck: str, num: int) -> bool:
    """Whether every file of a data set of this size is to be looked at."""
    return recheck == "files" or (recheck == "auto" and num <= _BY_FOLDER)
