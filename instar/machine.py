"""Machine: where and with what something runs. Never part of what is learnt."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from instar.settings import Settings, Span, Time
from instar.spans import Bytes


def listed(value: Any) -> Any:
    """Names with commas between them as a list; anything else as it is."""
    return [one for one in value.split(",") if one] if isinstance(value, str) else value


class Machine(Settings):
    """This machine, for this run: the same experiment elsewhere is still the same experiment."""

    devices: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Processes that train together, one a device; auto for every GPU there is, or one process on the CPU."""
    workers: Annotated[int, Field(ge=0, le=256)] | Literal["auto"] = "auto"
    """Processes a device that read images; 0 reads them in the training process."""
    walltime: Time | None = None
    """How long this may take; training saves and stops in time. Null for as long as it needs."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What computes."""
    timeout: Time = Span(60, "s")
    """How long one image may take to read before it is named and training stops."""
    stage: Path | Literal["auto"] | None = None
    """Folder of this node that packed data are copied to first; auto for the job's own disk or memory."""
    cache: Bytes = 50 * 10**9
    """Most that packed data fetched from elsewhere may take in the cache folder (INSTAR_CACHE)."""


class Start(Settings):
    """One start of a training, as said on the command line."""

    run: str | None = None
    """Name of the run, or its folder; null for one that follows from the experiment."""
    runs: Path = Path("runs")
    """Folder that all runs are in."""
    on_change: Literal["stretch", "tail", "restart"] | None = None
    """What the learning rate does where the length of a training that has begun is changed."""
    accept: bool = False
    """Whether to go on although the images changed since the run began."""
    score: bool = True
    """Whether the test rows are scored and the page is written, at the end."""


class Packing(Settings):
    """One packing, as said on the command line."""

    to: Path | None = None
    """Folder that is to hold the packed data."""
    as_: Literal["original", "jpeg256", "raw256", "array"] = Field("original", alias="as")
    """What is stored of an image."""
    inside: str | None = None
    """Folder in a tar or zip that is packed; null for all of it."""
    shard: Annotated[Bytes, Field(ge=1 << 16)] = 10**9
    """How large a file is, about."""
    workers: Annotated[int, Field(ge=1, le=256)] | Literal["auto"] = "auto"
    """Processes that pack; auto for one a core."""


class Converting(Settings):
    """One conversion, as said on the command line."""

    to: Path
    """Folder that is to hold the arrays."""
    as_: Literal["npy", "packed"] = Field("npy", alias="as")
    """A file for each array, or shards with an index."""
    arrays: Annotated[tuple[str, ...], BeforeValidator(listed)] = ()
    """Names of the arrays to take, with commas between them; by default all that the first file holds."""
    channels: Literal["last", "first", "none"] = "last"
    """Where the channels are, for statistics."""
    shard: Annotated[Bytes, Field(ge=1 << 16)] = 10**9
    """How large a shard is, about."""
    workers: Annotated[int, Field(ge=1, le=256)] | Literal["auto"] = "auto"
    """Processes that convert; auto for one a core."""


class Place(Settings):
    """One start of a search, as said on the command line."""

    study: str | None = None
    """Name of the study, or its folder; null for one that follows from what is searched."""
    runs: Path = Path("runs")
    """Folder that all runs are in."""
    space: Path | None = None
    """YAML file with `space:`, names and their ranges; it may say how to search, too."""
    seeds: Annotated[int, Field(ge=1, le=1000)] = 1
    """Seeds that every point of a grid is trained with."""
    worker: Path | None = None
    """Folder that this worker of an array keeps its records in."""
    halt: Path | None = None
    """File whose appearance tells this worker to save and stop."""


class Exporting(Settings):
    """One export, as said on the command line."""

    to: Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(listed)] = ("onnx",)
    """Formats, with commas between them: onnx, litert, torch_export, or a module of your own."""
    quantise: Literal["none", "fp16", "int8"] = "none"
    """How weights are stored: in 32 bits, in 16, or computed with in 8."""
    rows: Annotated[int, Field(ge=1)] = 200
    """Rows of the test split that must be answered alike."""
    calibration: Annotated[int, Field(ge=1)] = 128
    """Rows of the validation split that show int8 how large numbers become."""
    agree: Annotated[float, Field(ge=0, le=1)] | None = None
    """Least share of the rows with the same class; null for what is usual (0.99; 0.9 for int8)."""
    drop: Annotated[float, Field(ge=0, le=1)] | None = None
    """Most of the score that may be lost; null for what is usual (0.01; 0.03 for int8)."""
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    """Threads that compute where time is taken."""
    timeout: Time = Span(30, "min")
    """How long one conversion may take."""
    checkpoint: Literal["best", "latest"] = "best"
    """Which weights."""
    runs: Path = Path("runs")
    """Folder that all runs are in."""
