"""One image through PyTorch and through exported files, on this CPU; sizes in 8 bits; how soon a file is ready.

    python benchmarks/export.py [--model resnet18] [--rounds 5] [--threads 1]

All take the same 224 x 224 bytes and answer probabilities. With one thread the seconds are the processor's, which other
work on the machine disturbs little. Goals: int8 at most 0.3 of the size, exported float32 no slower than PyTorch's
eager mode, and `instar predict` on an exported file, a whole process, within a second.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(given.threads)  # before PyTorch looks
    with tempfile.TemporaryDirectory() as folder:
        measured(given.model, given.rounds, given.threads, Path(folder))


def measured(name: str, number: int, threads: int, folder: Path) -> None:
    import numpy as np
    import torch
    from _side_by_side import report, rounds

    from instar import contract as contracts
    from instar import exported, plugins
    from instar.engine.exporting.whole import Whole

    torch.set_num_threads(threads)
    (learner, photos), (compiled, _) = learner_of(name), learner_of(name)
    compiled.module = torch.compile(compiled.module)
    random = np.random.default_rng(0)
    image_BHWC = random.integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    shown = [random.integers(0, 256, (1, 224, 224, 3), dtype=np.uint8) for _ in range(8)]
    tensor = torch.from_numpy(image_BHWC)
    cases = {
        "PyTorch, eager": lambda: learner.answer(tensor) and None,
        "PyTorch, compiled": lambda: compiled.answer(tensor) and None,
    }
    sizes: dict[str, int] = {}
    files: dict[str, Path] = {}
    for kind in ("onnx", "litert"):
        exporter = plugins.load("exporters", kind)
        contract = contracts.sized(photos, any_size=False, any_batch=False)  # no resizing: the same work for all
        plain = folder / f"plain{exporter.SUFFIX}"
        model = Whole(learner, contract).eval()
        with hushed():
            example = torch.zeros(2 if kind == "onnx" else 1, 224, 224, 3, dtype=torch.uint8)
            exporter.convert(model, example, plain, contracts.text(contract))
            quantised = folder / f"int8{exporter.SUFFIX}"
            exporter.store(plain, quantised, "int8", shown)
            exporter.describe(quantised, contracts.text(contract))
        for stored, file in (("float32", plain), ("int8", quantised)):
            found = exported.load(file, threads=threads)
            sizes[f"{kind} {stored}"] = file.stat().st_size
            files[f"{kind} {stored}"] = file
            cases[f"{kind} {stored}"] = lambda found=found: found.compute(image_BHWC) and None

    with torch.inference_mode():
        clock = time.process_time if threads == 1 else time.perf_counter
        results = rounds({case: several(call) for case, call in cases.items()}, rounds=number, clock=clock)
    report(f"{name}, ten images of 224 x 224, {threads} thread", results, "PyTorch, eager",
           {"onnx float32": 1.0, "litert float32": 1.0})  # fmt: skip
    print(json.dumps({"size_share": {kind: round(sizes[f"{kind} int8"] / sizes[f"{kind} float32"], 3)
                                     for kind in ("onnx", "litert")}, "goal": 0.3}))  # fmt: skip
    for case, file in files.items():
        print(json.dumps({"predict": case, **ready(file, folder), "goal": 1.0}))


def learner_of(name: str):
    """A classifier with random weights, ready to answer; and what it takes."""
    import timm
    import torch
    from torch import nn
    from torch.nn.modules.batchnorm import _BatchNorm

    from instar import plugins
    from instar.contract import Contract
    from instar.networks import Encoder

    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=10)
    for part in network.modules():
        if isinstance(part, _BatchNorm) and part.affine:
            nn.init.uniform_(part.weight, 0.5, 1.5)
    task = plugins.load("tasks", "classification")
    plan = SimpleNamespace(classes=tuple("abcdefghij"), class_weights_K=None, channels_last=False, batch=4, seed=0)
    learner = task.learner(task.Settings(), Encoder(network.eval(), 1, (0.5,) * 3, (0.25,) * 3), plan)
    return learner, Contract("classes", plan.classes, 3, "uint8", 224, 224, None, False, "area", 256, 224)


def several(call, times: int = 10):
    def case() -> None:
        for _ in range(times):
            call()

    return case


def ready(file: Path, folder: Path) -> dict[str, float]:
    """Seconds of `instar predict FILE IMAGE`, a whole process: of the wall and of the processor, the best of three."""
    from PIL import Image

    image = folder / "image.png"
    Image.new("RGB", (224, 224)).save(image)
    wall, processor = [], []
    for _ in range(3):
        began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "instar", "predict", str(file), str(image), "--quiet"], check=True)
        wall.append(time.perf_counter() - began)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return {"seconds": round(min(wall), 3), "processor": round(min(processor), 3)}


@contextmanager
def hushed() -> Iterator[None]:
    """Converters talk on every channel there is; what they say goes nowhere."""
    kept = [os.dup(1), os.dup(2)]
    with open(os.devnull, "wb") as nowhere:
        for channel in (1, 2):
            os.dup2(nowhere.fileno(), channel)
        try:
            yield
        finally:
            sys.stdout.flush()
            for channel, own in zip((1, 2), kept, strict=True):
                os.dup2(own, channel)
                os.close(own)


if __name__ == "__main__":
    main()
