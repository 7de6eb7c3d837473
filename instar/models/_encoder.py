"""From a library's network to an Encoder: weights, freezing, dropout, and one image sent through as a trial.

Legend: B batch, C channels, K classes, D features.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from instar.errors import ConfigError
from instar.models import _parts, _weights
from instar.models._settings import ModelSettings
from instar.networks import Encoder, train_mode
from instar.plugins import unknown

_TRIED = 128  # pixels a side that are enough to try a network that answers each pixel


def finish(
    network: nn.Module,
    settings: ModelSettings,
    *,
    heads: Sequence[str],
    channels: int,
    classes: int | None,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    load: bool,
    unmatched: Sequence[str] = (),
    stride: int = 0,
) -> Encoder:
    """The encoder around a network that already has its head and its channels.

    heads       names of the classifiers, none where the network gives features
    mean, std   what the library normalises three channels with
    load        whether `settings.weights` are read
    stride      of what sizes the images are multiples, where the network answers each pixel; 0 where it does not
    Raises ConfigError where an image of `size` does not go through, or parts to freeze are unknown.
    """
    unmatched = list(unmatched)
    if load and settings.weights is not None:
        weights = _weights.read(settings.weights, trust=settings.trust, branch=settings.branch)
        unmatched = _weights.load(network, weights, source=f"model.weights: {settings.weights}", heads=heads)
    if stride:
        _pixels_tried(network, settings, channels=channels, classes=classes, size=size, stride=stride)
        width = 0
    else:
        width = _width_tried(network, settings, channels=channels, classes=classes, size=size)
    _parts.freeze(network, heads, names=settings.freeze, train_only=settings.train_only)
    train_mode(network)
    return Encoder(
        network=network,
        num_features=_parts.width_read(network, heads[0]) if heads else width,
        mean=_for_channels(mean, channels),
        std=_for_channels(std, channels),
        head=heads[0] if heads else "",
        unmatched=unmatched,
        stride=stride,
    )


@contextmanager
def construction(settings: ModelSettings) -> Iterator[None]:
    """Turn what a library raises about its arguments into a ConfigError that names the model and `model.args`."""
    try:
        yield
    except (TypeError, ValueError, AssertionError, KeyError, RuntimeError) as error:
        if isinstance(error, OSError):
            raise
        given = f" with model.args {settings.args}" if settings.args else ""
        raise ConfigError(f"model.name: {settings.name} cannot be built{given}: {_first_line(error)}") from error


def refuse(arguments: Mapping[str, Any], elsewhere: Mapping[str, str]) -> None:
    """Raises ConfigError where `model.args` says what another setting decides."""
    found = [name for name in arguments if name in elsewhere]
    if found:
        raise ConfigError([f"model.args.{name} is decided by {elsewhere[name]}; leave it out." for name in found])


def near_miss(name: str, known: list[str], *, of: str) -> str:
    """One sentence that says `name` is unknown, with the near miss; never a list of a thousand names."""
    sentence = unknown(name, known, what=f"network of {of}")
    if "did you mean" in sentence or len(known) <= 8:
        return sentence
    return f"unknown network of {of} {name!r}, and no name is close to it ({len(known)} are known)"


def _width_tried(network: nn.Module, settings: ModelSettings, *, channels: int, classes: int | None, size: int) -> int:
    """How many numbers the network gives for one black image; raises ConfigError where it does not go through."""
    what = f"model.name: {settings.name} with images of {size}x{size} pixels and {channels} channels (augment.size)"
    answer = _answer(network, what, channels=channels, size=size)
    shape = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
    if not isinstance(answer, Tensor) or answer.ndim != 2 or classes not in (None, answer.shape[1]):
        raise ConfigError(f"{what} answers with {shape}, not with a row of {classes or 'feature'} numbers an image.")
    return answer.shape[1]


def _pixels_tried(
    network: nn.Module, settings: ModelSettings, *, channels: int, classes: int | None, size: int, stride: int
) -> None:
    """Raises ConfigError where the network does not give logits_BKHW for one black image of a suitable size."""
    side = -(-min(size, _TRIED) // stride) * stride
    what = f"model.name: {settings.name} with images of {side}x{side} pixels and {channels} channels"
    if classes is None:
        raise ConfigError(f"model.name: {settings.name} answers pixels; it has no features of whole images to give.")
    answer = _answer(network, what, channels=channels, size=side)
    shape = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
    if shape != (1, classes, side, side):
        raise ConfigError(f"{what} answers with {shape}, not with {classes} numbers for each of its pixels.")


def _answer(network: nn.Module, what: str, *, channels: int, size: int) -> Any:
    """What the network says about one black image; raises ConfigError where that does not go through."""
    image_BCHW = torch.zeros(1, channels, size, size, device=next(network.parameters()).device)
    network.eval()
    try:
        # Not inference_mode: tables that a network caches at its first call must be good for training.
        with torch.no_grad():
            return network(image_BCHW)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ConfigError(f"{what} does not work: {_first_line(error)}") from error


def _for_channels(values_C: Sequence[float], channels: int) -> tuple[float, ...]:
    """Three numbers for any number of channels: their mean for one, in turn for more, as the weights are."""
    if channels == 1:
        return (sum(values_C) / len(values_C),)
    return tuple(values_C[channel % len(values_C)] for channel in range(channels))


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
