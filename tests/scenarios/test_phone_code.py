"""The code for phones, compiled, and the pixels it hands to the model compared with those of evaluation.

Needs kotlinc and a JDK, or swiftc; what an app has around that code stands in tests/fakes/phone. Half a minute each.
"""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from instar import exported, phones
from instar.contract import Contract

pytestmark = pytest.mark.scenario
STAND_INS = Path(__file__).parent.parent / "fakes" / "phone"
LABELS = ('a"; System.exit(1); //', "$HOME ${x} \\(y)", "two\nlines", "\u202eright to left", "it's é \U0001f98b")


def contract(answers="classes", *, channels=3, dtype="uint8", height=24, width=24, crop="area"):
    labels = () if answers == "embedding" else LABELS
    return Contract(answers, labels, channels, dtype, height, width, 1, False, crop, 28, 24, run="a run */\n//")


CONTRACTS = {
    "centre": contract(),
    "grey": contract(channels=1),
    "squashed": contract(crop="squash"),
    "pixels": contract("pixels", height=3, width=4, crop="window"),
    "vector": contract("embedding"),
    "field": contract("pixels", channels=5, dtype="float32", crop="whole"),
}
ANSWERS = {"pixels": list(range(1, 13))}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Photographs larger and smaller than the model's size, upright and wide: their files, and their pixels as RGBA."""
    folder = tmp_path_factory.mktemp("some 'photos'")
    random = np.random.default_rng(0)
    files = []
    for number, size in enumerate(((24, 24), (31, 77), (200, 150), (5, 3), (25, 400), (61, 29))):
        small = Image.fromarray(random.integers(0, 256, (5, 7, 3), dtype=np.uint8))
        files.append(folder / f"{number}.png")
        small.resize(size, Image.Resampling.BICUBIC).save(files[-1])
    return files


def written(folder, name):
    """The code for a contract, beside what stands for its model."""
    folder.mkdir()
    phones.write(folder, CONTRACTS[name], model="model.tflite")
    (folder / "model.tflite").write_bytes(bytes(64))
    return folder


def check(photo, name, handed, answer):
    """That the model was handed the pixels of evaluation, but for roundings, and its answer came back as it was."""
    wanted = exported.seen(photo, CONTRACTS[name])
    found = np.frombuffer(handed, np.uint8).reshape(wanted.shape)
    apart = np.abs(found.astype(int) - wanted)
    # Of 255: halves are rounded either way, twice; and here colours become grey before they are resized, not after.
    assert apart.max() <= 2 and apart.mean() < 0.5, (photo.name, name)
    numbers = [float(number) for number in answer.strip("[]").split(",")]
    assert numbers == ANSWERS.get(name, [1, 2, 3, 4, 5])


@pytest.mark.skipif(not (shutil.which("kotlinc") and shutil.which("javac")), reason="needs kotlinc and a JDK")
def test_the_kotlin_code_hands_over_what_evaluation_sees(photos, tmp_path):
    sources = []
    for name in CONTRACTS:
        code = written(tmp_path / name, name) / "InstarModel.kt"
        code.write_text(f"package {name}\n{code.read_text(encoding='utf-8')}", encoding="utf-8")
        sources.append(str(code))
    classes = str(tmp_path / "classes")
    subprocess.run(["javac", "-d", classes, *map(str, sorted(STAND_INS.rglob("*.java")))], check=True)
    compiled = ["kotlinc", *sources, "-cp", classes, "-include-runtime", "-Werror", "-d", str(tmp_path / "code.jar")]
    subprocess.run(compiled, check=True)
    cases, words = [], []
    for number, photo in enumerate(photos):
        rgba = Image.open(photo).convert("RGBA")
        argb = tmp_path / f"{number}.argb"
        argb.write_bytes(np.asarray(rgba)[..., [3, 0, 1, 2]].tobytes())
        for name in ("centre", "grey", "squashed", "pixels", "vector"):
            cases.append((photo, name, tmp_path / f"{number}-{name}.raw"))
            words += [name, str(rgba.width), str(argb), str(cases[-1][2])]
    said = subprocess.run(["java", "-cp", f"{tmp_path / 'code.jar'}:{classes}", "Main", *words], check=True,
                          cwd=tmp_path / "centre", capture_output=True, text=True).stdout  # fmt: skip
    for (photo, name, raw), answer in zip(cases, said.splitlines(), strict=True):
        check(photo, name, raw.read_bytes(), answer)


@pytest.mark.skipif(not shutil.which("swiftc"), reason="needs swiftc")
def test_the_swift_code_hands_over_what_evaluation_sees(photos, tmp_path):
    for module in ("CoreGraphics", "TensorFlowLite"):
        subprocess.run(["swiftc", "-parse-as-library", "-emit-library", "-static", "-emit-module", "-module-name", module,
                        str(STAND_INS / "swift" / f"{module}.swift"), "-o", f"lib{module}.a"],
                       check=True, cwd=tmp_path)  # fmt: skip
    sources = []
    for name in CONTRACTS:
        code = written(tmp_path / name, name) / "InstarModel.swift"
        sources.append(tmp_path / f"{name}.swift")
        text = code.read_text(encoding="utf-8")
        sources[-1].write_text(text.replace("class InstarModel", f"class {name.title()}"), encoding="utf-8")
    main = ["import CoreGraphics", "import Foundation", "import TensorFlowLite",
            "func photo(_ file: String, _ width: Int) throws -> CGImage {",
            "    CGImage(rgba: [UInt8](try Data(contentsOf: URL(fileURLWithPath: file))), width: width)", "}"]  # fmt: skip
    cases = []
    for number, file in enumerate(photos):
        rgba = Image.open(file).convert("RGBA")
        (tmp_path / f"{number}.rgba").write_bytes(rgba.tobytes())
        for name in ("centre", "grey", "squashed", "pixels", "vector"):
            cases.append((file, name, tmp_path / f"{number}-{name}.raw"))
            main += ["do {", f'    let model = try {name.title()}(modelPath: "{name}/model.tflite")',
                     f'    print(try model.answer(pixels: model.seen(try photo("{number}.rgba", {rgba.width}))))',
                     f'    try handed.write(to: URL(fileURLWithPath: "{number}-{name}.raw"))', "}"]  # fmt: skip
    (tmp_path / "main.swift").write_text("\n".join(main) + "\n", encoding="utf-8")
    subprocess.run(["swiftc", "-warnings-as-errors", "main.swift", *(source.name for source in sources), "-I", ".", "-L",
                    ".", "-lCoreGraphics", "-lTensorFlowLite", "-o", "program"], check=True, cwd=tmp_path)  # fmt: skip
    said = subprocess.run(["./program"], check=True, cwd=tmp_path, capture_output=True, text=True).stdout
    for (file, name, raw), answer in zip(cases, said.splitlines(), strict=True):
        check(file, name, raw.read_bytes(), answer)
