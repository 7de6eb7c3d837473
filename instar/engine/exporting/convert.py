"""One conversion in a process of its own: they crash, hang and take gigabytes, and the others must not hear of it.

`python -m instar.engine.exporting.convert REQUEST.json`
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from instar import contract as contracts
from instar import exported, plugins
from instar.contract import Contract
from instar.engine.exporting import child
from instar.run import Run


@dataclass(frozen=True)
class Request:
    """What to make.

    run, checkpoint   of whose weights
    kind, stored      by which exporter, and how weights are stored
    file              that is written
    contract          as JSON, with weights in float32
    calibration       images that show int8 the ranges of numbers
    """

    run: str
    checkpoint: str
    kind: str
    stored: str
    file: str
    contract: str
    calibration: list[str]


def main(arguments: list[str]) -> None:
    convert(Request(**json.loads(Path(arguments[0]).read_text(encoding="utf-8"))))


def convert(request: Request) -> None:
    """Write the file; in 32 bits first, then with its weights stored otherwise."""
    import torch

    from instar.engine import trained
    from instar.engine.exporting.whole import Whole

    exporter = plugins.load("exporters", request.kind)
    contract, file = contracts.read(request.contract, where="the request"), Path(request.file)
    learnt = trained.load(Run(Path(request.run)), checkpoint=request.checkpoint)
    model = Whole(learnt.learner, contract).eval()
    dtype = torch.uint8 if contract.dtype == "uint8" else torch.float32
    example_BHWC = torch.zeros(example_shape(contract), dtype=dtype)
    plain = file if request.stored == "float32" else file.with_name(f"float32-{file.name}")
    exporter.convert(model, example_BHWC, plain, contracts.text(contract))
    if request.stored != "float32":
        exporter.store(plain, file, request.stored, _shown(request.calibration, contract))
        exporter.describe(file, contracts.text(replace(contract, stored=request.stored)))
        plain.unlink()


def example_shape(contract: Contract) -> tuple[int, int, int, int]:
    """Two images of a size that is nothing special, where there may be any number of any size."""
    height = contract.height or contract.size + 11
    width = contract.width or contract.size + 24
    return contract.batch or 2, height, width, contract.channels


def _shown(paths: list[str], contract: Contract) -> Iterator[np.ndarray]:
    return (exported.seen(path, contract)[None] for path in paths)


if __name__ == "__main__":
    child.run(main, sys.argv[1:])
