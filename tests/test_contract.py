"""The contract: written and read again, in words, and anything else refused in one sentence."""

import json
from dataclasses import replace

import pytest

from instar import contract as contracts
from instar.contract import Contract
from instar.errors import ExportError

PHOTOS = Contract(
    answers="classes",
    labels=("it's", 'a "b"\n', "$(x)"),
    channels=3,
    dtype="uint8",
    height=224,
    width=224,
    batch=None,
    inside=False,
    crop="area",
    resize=256,
    size=224,
    span=(0.0, 1.5),
)


def test_what_was_written_is_read():
    assert contracts.read(contracts.text(PHOTOS), where="here") == PHOTOS


def test_a_file_of_any_size_prepares_the_image_itself_and_another_says_how():
    inside = contracts.sized(PHOTOS, any_size=True, any_batch=True)
    assert inside.inside and inside.height is None and inside.batch is None
    assert contracts.steps(inside)[1:2] == [
        "Hand over red, green and blue a pixel, bytes from 0 to 255: rows x columns x channels, any x any."
    ]
    fixed = contracts.sized(PHOTOS, any_size=False, any_batch=False)
    assert (fixed.inside, fixed.height, fixed.batch) == (False, 224, 1)
    assert "Cut the centre of 224 x 224 pixels." in contracts.steps(fixed)
    whole = contracts.sized(replace(PHOTOS, crop="squash"), any_size=False, any_batch=False)
    assert contracts.steps(whole)[1].startswith("Resize all of it to 224 x 224 pixels")


def test_an_answer_for_each_pixel_keeps_the_size_of_the_image():
    pixels = replace(PHOTOS, answers="pixels", height=32, width=48)
    assert not contracts.sized(pixels, any_size=True, any_batch=True).inside
    fixed = contracts.sized(pixels, any_size=False, any_batch=False)
    assert (fixed.height, fixed.width) == (32, 48)
    assert "Resize all of it to 48 x 32 pixels" in contracts.steps(fixed)[1]
    assert contracts.steps(fixed)[-1] == "Resize the mask to the size of the image: each pixel the nearest."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "its format is 2"),
        ({"labels": [1, 2]}, "labels are no names"),
        ({"labels": []}, "labels are no names"),
        ({"answers": "poems"}, "'poems'"),
        ({"channels": "3"}, "channels is '3'"),
        ({"size": 10**9}, "a size in it"),
        ({"height": -1}, "a size in it"),
        ({"crop": None}, "crop is None"),
    ],
)
def test_what_is_no_contract_is_refused(change, message):
    with pytest.raises(ExportError, match=message):
        contracts.read(json.dumps(json.loads(contracts.text(PHOTOS)) | change), where="model.onnx")


def test_what_is_no_json_is_refused():
    for document in ("", "[]", "{", b"\xff\xfe", "{}"):
        with pytest.raises(ExportError, match=r"^model\.onnx: its contract cannot be read"):
            contracts.read(document, where="model.onnx")
