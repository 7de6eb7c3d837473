"""ONNX: one file that onnxruntime reads anywhere, from a browser to a server.

    instar export RUN to=onnx
    instar export RUN to=onnx quantise=int8

Takes images of any size, several at once, and does all of evaluation's resizing and cropping itself. `fp16` stores
weights in 16 bits and computes in 32; `int8` computes convolutions and matrix products in 8 bits, with scales from some
of the run's own rows. Contract and labels are in the file's metadata, as `instar.contract`.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instar.contract import INPUT

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

SUFFIX = ".onnx"
EXTRA = "onnx"
NEEDS = ("onnx", "onnxscript", "onnxruntime")
RUNS_ON = ("onnxruntime",)
EXECUTES = False
ANY_SIZE = True
ANY_BATCH = True
STORES = ("float32", "fp16", "int8")

_KEY = "instar.contract"
_SEAL = "instar.crc32"
_OPSET = 20
_BY_WEIGHTS = ["Conv", "ConvTranspose", "Gemm", "MatMul"]
_BETWEEN = ["Add", "MaxPool", "GlobalAveragePool"]
_METADATA, _DIGITS = 14, 8  # the number of metadata_props in ModelProto; of hexadecimal digits in a checksum
_WORTH_IT = 64  # numbers in a weight from which it is stored in 16 bits


def convert(model: "nn.Module", example_BHWC: "Tensor", path: Path, contract: str) -> None:
    """Write the model, in 32 bits."""
    import torch

    with torch.no_grad():
        names = list(model(example_BHWC))
    any_of = torch.export.Dim.DYNAMIC
    program = torch.onnx.export(
        model,
        (example_BHWC,),
        dynamo=True,
        input_names=[INPUT],
        output_names=names,
        dynamic_shapes=({0: any_of, 1: any_of, 2: any_of},),
        opset_version=_OPSET,
        verbose=False,
    )
    assert program is not None, "torch.onnx.export gives a program unless it is told to write a file"
    made = program.model_proto
    made.metadata_props.add(key=_KEY, value=contract)
    _save(made, path)


def store(source: Path, path: Path, how: str, images: "Iterable[np.ndarray]") -> None:
    """Write a model with its weights in fp16, or computing in int8 with the ranges that `images` (BHWC) show."""
    import onnx

    made = onnx.load(str(source))
    if how == "fp16":
        _to_half(made)
    else:
        made = _to_int8(made, path, images)
    _save(made, path)


def describe(path: Path, contract: str) -> None:
    """Put another contract into a file."""
    import onnx

    made = onnx.load(str(path))
    kept = [(one.key, one.value) for one in made.metadata_props if one.key != _KEY]
    del made.metadata_props[:]
    for key, value in [*kept, (_KEY, contract)]:
        made.metadata_props.add(key=key, value=value)
    _save(made, path)


def open(path: Path, *, threads: int | None) -> "tuple[str, Callable[[np.ndarray], Mapping[str, np.ndarray]]]":
    """The contract in a file, and what computes it: image_BHWC to outputs by name."""
    import onnxruntime

    _look_for_damage(path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; a warning about a folded constant helps nobody
    if threads is not None:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]

    def compute(image_BHWC: "np.ndarray") -> "Mapping[str, np.ndarray]":
        return dict(zip(names, session.run(names, {INPUT: image_BHWC}), strict=True))

    return session.get_modelmeta().custom_metadata_map.get(_KEY, ""), compute


def _save(made: Any, path: Path) -> None:
    for node in made.graph.node:  # where each operation came from in Python: a tenth of the file, of no use to an app
        del node.metadata_props[:]
    kept = [(one.key, one.value) for one in made.metadata_props if one.key != _SEAL]
    del made.metadata_props[:]
    for key, value in kept:
        made.metadata_props.add(key=key, value=value)
    data = made.SerializeToString()
    path.write_bytes(data + _seal(data))


def _seal(data: bytes) -> bytes:
    """The checksum of a file as one more entry of its metadata: two messages of protobuf in a row are one."""
    import zlib

    entry = b"".join(
        bytes([field << 3 | 2, len(text)]) + text
        for field, text in ((1, _SEAL.encode()), (2, f"{zlib.crc32(data):08x}".encode()))
    )
    return bytes([_METADATA << 3 | 2, len(entry)]) + entry


def _look_for_damage(path: Path) -> None:
    """Raises ValueError where a file is not the one that was written: weights with other bits would answer, too.

    One that somebody's tool has written anew has no seal at its end, and is read as it is.
    """
    data, length = path.read_bytes(), len(_seal(b""))
    seal = _seal(data[:-length])
    if data[-length:-_DIGITS] == seal[:-_DIGITS] and data[-length:] != seal:
        raise ValueError("its checksum is another one than when it was written")


def _to_half(made: Any) -> None:
    """Store large weights in 16 bits; a cast before their use, which runtimes do once while they load."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for weight in made.graph.initializer:
        value = numpy_helper.to_array(weight) if weight.data_type == TensorProto.FLOAT else None
        if value is None or value.size < _WORTH_IT or np.abs(value).max() > np.finfo(np.float16).max:
            continue
        name = weight.name
        weight.CopyFrom(numpy_helper.from_array(value.astype(np.float16), f"{name}.fp16"))
        casts.append(helper.make_node("Cast", [f"{name}.fp16"], [name], f"{name}.cast", to=TensorProto.FLOAT))
    nodes = [*casts, *made.graph.node]
    del made.graph.node[:]
    made.graph.node.extend(nodes)


