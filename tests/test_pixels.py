"""Every kind of file becomes the right pixels: compared with torchvision's and Pillow's own results."""

import functools
import os
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from instar.augment import Augment
from instar.readers import _images as images
from instar.readers import _pixels as pixels
from instar.readers import _varying as varying
from instar.readers._images import BadImage
from instar.readers._pixels import Form
from instar.readers._views import View, evaluation

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torchvision import transforms
    from torchvision.transforms import functional


@functools.cache
def photo(width: int = 200, height: int = 150, seed: int = 0) -> Image.Image:
    """Something like a photograph: clouds of every size, stronger the larger."""
    random = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for cells in (3, 7, 20, 60):
        grid = random.uniform(-1, 1, (cells, cells, 3)) / cells**0.7
        bands = [Image.fromarray(grid[..., band].astype(np.float32)).resize((width, height)) for band in range(3)]
        total += np.stack([np.asarray(band) for band in bands], -1)
    return Image.fromarray((127 + 100 * total).clip(0, 255).astype(np.uint8))


def whole(width: int, height: int) -> View:
    return View((0, 0, width, height), exact=True)


def saved(image: Image.Image, path: Path, **options) -> Path:
    image.save(path, **options)
    return path


def difference(ours: np.ndarray, theirs) -> float:
    return float(np.abs(ours.astype(float) - np.asarray(theirs).reshape(ours.shape)).mean())


SIZES = [(500, 375), (375, 500), (640, 427), (257, 256), (300, 300), (180, 90), (31, 200), (1400, 1000)]


@pytest.mark.parametrize("width, height", SIZES)
@pytest.mark.parametrize("size, resize", [(224, 256), (64, 64)])
def test_evaluation_is_torchvisions_resize_and_centre_crop(tmp_path, width, height, size, resize):
    path = saved(photo(width, height), tmp_path / "it's a photo.jpg", quality=92)
    settings = Augment(size=size, resize=resize)
    ours = pixels.read(path, functools.partial(evaluation, settings), Form(size))
    classic = transforms.Compose([transforms.Resize(resize), transforms.CenterCrop(size)])
    assert difference(ours, classic(Image.open(path).convert("RGB"))) <= 0.05


@pytest.mark.parametrize("width, height", SIZES)
def test_squashed_evaluation_is_torchvisions_resize_to_a_square(tmp_path, width, height):
    path = saved(photo(width, height), tmp_path / "a.jpg")
    ours = pixels.read(path, functools.partial(evaluation, Augment(kind="food_v1")), Form(224))
    assert difference(ours, transforms.Resize((224, 224))(Image.open(path))) == 0


@pytest.mark.parametrize("box", [(13, 20, 213, 190), (100, 50, 148, 110), (0, 0, 320, 240)])
def test_a_training_crop_is_torchvisions_resized_crop(tmp_path, box):
    path = saved(photo(320, 240), tmp_path / "a.png")
    ours = pixels.read(path, lambda width, height: View(box), Form(96))
    left, top, right, bottom = box
    theirs = functional.resized_crop(Image.open(path), top, left, bottom - top, right - left, [96, 96])
    assert difference(ours, theirs) < 0.5  # ours also reads the pixels beside the box


@pytest.mark.parametrize("box", [(0, 0, 1600, 1200), (301, 222, 1201, 1122), (40, 40, 500, 500)])
def test_decoding_at_a_smaller_scale_shows_the_same_place(tmp_path, box):
    path = saved(photo(1600, 1200), tmp_path / "camera.jpg", quality=95)
    quick = pixels.read(path, lambda width, height: View(box), Form(100))
    exact = pixels.read(path, lambda width, height: View(box, exact=True), Form(100))
    assert difference(quick, exact) < 1.5
    assert difference(quick[:, 1:], exact[:, :-1]) > difference(quick, exact)


