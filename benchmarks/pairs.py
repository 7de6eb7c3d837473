"""VICReg's loss against the form of the paper and against lightly's, and thermal tables against np.loadtxt.

    python benchmarks/pairs.py [rounds=3] [width=2048]

Ratios of processor time, forward and backward of both branches, batch 64, one thread; cases run in turns in one
process. The value is compared with the paper's form, at the smaller width in double precision.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor

from instar.bench import pairs
from instar.readers import _thermal
from instar.tasks import _vicreg

ROWS, WIDTHS = 64, (2048, 8192)


def reference(left_ND: Tensor, right_ND: Tensor) -> Tensor:
    """As facebookresearch/vicreg writes it: one D x D covariance matrix a branch."""
    N, D = left_ND.shape
    total = 25 * torch.nn.functional.mse_loss(left_ND, right_ND)
    for one_ND in (left_ND, right_ND):
        centred_ND = one_ND - one_ND.mean(0)
        total = total + 12.5 * torch.relu(1 - torch.sqrt(centred_ND.var(0) + 1e-4)).mean()
        covariance_DD = (centred_ND.T @ centred_ND) / (N - 1)
        off_diagonal = covariance_DD.flatten()[:-1].view(D - 1, D + 1)[:, 1:].flatten()
        total = total + off_diagonal.pow(2).sum() / D
    return total


def ours(left_ND: Tensor, right_ND: Tensor) -> Tensor:
    terms = _vicreg.terms(left_ND, right_ND)
    return 25 * terms["invariance"] + 25 * terms["variance"] + terms["covariance"]


def lightlys() -> Callable[[Tensor, Tensor], Tensor] | None:
    try:
        from lightly.loss import VICRegLoss
    except ImportError:
        return None
    return VICRegLoss()


def seconds(call: Callable[[], object]) -> float:
    begun = time.process_time()
    call()
    return time.process_time() - begun


def losses(rounds: int, widths: tuple[int, ...]) -> dict[str, object]:
    found: dict[str, object] = {}
    for width in widths:
        torch.manual_seed(0)
        both = torch.randn(2, ROWS, width)
        forms = {"reference": reference, "instar": ours}
        if (theirs := lightlys()) is not None:
            forms["lightly"] = theirs

        def once(form: Callable[[Tensor, Tensor], Tensor], both: Tensor = both) -> None:
            left, right = (one.clone().requires_grad_() for one in both)
            form(left, right).backward()

        for name, form in forms.items():
            if name == "instar" or width < 4000:  # a second of matrix products needs no warming
                once(form)
        spent: dict[str, list[float]] = {name: [] for name in forms}
        for _ in range(rounds):
            for name, form in forms.items():
                times = 5 if name == "instar" or width < 4000 else 1
                spent[name].append(seconds(lambda form=form, times=times: [once(form) for _ in range(times)]) / times)
        exact = reference(*(both.double() if width < 4000 else both)).item()
        found[str(width)] = {
            "ms": {name: round(1000 * median(some), 2) for name, some in spent.items()},
            "times_reference": round(median(spent["reference"]) / median(spent["instar"]), 1),
            "times_lightly": round(median(spent["lightly"]) / median(spent["instar"]), 1)
            if "lightly" in spent
            else None,
            "relative_error": abs(ours(*both).item() - exact) / exact,
        }
    return found


def tables(rounds: int) -> dict[str, object]:
    found: dict[str, object] = {}
    draw = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for name, low, high in (("of one width", 10, 60), ("of several widths", -20, 40)):
            path = Path(folder) / "t.csv"
            path.write_text(pairs.table(draw.uniform(low, high, (252, 336))))
            spent: dict[str, list[float]] = {"loadtxt": [], "instar": [], "packed": []}
            packed = path.with_suffix(".npy")
            np.save(packed, _thermal.read(path.read_bytes()))
            for _ in range(rounds + 1):
                spent["loadtxt"].append(seconds(lambda path=path: np.loadtxt(path, skiprows=8, delimiter=";")))
                read = lambda path=path: [_thermal.read(path.read_bytes()) for _ in range(10)]  # noqa: E731
                spent["instar"].append(seconds(read) / 10)
                load = lambda packed=packed: [np.load(packed) for _ in range(10)]  # noqa: E731
                spent["packed"].append(seconds(load) / 10)
            found[name] = {
                "ms": {case: round(1000 * median(some[1:]), 3) for case, some in spent.items()},
                "times_loadtxt": round(median(spent["loadtxt"][1:]) / median(spent["instar"][1:]), 1),
                "packed_times_loadtxt": round(median(spent["loadtxt"][1:]) / median(spent["packed"][1:]), 1),
            }
    return found


if __name__ == "__main__":
    given = dict(word.split("=") for word in sys.argv[1:])
    torch.set_num_threads(1)
    rounds = int(given.get("rounds", 3))
    widths = (int(given["width"]),) if "width" in given else WIDTHS
    print(json.dumps({"loss": losses(rounds, widths), "tables": tables(rounds)}, indent=1))
