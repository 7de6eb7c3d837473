"""Thermal: tables of temperatures as the Mobotix cameras of Sage write them, one .csv an image.

    sensor;right
    bit depth;14 bit
    width;336
    height;252
    resolution;high
    advanced radiometry support;yes
    unit;degrees Celsius
    (an empty line, then `height` lines of `width` numbers with ; between them)

np.loadtxt takes 14 ms for one, which is more than a training step on it. Here our extension reads plain numbers; where
it is not installed, numbers of one form are read by arithmetic on all bytes at once; and anything else is read by
Arrow. Every number is the float32 nearest to its text.

Legend: H W pixels, V = H x W values, N bytes.
"""

from functools import partial

import numpy as np

from instar.readers import _native
from instar.readers._images import BadImage

ENDING = ".csv"
_KEYS = ("sensor", "bit depth", "width", "height", "resolution", "advanced radiometry support", "unit")
_AT_ONCE = 40  # rows: larger arrays are given back to the system after each call, and every page of them faults again
_BEFORE = 8  # bytes before the first number, so that it, too, has some
_LARGEST = 1e6  # degrees
_MOST_HEADER = 4096  # bytes
_MOST = 1 << 26  # values: a header that says more is wrong


def size(data: bytes) -> tuple[int, int]:
    """Width and height that the header says. Raises BadImage where it is not that of a thermal camera."""
    return _header(data)[:2]


def read(data: bytes) -> np.ndarray:
    """The temperatures in degrees Celsius, float32 HW. Raises BadImage with the line that is wrong."""
    width, height, begin = _header(data)
    found_HW = np.empty((height, width), np.float32)
    plain = _native.table(memoryview(data)[begin:], found_HW)
    if plain and found_HW.min() > -_LARGEST and found_HW.max() < _LARGEST:
        return found_HW
    body = _lines(data[begin:])
    found_V = _one_width(body, width, height)
    if found_V is None:
        found_V = _by_ends(body, width, height)
    if found_V is None:
        found_V = _by_arrow(body, width, height)
    return found_V.reshape(height, width)


def _header(data: bytes) -> tuple[int, int, int]:
    """Width, height, and where what comes after the header begins."""
    lines = [*data[:_MOST_HEADER].split(b"\n", 8), *[b""] * 8][:8]
    said = {}
    for number, (key, line) in enumerate(zip(_KEYS, lines, strict=False), start=1):
        name, semicolon, value = line.decode("latin-1").strip().partition(";")
        if name != key or not semicolon:
            raise BadImage(f"line {number} is {line[:40].decode('latin-1').strip()!r}, not '{key};…': no thermal table")
        said[key] = value.strip()
    if lines[7].strip():
        raise BadImage("line 8 is not empty, as it is after the header of a thermal table")
    if said["unit"] != "degrees Celsius":
        raise BadImage(f"its unit is {said['unit']!r}, not 'degrees Celsius'")
    sides = [int(said[key]) if said[key].isascii() and said[key].isdigit() else 0 for key in ("width", "height")]
    if not 0 < sides[0] * sides[1] <= _MOST:
        raise BadImage(f"its header says {said['width']} x {said['height']} values")
    return sides[0], sides[1], sum(map(len, lines)) + len(lines)


def _lines(body: bytes) -> bytes:
    """Without carriage returns, and with one line end at the end."""
    if b"\r" in body:
        body = body.replace(b"\r", b"")
    return body if body.endswith(b"\n") else body + b"\n"


def _one_width(body: bytes, width: int, height: int) -> np.ndarray | None:
    """Where every number is as long as every other (`12.34`), a table of characters; None where they are not."""
    token, left = divmod(len(body), width * height)
    first = body[:token]
    point = first.find(b".")
    if left or not 3 <= token <= 9 or body[token - 1 : token] not in (b";", b"\n"):
        return None
    byte_VT = np.frombuffer(body, np.uint8).reshape(-1, token)
    end_HW = byte_VT[:, -1].reshape(height, width)
    if (end_HW[:, -1] != 10).any() or (end_HW[:, :-1] != 59).any():
        return None
    places = [place for place in range(token - 1) if place != point]
    whole_V = np.zeros(width * height, np.int32)
    for place in places:
        digit_V = byte_VT[:, place] - np.uint8(48)  # below 0 comes round to above 9
        if digit_V.max() > 9:
            return None
        whole_V *= 10
        whole_V += digit_V
    if point >= 0 and (byte_VT[:, point] != 46).any():
        return None
    return _scaled(whole_V, token - 2 - point if point >= 0 else 0)


def _by_ends(body: bytes, width: int, height: int) -> np.ndarray | None:
    """Numbers of one to three digits, a point, and two more, maybe below 0; None where there is anything else."""
    lines = body.split(b"\n")
    if len(lines) != height + 1:
        return None
    value_HW = np.empty((height, width), np.float32)
    for top in range(0, height, _AT_ONCE):
        part = lines[top : min(top + _AT_ONCE, height)]
        found_V = _some_rows(b"\n".join([*part, b""]), width, len(part))
        if found_V is None:
            return None
        value_HW[top : top + len(part)] = found_V.reshape(-1, width)
    return value_HW


