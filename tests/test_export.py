"""Exports: files that answer as PyTorch does, or no files; read without PyTorch; named only when they are proved."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageOps

from instar import cli, evaluate, export, exported, manifest, predict
from instar import predictions as stored
from instar.engine.exporting import child, proof
from instar.errors import ConfigError, DataError, ExportError
from instar.export import Options
from instar.machine import Machine
from instar.report import exports
from tests.fakes.images import folder_of_images
from tests.fakes.training import train

HERE = Machine(workers=0, device="cpu", devices=1)
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Photographs of 40 x 30, of which the network sees the centre; batch norm that has seen some."""
    folder = tmp_path_factory.mktemp("it's a run")
    root = folder_of_images(folder / "some 'images'", size=40, each=30)
    for number, file in enumerate(sorted(root.rglob("*.png"))):
        Image.open(file).crop((0, 0, 40, 30 + number % 5)).save(file)
    return train(
        folder,
        root=root,
        train__epochs=2,
        train__ema=0.5,
        model={"kind": "resnet9", "width": 8},
        augment={"size": 24, "resize": 28},
    ).run


@pytest.fixture(scope="module")
def onnx(trained):
    """The run as ONNX, beside two exporters that are no good."""
    kinds = ("tests.fakes.swapped_exporter", "tests.fakes.crashing_exporter", "onnx")
    return dict(zip(kinds, export.export(trained, to=kinds, options=Options(seconds=300)), strict=True))


def test_answers_lie_as_far_apart_as_all_pairs_of_rows_do_in_the_mean_in_whatever_order():
    label = np.repeat([0, 1], 20)  # rows of a class stand together, as folders are listed
    answers = [{"probability": np.eye(2)[k] * 0.8 + 0.1} for k in label]
    contract = SimpleNamespace(answers="classes", labels=("a", "b"))

    def spread(rows):
        some = [answers[row] for row in rows]
        return proof.compared(contract, some, some, label[rows])["spread"]

    pairs = [abs(one["probability"] - two["probability"]).sum() / 2 for one, two in combinations(answers, 2)]
    assert spread(np.arange(40)) == pytest.approx(np.mean(pairs)) == pytest.approx(0.8 * 20 / 39)
    assert spread(np.random.default_rng(0).permutation(40)) == pytest.approx(np.mean(pairs))


def test_the_file_answers_what_evaluation_says(trained, onnx):
    evaluate.evaluate(trained, machine=HERE)
    known = stored.read(trained.predictions("test"))
    model = exported.load(onnx["onnx"].folder, threads=1)
    said_NK = np.stack([model.predict(path).probability_K for path in known.paths])
    np.testing.assert_allclose(said_NK, known.probability_NK, atol=2e-3)
    assert model.contract.labels == known.classes and model.contract.inside


def test_the_card_says_what_was_compared(trained, onnx):
    card = onnx["onnx"].card
    assert card["agreement"] == 1.0 and card["dp_max"] < 2e-3 and card["spread"] > 0.01
    assert card["ours"][0] == card["theirs"][0] and card["ours"][1] <= card["ours"][0] <= card["ours"][2]
    assert card["latency"]["threads"] == 1 and 0 < card["latency"]["median"] <= card["latency"]["p95"]
    assert card["bytes"] == (onnx["onnx"].folder / "model.onnx").stat().st_size
    assert sum(rows for _, rows, _, _ in card["classes"]) == card["rows"] == 9
    (kept,) = trained.cards()
    assert kept == card | {"folder": "onnx"}
    section = exports.section([kept, kept | {"folder": "onnx-2"}])
    assert section is not None
    assert [row[0] for row in section.blocks[0].rows] == [
        "PyTorch, 9 test rows", "onnx/model.onnx", "onnx-2/model.onnx"
    ]  # fmt: skip


def test_an_exporter_that_swaps_colours_is_caught_and_leaves_no_file(trained, onnx):
    swapped = onnx["tests.fakes.swapped_exporter"]
    assert swapped.folder is None and "does not answer as PyTorch does" in swapped.error
    assert sorted(path.name for path in trained.exports.iterdir() if path.is_dir()) == ["onnx"]


