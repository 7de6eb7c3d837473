"""What an exported file answers, by its own runtime, in a process of its own that never loads PyTorch for it.

`python -m instar.engine.exporting.measure REQUEST.json`
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from instar import exported
from instar.contract import CLASSES, Contract
from instar.engine.exporting import child
from instar.exported import Model
from instar.readers import _views

REPEATS = 50  # of which a latency is
_LATENCY_SECONDS = 8.0
_WARM_UP = 3


@dataclass(frozen=True)
class Request:
    """What to measure.

    file, kind   the exported file, and the exporter that reads it
    images       files that are handed over, one a row
    folder       that gets row-000000.npz and so on: the outputs of each row
    threads      that compute;  repeats   of which the latency is
    """

    file: str
    kind: str
    images: list[str]
    folder: str
    threads: int
    repeats: int


def main(arguments: list[str]) -> None:
    measure(Request(**json.loads(Path(arguments[0]).read_text(encoding="utf-8"))))


def measure(request: Request) -> None:
    """Write the outputs of every row, and seconds.json: how long loading took, and each of the repeats."""
    began = time.perf_counter()
    model = exported.load(request.file, kind=request.kind, threads=request.threads, trust=True)
    loading = time.perf_counter() - began
    folder = Path(request.folder)
    for row, image in enumerate(request.images):
        outputs = _outputs(model, exported.seen(image, model.contract))
        if _phones_differ(model.contract):
            outputs["plain"] = _outputs(model, _plain(image, model.contract))["probability"]
        keep(outputs, folder, row)
    image_BHWC = exported.seen(request.images[0], model.contract)[None]
    seconds = latency(lambda: model.compute(image_BHWC), repeats=request.repeats)
    found = {"loading": loading, "latency": seconds, "image": list(image_BHWC.shape[1:])}
    (folder / "seconds.json").write_text(json.dumps(found), encoding="utf-8")


def keep(outputs: Mapping[str, np.ndarray], folder: Path, row: int) -> None:
    """Write the outputs of a row where the comparison looks for them."""
    arrays: dict[str, Any] = dict(outputs)
    np.savez(folder / f"row-{row:06d}.npz", **arrays)


def latency(call: Callable[[], object], *, repeats: int) -> list[float]:
    """Seconds of each of some calls, after a few that warm it up."""
    for _ in range(_WARM_UP):
        call()
    seconds: list[float] = []
    while len(seconds) < repeats and sum(seconds) < _LATENCY_SECONDS:
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return seconds


def _outputs(model: Model, image_HWC: np.ndarray) -> dict[str, np.ndarray]:
    exported.fit(image_HWC, model.contract)
    return {name: np.asarray(value)[0] for name, value in model.compute(image_HWC[None]).items()}


def _phones_differ(contract: Contract) -> bool:
    """Whether an app resizes, so that it matters how."""
    return not contract.inside and contract.answers == CLASSES and contract.dtype == "uint8"


def _plain(path: str, contract: Contract) -> np.ndarray:
    """The image resized as most image libraries do it unasked: bilinear between four pixels, without antialiasing."""
    form = exported.form(contract)
    whole_HWC = exported.whole(path, contract)
    image = Image.fromarray(whole_HWC if form.channels == 3 else whole_HWC[..., 0])
    box = _views.evaluation(contract, image.width, image.height).box
    small = image.transform((form.size, form.size), Image.Transform.EXTENT, box, Image.Resampling.BILINEAR)
    return np.asarray(small).reshape(form.size, form.size, form.channels)


if __name__ == "__main__":
    child.run(main, sys.argv[1:])
