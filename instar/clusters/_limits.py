"""What a live cluster allows, as its commands tell it; None wherever they do not. Standard library only."""

import math
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Partition:
    """A partition, or a queue of PBS.

    up         whether jobs are taken and started
    seconds    the longest that one job may take, infinite where there is no limit
    nodes      the most nodes of one job, infinite likewise
    cores      of its largest node
    megabytes  memory of that one
    gpus       kind -> how many its best node has; the kind is empty where it has no name
    qos, accounts   who may use it; None for everybody
    """

    name: str
    up: bool | None = None
    seconds: float | None = None
    nodes: float | None = None
    cores: int | None = None
    megabytes: int | None = None
    gpus: dict[str, int] | None = None
    qos: frozenset[str] | None = None
    accounts: frozenset[str] | None = None


@dataclass(frozen=True)
class Limits:
    """A cluster.

    partitions   by name; None where nobody told
    default      the one that a job gets which names none
    accounts     that this user may charge; None where there is no accounting
    qos          that this user may ask for
    array        the most elements of one array
    """

    partitions: dict[str, Partition] | None = None
    default: str | None = None
    accounts: frozenset[str] | None = None
    qos: frozenset[str] | None = None
    array: int | None = None


def seconds(text: str) -> float | None:
    """The length of `1-02:03:04`, `26:03:04`, `30:00`, `30` minutes, infinite; None for anything else."""
    if text.lower() in ("infinite", "unlimited"):
        return math.inf
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if not found:
        return None
    days, *rest = found.groups()
    first, second, third = (None if part is None else int(part) for part in rest)
    assert first is not None
    if days is not None:  # D-HH[:MM[:SS]]
        return int(days) * 86400 + first * 3600 + (second or 0) * 60 + (third or 0)
    if third is not None:
        return first * 3600 + (second or 0) * 60 + third
    return first * 60 + (second or 0)


def amount(text: str) -> float | None:
    """A whole number, or infinite for UNLIMITED; None for anything else."""
    if text.lower() in ("infinite", "unlimited"):
        return math.inf
    return int(text) if text.isascii() and text.isdigit() else None


def megabytes(text: str) -> int | None:
    """Memory such as `512000`, `480G`, `480gb` or `536870912kb`; None for anything else."""
    found = re.fullmatch(r"(\d+)([kmgt]?)b?\+?", text.lower())
    if not found:
        return None
    return int(int(found[1]) * {"k": 1 / 1024, "": 1, "m": 1, "g": 1024, "t": 1024**2}[found[2]])