def test_a_converter_that_crashes_is_one_sentence_and_the_others_are_made(trained, onnx):
    crashed = onnx["tests.fakes.crashing_exporter"]
    assert "the converter to tests.fakes.crashing_exporter crashed with SIGABRT" in crashed.error
    assert onnx["onnx"].folder == trained.exports / "onnx"
    assert [event["format"] for event in trained.events() if event["event"] == "exported"] == ["onnx"]


def test_the_same_weights_are_not_exported_twice(trained, onnx):
    (again,) = export.export(trained, to=("onnx",), options=Options(seconds=300))
    assert again.already and again.folder == onnx["onnx"].folder


@pytest.fixture
def photo(tmp_path):
    """A photograph in all the ways one comes: as it is, turned by EXIF, grey, transparent, and in other formats."""
    random = np.random.default_rng(0)
    small = Image.fromarray(random.integers(0, 256, (9, 7, 3), dtype=np.uint8))

    def make(size, mode="RGB", ending="png", turned=1):
        image = small.resize(size, Image.Resampling.BICUBIC).convert(mode)
        exif = Image.Exif()
        exif[0x0112] = turned
        path = tmp_path / f"it's {size} {mode} $(x) {turned}.{ending}"
        image.save(path, exif=exif)
        return path

    return make


def test_any_image_gets_the_same_answer_from_the_run_and_from_the_file(trained, onnx, photo):
    run, file = predict.of_run(trained), exported.load(onnx["onnx"].folder, threads=1)
    several = [photo((width, height)) for width, height in ((31, 77), (24, 24), (200, 150), (25, 400), (5, 3))]
    several += [photo((60, 45), turned=turned, ending="jpg") for turned in range(2, 9)]
    several += [photo((50, 41), mode) for mode in ("L", "RGBA", "P", "LA", "1")]
    several += [photo((50, 41), "CMYK", "jpg"), photo((33, 50), ending="webp"), photo((64, 40), "I;16", "tif")]
    for path in several:
        ours, theirs = run.predict(path), file.predict(path)
        np.testing.assert_allclose(theirs.probability_K, ours.probability_K, atol=5e-3, err_msg=str(path))
        assert theirs.label == ours.label, path


def test_an_array_that_was_decoded_by_somebody_else_will_do(onnx, photo):
    model = exported.load(onnx["onnx"].folder / "model.onnx", threads=1)
    path = photo((60, 45))
    decoded = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    np.testing.assert_array_equal(model.predict(decoded).probability_K, model.predict(path).probability_K)


def test_a_file_is_read_with_numpy_pillow_and_its_runtime_alone(trained, onnx):
    """As on a machine where nothing else is installed: every other import is refused."""
    rows = manifest.read(trained.manifest_file)
    code = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {refused}:
            raise ImportError(f"{{name}} is not installed here")
