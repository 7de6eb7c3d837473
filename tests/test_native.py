"""What our extension resizes and reads has the bits that PyTorch, Pillow and NumPy give, or is left to them.

It is tested where it was built: pip install ./native/instar_native. JPEGs are in test_jpeg.py.
"""

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from instar.readers import _native
from instar.readers import _pixels as pixels
from instar.readers._pixels import Form
from instar.readers._views import View

if not _native.is_there():
    pytest.skip("instar_native is not built: pip install ./native/instar_native", allow_module_level=True)

BILINEAR = Image.Resampling.BILINEAR


def noise(random, height: int, width: int, colours: int) -> np.ndarray:
    """Values whose sums come near every limit: many are 0 or 255."""
    values = random.integers(0, 256, (height, width, colours), np.uint8)
    return np.where(random.random(values.shape) < 0.5, values, values // 128 * 255).astype(np.uint8)


def turned(array_HWC: np.ndarray, mirrored: bool, upside_down: bool) -> np.ndarray:
    return array_HWC[:: -1 if upside_down else 1, :: -1 if mirrored else 1]


def by_pytorch(cut_HWC: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    into_HWC = np.empty(shape, np.uint8)
    assert pixels._by_pytorch(cut_HWC, into_HWC, mirrored=False, upside_down=False)
    return into_HWC


@pytest.mark.parametrize("seed", range(40))
def test_any_box_is_resized_to_the_bits_of_pytorch(seed):
    random = np.random.default_rng(seed)
    for _ in range(10):
        height, width, out_height, out_width = random.integers(1, 300, 4).tolist()
        colours, mirrored, upside_down = (1, 3)[random.integers(2)], random.random() < 0.5, random.random() < 0.5
        left, top = random.integers(width), random.integers(height)
        right, bottom = random.integers(left, width) + 1, random.integers(top, height) + 1
        whole_HWC = noise(random, height, width, colours)
        into_HWC = np.empty((out_height, out_width, colours), np.uint8)
        box = (left, top, right, bottom)
        done = _native.array(whole_HWC, into_HWC, box, pytorch=True, mirrored=mirrored, upside_down=upside_down)
        assert done == (right - left <= 31 * out_width and bottom - top <= 31 * out_height), box
        if done:
            theirs_HWC = by_pytorch(whole_HWC[top:bottom, left:right], into_HWC.shape)
            np.testing.assert_array_equal(into_HWC, turned(theirs_HWC, mirrored, upside_down), str(box))


@pytest.mark.parametrize("seed", range(40))
def test_any_box_is_resized_to_the_bits_of_pillow_where_it_begins_across(seed):
    random, compared = np.random.default_rng(seed), 0
    while compared < 8:
        height, width, size = random.integers(1, 300, 3).tolist()
        colours = (1, 3)[random.integers(2)]
        left, top = (random.random(2) * (width, height)).tolist()
        right, bottom = left + random.random() * (width - left), top + random.random() * (height - top)
        box = (left, top, min(right + 0.01, width), min(bottom + 0.01, height))
        view, form = View(box, exact=True), Form(size, colours)
        into_HWC = np.empty((size, size, colours), np.uint8)
        whole_HWC = noise(random, height, width, colours)
        if not pixels._in_one_pass(box, view, form, width=width, height=height):
            continue
        if _native.array(whole_HWC, into_HWC, box, pytorch=False):
            image = Image.fromarray(whole_HWC if colours == 3 else whole_HWC[..., 0])
            theirs = np.asarray(image.resize((size, size), BILINEAR, box)).reshape(into_HWC.shape)
            np.testing.assert_array_equal(into_HWC, theirs, str((box, whole_HWC.shape)))
            compared += 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("stored", [(400, 300), (300, 420), (90, 60), (1400, 40), (40, 1400)])
@pytest.mark.parametrize("kind", ["RGB", "L", "array"])
def test_a_view_is_the_same_with_it_and_without(monkeypatch, stored, channels, kind):
    random = np.random.default_rng(0)
    whole_HWC = noise(random, stored[1], stored[0], 1 if kind == "L" else 3)
    file = io.BytesIO()
    Image.fromarray(whole_HWC if kind != "L" else whole_HWC[..., 0]).save(file, "JPEG", quality=92)
    width, height = stored
    views = [
        View((width * 0.1, height * 0.2, width * 0.91, height), hflip=True),
        View((3, 2, width - 7, height - 5), vflip=True, hflip=True),
        View((3, 2, width - 7, height - 5), angle=20.0, hflip=True),
        View((0, 0, width, height)),
        View((1, 1, 21, 17), offset=(2, 3)),
    ]
    for view in [*views, *(replace(view, exact=True) for view in views)]:
        for form in (Form(64, channels), Form(9, channels), Form(128, channels)):

            def shown(view=view, form=form):
                if kind == "array":
                    return pixels.viewed_array(whole_HWC, lambda width, height: view, form)
                return pixels.viewed_bytes(file.getvalue(), lambda width, height: view, form)

            ours = shown()
            with monkeypatch.context() as without:
                without.setattr(_native, "_module", lambda: None)
                np.testing.assert_array_equal(ours, shown(), str((view, form)))


def test_nothing_is_written_or_read_beside_an_array():
    whole_HWC = np.zeros((60, 50, 3), np.uint8)
    whole_HWC[10:40, 20:41] = 255  # what is beside the box would darken it
    frame_HWC = np.full((80, 90, 3), 77, np.uint8)
    assert _native.array(whole_HWC, frame_HWC[9:73, 5:76], (20, 10, 41, 40), pytorch=True)
    assert (frame_HWC[9:73, 5:76] == 255).all()
    frame_HWC[9:73, 5:76] = 77
    assert (frame_HWC == 77).all()
    up_HWC = np.ascontiguousarray(whole_HWC[::-1])[::-1]  # rows from the last to the first
    into_HWC = np.empty((64, 64, 3), np.uint8)
    assert _native.array(up_HWC, into_HWC, (0, 0, 50, 60), pytorch=True)
    np.testing.assert_array_equal(into_HWC, by_pytorch(whole_HWC, (64, 64, 3)))


@pytest.mark.parametrize(
    "pixels_HWC, told",
    [
        (np.zeros((9, 9, 1), np.uint8), "as many colours"),
        (np.zeros((9, 9), np.uint8), "rows x columns"),
        (np.zeros((9, 9, 3), np.float32), "uint8"),
        (np.zeros((9, 0, 3), np.uint8), "a pixel"),
        (np.zeros((9, 18, 3), np.uint8)[:, ::2], "side by side"),
        (np.zeros((8, 9, 3), np.uint8), "not inside"),
    ],
)
def test_pixels_that_cannot_be_resized_are_refused(pixels_HWC, told):
    with pytest.raises(ValueError, match=told):
        _native._module().array(pixels_HWC, np.empty((4, 4, 3), np.uint8), (0, 0, 9, 9), True, False, False)


TEXTS = st.one_of(
    st.decimals(-(10**6), 10**6, places=2).map(str),
    st.decimals(-100, 100, places=1).map(str),
    st.decimals(-1, 1, places=8).map(str),
    st.integers(-(10**16), 10**16).map(str),
    st.floats(-1000, 1000).map("{:.2f}".format),
    st.text("0123456789.-", min_size=1, max_size=12),
)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 5).flatmap(lambda width: st.lists(st.lists(TEXTS, min_size=width, max_size=width), min_size=1)))
def test_numbers_are_those_of_float_to_the_last_bit_or_refused(rows):
    into_HW = np.empty((len(rows), len(rows[0])), np.float32)
    text = "".join(";".join(row) + "\n" for row in rows).encode()
    plain = all(
        len(digits := one.removeprefix("-")) - ("." in digits) <= 15
        and all(part.isdigit() for part in digits.split("."))
        and digits.count(".") <= 1
        for row in rows
        for one in row
    )
    assert _native.table(text, into_HW) == plain
    if plain:
        theirs_HW = np.array([[float(one) for one in row] for row in rows]).astype(np.float32)
        np.testing.assert_array_equal(into_HW.view(np.int32), theirs_HW.view(np.int32))


NO_TABLES = (
    "", "\n", ";", "1.23", "1.23;4.56", "1;2;3\n", "1;2\n3;4\n", "1\n2\n", "1;2\n\n", "1;2\r\n", "1:2\n", "1.23;4:56\n",
    "1.;2\n", ".5;2\n", "-;2\n", "1.23;-\n", "1.2.3;4\n", "1e3;2\n", "+1;2\n", " 1;2\n", "nan;2\n",
)  # fmt: skip


@pytest.mark.parametrize("text", NO_TABLES)
def test_what_is_no_table_of_two_plain_numbers_is_refused(text):
    assert _native.table(b"1.25;-2.50\n", np.empty((1, 2), np.float32))
    assert not _native.table(text.encode(), np.empty((1, 2), np.float32))


@pytest.mark.parametrize(
    "into",
    [np.empty((1, 2)), np.empty(2, np.float32), np.empty((2, 2), np.float32).T[:1], np.empty((1, 4), np.float32)],
)
def test_only_a_table_of_float32_in_one_piece_is_filled(into):
    assert not _native.table(b"1;2\n", into)