def _to_int8(made: Any, path: Path, images: "Iterable[np.ndarray]") -> Any:
    """Quantise all but the resizing, which is arithmetic on pixels, and attention, whose products hold no weights.

    In 8 bits attention answered one image of twelve as before (a ViT with random weights), and a sum over blocks that
    layer norm divides later ten of them.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Rows(CalibrationDataReader):
        def __init__(self) -> None:
            self._rows = iter(images)

        def get_next(self) -> Any:
            image_BHWC = next(self._rows, None)
            return None if image_BHWC is None else {INPUT: image_BHWC}

    layered = any(node.op_type == "LayerNormalization" for node in made.graph.node)
    plain, quantised = path.with_name(f"{path.name}.plain"), path.with_name(f"{path.name}.int8")
    # Shapes that the exporter wrote down contradict those that the quantiser infers, and stop it.
    del made.graph.value_info[:]
    onnx.save(made, str(plain))
    try:
        quantize_static(
            str(plain),
            str(quantised),
            Rows(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=_BY_WEIGHTS if layered else _BY_WEIGHTS + _BETWEEN,
            nodes_to_exclude=_before_the_network(made) + _products_of_activations(made),
            # The ends of a range are means over the images: one pixel in a thousand images must not stretch it for all.
            # A trained mobilenet's answers moved by 0.09 instead of 0.14, and 83 instead of 67 % stayed.
            extra_options={"CalibMovingAverage": True},
        )
        return onnx.load(str(quantised))
    finally:
        plain.unlink(missing_ok=True)
        quantised.unlink(missing_ok=True)


def _before_the_network(made: Any) -> list[str]:
    """Names of the operations that no weight of the network has a part in, and nothing that follows from one."""
    import math

    weights = [one for one in made.graph.initializer if len(one.dims) > 1 and math.prod(one.dims) >= _WORTH_IT]
    touched, before = {one.name for one in weights}, []
    for node in made.graph.node:
        if touched & set(node.input):
            touched |= set(node.output)
        else:
            before.append(node.name)
    return before


def _products_of_activations(made: Any) -> list[str]:
    """Names of the matrix products that no weight has a part in."""
    weights = {one.name for one in made.graph.initializer}
    return [node.name for node in made.graph.node if node.op_type == "MatMul" and not weights & set(node.input)]
