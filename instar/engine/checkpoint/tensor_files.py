"""safetensors files: where each byte of them lies before they are written, and reading them as mapped memory.

The format (https://github.com/safetensors/safetensors): 8 bytes of length, a JSON table of types, shapes and places,
then the tensors without holes. Writing needs the places before there is a file, and reading by our own hand takes a
third of the library's time with hundreds of tensors; any other reader opens the same files.
"""

import json
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from instar.errors import CheckpointError

Files = Mapping[str, Mapping[str, Tensor]]

# The names that safetensors gives to types: https://github.com/safetensors/safetensors
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}
_BY_NAME = {name: dtype for dtype, name in _DTYPES.items()}
_METADATA = "__metadata__"
_PAGE = 4096


@dataclass(frozen=True)
class Part:
    """One file to be: its name, and where its bytes lie in the memory."""

    file: str
    offset: int
    bytes: int


@dataclass(frozen=True)
class Slot:
    """Where one tensor goes."""

    file: str
    name: str
    dtype: torch.dtype
    shape: torch.Size
    offset: int
    bytes: int


class Layout:
    """Where each tensor of a state lies. Made once, and good as long as names, types and shapes stay."""

    def __init__(self, files: Files):
        """Raises CheckpointError for what is not a tensor that safetensors can hold."""
        self._described = _describe(files)
        self.slots: list[Slot] = []
        self.parts: list[Part] = []
        self.headers: list[tuple[int, bytes]] = []
        self.bytes = 0
        for file, tensors in files.items():
            self._add(file, tensors)

    def fits(self, files: Files) -> bool:
        """Whether these tensors have the names, types and shapes this layout was made for."""
        return self._described == _describe(files)

    def _add(self, file: str, tensors: Mapping[str, Tensor]) -> None:
        start = self.bytes
        # Widest types first: then every tensor is aligned without holes, which the format forbids.
        names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
        table: dict[str, object] = {_METADATA: {"format": "pt"}}
        end = 0
        for name in names:
            tensor = tensors[name]
            table[name] = {
                "dtype": _DTYPES[tensor.dtype],
                "shape": list(tensor.shape),
                "data_offsets": [end, end + tensor.nbytes],
            }
            end += tensor.nbytes
        text = json.dumps(table, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self.headers.append((start, len(text).to_bytes(8, "little") + text))
        offset = start + 8 + len(text)
        for name in names:
            tensor = tensors[name]
            self.slots.append(Slot(file, name, tensor.dtype, tensor.shape, offset, tensor.nbytes))
            offset += tensor.nbytes
        self.parts.append(Part(f"{file}.safetensors", start, offset - start))
        self.bytes = -(-offset // _PAGE) * _PAGE


def size(files: Files) -> int:
    """Bytes that a checkpoint of these tensors takes on disk, headers included (state.json aside)."""
    return sum(part.bytes for part in Layout(files).parts)


def _describe(files: Files) -> dict[str, list[tuple[str, torch.dtype, torch.Size]]]:
    try:
        described = {
            file: [(name, tensor.dtype, tensor.shape) for name, tensor in tensors.items()]
            for file, tensors in files.items()
        }
    except AttributeError:
        described = {}
    held = all(entry[1] in _DTYPES for entries in described.values() for entry in entries)
    if not held or len(described) != len(files):
        _refuse(files)
    return described


def _refuse(files: Files) -> None:
    for file, tensors in files.items():
        for name, tensor in tensors.items():
            if not isinstance(tensor, Tensor):
                raise CheckpointError(
                    f"{file}: {name} is a {type(tensor).__name__}, not a tensor, and cannot be saved without pickle. "
                    f"Make it a tensor, or leave it out of the state."
                )
            if tensor.dtype not in _DTYPES:
                raise CheckpointError(f"{file}: {name} is {tensor.dtype}, which safetensors cannot hold. Cast it.")


def mapped(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, in memory that is read from disk as it is touched.

    Changing a tensor changes neither the file nor anybody else's view of it. Raises ValueError for other contents.
    """
    with path.open("rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    length = int.from_bytes(memory[:8], "little")
    if length > len(memory) - 8:
        raise ValueError("not a safetensors file")
    try:
        table = json.loads(memory[8 : 8 + length])
        base_N = torch.frombuffer(memory, dtype=torch.uint8, offset=8 + length) if len(memory) > 8 + length else None
        return {
            name: _view(torch.empty(0, dtype=torch.uint8) if base_N is None else base_N, **entry)
            for name, entry in table.items()
            if name != _METADATA
        }
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"not a safetensors file as we write them: {error}") from error


def _view(base_N: Tensor, *, dtype: str, shape: list[int], data_offsets: list[int]) -> Tensor:
    start, end = data_offsets
    return base_N[start:end].view(_BY_NAME[dtype]).view(shape)