@pytest.mark.parametrize("box, scale", [((0, 0, 1600, 1200), 8), ((0, 0, 799, 799), 4), ((0, 0, 199, 900), 1)])
def test_a_jpeg_is_decoded_at_the_smallest_scale_that_covers_the_crop(tmp_path, box, scale):
    with Image.open(saved(photo(1600, 1200), tmp_path / "a.jpg")) as image:
        mapped = pixels._draft(image, box, Form(100), scaled=True)
        assert image.size == (1600 // scale, 1200 // scale)
        assert mapped == tuple(side / scale for side in box)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright_and_the_box_with_them(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"webp": {"lossless": True}, "jpg": {"quality": 95, "subsampling": 0}}.get(suffix, {})
    path = saved(photo(120, 80), tmp_path / f"a.{suffix}", exif=exif, **lossless)
    upright = ImageOps.exif_transpose(Image.open(path))
    sizes = []

    def choose(width, height):
        sizes.append((width, height))
        return View((10, 15, 70, 65), exact=True)

    ours = pixels.read(path, choose, Form(40))
    assert sizes == [upright.size]
    assert difference(ours, upright.resize((40, 40), Image.Resampling.BILINEAR, box=(10, 15, 70, 65))) < 0.2
    with images.opened(path) as (image, _):
        assert images.upright_size(image) == upright.size or suffix == "png"  # a PNG may say so behind its pixels


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "bmp", "webp", "ppm"])
def test_colour_and_grey_become_what_is_asked_for(tmp_path, suffix, channels):
    for number, image in enumerate((photo(), photo().convert("L"))):
        path = saved(image, tmp_path / f"{number}.{suffix}")
        ours = pixels.read(path, whole, Form(64, channels))
        theirs = Image.open(path).resize((64, 64), Image.Resampling.BILINEAR).convert("L" if channels == 1 else "RGB")
        assert ours.shape == (64, 64, channels)
        assert difference(ours, theirs) < 0.6


def test_cmyk_becomes_rgb(tmp_path):
    for suffix in ("jpg", "tif"):
        path = saved(photo().convert("CMYK"), tmp_path / f"a.{suffix}")
        ours = pixels.read(path, whole, Form(64))
        assert difference(ours, Image.open(path).convert("RGB").resize((64, 64), Image.Resampling.BILINEAR)) < 0.1
        assert difference(ours, photo().resize((64, 64), Image.Resampling.BILINEAR)) < 3


def test_what_is_transparent_shows_the_background(tmp_path):
    image = photo(64, 64).convert("RGBA")
    opacity = np.linspace(0, 255, 64).astype(np.uint8)[None].repeat(64, 0)
    image.putalpha(Image.fromarray(opacity))
    for name in ("a.png", "a.tif"):
        path = saved(image, tmp_path / name)
        ours = pixels.read(path, whole, Form(64, background=(255, 0, 100)))
        theirs = Image.alpha_composite(Image.new("RGBA", (64, 64), (255, 0, 100, 255)), image).convert("RGB")
        assert difference(ours, theirs) < 0.6


def test_colour_under_full_transparency_does_not_bleed(tmp_path):
    image = Image.new("RGBA", (60, 60), (255, 0, 0, 0))  # red, but invisible
    image.paste((0, 0, 255, 255), (20, 20, 40, 40))
    ours = pixels.read(saved(image, tmp_path / "a.png"), whole, Form(25))
    assert ours[..., 0].max() == 255
    assert np.all(ours[..., 0] == ours[..., 1])  # between white and blue there is no red


@pytest.mark.parametrize("mode", ["LA", "PA", "P", "1"])
def test_palette_grey_with_opacity_and_one_bit_images(tmp_path, mode):
    small = photo(64, 64).convert("L").convert(mode) if mode != "P" else photo(64, 64).quantize(32)
    ours = pixels.read(saved(small, tmp_path / ("a.tif" if mode == "PA" else "a.png")), whole, Form(64))
    assert difference(ours, small.convert("RGB")) < 0.6


def test_a_palettes_transparent_entry_shows_the_background(tmp_path):
    image = photo(64, 64).quantize(8)
    path = saved(image, tmp_path / "a.gif", transparency=3)
    ours = pixels.read(path, whole, Form(64, background=(1, 2, 3)))
    assert np.all(ours[np.asarray(image) == 3] == (1, 2, 3))
    assert difference(ours[np.asarray(image) != 3], np.asarray(image.convert("RGB"))[np.asarray(image) != 3]) < 0.1


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path, suffix):
    values = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    path = saved(Image.fromarray(values), tmp_path / f"a.{suffix}")
    ours = pixels.read(path, whole, Form(64, 1))
    assert np.abs(ours[..., 0] - values / 257).max() <= 0.5
    assert np.all(pixels.read(path, whole, Form(64, 3)) == ours)


