"""LiteRT (.tflite): for Android, iOS and microcontrollers, straight from PyTorch.

    instar export RUN to=litert quantise=int8

Takes one image at a time of the size that the network sees: this format has no sizes that change, so an app resizes and
crops as the contract says, and the model does the rest. `fp16` stores weights in 16 bits; `int8` computes in 8 bits,
with scales from some of the run's own rows, and still takes bytes and answers probabilities. Contract and labels lie in
the file as TensorFlow Lite's metadata do: `unzip -p model.tflite instar.json`.
"""

import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instar.contract import INPUT

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

SUFFIX = ".tflite"
EXTRA = "litert"
NEEDS = ("litert_torch", "ai_edge_quantizer", "ai_edge_litert")
RUNS_ON = ("ai_edge_litert",)
EXECUTES = False
ANY_SIZE = False
ANY_BATCH = False
STORES = ("float32", "fp16", "int8")

_KEY = "instar.json"
_SIGNATURE = "serving_default"


def convert(model: "nn.Module", example_BHWC: "Tensor", path: Path, contract: str) -> None:
    """Write the model, in 32 bits."""
    import litert_torch

    litert_torch.convert(_lowered(model), sample_kwargs={INPUT: example_BHWC}).export(str(path))
    describe(path, contract)


def store(source: Path, path: Path, how: str, images: "Iterable[np.ndarray]") -> None:
    """Write a model with its weights in fp16, or computing in int8 with the ranges that `images` (BHWC) show."""
    from ai_edge_quantizer import quantizer

    plain = path.with_name(f"{path.name}.plain")
    plain.write_bytes(_model(source))
    try:
        made = quantizer.Quantizer(str(plain))
        made.load_quantization_recipe(_half() if how == "fp16" else _eight(layered=_is_layered(plain)))
        rows = [{INPUT: image_BHWC} for image_BHWC in images]
        made.quantize(made.calibrate({_SIGNATURE: rows}, num_threads=1) or None).export_model(str(path), overwrite=True)
    finally:
        plain.unlink(missing_ok=True)


def describe(path: Path, contract: str) -> None:
    """Put another contract into a file: a zip behind the model, which readers of models pass over."""
    import zlib

    model = _model(path)
    path.write_bytes(model)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(_KEY, contract)
        archive.comment = f"{len(model)} {zlib.crc32(model)}".encode()


def open(path: Path, *, threads: int | None) -> "tuple[str, Callable[[np.ndarray], Mapping[str, np.ndarray]]]":
    """The contract in a file, and what computes it: image_BHWC to outputs by name."""
    from ai_edge_litert.interpreter import Interpreter

    contract, model = _parts(path)
    if not contract:  # nobody will ask it anything; and what somebody else wrote might bring the interpreter down
        return "", dict
    interpreter = Interpreter(model_content=model, num_threads=threads)
    runner: Any = interpreter.get_signature_runner(_SIGNATURE)

    def compute(image_BHWC: "np.ndarray") -> "Mapping[str, np.ndarray]":
        outputs: Mapping[str, np.ndarray] = runner(**{INPUT: image_BHWC})
        return outputs

    return contract, compute


def _lowered(model: "nn.Module") -> "nn.Module":
    """A copy of the model in other words, where the converter lacks one."""
    import copy

    from torch import nn

    class Largest(nn.Module):
        def forward(self, image_BCHW: "Tensor") -> "Tensor":
            return image_BCHW.amax((2, 3), keepdim=True)

    made = copy.deepcopy(model)
    for part in list(made.modules()):
        for name, child in part.named_children():
            if isinstance(child, nn.AdaptiveMaxPool2d) and child.output_size in (1, (1, 1)):
                setattr(part, name, Largest())
    return made


def _half() -> Any:
    from ai_edge_quantizer import algorithm_manager, qtyping, recipe_manager

    recipe = recipe_manager.RecipeManager()
    recipe.add_quantization_config(
        regex=".*",
        operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
        op_config=qtyping.OpQuantizationConfig(
            weight_tensor_config=qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT),
            compute_precision=qtyping.ComputePrecision.FLOAT,
            explicit_dequantize=True,
        ),
        algorithm_key=algorithm_manager.AlgorithmName.FLOAT_CASTING,
    )
    return recipe.get_quantization_recipe()


def _eight(*, layered: bool) -> Any:
    """All in 8 bits but the softmax and the answer: 256 steps are too few for probabilities of many classes.

    layered   only what has weights in 8 bits: layer norm, attention and sums over blocks lose too much by it. A ViT
              with random weights answered seven images of twelve as before, and so all of them
    """
    from ai_edge_quantizer import algorithm_manager, qtyping, recipe_manager

    names = qtyping.TFLOperationName
    recipe = recipe_manager.RecipeManager()
    by_weights = (names.FULLY_CONNECTED, names.CONV_2D, names.DEPTHWISE_CONV_2D)
    for name in by_weights if layered else (names.ALL_SUPPORTED,):
        recipe.add_static_config(regex=".*", operation_name=name, activation_num_bits=8, weight_num_bits=8)
    for name in (names.INPUT, names.OUTPUT, names.SOFTMAX):
        recipe.add_quantization_config(
            regex=".*",
            operation_name=name,
            algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE,
        )
    return recipe.get_quantization_recipe()


def _is_layered(path: Path) -> bool:
    """Whether the model divides by a root as it goes, as layer norm does; batch norm became part of convolutions."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_quantizer.utils import tfl_flatbuffer_utils

    codes = {code.builtinCode for code in tfl_flatbuffer_utils.read_model(str(path)).operatorCodes}
    return schema.BuiltinOperator.RSQRT in codes


def _model(path: Path) -> bytes:
    """The model without what lies behind it."""
    return _parts(path)[1] if zipfile.is_zipfile(path) else path.read_bytes()


def _parts(path: Path) -> tuple[str, bytes]:
    """Contract and model. Raises ValueError where the model is not the one that was written."""
    import zlib

    data = path.read_bytes()
    if not zipfile.is_zipfile(path):
        if data[4:8] != b"TFL3":
            raise ValueError("it does not begin like a .tflite file")
        # Whole or torn, nothing in it says; and the interpreter may crash on a torn one.
        return "", data
    with zipfile.ZipFile(path) as archive:
        length, _, checksum = archive.comment.decode("ascii", "replace").partition(" ")
        contract = archive.read(_KEY).decode("utf-8") if _KEY in archive.namelist() else ""
    model = data[: int(length)] if length.isdecimal() else data
    if checksum != str(zlib.crc32(model)):
        raise ValueError("its checksum is another one than when it was written")
    return contract, model
