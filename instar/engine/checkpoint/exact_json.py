"""Plain Python values as strict JSON and back, exactly: tuples stay tuples, and inf and nan survive.

JSON has neither, so they are written as {"$tuple": [...]} and {"$float": "inf"}. Other floats need nothing: Python
writes the shortest text that reads back to the same bits.
"""

import json
import math
from typing import Any

from instar.errors import CheckpointError


def dumps(value: Any) -> str:
    """Strict JSON. Raises CheckpointError, naming the place, for anything that is not plain data."""
    return json.dumps(encode(value), allow_nan=False, separators=(",", ":"))


def loads(text: str | bytes) -> Any:
    """What `dumps` was given. Raises ValueError where the text is not JSON."""
    return decode(json.loads(text))


def encode(value: Any, place: str = "state") -> Any:
    """The value in types that JSON has. What is encoded already stays as it is."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": str(float(value))}
    if isinstance(value, tuple):
        return {"$tuple": [encode(item, f"{place}[{index}]") for index, item in enumerate(value)]}
    if isinstance(value, list):
        return [encode(item, f"{place}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, dict):
        return {_key(key, place): encode(item, f"{place}.{key}") for key, item in value.items()}
    raise CheckpointError(
        f"{place} is a {type(value).__name__}, which a checkpoint cannot hold as JSON. "
        f"Give tensors to `files`, and numbers, texts, lists, tuples and dicts to `state`."
    )


def decode(value: Any) -> Any:
    """The value that `encode` was given."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if isinstance(value, dict):
        if value.keys() == {"$tuple"}:
            return tuple(decode(item) for item in value["$tuple"])
        if value.keys() == {"$float"}:
            return float(value["$float"])
        return {key: decode(item) for key, item in value.items()}
    return value


def _key(key: Any, place: str) -> str:
    if not isinstance(key, str):
        raise CheckpointError(f"{place} has the key {key!r}; JSON turns keys to text, so write str({key!r}) yourself.")
    return key
