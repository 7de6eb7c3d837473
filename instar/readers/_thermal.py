"""Thermal: tables of temperatures as the Mobotix cameras of Sage write them, one .csv an image.

    sensor;right
    bit depth;14 bit
    width;336
    height;252
    resolution;high
    advanced radiometry support;yes
    unit;degrees Celsius
    (an empty line, then `height` lines of `width` numbers with ; between them)

np.loadtxt takes 14 ms for one, which is more than a training step on it. Here numbers of one form are read by
arithmetic on all bytes at once, and anything else by Arrow; every number is the float32 nearest to its text.

Legend: H W pixels, V = H x W values, D digits after the point.
"""

import numpy as np

from instar.readers._pixels import BadImage

ENDING = ".csv"
_KEYS = ("sensor", "bit depth", "width", "height", "resolution", "advanced radiometry support", "unit")
_AT_ONCE = 64  # rows whose bytes stay in the processor's cache
_MOST = 1 << 26  # values: a header that says more is wrong


def size(data: bytes) -> tuple[int, int]:
    """Width and height that the header says. Raises BadImage where it is not that of a thermal camera."""
    return _header(data)[:2]


def read(data: bytes) -> np.ndarray:
    """The temperatures in degrees Celsius, float32 HW. Raises BadImage with the line that is wrong."""
    width, height, body = _header(data)
    found_V = _one_width(body, width, height)
    if found_V is None:
        found_V = _by_arithmetic(body, width, height)
    if found_V is None:
        found_V = _by_arrow(body, width, height)
    return found_V.reshape(height, width)


def _header(data: bytes) -> tuple[int, int, bytes]:
    """Width, height, and the lines after the header without carriage returns and with one line end at the end."""
    *lines, rest = [*data.split(b"\n", 8), *[b""] * 9][:9]
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
    if b"\r" in rest:
        rest = rest.replace(b"\r", b"")
    body = rest if rest.endswith(b"\n") else rest + b"\n"
    return sides[0], sides[1], body


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


def _by_arithmetic(body: bytes, width: int, height: int) -> np.ndarray | None:
    """Numbers of up to two digits, a point, and two more; None where there is anything else."""
    lines = body.split(b"\n")
    if len(lines) != height + 1:
        return None
    whole_HW = np.empty((height, width), np.int16)
    for top in range(0, height, _AT_ONCE):
        part = lines[top : min(top + _AT_ONCE, height)]
        found_HW = _some_rows(b"\n".join([b"\n" * 7, *part, b""]), width, len(part))
        if found_HW is None:
            return None
        whole_HW[top : top + len(part)] = found_HW
    return _scaled(whole_HW.reshape(-1), 2)


def _some_rows(text: bytes, width: int, height: int) -> np.ndarray | None:
    """Hundredths, int16 HW, of rows with eight empty ones before them; None where a number has another form.

    What a number would be is reckoned at every byte as if it ended there, and kept at those where one does.
    """
    num = width * height
    text += b"0" * (-len(text) % 4)
    byte_N = np.frombuffer(text, np.uint8)
    digit_N = byte_N - np.uint8(48)
    is_digit_N = digit_N < 10
    digit_N *= is_digit_N
    pair_N = digit_N[:-1] * np.uint8(10)
    pair_N += digit_N[1:]
    line_N = byte_N == 10
    line_N[:8] = False
    end_N = byte_N == 59
    end_N |= line_N
    # Two digits stand before an end, a point before them, and before that one digit or two.
    two, point, tens, before = (slice(8 - back, len(text) - back) for back in (2, 3, 5, 6))
    pointed_N = (byte_N[point] == 46) & end_N[8:]
    three_N = is_digit_N[tens] & is_digit_N[before]
    three_N &= pointed_N
    points, minuses = (int(np.count_nonzero(byte_N == letter)) for letter in b".-")
    if not num == points == np.count_nonzero(pointed_N) == np.count_nonzero(end_N) or three_N.any():
        return None
    digits = len(text) - 8 - 2 * num - minuses
    if np.count_nonzero(is_digit_N) != digits:
        return None
    # Every other byte is a digit, or this is no number.
    value_N = np.zeros(len(text), np.uint16)
    np.multiply(pair_N[tens], np.uint16(100), out=value_N[8:], dtype=np.uint16)
    value_N[8:] += pair_N[two]
    if minuses:  # 9999, the largest value, leaves two bits free
        below_N = (byte_N[tens] == 45) | ((byte_N[before] == 45) & is_digit_N[tens])
        below_N &= pointed_N
        if np.count_nonzero(below_N) != minuses:
            return None
        value_N[8:] += below_N * np.uint16(0x4000)
    value_N += line_N * np.uint16(0x8000)
    value_N *= end_N
    # A number takes five bytes at least, so of four neighbours one at most is an end.
    two_M = value_N.view(np.uint32).reshape(-1, 2)
    four_M = two_M[:, 0] | two_M[:, 1]
    four_M |= four_M >> 16
    found_HW = four_M[end_N.view(np.uint32) != 0].astype(np.uint16).reshape(height, width)
    lasts_HW = found_HW >> 15
    if lasts_HW[:, :-1].any() or not lasts_HW[:, -1].all():
        return None
    whole_HW = (found_HW & 0x3FFF).astype(np.int16)
    return np.negative(whole_HW, out=whole_HW, where=(found_HW & 0x4000) != 0) if minuses else whole_HW


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

    texts = b";".join(lines).replace(b" ", b"").replace(b";", b"\n")
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
    if len(value_V) != width * height or not np.isfinite(value_V).all():
        raise BadImage(_which_is_none(lines))
    return value_V.astype(np.float32)


def _which_is_none(lines: list[bytes]) -> str:
    """The first value that is no number, and how many there are."""
    first, count = "", 0
    for number, line in enumerate(lines, start=9):
        for text in line.split(b";"):
            try:
                wrong = not np.isfinite(float(text))
            except ValueError:
                wrong = True
            count += wrong
            if wrong and not first:
                first = f"{text[:20].decode('latin-1')!r} in line {number}"
    return f"{count} of its values are no numbers, the first {first}"