def test_a_span_says_what_is_black_and_white_in_scientific_values(tmp_path):
    values = np.linspace(-2, 2, 64 * 64).reshape(64, 64).astype(np.float32)
    values[0, 0] = np.nan
    path = saved(Image.fromarray(values), tmp_path / "field.tif")
    with pytest.raises(BadImage, match=r"32-bit float: which values .* data\.reader\.span"):
        pixels.read(path, whole, Form(64, 1))
    ours = pixels.read(path, whole, Form(64, 1, span=(-1, 1)))[..., 0]
    assert ours[0, 1] == 0
    assert ours[-1, -1] == 255
    assert abs(int(ours[32, 32]) - 255 * (values[32, 32] + 1) / 2) <= 0.5
    twelve = saved(Image.fromarray(np.full((9, 9), 4095, np.uint16)), tmp_path / "twelve bits.tif")
    assert pixels.read(twelve, whole, Form(9, 1, span=(0, 4095))).min() == 255


def test_an_animation_shows_its_first_picture(tmp_path):
    first, second = Image.new("RGB", (20, 20), (200, 0, 0)), Image.new("RGB", (20, 20), (0, 200, 0))
    for name in ("a.gif", "a.png", "a.webp", "a.tif"):
        path = saved(first, tmp_path / name, save_all=True, append_images=[second])
        assert pixels.read(path, whole, Form(20))[10, 10].argmax() == 0


def test_the_wrong_ending_does_not_matter(tmp_path):
    path = saved(photo(), tmp_path / "a.jpg", format="PNG")
    assert difference(pixels.read(path, whole, Form(200)), photo().resize((200, 200), Image.Resampling.BILINEAR)) == 0


def test_an_image_smaller_than_the_crop_is_enlarged(tmp_path):
    path = saved(photo(50, 30), tmp_path / "small.png")
    ours = pixels.read(path, functools.partial(evaluation, Augment()), Form(224))
    classic = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    assert difference(ours, classic(photo(50, 30))) < 0.3


def bad(kind: str, path: Path) -> Path:
    """A file that is no image, of some kind."""
    whole_jpeg = saved(photo(), path.with_suffix(".jpg")).read_bytes()
    contents = {
        "empty": b"",
        "text": b"<html>404 not found</html>",
        "truncated": whole_jpeg[: len(whole_jpeg) // 2],
        "header only": whole_jpeg[:300],
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
        "bomb": b"P6 50000 50000 255\n",
        "large": b"P6 10000 10000 255\n",
    }
    path.write_bytes(contents[kind])
    return path


def test_a_picture_of_several_as_phones_make_them_shows_the_first(tmp_path):
    path = saved(photo(900, 700), tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[photo(90, 70)])
    with Image.open(path) as image:
        assert image.format == "MPO"
    ours = pixels.read(path, lambda width, height: View((0, 0, width, height)), Form(64))
    assert difference(ours, photo(900, 700).resize((64, 64), Image.Resampling.BILINEAR)) < 1.5


@pytest.mark.parametrize(
    "kind, says",
    [
        ("empty", "empty file, 0 bytes"),
        ("text", "not an image that is read here"),
        ("truncated", "truncated"),
        ("header only", "truncated"),
        ("postscript", "not an image that is read here"),
        ("bomb", "more pixels than may be decoded"),
        ("large", "pixels .*more than may be decoded|more pixels than may be decoded"),
    ],
)
def test_a_file_that_is_no_image_has_a_reason(tmp_path, kind, says):
    with pytest.raises(BadImage, match=says):
        pixels.read(bad(kind, tmp_path / "x.img"), whole, Form(64))


def test_what_is_no_file_has_a_reason(tmp_path):
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "folder.jpg").mkdir()
    for name, says in {
        "fifo.jpg": "not a regular file",
        "folder.jpg": "cannot be|regular",
        "gone.jpg": "no such file",
    }.items():
        with pytest.raises(BadImage, match=says):
            pixels.read(tmp_path / name, whole, Form(64))


def test_a_mistake_of_ours_is_not_taken_for_a_bad_image(tmp_path):
    with pytest.raises(ZeroDivisionError):
        pixels.read(saved(photo(), tmp_path / "a.png"), lambda width, height: 1 / 0, Form(64))


