"""Whichever library decodes a JPEG, the pixels are Pillow's to the bit, and so is what is wrong with a file.

Our extension (native/instar_native) is tested where it was built; that nothing is missed without it, everywhere.
"""

import io
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from instar import terminal
from instar.engine import provenance
from instar.readers import _images as images
from instar.readers import _jpeg, _native
from instar.readers import _pixels as pixels
from instar.readers._images import BadImage
from instar.readers._pixels import Form
from instar.readers._views import View

built = pytest.mark.skipif(not _native.is_there(), reason="not built: pip install ./native/instar_native")
OTHERS = [pytest.param("instar_native", marks=built), "simplejpeg"]
OPTIONS = {
    "4:2:0": {"subsampling": "4:2:0"},
    "4:2:2": {"subsampling": "4:2:2"},
    "4:4:4": {"subsampling": "4:4:4"},
    "4:1:1": {"subsampling": "4:1:1"},
    "coarse": {"quality": 30},
    "own codes": {"optimize": True},
    "restarts": {"restart_marker_blocks": 5},
    "progressive": {"progressive": True},
}


def jpeg(width: int = 203, height: int = 151, mode: str = "RGB", seed: int = 0, **options) -> bytes:
    """A picture whose every block differs from its neighbours, in brightness and colour."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height // 6 + 1, width // 6 + 1, 3), np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def seen(data: bytes, view: View, form: Form, *, choose=None) -> np.ndarray | str:
    """What the view shows of a file, or why it cannot be read."""
    try:
        return pixels.viewed_bytes(data, choose or (lambda width, height: view), form)
    except BadImage as error:
        return str(error)


def seen_by_pillow(data: bytes, view: View, form: Form, *, choose=None) -> np.ndarray | str:
    """The same, where Pillow alone looks at the file."""
    try:
        return pixels.viewed(images.of_bytes(data), choose or (lambda width, height: view), form)
    except BadImage as error:
        return str(error)


def use(monkeypatch, decoder: str) -> None:
    """Only this library is installed, beside Pillow."""
    if decoder != "instar_native":
        monkeypatch.setattr(_native, "_module", lambda: None)
    if decoder != "simplejpeg":
        monkeypatch.setattr(_jpeg, "_simplejpeg", lambda: None)


@pytest.mark.parametrize("decoder", OTHERS)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("mode, channels", [("RGB", 3), ("RGB", 1), ("L", 3), ("L", 1), ("CMYK", 3)])
def test_every_decoder_gives_pillows_bits(monkeypatch, decoder, options, mode, channels):
    pytest.importorskip("simplejpeg")
    random = np.random.default_rng(7)
    for number in range(12):
        exif = Image.Exif()
        exif[0x0112] = number % 8 + 1 if number % 3 == 0 else 1
        data = jpeg(mode=mode, seed=number, exif=exif, **(options if mode == "RGB" else {}))
        left, right = sorted(random.integers(0, 152, 2).tolist())
        top, bottom = sorted(random.integers(0, 152, 2).tolist())
        part = random.random() if number % 4 == 1 else 0
        box = (left * (1 - part / 9), top + part / 2, min(right + 2 - part, 151), min(bottom + 2 - part, 151))
        view = View(box, exact=number % 2 == 0, hflip=number % 5 == 0, vflip=number % 7 == 0)
        for size in (12, 70, 96):
            with monkeypatch.context() as only:
                use(only, decoder)
                fast = seen(data, view, Form(size, channels))
            np.testing.assert_array_equal(fast, seen_by_pillow(data, view, Form(size, channels)), str((box, size)))


@built
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_box_at_any_scale_is_cut_out_of_the_whole(drawn):
    width, height = drawn.draw(st.integers(1, 90)), drawn.draw(st.integers(1, 90))
    options = drawn.draw(st.sampled_from([option for name, option in OPTIONS.items() if name != "progressive"]))
    scale, colours = drawn.draw(st.sampled_from([1, 2, 4, 8])), drawn.draw(st.sampled_from([1, 3]))
    data = jpeg(width, height, **options)
    with Image.open(io.BytesIO(data)) as image:
        image.draft("L" if colours == 1 else None, (max(1, width // scale), max(1, height // scale)))
        whole_HWC = np.asarray(image).reshape(image.height, image.width, -1)
    if whole_HWC.shape[:2] != (-(-height // scale), -(-width // scale)):
        return  # Pillow takes another scale for a picture of very few pixels
    height, width = whole_HWC.shape[:2]
    left, top = drawn.draw(st.integers(0, width - 1)), drawn.draw(st.integers(0, height - 1))
    right, bottom = drawn.draw(st.integers(left + 1, width)), drawn.draw(st.integers(top + 1, height))
    frame_HWC = np.full((height, width, colours), 77, np.uint8)
    into_HWC = frame_HWC[top:bottom, left:right]
    assert _native.jpeg(data, into_HWC, (left, top, right, bottom), scale=scale, pytorch=True)
    np.testing.assert_array_equal(into_HWC, whole_HWC[top:bottom, left:right])
    frame_HWC[top:bottom, left:right] = 77
    assert (frame_HWC == 77).all()  # nothing is written beside the box


@built
@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_the_bytes_are_our_decoder_says_what_pillow_says(drawn):
    data = bytearray(SOUND[drawn.draw(st.sampled_from(sorted(SOUND)))])
    for _ in range(drawn.draw(st.integers(1, 3))):
        at = drawn.draw(st.integers(2, max(2, len(data) - 1)))
        match drawn.draw(st.sampled_from(["cut", "put", "drop", "add", "marker"])):
            case "cut":
                del data[at:]
            case "put":
                data[at : at + 1] = drawn.draw(st.binary(min_size=1, max_size=1))
            case "drop":
                del data[at : at + drawn.draw(st.integers(1, 40))]
            case "add":
                data[at:at] = drawn.draw(st.binary(min_size=1, max_size=20))
            case "marker":
                data[at : at + 2] = bytes([0xFF, drawn.draw(st.sampled_from(MARKERS))])
    view = View(drawn.draw(st.sampled_from([(0, 0, 20, 20), (3, 2, 31, 12), (10.5, 11, 30, 31.5), (0, 0, 30, 5)])))
    form = Form(drawn.draw(st.sampled_from([8, 70])))

    def inside(width, height):  # a header may say anything
        left, top, right, bottom = view.box
        return View((min(left, width - 1), min(top, height - 1), min(right, width), min(bottom, height)))

    with pytest.MonkeyPatch.context() as only:
        use(only, "instar_native")
        ours = seen(bytes(data), view, form, choose=inside)
    np.testing.assert_array_equal(ours, seen_by_pillow(bytes(data), view, form, choose=inside))


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_the_size_of_an_ordinary_jpeg_is_known_without_pillow_and_of_no_other(name, mode):
    data = jpeg(mode=mode, **OPTIONS[name])
    ordinary = name != "progressive" and mode != "CMYK"
    assert _jpeg.ordinary(data) == ((203, 151, len(mode)) if ordinary else None)
    assert _jpeg.ordinary(memoryview(data)[:100]) is None
    assert _jpeg.ordinary(jpeg(mode=mode, comment=b"x" * 5000, **OPTIONS[name])) is None  # a header of any length
    turned = Image.Exif()
    turned[0x0112] = 6
    for more in ({"exif": turned}, {"icc_profile": b"a profile"}):
        assert _jpeg.ordinary(jpeg(mode=mode, **OPTIONS[name], **more)) is None
    for other in (b"", b"\xff\xd8", b"\xff\xd8\xff\xe0\0\1", bytes(700), b"\xff" * 700):
        assert _jpeg.ordinary(other) is None


def test_an_ordinary_header_that_says_too_many_pixels_is_refused_as_pillow_refuses_it():
    data = bytearray(jpeg())
    at = data.index(b"\xff\xc0") + 5
    for height, width in ((0xFFFF, 0xFFFF), (0, 203), (151, 0)):
        data[at : at + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
        told = seen(bytes(data), View((0, 0, 9, 9)), Form(8))
        assert isinstance(told, str) and told == seen_by_pillow(bytes(data), View((0, 0, 9, 9)), Form(8))


SOUND = {name: jpeg(40, 33, **options) for name, options in OPTIONS.items()}
MARKERS = [0xC0, 0xC2, 0xC4, 0xD0, 0xD3, 0xD8, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD, 0xE1, 0xFE, 0x01]


@pytest.mark.parametrize("decoder", [*OTHERS, "Pillow"])
def test_a_truncated_jpeg_has_its_reason_even_where_the_part_that_is_seen_is_there(monkeypatch, decoder):
    use(monkeypatch, decoder)
    data = jpeg()
    for kept in (len(data) // 2, len(data) - 40, len(data) - 2):
        told = seen(data[:kept], View((0, 0, 100, 20)), Form(96))
        assert kept == len(data) - 2 or told == "truncated: its end is missing", kept
    whole = seen(data, View((0, 0, 100, 20)), Form(96))
    np.testing.assert_array_equal(whole, seen(data + b"more", View((0, 0, 100, 20)), Form(96)))


@built
@pytest.mark.parametrize(
    "into, at, told",
    [
        (np.zeros((4, 4, 3), np.uint8), (200, 0, 1), "not inside"),
        (np.zeros((4, 4, 3), np.uint8), (0, 148, 1), "not inside"),
        (np.zeros((4, 4, 3), np.uint8), (100, 0, 2), "not inside"),
        (np.zeros((4, 4, 3), np.uint8), (-1, 0, 1), "not inside"),
        (np.zeros((4, 4, 3), np.uint8), (2**62, 0, 1), "not inside"),
        (np.zeros((4, 4, 3), np.uint8), (float("nan"), 0, 1), "not inside"),
        (np.zeros((4, 4, 3), np.uint8), (0.5, 0, 1), "not of whole pixels"),
        (np.zeros((4, 4, 3), np.uint8), (0, 0, 3), "scale must be"),
        (np.zeros((4, 4, 4), np.uint8), (0, 0, 1), "1 or 3"),
        (np.zeros((4, 4), np.uint8), (0, 0, 1), "rows x columns"),
        (np.zeros((4, 4, 3), np.int8), (0, 0, 1), "uint8"),
        (np.zeros((4, 4, 3), np.uint16), (0, 0, 1), "uint8"),
        (np.zeros((0, 4, 3), np.uint8), (0, 0, 1), "a pixel"),
        (np.zeros((4, 8, 3), np.uint8)[:, ::2], (0, 0, 1), "side by side"),
        (np.zeros((4, 4, 6), np.uint8)[..., ::2], (0, 0, 1), "side by side"),
        (np.zeros((3, 4, 5), np.uint8).T, (0, 0, 1), "side by side"),
        (np.zeros((4, 4, 3), np.uint8).view()[:0:-1], (0, 0, 1), None),
        (np.frombuffer(bytes(48), np.uint8).reshape(4, 4, 3), (0, 0, 1), "read"),
    ],
)
def test_an_array_or_a_place_that_does_not_fit_is_refused(into, at, told):
    left, top, scale = at
    asked = (jpeg(), into, (left, top, left + 4, top + 4), True, False, False, scale)
    if told is None:  # rows from the last to the first are as good as any
        assert _native._module().jpeg(*asked) is None
        return
    with pytest.raises((ValueError, BufferError), match=told):
        _native._module().jpeg(*asked)


@built
def test_threads_decode_side_by_side_to_the_same_bits():
    data = [jpeg(seed=seed) for seed in range(8)]

    def one(number: int) -> bytes:
        into_HWC = np.empty((90, 80, 3), np.uint8)
        assert _native.jpeg(data[number % 8], into_HWC, (33, 21, 113, 111), scale=1, pytorch=True)
        return into_HWC.tobytes()

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(one, range(64))) == [one(number) for number in range(64)]


def missing(name):
    raise ImportError("libjpeg.so.62: cannot open shared object file")


def refusing(*arguments):
    raise ValueError("another libjpeg")


@pytest.mark.parametrize(
    "load",
    [
        missing,
        lambda name: SimpleNamespace(jpeg=lambda data, into_HWC, *how: into_HWC.fill(0)),
        lambda name: SimpleNamespace(jpeg=refusing),
    ],
    ids=["cannot be loaded", "other pixels", "refuses all"],
)
def test_an_extension_that_is_no_good_here_is_done_without(monkeypatch, load):
    _native._module.cache_clear()
    monkeypatch.setattr(_native.importlib.util, "find_spec", lambda name: name == "instar_native" or None)
    monkeypatch.setattr(_native.importlib, "import_module", load)
    try:
        assert not _native.is_there()
        assert not _native.table(b"1\n", np.empty((1, 1), np.float32))
    finally:
        _native._module.cache_clear()


def test_who_decodes_is_said_at_the_start_and_when_it_is_another_than_before(monkeypatch):
    use(monkeypatch, "Pillow")
    decoded, notes = terminal._decoded({"jpegs": True})
    assert decoded == ["decoder Pillow"] and "instar[fast]" in notes[0]
    assert terminal._decoded({"jpegs": False}) == ([], [])
    monkeypatch.setattr(_native, "_module", lambda: SimpleNamespace(library="libjpeg-turbo 9.9"))
    assert terminal._decoded({"jpegs": True}) == (["decoder instar_native"], [])
    before, now = {"decoder": "Pillow", "packages": {}}, {"decoder": _jpeg.decoder(), "packages": {}}
    assert provenance.changes(before, now) == {"decoder": ("Pillow", "instar_native (libjpeg-turbo 9.9)")}
