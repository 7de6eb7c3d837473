import base64
import io
import os

import numpy as np
import pytest
from PIL import Image

from instar.report import thumbnails


def back(thumbnail):
    """The picture inside a data: address."""
    return Image.open(io.BytesIO(base64.b64decode(thumbnail.source.partition(",")[2])))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I", "I;16", "F"])
def test_every_mode_becomes_a_picture(tmp_path, mode):
    image = Image.new("L", (300, 200), 128)
    image = Image.new("I;16", (300, 200), 128) if mode == "I;16" else image.convert(mode)
    image.save(tmp_path / "it's one.tiff") if mode != "PA" else Image.new("PA", (300, 200)).save(
        tmp_path / "it's one.tiff"
    )
    made = thumbnails.of(tmp_path / "it's one.tiff")
    assert made.source.startswith("data:image/jpeg;base64,") and back(made).size == (128, 85)


def test_deep_pictures_are_stretched_to_what_one_can_see(tmp_path):
    ramp_HW = np.linspace(30_000, 30_500, 200 * 100, dtype=np.uint16).reshape(100, 200)
    Image.fromarray(ramp_HW).save(tmp_path / "deep.png")
    low, high = back(thumbnails.of(tmp_path / "deep.png")).getextrema()
    assert low < 10 and high > 245


def test_a_small_picture_keeps_its_pixels(tmp_path):
    pixels_HWC = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
    Image.fromarray(pixels_HWC).save(tmp_path / "digit.png")
    made = thumbnails.of(tmp_path / "digit.png")
    assert made.tiny
    np.testing.assert_array_equal(np.asarray(back(made)), pixels_HWC)


def test_a_picture_is_turned_as_its_camera_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (400, 200)).save(tmp_path / "turned.jpg", exif=exif)
    assert back(thumbnails.of(tmp_path / "turned.jpg")).size == (64, 128)


def test_what_is_no_picture_gives_none(tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("not a picture")
    Image.new("RGB", (300, 300), "red").save(tmp_path / "whole.jpg")
    (tmp_path / "torn.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:300])
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("empty.png", "text.png", "torn.jpg", "pipe.png", "absent.png", "."):
        assert thumbnails.of(tmp_path / name).source == "", name


def test_a_bomb_is_not_decoded(tmp_path, monkeypatch):
    Image.new("1", (3000, 2000)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(thumbnails, "LARGEST", 3000 * 2000 - 1)
    assert thumbnails.of(tmp_path / "bomb.png").source == ""


def test_a_page_takes_no_more_than_its_share_of_bytes(tmp_path):
    for name in range(5):
        Image.effect_noise((200, 200), 90).save(tmp_path / f"{name}.png")
    paths = sorted(tmp_path.iterdir())
    whole = thumbnails.within(paths, most_bytes=10**6)
    assert len(whole) == 5
    most = sum(len(one.source) for one in whole[:3])
    assert thumbnails.within(paths, most_bytes=most) == whole[:3]
