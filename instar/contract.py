"""Contract: what a model takes and what it answers, written once, so that no app has to guess what training did.

It travels inside the exported file and beside it. Everything after decoding is the model's own work: scaling, the
order of channels, normalising, softmax, and where the format allows images of any size, resizing and cropping too.

Standard library only: an app's reader needs no more than this.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from types import UnionType
from typing import Any, get_args, get_origin

from instar.errors import ExportError

FORMAT = 1
INPUT = "image"
CLASSES, PIXELS, EMBEDDING = "classes", "pixels", "embedding"

_ANSWERS = (CLASSES, PIXELS, EMBEDDING)
_CROPS = ("area", "centre", "squash", "pad", "window", "whole")


@dataclass(frozen=True)
class Contract:
    """What goes in, what comes out, and of which weights.

    answers      classes (one label an image), pixels (one label a pixel), or embedding
    labels       names of the classes in the order of the outputs; none for an embedding
    channels     3 for red, green, blue in this order, 1 for grey; more for fields
    dtype        uint8 (0 to 255), or float32 for the numbers of a field as they are in its file
    height       rows the file takes, null for any;  width  columns;  batch  images at once
    inside       whether the model resizes and crops by itself; without, whoever calls it does as `crop` says
    crop         squash: all of the image to size x size; window, whole: pixels as they are; others: the short side to
                 `resize`, then for classes the centre of size x size
    background   red, green and blue of what shows through where an image is transparent
    span         values that are black and white in images of more than eight bits
    stored       how weights are stored: float32, fp16 or int8
    run          name of the run;  checkpoint  of which state of it;  made_by  which version wrote the file
    """

    answers: str
    labels: tuple[str, ...]
    channels: int
    dtype: str
    height: int | None
    width: int | None
    batch: int | None
    inside: bool
    crop: str
    resize: int
    size: int
    background: tuple[int, int, int] = (255, 255, 255)
    span: tuple[float, float] | None = None
    stored: str = "float32"
    run: str = ""
    checkpoint: str = ""
    made_by: str = ""
    format: int = FORMAT


def sized(contract: Contract, *, any_size: bool, any_batch: bool) -> Contract:
    """The contract for a file that takes images of any size, or only those that the network itself takes."""
    batch = None if any_batch else 1
    if any_size:
        # A short side has a length that depends on the image: that resizing stays outside where each pixel is answered.
        inside = contract.answers != PIXELS or contract.crop in ("squash", "window", "whole")
        return replace(contract, height=None, width=None, batch=batch, inside=inside)
    side = None if contract.answers == PIXELS and contract.crop != "squash" else contract.size
    return replace(contract, height=side or contract.height, width=side or contract.width, batch=batch, inside=False)


def steps(contract: Contract) -> list[str]:
    """What whoever calls the model has to do, one sentence each."""
    what = {1: "one grey value", 3: "red, green and blue"}.get(contract.channels, f"{contract.channels} numbers")
    told = ["Decode the image and turn it upright (EXIF orientation)."] if contract.dtype == "uint8" else []
    resizes = not contract.inside and contract.dtype == "uint8"
    if resizes and (contract.crop == "squash" or (contract.answers == PIXELS and contract.width)):
        width, height = contract.width or contract.size, contract.height or contract.size
        told.append(f"Resize all of it to {width} x {height} pixels (width x height), bilinear with antialiasing.")
    elif resizes and contract.crop not in ("window", "whole"):
        told.append(f"Resize its short side to {contract.resize} pixels, bilinear with antialiasing.")
        if contract.answers != PIXELS:
            told.append(f"Cut the centre of {contract.size} x {contract.size} pixels.")
    shape = " x ".join(str(side or "any") for side in (contract.height, contract.width))
    kind = "bytes from 0 to 255" if contract.dtype == "uint8" else "float32 numbers as they are in the file"
    told.append(f"Hand over {what} a pixel, {kind}: rows x columns x channels, {shape}.")
    told.append("Do not scale, normalise or reorder them: the model does.")
    if contract.answers == CLASSES:
        told.append("It answers one probability a class, 0 to 1, in the order of the labels. They sum to 1.")
    elif contract.answers == PIXELS:
        told.append("It answers the number of each pixel's class (mask), and the probability of each class.")
        if contract.dtype == "uint8" and (contract.width or contract.crop not in ("window", "whole")):
            told.append("Resize the mask to the size of the image: each pixel the nearest.")
    else:
        told.append("It answers one vector an image.")
    return told


def text(contract: Contract) -> str:
    """The contract as JSON, with what to do in words."""
    return json.dumps({**asdict(contract), "steps": steps(contract)}, indent=1, ensure_ascii=False) + "\n"


def read(document: str | bytes, *, where: str) -> Contract:
    """What `text` wrote. Raises ExportError where it is something else."""
    try:
        found = json.loads(document)
        if not isinstance(found, dict):
            raise TypeError("it is no table")
        if found.get("format") != FORMAT:
            raise ValueError(f"its format is {found.get('format')!r}, and this is Instar for format {FORMAT}")
        return _checked(found)
    except (ValueError, TypeError, KeyError) as error:
        raise ExportError(f"{where}: its contract cannot be read: {error}. Export the run again.") from error


def _checked(found: Mapping[str, Any]) -> Contract:
    given: dict[str, Any] = {}
    for field in fields(Contract):
        value = found[field.name]
        given[field.name] = tuple(value) if isinstance(value, list) else value
        types = get_args(field.type) if get_origin(field.type) is UnionType else (field.type,)
        if not isinstance(given[field.name], tuple(get_origin(one) or one for one in types)):
            raise TypeError(f"{field.name} is {value!r}")
    made = Contract(**given)
    if made.answers not in _ANSWERS or made.crop not in _CROPS or made.dtype not in ("uint8", "float32"):
        raise ValueError(f"answers {made.answers!r}, crop {made.crop!r} or dtype {made.dtype!r} is unknown")
    if not all(isinstance(label, str) for label in made.labels) or (made.answers != EMBEDDING and not made.labels):
        raise ValueError("its labels are no names")
    sides = [side for side in (made.height, made.width, made.batch) if side is not None]
    if min(made.channels, made.size, made.resize, *sides, 1) < 1 or made.size > 1 << 14 or made.resize > 1 << 14:
        raise ValueError("a size in it is none")
    return made
