"""Packed rows straight into a batch: what is begun and then done is what `read` gives, and what PyTorch would give."""

import numpy as np
import pytest
import torch

from instar import pack, packed, plugins, prepare, testing
from instar.augment import Augment
from instar.engine.loading.loaders import keyed
from instar.errors import DataError
from instar.experiment import Data
from instar.readers import _views
from tests.fakes.images import folder_of_images

AUGMENT = Augment(kind="imagenet", size=64, hflip=0.5, vflip=0.5)


def opened(tmp_path, payload: str, *, channels: int = 3, augment: Augment = AUGMENT, **files):
    """A reader of a packed folder of pictures, and the packed data."""
    reader = {"kind": "image_label", "channels": channels}
    source = folder_of_images(tmp_path / "it's data", size=90, each=4, **files)
    found = pack.of_manifest(prepare.manifest(Data.model_validate({"root": source}), 0), divided=False)
    pack.pack(found, tmp_path / "packed", pack.Options(payload=payload))
    data = Data.model_validate({"root": tmp_path / "packed", "reader": reader})
    rows = prepare.manifest(data, 0)
    return plugins.load("readers", "image_label").open(data.reader, rows, augment), packed.read(tmp_path / "packed")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("payload", ["original", "jpeg256", "raw256"])
@pytest.mark.parametrize("kind", ["imagenet", "food_v3", "none"])
def test_a_row_that_is_begun_is_the_row_that_is_read(tmp_path, payload, channels, kind):
    augment = AUGMENT if kind == "imagenet" else Augment(kind=kind, size=64)
    reader, pack_of = opened(tmp_path, payload, channels=channels, augment=augment)
    begun = [reader.begin(row, keyed(0, 0, row)) for row in range(len(pack_of))]
    assert all(begun) == (payload != "original")  # these are PNGs, of which the header is not all
    for row in range(len(pack_of)):
        testing.check_places(reader, row, keyed(0, 3, row), reader.read(row, keyed(0, 3, row)))
        seen = reader.read(row, None)
        if (put := reader.begin(row, None)) is not None:
            places = {"image": np.empty_like(seen["image"])}
            assert put(places) == {"label": seen["label"]}
            assert np.array_equal(places["image"], seen["image"])


def test_a_crop_in_its_place_is_what_interpolate_gives_mirrored_as_it_was_drawn(tmp_path):
    reader, pack_of = opened(tmp_path, "raw256")
    rows = [*range(len(pack_of))] * 3
    views, place_HWC = [], np.empty((64, 64, 3), np.uint8)
    for epoch, row in enumerate(rows):
        array_HWC = pack_of.array(row)
        height, width = array_HWC.shape[:2]
        view = _views.training(AUGMENT, width, height, keyed(0, epoch, row))
        views.append((view.hflip, view.vflip))
        left, top, right, bottom = map(int, view.box)
        planes_CHW = torch.from_numpy(array_HWC[top:bottom, left:right].copy()).permute(2, 0, 1)
        small = torch.nn.functional.interpolate(planes_CHW[None], (64, 64), mode="bilinear", antialias=True)[0]
        expected = small.flip([axis for axis, asked in ((1, view.vflip), (2, view.hflip)) if asked])
        reader.begin(row, keyed(0, epoch, row))({"image": place_HWC})
        np.testing.assert_array_equal(place_HWC, expected.permute(1, 2, 0).numpy())
    assert len(set(views)) == 4


def test_bytes_that_are_not_those_that_were_packed_are_not_begun(tmp_path):
    reader, pack_of = opened(tmp_path, "raw256")
    shard = tmp_path / "packed" / pack_of.about.shards[0].name
    content = bytearray(shard.read_bytes())
    content[int(pack_of.lies(0)[1]) + pack_of.lies(0)[2] - 1] ^= 1
    shard.write_bytes(content)
    damaged = [row for row in range(len(pack_of)) if reader._rows[row] == 0]
    for row in damaged:
        with pytest.raises(DataError, match="not those that were packed"):
            reader.begin(row, keyed(0, 0, row))
    assert len(damaged) == 1