sys.meta_path.insert(0, Refuse())
from instar import exported
answer = exported.load(sys.argv[1]).predict(sys.argv[2])
print(answer.label, round(answer.confidence, 6))
heavy = {{"torch", "pydantic", "pyarrow", "yaml", "scipy", "sklearn", "jinja2"}} & set(sys.modules)
assert not heavy, heavy
"""
    refused = ("torch", "torchvision", "timm", "pydantic", "pyarrow", "yaml", "omegaconf", "hydra", "scipy", "sklearn")
    refused += ("safetensors", "xxhash", "jinja2", "matplotlib", "onnx", "onnxscript", "simplejpeg", "jax")
    said = subprocess.run(
        [sys.executable, "-c", code.format(refused=refused), str(onnx["onnx"].folder), str(rows.path(0))],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ).stdout
    expected = exported.load(onnx["onnx"].folder).predict(rows.path(0))
    assert said == f"{expected.label} {round(expected.confidence, 6)}\n"


def test_prediction_from_a_file_starts_without_torch(trained, onnx, tmp_path):
    rows = manifest.read(trained.manifest_file)
    things = [str(onnx["onnx"].folder), str(rows.path(0))]
    code = (
        "import sys; from instar import cli; code = cli.main(['predict', *sys.argv[1:], '--json']); "
        "assert not {'torch', 'pyarrow', 'timm'} & set(sys.modules); sys.exit(code)"
    )
    ended = subprocess.run([sys.executable, "-c", code, *things], capture_output=True, check=True, cwd=tmp_path,
                           env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    said = json.loads(ended.stdout)
    assert said["rows"][0]["prediction"] in rows.classes and said["model"]["run"] == "run"


# --- what is broken, foreign or hostile ------------------------------------------------------------------------------


def flipped(data: bytes) -> bytes:
    """The same with another bit in the middle of a weight, which any runtime would compute with."""
    place = len(data) // 2
    return data[:place] + bytes([data[place] ^ 64]) + data[place + 1 :]


def test_files_that_are_none_are_one_sentence_each(onnx, tmp_path):
    whole = (onnx["onnx"].folder / "model.onnx").read_bytes()
    for name, data, message in [
        ("torn.onnx", whole[: len(whole) // 2], "is no whole .onnx file"),
        ("flipped.onnx", flipped(whole), "is another one than when it was written"),
        ("empty.onnx", b"", "is no whole .onnx file"),
        ("noise.onnx", bytes(range(256)) * 9, "is no whole .onnx file"),
        ("noise.tflite", bytes(range(256)) * 9, "is no whole .tflite file"),
        ("torn.tflite", b"\x1c\0\0\0TFL3" + bytes(200), "has no contract"),
        ("pickle.pt2", b"cos\nsystem\n(S'true'\ntR.", "can execute what is in it"),
        ("weights.pt", b"", "is no exported model; those end in .onnx, .pt2, .tflite"),
    ]:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ExportError, match=message):
            exported.load(tmp_path / name)
    with pytest.raises(ExportError, match="no such file"):
        exported.load(tmp_path / "gone.onnx")
    with pytest.raises(ExportError, match=r"no model\.onnx"):
        exported.load(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_a_file_of_somebody_else_has_no_contract_and_says_so(onnx, tmp_path):
    import onnx as library

    from instar.exporters import onnx as exporter

    foreign = tmp_path / "foreign.onnx"
    foreign.write_bytes((onnx["onnx"].folder / "model.onnx").read_bytes())
    exporter.describe(foreign, "")
    with pytest.raises(ExportError, match="It was not made by instar export"):
        exported.load(foreign)
    text = (onnx["onnx"].folder / "contract.json").read_text()
    exporter.describe(foreign, text)
    library.save(library.load(foreign), foreign)  # as other tools write it, without a checksum at its end
    assert exported.load(foreign).contract.labels == exported.load(onnx["onnx"].folder).contract.labels
    exporter.describe(foreign, json.dumps(json.loads(text) | {"labels": ["one", "two"]}))
    with pytest.raises(ExportError, match="answers 3 classes, but its contract names 2"):
        exported.load(foreign).answer(np.zeros((30, 30, 3), np.uint8))


def test_images_that_do_not_fit_are_refused(onnx, tmp_path):
    model = exported.load(onnx["onnx"].folder)
    (tmp_path / "not.jpg").write_text("no image")
    np.save(tmp_path / "five.npy", np.zeros((20, 20, 5), np.uint8))
    (tmp_path / "pickled.npy").write_bytes(
        b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    )
    for source, message in [
        (tmp_path / "not.jpg", "not an image"),
        (tmp_path / "five.npy", "is no picture"),
        (tmp_path / "pickled.npy", "is no .npy array"),
        (np.zeros((9,), np.uint8), "an array of 9 is no H x W x C"),
        (np.zeros((0, 9, 3), np.uint8), "0 x 9 x 3"),
    ]:
        with pytest.raises(DataError, match=message):
            model.predict(source)
    with pytest.raises(DataError, match="20 x 20 x 1, but this model looks at any x any pixels of 3 channels"):
        model.answer(np.zeros((20, 20, 1), np.uint8))


def test_what_cannot_be_exported_is_said_before_anything_is_done(trained):
    with pytest.raises(ConfigError, match="did you mean 'onnx'"):
        export.export(trained, to=("onx",), options=Options())
    (made,) = export.export(trained, to=("torch_export",), options=Options(stored="int8", rows=2))
    assert "cannot store weights as int8, only as float32" in made.error
    assert not list(trained.exports.glob(".part-*"))


def test_a_missing_package_is_named_with_what_installs_it(trained, monkeypatch):
    from instar.exporters import litert

    monkeypatch.setattr(litert, "NEEDS", ("litert_of_tomorrow",))
    (made,) = export.export(trained, to=("litert",), options=Options(rows=2))
    assert made.error.startswith("litert_of_tomorrow is not installed") and "instar[litert]" in made.error


# --- the process that converts ---------------------------------------------------------------------------------------


@pytest.fixture
def module(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def start(code, seconds=30.0):
        (tmp_path / "working.py").write_text(code)
        (tmp_path / "request.json").write_text("{}")
        log = tmp_path / "log"
        child.start("working", tmp_path / "request.json", log=log, seconds=seconds, what="it", threads=1)

    return start


@pytest.mark.parametrize(
    ("code", "seconds", "message"),
    [
        ("import time; time.sleep(60)", 0.5, "it was not done after 0 s and was stopped"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 30, "memory ran out"),
        ("import sys; print('last words'); sys.exit(3)", 30, "ended with code 3. Its last line: last words"),
        (
            "from instar.engine.exporting import child\nchild.run(lambda _: 1 / 0, [])",
            30,
            "it failed: ZeroDivisionError: division by zero",
        ),
    ],
)
def test_a_child_that_fails_is_one_sentence(module, code, seconds, message):
    with pytest.raises(ExportError, match=message):
        module(code, seconds)


def test_a_child_ends_with_its_parent(tmp_path):
    code = (
        "from instar.engine.exporting import child; import sys, time, os, pathlib\n"
        "child.run(lambda _: (pathlib.Path(sys.argv[1]).write_text(str(os.getpid())), time.sleep(60)), [])"
    )
    parent = (
        "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', sys.argv[1], sys.argv[2]], "
        "start_new_session=True); time.sleep(60)"
    )
    told = tmp_path / "pid"
    process = subprocess.Popen(
        [sys.executable, "-c", parent, code, str(told)], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    deadline = time.monotonic() + 30
    while not (told.exists() and told.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    working = int(told.read_text())
    process.send_signal(signal.SIGKILL)
    process.wait()
    while Path(f"/proc/{working}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{working}").exists()


def test_an_export_that_was_killed_leaves_nothing_half_and_is_cleared_away(trained, onnx):
    left = trained.exports / f".part-{os.uname().nodename}-999999999"
    (left / "0-onnx" / "out").mkdir(parents=True)
    (left / "0-onnx" / "out" / "model.onnx").write_bytes(b"half")
    assert [card["folder"] for card in trained.cards()] == ["onnx"]
    export.export(trained, to=("onnx",), options=Options())
    assert not left.exists()


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_says_what_it_measured_and_what_is_next(trained, onnx, capsys):
    assert cli.main(["export", str(trained.path), "to=onnx"]) == 0
    said = capsys.readouterr().out
    assert "100.0 %" in said and "9 test rows" in said and "was exported before" in said
    page = trained.report.read_text(encoding="utf-8")
    assert "<h2>Exports</h2>" in page and "max |dp|" in page


def test_mistakes_on_the_command_line_are_named(trained, capsys):
    assert cli.main(["export", str(trained.path), "quantize=int8"]) == 65
    assert "did you mean 'quantise'" in capsys.readouterr().err
    assert cli.main(["export", str(trained.path), "to=onx", "agree=2"]) == 65
