"""Tensors in one flat piece of shared memory, laid out byte for byte as the safetensors files they will become.

Copying the state there is all that training waits for; another process writes it out. The memory is a file without a
name (memfd where the kernel has it), so nothing is left behind, whoever is killed.
"""

import json
import mmap
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass

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
_PAGE = 4096
_GROWTH = 1 << 21


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
        table: dict[str, object] = {"__metadata__": {"format": "pt"}}
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


class SharedMemory:
    """Memory that another process reads through the descriptor `fd`."""

    def __init__(self) -> None:
        self.fd = _nameless_file()
        self._owner = os.getpid()
        self.bytes = 0
        self._pinned = False
        self._mapped: mmap.mmap | None = None
        self._base_N = torch.empty(0, dtype=torch.uint8)
        self._layout: Layout | None = None
        self._slots: list[Tensor] = []

    def reserve(self, bytes: int) -> bool:
        """Have room for so many bytes; returns whether `fd` is another one now. Raises CheckpointError without."""
        if bytes <= self.bytes:
            return False
        size = -(-bytes // _GROWTH) * _GROWTH
        self._forget()
        moved = not _grow(self.fd, size)
        if moved:
            roomier = _file_on_disk(size)
            os.close(self.fd)
            self.fd = roomier
        # Pages are there from the start: the first copy must not be the one that pays for them.
        flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
        self._mapped = mmap.mmap(self.fd, size, flags=flags)
        self._base_N = torch.frombuffer(self._mapped, dtype=torch.uint8)
        self.bytes = size
        self._pinned = _pin(self._base_N)
        return moved

    def copy(self, files: Files, layout: Layout) -> None:
        """Copy every tensor to its place, and return when all are there."""
        if layout is not self._layout:
            self._arrange(layout)
        sources = [files[slot.file][slot.name].detach() for slot in layout.slots]
        devices = {source.device for source in sources if source.is_cuda}
        if sources:
            torch._foreach_copy_(self._slots, sources, non_blocking=bool(devices))
        for device in devices:
            torch.cuda.current_stream(device).synchronize()

    def put(self, offset: int, data: bytes) -> None:
        assert self._mapped is not None, "reserve comes first"
        self._mapped[offset : offset + len(data)] = data

    def close(self) -> None:
        self._forget()
        if self.fd >= 0 and os.getpid() == self._owner:
            os.close(self.fd)
        self.fd = -1

    def _arrange(self, layout: Layout) -> None:
        for offset, header in layout.headers:
            self.put(offset, header)
        self._slots = [
            self._base_N[slot.offset : slot.offset + slot.bytes].view(slot.dtype).view(slot.shape)
            for slot in layout.slots
        ]
        self._layout = layout

    def _forget(self) -> None:
        if self._pinned:
            torch.cuda.cudart().cudaHostUnregister(self._base_N.data_ptr())
        self._layout, self._slots, self._pinned = None, [], False
        # The mapping goes when its last view goes.
        self._base_N, self._mapped, self.bytes = torch.empty(0, dtype=torch.uint8), None, 0


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


def _nameless_file() -> int:
    if hasattr(os, "memfd_create"):
        try:
            return os.memfd_create("instar-checkpoint")
        except OSError:  # forbidden in some containers
            pass
    try:
        with tempfile.TemporaryFile(dir="/dev/shm") as file:
            return os.dup(file.fileno())
    except OSError:
        return _file_on_disk(0)


def _file_on_disk(size: int) -> int:
    """A file without a name in the temporary folder, for machines without shared memory to spare."""
    folder = tempfile.gettempdir()
    with tempfile.TemporaryFile(dir=folder) as file:
        if _grow(file.fileno(), size):
            return os.dup(file.fileno())
    raise CheckpointError(
        f"a checkpoint passes through {size / 1e6:.0f} MB of shared memory, and neither memory nor {folder} has it. "
        f"Give the job more memory, or set TMPDIR to a folder with room."
    )


def _grow(fd: int, size: int) -> bool:
    try:
        os.ftruncate(fd, size)
        if hasattr(os, "posix_fallocate") and size:
            # Without it a full tmpfs would be found out by SIGBUS, in the middle of the copy.
            os.posix_fallocate(fd, 0, size)
        return True
    except OSError:
        return False


def _pin(base_N: Tensor) -> bool:
    """Register the memory with CUDA: copies from the device then run at full speed and without a bounce buffer."""
    if not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return False
    return int(torch.cuda.cudart().cudaHostRegister(base_N.data_ptr(), base_N.nbytes, 0)) == 0
