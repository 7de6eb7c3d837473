"""The parts of a network: its first convolution, its classifier, and the parts a user names.

Legend: B batch, H W pixels, C channels, K classes, D features.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from instar.errors import ConfigError
from instar.plugins import unknown


def first_convolution(network: nn.Module) -> str:
    """Name of the convolution that reads the image."""
    return next(name for name, part in network.named_modules() if isinstance(part, nn.Conv2d))


def classifier(network: nn.Module) -> str:
    """Name of the layer that gives the logits: the last linear layer or convolution."""
    return [name for name, part in network.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)][-1]


def replace(network: nn.Module, name: str, part: nn.Module) -> None:
    """Put `part` in the place called `name`."""
    parent, _, last = name.rpartition(".")
    setattr(network.get_submodule(parent), last, part)


def read_channels(network: nn.Module, channels: int) -> None:
    """Let the first convolution read `channels` channels; its random weights keep the scale of what they feed."""
    name = first_convolution(network)
    old = network.get_submodule(name)
    assert isinstance(old, nn.Conv2d) and old.groups == 1, f"{name} cannot be the convolution that reads the image"
    if old.in_channels == channels:
        return
    new = nn.Conv2d(
        channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        stride=old.stride,  # type: ignore[arg-type]
        padding=old.padding,  # type: ignore[arg-type]
        dilation=old.dilation,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    with torch.no_grad():
        new.weight.normal_().mul_(old.weight.std() * math.sqrt(old.in_channels / channels))
        if new.bias is not None and old.bias is not None:
            new.bias.copy_(old.bias)
    replace(network, name, new)


def drop_before(network: nn.Module, head: str, share: float) -> None:
    """Drop a share of what the classifier reads: by the dropout layers beside it, or else by a new one in front.

    The new one is a hook and not a layer, so the weights keep the names the library gives them.
    """
    beside = network.get_submodule(head.rpartition(".")[0])
    layers = [part for part in beside.children() if isinstance(part, nn.Dropout)]
    for layer in layers:
        layer.p = share
    if not layers:
        network.get_submodule(head).register_forward_pre_hook(_Dropped(share))


class _Dropped:
    """A forward hook that drops a share of a layer's input while it trains."""

    def __init__(self, share: float):
        self.share = share

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (nn.functional.dropout(inputs[0], self.share, layer.training), *inputs[1:])


def freeze(
    network: nn.Module, heads: Sequence[str], *, names: Sequence[str] = (), train_only: Sequence[str] = ()
) -> None:
    """Stop the parts called `names`, or all but those called `train_only`, from learning.

    heads   what the name `head` stands for where no part of the network is called that
    Raises ConfigError for a name that is no part of the network, and where nothing is left to learn.
    """
    if not names and not train_only:
        return
    if train_only:
        network.requires_grad_(False)
    for name in names or train_only:
        for weight in _weights_of(network, name, heads, setting="train_only" if train_only else "freeze"):
            weight.requires_grad_(bool(train_only))
    if not any(weight.requires_grad for weight in network.parameters()):
        raise ConfigError("model.freeze leaves nothing that learns. Leave at least `head` out of it.")


def _weights_of(network: nn.Module, name: str, heads: Sequence[str], *, setting: str) -> list[nn.Parameter]:
    every = dict(network.named_parameters())
    prefixes = [name]
    if name == "head" and not _under(every, "head"):
        prefixes = list(heads)
    found = [every[key] for prefix in prefixes for key in _under(every, prefix)]
    if not found:
        top = dict.fromkeys(key.split(".")[0] for key in every)
        parts = ["head", *top, *dict.fromkeys(key.rpartition(".")[0] for key in every)]
        raise ConfigError(f"model.{setting}: {_near(name, parts)} (its parts: {', '.join(top)}, head)")
    return found


def _near(name: str, known: list[str]) -> str:
    sentence = unknown(name, known, what="part of the network")
    return sentence if "did you mean" in sentence else f"unknown part of the network {name!r}"


def _under(every: dict[str, nn.Parameter], prefix: str) -> list[str]:
    return [key for key in every if key == prefix or key.startswith(prefix + ".")]


def width_read(network: nn.Module, head: str) -> int:
    """D, the number of features that the classifier called `head` reads."""
    layer = network.get_submodule(head)
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        return layer.in_channels
    assert isinstance(layer, nn.Linear), f"{head} is no linear layer but {type(layer).__name__}"
    return layer.in_features
