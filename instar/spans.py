"""How long: a stretch of time (`10 min`) or of training (`5 %`, `2 epochs`, `1000 steps`, `50000 samples`)."""

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, GetCoreSchemaHandler, GetJsonSchemaHandler, WithJsonSchema
from pydantic_core import CoreSchema, core_schema

_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
_TRAINING = ("%", "epochs", "steps", "samples")
_SPELLINGS = {
    "sec": "s",
    "second": "s",
    "seconds": "s",
    "minute": "min",
    "minutes": "min",
    "hour": "h",
    "hours": "h",
    "day": "d",
    "days": "d",
}
_SPELLINGS |= {"m": "min", "epoch": "epochs", "step": "steps", "sample": "samples"}
_PATTERN = re.compile(r"\s*(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)\s*(%|[A-Za-z]+)\s*")
_ALLOWED = "a number and one of s, min, h, d, %, epochs, steps, samples, for example '10 min' or '5 %'"


@dataclass(frozen=True)
class Span:
    """An amount and its unit: s, min, h, d, %, epochs, steps or samples. `Span.parse("5 %")` reads one."""

    amount: float
    unit: str

    @classmethod
    def parse(cls, text: str) -> "Span":
        """The span that `text` spells; raises ValueError saying what is allowed."""
        found = _PATTERN.fullmatch(text)
        unit = found and _SPELLINGS.get(found[2], found[2])
        if not found or unit not in (*_SECONDS, *_TRAINING):
            raise ValueError(f"must be {_ALLOWED}")
        return cls(float(found[1]), unit)

    def __str__(self) -> str:
        amount = int(self.amount) if self.amount == int(self.amount) else self.amount
        return f"{amount} {self.unit}"

    @property
    def is_time(self) -> bool:
        """Whether this is a stretch of time, rather than of training."""
        return self.unit in _SECONDS

    @property
    def seconds(self) -> float:
        """The length in seconds; raises ValueError for a stretch of training."""
        if not self.is_time:
            raise ValueError(f"{self} is not a time")
        return self.amount * _SECONDS[self.unit]

    def samples(self, *, epoch_samples: int, batch: int, total: int) -> int:
        """The length in samples; raises ValueError for a stretch of time.

        epoch_samples   samples in one epoch
        batch           samples in one step
        total           samples in the whole training: what `%` is a share of
        """
        match self.unit:
            case "%":
                return round(self.amount * (total / 100))
            case "epochs":
                return round(self.amount * epoch_samples)
            case "steps":
                return round(self.amount * batch)
            case "samples":
                return round(self.amount)
        raise ValueError(f"{self} is a time, not a stretch of training")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            _validated,
            serialization=core_schema.plain_serializer_function_ser_schema(str),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {
            "type": "string",
            "pattern": r"^\s*[0-9.]+([eE][+-]?[0-9]+)?\s*(%|[A-Za-z]+)\s*$",
            "examples": ["10 min", "5 %"],
        }


def _validated(value: Any) -> Span:
    return value if isinstance(value, Span) else Span.parse(str(value))


def _time(span: Span) -> Span:
    if not span.is_time:
        raise ValueError("must be a time: a number and one of s, min, h, d, for example '10 min'")
    return span


def _training(span: Span) -> Span:
    if span.is_time:
        raise ValueError("must be a stretch of training: a number and one of %, epochs, steps, samples")
    return span


Time = Annotated[Span, AfterValidator(_time), WithJsonSchema({"type": "string", "examples": ["30 s", "8 h"]})]
"""A span of s, min, h or d only."""

Training = Annotated[
    Span, AfterValidator(_training), WithJsonSchema({"type": "string", "examples": ["5 %", "2 epochs"]})
]
"""A span of %, epochs, steps or samples only."""


_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_UNITS |= {"TIB": 2**40}
_AMOUNT = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([KMGT]?I?B?)\s*", re.IGNORECASE)


def bytes_of(text: Any) -> Any:
    """How many bytes `1GB`, `500 MB` or `2GiB` are; raises ValueError saying what is allowed. Numbers stay."""
    if not isinstance(text, str):
        return text
    found = _AMOUNT.fullmatch(text)
    unit = found[2].upper() if found else ""
    unit = unit if not unit or unit.endswith("B") else unit + "B"
    if not found or unit not in ("", *_UNITS):
        raise ValueError("must be a number and one of kB, MB, GB, TB, MiB, GiB, for example '1GB'")
    return int(float(found[1]) * _UNITS.get(unit, 1))


Bytes = Annotated[int, BeforeValidator(bytes_of), WithJsonSchema({"type": "string", "examples": ["1GB", "500 MB"]})]
"""An amount of memory or disk: `1GB`."""
