"""Weights from elsewhere: read without running anything, fitted by name and shape, and told what did not fit."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from instar.errors import WeightsError
from instar.models._parts import first_convolution
from instar.plugins import unknown

# What DataParallel and DDP, torch.compile, and wrappers around a network put before its names.
_PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "net.", "backbone.", "encoder.")
# Where training scripts keep the weights among other things.
_NESTED = ("state_dict", "model_state_dict", "model_state", "model", "model_ema", "network", "net")
# Where learners without labels keep their encoders, and which of several is meant if nobody says.
_ENCODERS = "encoders."
_BRANCHES = ("image", "teacher", "other")
_PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".tar")


def read(path: Path, *, trust: bool = False, branch: str | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file, of an earlier run's best checkpoint, or of a trusted pickle.

    branch   which encoder, of a run with several; None for the first of _BRANCHES
    Raises WeightsError where there is no such file, it is damaged, or it is a pickle and not trusted.
    """
    return of_branch(_read(path, trust=trust), branch, source=f"model.weights: {path}")


def of_branch(weights: dict[str, Tensor], branch: str | None, *, source: str) -> dict[str, Tensor]:
    """The tensors of one encoder, of those that a learner with several saved; all of them where it had none."""
    there = {name.removeprefix(_ENCODERS).partition(".")[0] for name in weights if name.startswith(_ENCODERS)}
    if not there:
        if branch is not None:
            raise WeightsError(f"{source} holds one network, so model.branch says nothing. Leave it out.")
        return weights
    chosen = branch or next((name for name in _BRANCHES if name in there), min(there))
    if chosen not in there:
        raise WeightsError(f"{source}: {unknown(chosen, sorted(there), what='encoder')} (model.branch)")
    before = f"{_ENCODERS}{chosen}."
    return {name.removeprefix(before): value for name, value in weights.items() if name.startswith(before)}


def _read(path: Path, *, trust: bool) -> dict[str, Tensor]:
    file = _file_in(path)
    if file.suffix in _PICKLED:
        return _read_pickle(file, trust=trust)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{file} is not a whole safetensors file ({error}).") from error


def load(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    *,
    source: str,
    heads: Collection[str] = (),
    keep_head: bool = True,
) -> list[str]:
    """Copy what fits into the network; one sentence for everything that did not.

    heads       names of the classifiers
    keep_head   whether the classifier's weights are wanted too, where they fit
    Raises WeightsError where nothing fits.
    """
    own = network.state_dict()
    found = unwrap(weights, own)
    of_head = [key for key in own if any(key.startswith(head + ".") for head in heads)]
    if not keep_head:
        found = {key: value for key, value in found.items() if key not in of_head}
    _read_other_channels(network, own, found)
    fitting = {key: value for key, value in found.items() if key in own and own[key].shape == value.shape}
    if not any(key in dict(network.named_parameters()) for key in fitting):
        raise WeightsError(
            f"{source}: none of its {len(weights)} tensors fits this network. It has {_few(list(weights))}; "
            f"the network has {_few(list(own))}. Is model.name that of the network they were trained with?"
        )
    network.load_state_dict(fitting, strict=False)
    return _unmatched(own, found, ignore=() if keep_head else of_head)


def unwrap(weights: Mapping[str, Tensor], own: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights under the network's own names: wrappers' prefixes are taken off where that makes a name known."""
    return {_own_name(name, own): value for name, value in weights.items()}


def _own_name(name: str, own: Mapping[str, Any]) -> str:
    short = name.replace("_orig_mod.", "")
    while short not in own:
        prefix = next((prefix for prefix in _PREFIXES if short.startswith(prefix)), None)
        if prefix is None:
            return name
        short = short.removeprefix(prefix)
    return short


def _read_other_channels(network: nn.Module, own: Mapping[str, Tensor], found: dict[str, Tensor]) -> None:
    """Average or repeat the first convolution's weights where they were trained on another number of channels."""
    name = first_convolution(network) + ".weight"
    if name not in found or found[name].shape == own[name].shape or found[name].shape[1] != 3:
        return
    from timm.models import adapt_input_conv

    found[name] = adapt_input_conv(own[name].shape[1], found[name])


def _unmatched(own: Mapping[str, Tensor], found: Mapping[str, Tensor], *, ignore: Collection[str]) -> list[str]:
    missing = [f"{key}: not in the weights" for key in own if key not in found and key not in ignore]
    other = [
        f"{key}: {_shape(found[key])} in the weights, {_shape(own[key])} in the network"
        for key in own
        if key in found and own[key].shape != found[key].shape
    ]
    return missing + other + [f"{key}: not in the network" for key in found if key not in own]


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a single number"


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")


def _file_in(path: Path) -> Path:
    if not path.exists():
        raise WeightsError(f"model.weights: {path} does not exist.")
    if not path.is_dir():
        return path
    for folder in (path, *_checkpoints_of(path)):
        # Where weights were averaged, the averages are what was evaluated.
        for name in ("ema.safetensors", "model.safetensors"):
            if (folder / name).is_file():
                return folder / name
    raise WeightsError(f"model.weights: {path} is a folder without a saved checkpoint; give a run folder or a file.")


def _checkpoints_of(run: Path) -> Iterator[Path]:
    """The best checkpoint of a run, and its newest, as far as they are there."""
    for pointer in (run / "checkpoints" / "best", run / "checkpoints" / "latest"):
        if pointer.is_file():
            yield pointer.parent / Path(pointer.read_text(encoding="utf-8").strip()).name


def _read_pickle(file: Path, *, trust: bool) -> dict[str, Tensor]:
    if not trust:
        raise WeightsError(
            f"model.weights: {file} is a pickle, which may run code when it is read. If you know where it comes from, "
            f"set model.trust=true (only its tensors are read then), or convert it to safetensors."
        )
    try:
        # weights_only still holds: a file that wants more than tensors and plain containers is refused.
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # UnpicklingError, EOFError, RuntimeError of the zip reader, KeyError ...
        reason = str(error).strip().split("\n")[0]
        raise WeightsError(f"{file} cannot be read as weights ({type(error).__name__}: {reason}).") from error
    tensors = _tensors_in(content)
    if not tensors:
        raise WeightsError(f"{file} holds no weights by name, but {type(content).__name__}.")
    return tensors


def _tensors_in(content: Any) -> dict[str, Tensor]:
    """The first mapping of names to tensors: the content itself, or what it keeps under a usual key."""
    if not isinstance(content, Mapping):
        return {}
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if tensors:
        return tensors
    nested = (content[key] for key in _NESTED if key in content)
    return next((found for found in map(_tensors_in, nested) if found), {})
