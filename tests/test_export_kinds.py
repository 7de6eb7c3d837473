"""Exports of models that answer each pixel, of fields of many channels, and of embeddings."""

import numpy as np
from PIL import Image

from instar import export, exported, predict
from instar.export import Options
from tests.fakes.images import folder_of_images
from tests.fakes.masks import folder_of_fields, folder_of_masks
from tests.fakes.training import train


def onnx_of(run):
    (made,) = export.export(run, to=("onnx",), options=Options(seconds=500))
    assert made.error == ""
    return made, exported.load(made.folder, threads=1)


def test_pixels_of_images_of_any_size(tmp_path):
    root = folder_of_masks(tmp_path / "masks")
    run = train(
        tmp_path,
        root=root,
        data__reader="image_mask",
        data__split={"test": 0.2, "val": 0.2},
        model={"kind": "tests.fakes.tiny_fcn"},
        task={"kind": "segmentation"},
        augment={"crop": "window", "size": 16},
        train__epochs=2,
    ).run
    made, file = onnx_of(run)
    assert made.card["agreement"] > 0.999 and made.card["metric"] == "mean IoU" and made.card["dp_max"] < 1e-4
    ours = predict.of_run(run)
    random = np.random.default_rng(0)
    for size in ((24, 32), (17, 41), (5, 70)):  # no multiples of the stride of 4
        image_HWC = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        said = file.predict(image_HWC)
        assert said.mask_HW.shape == size
        np.testing.assert_array_equal(said.mask_HW, ours.predict(image_HWC).mask_HW)
    found = list(predict.predict(file, predict.files([str(root / "images")])))
    assert len(found) == 24 and all(one.answer.mask_HW.shape == (24, 32) for one in found)


def test_fields_go_in_as_they_are_in_their_files(tmp_path):
    run = train(
        tmp_path,
        root=folder_of_fields(tmp_path / "fields", numpy=True),
        data__reader={"kind": "field"},
        data__split={},
        model={"kind": "tests.fakes.tiny_fcn"},
        task={"kind": "segmentation"},
        augment={"kind": "field"},
        train__epochs=1,
    ).run
    made, file = onnx_of(run)
    assert file.contract.dtype == "float32" and file.contract.channels == 4 and made.card["agreement"] > 0.999
    raw = next((tmp_path / "fields").rglob("data-*.npy"))
    np.testing.assert_array_equal(file.predict(raw).mask_HW, predict.of_run(run).predict(raw).mask_HW)


def test_a_vector_an_image(tmp_path):
    root = folder_of_images(tmp_path / "images", size=20)
    run = train(
        tmp_path,
        root=root,
        model={"kind": "resnet9", "width": 8},
        task={"kind": "tests.fakes.embedder"},
        augment={"size": 16},
        train__epochs=1,
        train__metric="loss",
        train__mode="min",
    ).run
    made, file = onnx_of(run)
    assert file.contract.labels == () and made.card["moved"] < 1e-4 and made.card["agreement"] > 0.8
    path = next(root.rglob("*.png"))
    said = file.predict(path).embedding_D
    assert said.ndim == 1
    np.testing.assert_allclose(said, predict.of_run(run).predict(path).embedding_D, atol=1e-3)
    Image.open(path).resize((60, 31)).save(tmp_path / "other.png")
    assert file.predict(tmp_path / "other.png").embedding_D.shape == said.shape


def test_the_whole_set_of_hostile_labels_is_quoted_in_code(tmp_path):
    from instar import phones
    from instar.contract import Contract

    labels = (
        'a"; System.exit(1); //',
        "$HOME ${x}",
        "back\\slash",
        "two\nlines",
        "\u202eright to left",
        "it's é \U0001f98b",
    )
    contract = Contract("classes", labels, 3, "uint8", 224, 224, 1, False, "area", 256, 224, run="run */ \n x")
    phones.write(tmp_path, contract, model="model.tflite")
    kotlin = (tmp_path / "InstarModel.kt").read_text(encoding="utf-8")
    swift = (tmp_path / "InstarModel.swift").read_text(encoding="utf-8")
    assert '"a\\"; System.exit(1); //",' in kotlin and '"\\$HOME \\${x}",' in kotlin and '"two\\u000alines",' in kotlin
    assert '"\\u202eright to left",' in kotlin and '"back\\\\slash",' in kotlin
    assert (
        '"a\\"; System.exit(1); //",' in swift and '"two\\u{a}lines",' in swift and '"\\u{202e}right to left",' in swift
    )
    assert "\u202e" not in kotlin + swift and "run */ \n" not in kotlin + swift
    assert len((tmp_path / "labels.txt").read_text(encoding="utf-8").splitlines()) == len(labels)
