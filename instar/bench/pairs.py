"""Pairs without labels, small and made up: handwritten digits as a colour camera and a thermal one might see them.

The scenes are scikit-learn's digits, photographed by nobody: each is drawn in two colours on a sky of some hue, and a
"thermal" picture is made of its strokes - blurred, warm on cold, with noise, and of another size - and written in the
very files of the cameras of Sage. What both pictures share is how somebody wrote a digit: what can be learnt.
"""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from instar.run import Run

SCENES = 1797
NODES = ("W057", "W06E", "W071")
_SIDE, _THERMAL = 40, 28  # pixels: the two cameras differ
_HEADER = (
    "sensor;right", "bit depth;14 bit", "width;{width}", "height;{height}", "resolution;high",
    "advanced radiometry support;yes", "unit;degrees Celsius", "",
)  # fmt: skip

# Settled by measurement on two cores: docs/performance.md.
RECIPE = """\
# SYNTHETIC pairs: scikit-learn's digits as a colour and a thermal camera might see them, without labels for learning.
# Written by `instar demo pairs`; change it and train again. Real pairs: recipes/sky-pairs.
name: pairs
seed: 0
data:
  root: ROOT
  reader: {kind: image_pair, names: [rgb, thermal], image: {part: left}}
  split: {test: 0.15, val: 0.15}
model:    {kind: resnet9, width: 16}
task:     {kind: vicreg, projector: [512, 512, 512]}
augment:  {kind: imagenet, size: 28, scale: [0.9, 1.0], hflip: 0.0}
optim:    {kind: adamw, lr: 5.0e-3, weight_decay: 1.0e-4}
schedule: {kind: cosine, warmup: 10 %}
train:    {epochs: 20, batch: 64}
"""


@dataclass(frozen=True)
class Small:
    """Where everything of the small set is."""

    pairs: Path
    recipe: Path
    run: Run


def prepare(folder: Path, *, rows: int = SCENES, told: Callable[[int], None] = lambda done: None) -> Small:
    """Make the pairs and a recipe in `folder`; what is there already stays as it is."""
    made = Small(folder / "sky", folder / "pairs.yaml", Run(folder / "runs" / "pairs"))
    write(made.pairs, rows=rows, told=told)
    if not made.recipe.exists():
        made.recipe.write_text(RECIPE.replace("ROOT", json.dumps(made.pairs.as_posix())), encoding="utf-8")
    return made


def write(folder: Path, *, rows: int, seed: int = 0, told: Callable[[int], None] = lambda done: None) -> None:
    """Write rgb/*.jpg, thermal/*.csv and pairs/DIGIT/*.txt; the folder of a pair is the digit, which kNN is scored by.

    Alpaydin & Kaynak 1998, https://archive.ics.uci.edu/dataset/80; the copy in scikit-learn.
    """
    if len(list(folder.glob("pairs/*/*.txt"))) == rows:
        return
    from sklearn.datasets import load_digits

    bunch = load_digits()
    for number in range(rows):
        draw = np.random.default_rng([seed, number])
        when = f"202305{1 + number // 144 % 28:02d}-{number % 144 // 6:02d}{number % 6}0{number % 60:02d}"
        node, position = NODES[number % len(NODES)], number % 32 + 1
        first = f"rgb_{when}_{node}_{number:04d}_{2 * _SIDE}x{_SIDE}_position{position}.jpg"
        second = f"{when}_{node}_{number:04d}_right_{_THERMAL}x{_THERMAL}_14bit.thermal.celsius_position{position}.csv"
        scene = _placed(bunch.images[number % len(bunch.images)] / 16, draw)
        label = str(bunch.target[number % len(bunch.images)])
        _write(folder / "rgb" / first, _jpeg(_colour(scene, draw)))
        _write(folder / "thermal" / second, table(_warmth(scene, draw)).encode())
        _write(folder / "pairs" / label / f"{number:04d}.txt", f"{first}\n{second}\n".encode())
        told(number + 1)


def table(celsius_HW: np.ndarray) -> str:
    """Temperatures in the text that the cameras write."""
    height, width = celsius_HW.shape
    head = [line.format(width=width, height=height) for line in _HEADER]
    return "\n".join([*head, *(";".join(f"{value:.2f}" for value in row) for row in celsius_HW.tolist())]) + "\n"


def _placed(digit_HW: np.ndarray, draw: np.random.Generator) -> Image.Image:
    """A digit in a scene, a little moved and turned; mode F of 0 to 1.

    It fills the scene: where place and size varied more, they were what was learnt, and digits lay mixed on the map.
    """
    side = int(draw.integers(36, _SIDE))
    digit = Image.fromarray(digit_HW.astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC)
    scene = Image.new("F", (_SIDE, _SIDE), 0.0)
    left, top = (int(one) for one in draw.integers(0, _SIDE - side + 1, 2))
    scene.paste(digit, (left, top))
    return scene.rotate(float(draw.uniform(-4, 4)), Image.Resampling.BILINEAR)


def _colour(scene: Image.Image, draw: np.random.Generator) -> Image.Image:
    """The scene in two colours, with noise; beside it, as in the cameras, what the other lens saw: noise here."""
    share_HW1 = np.clip(np.asarray(scene), 0, 1)[..., None]
    ground, stroke = draw.uniform(110, 235, 3), draw.uniform(5, 90, 3)
    own_HW3 = ground * (1 - share_HW1) + stroke * share_HW1 + draw.normal(0, 8, (_SIDE, _SIDE, 3))
    other_HW3 = draw.uniform(0, 255, (_SIDE, _SIDE, 3))
    return Image.fromarray(np.concatenate([own_HW3, other_HW3], axis=1).clip(0, 255).astype(np.uint8))


def _warmth(scene: Image.Image, draw: np.random.Generator) -> np.ndarray:
    """The scene in degrees Celsius: warm strokes on a cold sky, blurred, with noise."""
    grey = Image.fromarray((np.clip(np.asarray(scene), 0, 1) * 255).astype(np.uint8))
    small = grey.filter(ImageFilter.GaussianBlur(1.0)).resize((_THERMAL, _THERMAL), Image.Resampling.BILINEAR)
    sky, warmer = draw.uniform(-25, 5), draw.uniform(14, 24)
    found: np.ndarray = sky + warmer * np.asarray(small) / 255 + draw.normal(0, 0.9, (_THERMAL, _THERMAL))
    return found


def _jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=92)
    return file.getvalue()


def _write(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.tmp")
    unfinished.write_bytes(data)
    unfinished.replace(path)
