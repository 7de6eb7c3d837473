"""PyTorch's own format (.pt2): for C++ and Python programs that have PyTorch, and for AOTInductor.

    instar export RUN to=torch_export

Takes images of any size, several at once. It replaces TorchScript (.pt) and PyTorch Mobile (.ptl), which PyTorch no
longer develops. Reading such a file can execute what is in it, so Instar opens one only with trust=true.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

SUFFIX = ".pt2"
EXTRA = "all"
NEEDS = ("torch",)
RUNS_ON = ("torch",)
EXECUTES = True
ANY_SIZE = True
ANY_BATCH = True
STORES = ("float32",)

_KEY = "instar.json"


def convert(model: "nn.Module", example_BHWC: "Tensor", path: Path, contract: str) -> None:
    """Write the model, in 32 bits."""
    import torch

    any_of = torch.export.Dim.DYNAMIC
    with torch.no_grad():
        program = torch.export.export(
            model, (example_BHWC,), dynamic_shapes={"image": {0: any_of, 1: any_of, 2: any_of}}
        )
    torch.export.save(program, path, extra_files={_KEY: contract})


def store(source: Path, path: Path, how: str, images: "Iterable[np.ndarray]") -> None:
    """Never called: this format stores what `STORES` says."""
    raise AssertionError(f"{how} is not in STORES")


def describe(path: Path, contract: str) -> None:
    """Put another contract into a file."""
    raise AssertionError("only quantised files are described again, and this format has none")


def open(path: Path, *, threads: int | None) -> "tuple[str, Callable[[np.ndarray], Mapping[str, np.ndarray]]]":
    """The contract in a file, and what computes it: image_BHWC to outputs by name."""
    import numpy as np
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    extra = {_KEY: ""}
    module = torch.export.load(path, extra_files=extra).module()

    def compute(image_BHWC: "np.ndarray") -> "Mapping[str, np.ndarray]":
        image = torch.from_numpy(np.require(image_BHWC, requirements="W"))
        with torch.inference_mode():
            return {name: value.numpy() for name, value in module(image).items()}

    found = extra[_KEY]
    return found.decode() if isinstance(found, bytes) else found, compute
