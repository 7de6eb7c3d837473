"""Search: how a space is searched, how much is done, and what it may cost.

`Search` is part of what a study is, `Effort` of one start of it. A recipe says it in `search:`, beside its `space:`.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from instar.settings import Settings, Time

Positive = Annotated[int, Field(ge=1)]


class Search(Settings):
    """How the space is searched: part of what a study is."""

    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """What chooses the settings of a trial: by what earlier ones gave, by chance, or every combination in turn."""
    startup: Positive = 10
    """Trials by chance before `tpe` goes by earlier ones."""
    pruner: Literal["asha", "median", "hyperband", "none"] = "asha"
    """What stops trials early, at an evaluation."""
    grace: Positive = 1
    """Evaluations before a trial may be stopped."""
    reduction: Annotated[int, Field(ge=2)] = 3
    """asha and hyperband let the best one in so many go on, each time to so many times as many evaluations."""


@dataclass(frozen=True)
class Budget:
    """How much a study may cost: `64gpuh` or `200cpuh`, hours of GPUs or cores."""

    hours: float
    unit: Literal["gpu", "cpu"]

    def __str__(self) -> str:
        return f"{self.hours:g}{self.unit}h"

    @classmethod
    def parse(cls, value: Any) -> "Budget":
        """The budget that a text spells; raises ValueError saying what is allowed."""
        found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(gpu|cpu)h\s*", str(value))
        if isinstance(value, Budget):
            return value
        if not found or float(found[1]) <= 0:
            raise ValueError("must be hours of GPUs or cores, for example 64gpuh or 200cpuh")
        return cls(float(found[1]), "gpu" if found[2] == "gpu" else "cpu")

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "pattern": r"^\s*[0-9.]+\s*(gpu|cpu)h\s*$", "examples": ["64gpuh", "200cpuh"]}

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )


class Amount(Settings):
    """How much is done: the part of a start that a recipe may say, too."""

    samples: Positive | None = None
    """Trials in all; null for every point of a grid, or 16."""
    budget: Budget | None = None
    """Hours of GPUs or cores in all, such as 64gpuh; no trial begins beyond it."""
    limit: Time | None = None
    """How long one trial may take; then it has failed."""


class Effort(Amount):
    """How much is done at this start, and with what; a study that goes on may be given more."""

    time: Time | None = None
    """How long this start goes on beginning trials."""
    parallel: Positive | Literal["auto"] = "auto"
    """Trials at the same time; auto for as many as the GPUs here have room for, or one."""
    share: Positive = 1
    """Trials that share one GPU."""
    engine: Literal["optuna", "ray"] = "optuna"
    """Who hands trials out: the journal alone, or Ray over the nodes of one job."""
    start: str | None = None
    """A run whose settings are tried first, or a study whose results are known beforehand."""


class InRecipe(Amount, Search):
    """How `instar tune` searches the recipe's `space`; the command line may say otherwise. Training leaves it aside."""

    seeds: Annotated[int, Field(ge=1, le=1000)] = 1
    """Seeds that every point of a grid is trained with."""