def _some_rows(body: bytes, width: int, height: int) -> np.ndarray | None:
    """The numbers of some rows; None where one has another form.

    A byte before the end of a number is always of the same worth, so a number is read from where it ends. Each step is
    one operation on all bytes or all values: nothing else is fast in NumPy.
    """
    byte_N = np.frombuffer(b"\n" * _BEFORE + body, np.uint8)
    at_V = _ends(byte_N, width, height)
    if at_V is None:
        return None
    before = partial(_before, at_V=at_V)
    digit_N = byte_N - np.uint8(48)  # below 0 comes round to above 9
    is_digit_N = digit_N < 10
    digit_N *= is_digit_N
    pair_N = digit_N[:-1] * np.uint8(10)  # two digits; one, where what is before it is none
    pair_N += digit_N[1:]
    length_V = _lengths(at_V)
    sign_V = None
    if minuses := np.count_nonzero(byte_N == 45):
        is_minus_V = byte_N[_BEFORE:].take(at_V - length_V) == 45
        length_V -= is_minus_V
        sign_V = 1 - 2 * is_minus_V.view(np.int8)
        if np.count_nonzero(is_minus_V) != minuses:
            return None
    is_point_N = byte_N == 46
    points = len(at_V) == np.count_nonzero(is_point_N) == np.count_nonzero(before(is_point_N, 3))
    # What is no end, no point and no sign must be a digit; with the lengths, that is the form of every number.
    digits = np.count_nonzero(is_digit_N) == len(body) - 2 * len(at_V) - minuses
    longest = length_V.max()
    if not (points and digits and length_V.min() >= 4 and longest <= 6):
        return None
    whole_V = np.multiply(before(pair_N, 5), 100, dtype=np.int32)
    whole_V += before(pair_N, 2)
    if longest == 6:
        whole_V += np.multiply(before(digit_N, 6) * (length_V == 6), 10_000, dtype=np.int32)
    found_V = _scaled(whole_V, 2)
    return found_V if sign_V is None else found_V * sign_V


def _before(byte_N: np.ndarray, back: int, *, at_V: np.ndarray) -> np.ndarray:
    """What stands so many bytes before the end of each number."""
    found_V: np.ndarray = byte_N[_BEFORE - back :].take(at_V)
    return found_V


def _ends(byte_N: np.ndarray, width: int, height: int) -> np.ndarray | None:
    """Where each number ends, counted from the first; None where rows are not of `width` numbers, or not so many."""
    is_line_N = byte_N == 10
    lines = np.count_nonzero(is_line_N) - _BEFORE
    is_line_N |= byte_N == 59
    at_V = np.flatnonzero(is_line_N[_BEFORE:])
    if lines != height or len(at_V) != width * height:
        return None
    return at_V if (byte_N[_BEFORE:][at_V[width - 1 :: width]] == 10).all() else None


def _lengths(at_V: np.ndarray) -> np.ndarray:
    """How many bytes each number has."""
    length_V = np.empty_like(at_V)
    length_V[0] = at_V[0]
    np.subtract(at_V[1:], at_V[:-1], out=length_V[1:])
    length_V[1:] -= 1
    return length_V


def _scaled(whole_V: np.ndarray, digits: int) -> np.ndarray:
    # Both are whole, and exact in float32, so the quotient is rounded once: what is nearest to the text.
    return whole_V.astype(np.float32) / np.float32(10**digits)


def _by_arrow(body: bytes, width: int, height: int) -> np.ndarray:
    """Any form of numbers; raises BadImage that says what is wrong, and in which line."""
    lines = body[:-1].split(b"\n")
    while lines and not lines[-1].strip():
        lines.pop()
    if len(lines) != height:
        raise BadImage(f"it has {len(lines)} rows of values, but its header says {height}")
    for number, line in enumerate(lines, start=9):
        if (values := line.count(b";") + 1) != width:
            hint = " (the delimiter must be ;)" if values == 1 and width > 1 else ""
            raise BadImage(f"line {number} has {values} values, but its header says {width}{hint}")
    import pyarrow as pa
    from pyarrow import csv

    texts = b";".join(lines).replace(b";", b"\n")
    try:
        column = csv.read_csv(
            pa.py_buffer(texts),
            read_options=csv.ReadOptions(column_names=["value"], use_threads=False, block_size=len(texts) + 1),
            parse_options=csv.ParseOptions(quote_char=False, ignore_empty_lines=False),
            convert_options=csv.ConvertOptions(column_types={"value": pa.float64()}, null_values=[]),
        )["value"]
        value_V = column.to_numpy()
    except pa.ArrowException:
        value_V = np.array([np.nan])
    if len(value_V) != width * height or not (np.abs(value_V) <= _LARGEST).all():
        raise BadImage(_which_is_none(lines))
    return value_V.astype(np.float32)


def _which_is_none(lines: list[bytes]) -> str:
    """The first value that is no number, and how many there are."""
    first, count = "", 0
    for number, line in enumerate(lines, start=9):
        for text in line.split(b";"):
            try:
                wrong = not abs(float(text)) <= _LARGEST
            except ValueError:
                wrong = True
            count += wrong
            if wrong and not first:
                first = f"{text[:20].decode('latin-1')!r} in line {number}"
    return f"{count} of its values are no numbers, the first {first}"