CORNERS = ((5, 9), (90, 0), (95, 88), (0, 95))
CASES = {
    "hflip": (View((0, 0, 1, 1), hflip=True), functional.hflip),
    "vflip": (View((0, 0, 1, 1), vflip=True), functional.vflip),
    "rotation": (View((0, 0, 1, 1), angle=33.3), lambda image: functional.rotate(image, 33.3, fill=[7, 8, 9])),
    "shift": (
        View((0, 0, 1, 1), angle=20.0, shift=(5, -3), smooth=True),
        lambda image: image.rotate(20, Image.Resampling.BILINEAR, translate=(5, -3), fillcolor=(7, 8, 9)),
    ),
    "perspective": (
        View((0, 0, 1, 1), corners=CORNERS),
        lambda image: functional.perspective(
            image, [[0, 0], [95, 0], [95, 95], [0, 95]], [list(corner) for corner in CORNERS], fill=[7, 8, 9]
        ),
    ),
    "brightness": (View((0, 0, 1, 1), colour=(("brightness", 1.3),)), lambda i: functional.adjust_brightness(i, 1.3)),
    "contrast": (View((0, 0, 1, 1), colour=(("contrast", 0.6),)), lambda i: functional.adjust_contrast(i, 0.6)),
    "saturation": (View((0, 0, 1, 1), colour=(("saturation", 1.7),)), lambda i: functional.adjust_saturation(i, 1.7)),
    "hue": (View((0, 0, 1, 1), colour=(("hue", -0.2),)), lambda i: functional.adjust_hue(i, -0.2)),
}


@pytest.mark.parametrize("name", CASES)
def test_what_a_view_asks_for_is_what_torchvision_does(name):
    view, theirs = CASES[name]
    image = photo(96, 96)
    # torchvision rounds the coefficients of a perspective to 32 bits.
    assert difference(np.asarray(varying.vary(image, view, (7, 8, 9))), theirs(image)) <= 0.02


@pytest.mark.parametrize("name", CASES)
def test_a_grey_image_stays_grey(name):
    assert varying.vary(photo(96, 96).convert("L"), CASES[name][0], (7, 8, 9)).mode == "L"


def test_a_moved_crop_is_padding_and_a_random_crop_of_torchvision():
    image = photo(96, 96)
    ours = np.asarray(varying.vary(image, View((0, 0, 1, 1), offset=(3, -4)), 9))
    theirs = functional.crop(functional.pad(image, [4], fill=9), 4 + 4, 4 - 3, 96, 96)
    assert difference(ours, theirs) == 0


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("flips", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("box", [(0, 0, 300, 200), (31, 17, 131, 150), (5, 6, 120, 190)])
def test_a_crop_of_whole_pixels_is_pillows_to_a_hundredth_whatever_resizes_it(tmp_path, box, flips, channels):
    rows, columns = np.mgrid[0:200, 0:300]
    scene = np.stack([rows * 0.9 + 30 * np.sin(columns / 7), columns * 0.8, (rows * columns) % 251], 2).clip(0, 255)
    Image.fromarray(scene.astype(np.uint8)).convert("L" if channels == 1 else "RGB").save(tmp_path / "a.png")
    form = Form(96, channels)
    view = View(box, hflip=flips[0], vflip=flips[1])
    quick = pixels.read(tmp_path / "a.png", lambda w, h: view, form)
    exact = pixels.read(tmp_path / "a.png", lambda w, h: replace(view, exact=True), form)  # Pillow
    assert quick.shape == exact.shape == (96, 96, channels) and quick.flags.c_contiguous
    inside = np.abs(quick.astype(int) - exact)[4:-4, 4:-4]
    assert inside.mean() < 0.05 and inside.max() <= 1


def test_resizing_leaves_the_number_of_threads_as_it_was(tmp_path):
    import torch

    Image.new("RGB", (300, 200), "red").save(tmp_path / "a.png")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        pixels.read(tmp_path / "a.png", lambda w, h: View((0, 0, 150, 150)), Form(96))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_truncated_jpeg_has_its_reason_whatever_decodes_it(tmp_path):
    path = saved(photo(), tmp_path / "a.jpg")
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(BadImage, match="truncated"):
        pixels.read(path, lambda w, h: View((0, 0, 180, 150)), Form(96))
