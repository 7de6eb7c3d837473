"""MLPerf HPC's climate benchmark, small and on synthetic fields: the data, and a recipe that fits them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from instar.bench import synthetic, weather
from instar.run import Run

SAMPLES, HEIGHT, WIDTH = 200, 96, 144

# All but size, network and second loss is the benchmark's. Settled by measurement: recipes/deepcam/README.md.
RECIPE = """\
# The DeepCAM benchmark made small: SYNTHETIC fields of HEIGHTxWIDTH, a small U-Net for DeepLabv3+, and Dice as a
# second loss, without which so few fields show hardly a cyclone.
# Written by `instar bench deepcam data=synthetic`; change it and train again. The benchmark itself: recipes/deepcam.
name: deepcam-synthetic
seed: 333
data:
  root: ROOT
  reader: {kind: field, classes: [background, cyclone, river], names: NAMES}
model:    {kind: smp, name: unet, encoder: resnet10t, args: {decoder_channels: [32, 24, 16, 12, 8]}}
task:     {kind: segmentation, also: dice, weight_power: 0.125, frequencies: SHARES}
augment:  {kind: field}
optim:    {kind: adamw, lr: 4.0e-3, weight_decay: 0.01, eps: 1.0e-6, decay_all: true}
schedule: {kind: deepcam, type: cosine_annealing, lr_warmup_steps: 40, t_max: 480}
train:    {epochs: 10, batch: 4, metric: sample_iou, target: 0.82, average_bn: true, precision: fp32, log: 10}
mlperf:   {benchmark: deepcam, division: open}
"""


@dataclass(frozen=True)
class Small:
    """Where everything of the small benchmark is."""

    fields: Path
    recipe: Path
    run: Run


def prepare(
    folder: Path,
    *,
    samples: int = SAMPLES,
    height: int = HEIGHT,
    width: int = WIDTH,
    seed: int = 0,
    told: Callable[[int], None] = lambda done: None,
) -> Small:
    """Make synthetic fields and a recipe in `folder`; what is there already stays as it is."""
    made = Small(folder / "fields", folder / "deepcam.yaml", Run(folder / "runs" / "deepcam"))
    synthetic.write(made.fields, samples=samples, height=height, width=width, seed=seed, told=told)
    if not made.recipe.exists():
        text = RECIPE.replace("ROOT", json.dumps(made.fields.as_posix()))
        text = text.replace("NAMES", f"[{', '.join(weather.CHANNELS)}]").replace(
            "SHARES", str(list(weather.FREQUENCIES))
        )
        made.recipe.write_text(text.replace("HEIGHT", str(height)).replace("WIDTH", str(width)), encoding="utf-8")
    return made
