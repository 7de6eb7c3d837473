"""Payloads: the bytes of a source to the bytes that are stored, with all that the index says about them."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from PIL import Image

from instar import fields, packed
from instar.engine.scan import headers
from instar.errors import DataError
from instar.readers import _images as images
from instar.readers import _pixels as pixels
from instar.readers import _thermal
from instar.readers._images import BadImage
from instar.readers._pixels import Form

SHORT = 256  # pixels of the short side
QUALITY = 92
NPY = ".npy"
_EDGE = 4096  # bytes at both ends that make the fingerprint of a file, as the scan takes it


@dataclass(frozen=True)
class Stored:
    """What is stored of one source: its bytes, the ending of its member, and columns of the index."""

    data: bytes
    ending: str
    facts: dict[str, Any]


def stored(data: bytes, name: str, *, payload: str, form: Form, bare: bool = False) -> Stored:
    """What is stored of a source.

    data, name   its bytes, and its file name: an .npy array is taken as it is whatever the payload, and a table of
                 temperatures becomes an array that holds what a reader would parse
    payload      original, jpeg256, raw256 or array
    form         how transparent and deep images become ordinary ones, for jpeg256 and raw256
    bare         arrays without their header
    Raises BadImage or DataError where the source is not whole.
    """
    if name.lower().endswith(_thermal.ENDING):
        table, content = _thermal.read(data), headers.fingerprint(data[:_EDGE], data[-_EDGE:], len(data))
        return _made(npy(table), "npy", _array_facts(table) | {"mode": "", "content": content}, size=len(data))
    if name.lower().endswith(NPY):
        array = fields.of_npy(data)
        facts = _array_facts(array) | {"mode": "", "content": xxhash.xxh3_64_intdigest(data) or 1}
        return _made(data, "npy", facts, size=len(data))
    image = images.of_bytes(data)
    width, height = images.upright_size(image)
    facts = {
        "width": width,
        "height": height,
        "channels": len(image.getbands()),
        "dtype": _DTYPES.get(images.kind(image), "uint8"),
        "mode": images.kind(image),
        "content": headers.fingerprint_of(image, data),
    }
    if payload == packed.ORIGINAL:
        return _made(data, _ending(name), facts, size=len(data))
    array = as_array(image) if payload == packed.ARRAYS else np.asarray(pixels.upright(image, form, short=SHORT))
    if payload == packed.JPEG256:
        facts |= {"width": array.shape[1], "height": array.shape[0], "channels": array[0, 0].size, "dtype": "uint8"}
        return _made(_jpeg(array), "jpg", facts, size=len(data))
    deep = array if array.ndim == 3 else array[..., None]
    return _made(deep.tobytes() if bare else npy(deep), "npy", facts | _array_facts(deep), size=len(data))


_DTYPES = {"I;16": "uint16", "I": "int32", "F": "float32"}


def as_array(image: Image.Image) -> np.ndarray:
    """Every value of an image, upright: H x W or H x W x C, of the type the file has."""
    with images.problems_named():
        turned = images.turned(image)
        if turned.mode == "P":
            turned = turned.convert("RGBA" if turned.has_transparency_data else "RGB")
        elif turned.mode in ("1", "CMYK", "YCbCr", "LAB", "HSV") or "transparency" in turned.info:
            turned = turned.convert({"1": "L", "L": "LA", "RGB": "RGBA"}.get(turned.mode, "RGB"))
        array = np.asarray(turned)
        if images.kind(image) == "I;16":
            array = array.astype(np.uint16)
        return array.astype(array.dtype.newbyteorder("<"), copy=False)


def npy(array: np.ndarray) -> bytes:
    """The bytes of an .npy file."""
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return file.getvalue()


def _jpeg(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def _array_facts(array: np.ndarray) -> dict[str, Any]:
    height, width = array.shape[:2] if array.ndim > 1 else (array.size, 1)
    return {"width": width, "height": height, "channels": array[0, 0].size if array.ndim > 2 and array.size else 1,
            "dtype": array.dtype.str.lstrip("|") if array.dtype.byteorder == ">" else array.dtype.name}  # fmt: skip


def _made(data: bytes, ending: str, facts: dict[str, Any], *, size: int) -> Stored:
    if not data:
        raise DataError("it has no values")
    return Stored(data, ending, {**facts, "size": size, "xxh3": xxhash.xxh3_128_digest(data)})


def _ending(name: str) -> str:
    """The ending a member gets: that of the source where it is a plain one."""
    ending = name.rpartition(".")[2].lower()
    return ending if ending.isalnum() and ending.isascii() and len(ending) <= 8 else "bin"


__all__ = ["BadImage", "Stored", "as_array", "npy", "stored"]
