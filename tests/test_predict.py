"""Predictions for new images: the pixels of evaluation, every file named, nothing lost to a broken one."""

import json
import os

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from instar import cli, evaluate, exported, manifest, predict, terminal
from instar import predictions as stored
from instar.contract import Contract
from instar.errors import DataError
from instar.exported import Model
from instar.machine import Machine
from tests.fakes.images import folder_of_images
from tests.fakes.masks import folder_of_fields, folder_of_masks
from tests.fakes.training import train

HERE = Machine(workers=0, device="cpu", devices=1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("it's a run")
    root = folder_of_images(folder / "some 'images'", size=23)
    run = train(folder, root=root, train__epochs=3, train__ema=0.5, augment={"size": 16, "resize": 20}).run
    evaluate.evaluate(run, machine=HERE)
    return run


def test_new_images_are_looked_at_exactly_as_in_evaluation(trained):
    known = stored.read(trained.predictions("test"))
    found = list(predict.predict(predict.of_run(trained), predict.files(known.paths)))
    said_NK = np.stack([one.answer.probability_K for one in found])
    np.testing.assert_allclose(said_NK, known.probability_NK, atol=1e-6)
    assert [str(one.path) for one in found] == list(known.paths)


def test_a_broken_image_is_named_and_the_others_go_on(trained, tmp_path, capsys):
    folder = tmp_path / "new $(x) 'ones'"
    folder.mkdir()
    rows = manifest.read(trained.manifest_file)
    image = Image.open(rows.path(0))
    image.save(folder / "a.png")
    (folder / "b\n.jpg").write_bytes(b"no image")
    (folder / "c.png").write_bytes((folder / "a.png").read_bytes()[:60])
    image.convert("L").resize((31, 77)).save(folder / "d.tif")
    (folder / "notes.txt").write_text("not asked for")
    to = tmp_path / "said.json"
    assert cli.main(["predict", str(trained.path), str(folder), f"to={to}"]) == 0
    said = json.loads(to.read_text())
    assert [row["path"].rpartition("/")[2] for row in said["rows"]] == ["a.png", "d.tif"]
    assert [one["path"].rpartition("/")[2] for one in said["broken"]] == ["b\n.jpg", "c.png"]
    assert sum(said["rows"][0]["probability"].values()) == pytest.approx(1, abs=1e-5)
    printed = capsys.readouterr().out
    assert "2 images by run, 2 could not be read" in printed and "b\\n.jpg: not an image" in printed


def test_parquet_has_a_row_for_every_file(trained, tmp_path):
    rows = manifest.read(trained.manifest_file)
    (tmp_path / "torn.png").write_bytes(b"\x89PNG")
    to = tmp_path / "said.parquet"
    things = [str(rows.path(0)), str(tmp_path / "torn.png")]
    assert cli.main(["predict", str(trained.path), *things, f"to={to}", "--quiet"]) == 0
    table = pq.read_table(to).to_pylist()
    assert [row["path"] for row in table] == things
    assert table[0]["prediction"] in rows.classes and len(table[0]["probability"]) == 3
    assert table[1]["prediction"] is None and table[1]["reason"]


def test_nothing_to_predict_says_so(trained, tmp_path, capsys):
    with pytest.raises(DataError, match="no image in there"):
        predict.files([str(tmp_path)])
    with pytest.raises(DataError, match="no such file"):
        predict.files([str(tmp_path / "gone.png")])
    torn = tmp_path / "torn.png"
    torn.write_bytes(b"")
    assert cli.main(["predict", str(trained.path), str(torn)]) == 65
    assert cli.main(["predict", "runn", str(torn), f"runs={trained.path.parent}"]) == 65
    assert "did you mean 'run'?" in capsys.readouterr().err


def test_a_file_of_another_ending_is_not_written(trained, tmp_path):
    model = predict.of_run(trained)
    with pytest.raises(DataError, match=r"\.parquet or \.json"):
        predict.write(model, [], tmp_path / "said.xlsx")


def test_pixels_are_answered_as_evaluation_answers_them(tmp_path):
    root = folder_of_masks(tmp_path / "masks")
    run = train(
        tmp_path,
        root=root,
        data__reader="image_mask",
        model={"kind": "tests.fakes.tiny_fcn"},
        task={"kind": "segmentation"},
        augment={"crop": "window", "size": 16},
        train__epochs=2,
    ).run
    evaluate.evaluate(run, machine=HERE)
    from instar import masks

    known = masks.read(run.predictions("test"))
    found = list(predict.predict(predict.of_run(run), predict.files(known.paths)))
    for row, one in enumerate(found):
        np.testing.assert_array_equal(one.answer.mask_HW, known.predicted(row))
    folder = tmp_path / "masks of new ones"
    assert cli.main(["predict", str(run.path), *known.paths, f"masks={folder}", "--quiet"]) == 0
    first = np.asarray(Image.open(min(folder.iterdir())))
    np.testing.assert_array_equal(first, known.predicted(0))


def test_a_model_of_one_size_gives_the_mask_back_at_the_size_of_the_image(tmp_path):
    """As a .tflite does: it takes 4 x 6 pixels only, and says which are brighter than half."""
    contract = Contract("pixels", ("dark", "bright"), 3, "uint8", 4, 6, 1, False, "window", 4, 4)
    model = Model(contract, lambda image_BHWC: {"mask": (image_BHWC[..., 0] > 127).astype(np.uint8)})
    image_HWC = np.zeros((40, 90, 3), np.uint8)
    image_HWC[:, 45:] = 255
    exif = Image.Exif()
    exif[0x0112] = 8  # upright after a quarter turn to the left: what is on the right comes to the top
    Image.fromarray(image_HWC).save(tmp_path / "wide.png")
    Image.fromarray(image_HWC).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(model.predict(tmp_path / "wide.png").mask_HW, image_HWC[..., 0] > 127)
    wide, turned = (one.answer for one in predict.predict(model, [tmp_path / "wide.png", tmp_path / "turned.png"]))
    assert wide.shares == [("dark", 0.5), ("bright", 0.5)] and wide.mask_HW.shape == (40, 90)
    assert turned.mask_HW.shape == (90, 40) and turned.mask_HW[:40].all() and not turned.mask_HW[50:].any()


def test_fields_are_given_as_they_are_in_their_files(tmp_path):
    root = folder_of_fields(tmp_path / "fields", numpy=True)
    run = train(
        tmp_path,
        root=root,
        data__reader={"kind": "field"},
        data__split={},
        model={"kind": "tests.fakes.tiny_fcn"},
        task={"kind": "segmentation"},
        augment={"kind": "field"},
        train__epochs=1,
    ).run
    evaluate.evaluate(run, machine=HERE)
    from instar import masks

    known = masks.read(run.predictions("test"))
    found = list(predict.predict(predict.of_run(run), predict.files(known.paths)))
    agree = [float((one.answer.mask_HW == known.predicted(row)).mean()) for row, one in enumerate(found)]
    assert min(agree) == 1.0
    with pytest.raises(DataError, match="4 numbers a pixel"):
        exported.seen("photo.jpg", predict.of_run(run).contract)
    with pytest.raises(DataError, match="24 x 36 x 3"):
        exported.seen(np.zeros((24, 36, 3), np.float32), predict.of_run(run).contract)


def test_what_a_runtime_says_of_itself_is_not_shown_and_all_else_is(capfd):
    with terminal.without_chatter():
        os.write(2, b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\nERROR: something is wrong\n")
    os.write(2, b"and so on\n")
    assert capfd.readouterr().err == "ERROR: something is wrong\nand so on\n"
