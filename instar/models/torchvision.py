"""Any classifier of torchvision, by name, with a head for your classes and channels; and its networks for pixel labels.

    model: {kind: torchvision, name: maxvit_t, pretrained: true}
    model: {kind: torchvision, name: deeplabv3_resnet50}

The head is the library's own for that many classes. `pretrained: true` takes the library's default weights, or those
trained nearest to the size of your images where it has several; their name may stand instead of `true`.
https://docs.pytorch.org/vision/stable/models.html#classification lists names and weights.
"""

import inspect
import typing
from typing import TYPE_CHECKING, Any, Literal

from instar import weights
from instar.errors import ConfigError, WeightsError
from instar.models._settings import ModelSettings
from instar.networks import Encoder
from instar.weights import Download

if TYPE_CHECKING:
    from torch import Tensor, nn


class Settings(ModelSettings):
    """Any classifier of torchvision, by name; and deeplabv3, fcn and lraspp for pixel labels."""

    kind: Literal["torchvision"] = "torchvision"
    """Any classifier of torchvision, by name; and deeplabv3, fcn and lraspp for pixel labels."""
    name: str = "resnet18"
    """Name in torchvision: `resnet50`, `maxvit_t`, `vit_b_16`, `deeplabv3_resnet50`."""
    pretrained: bool | str = False
    """Whether to start from the library's weights, the classifier excepted; or which, `IMAGENET1K_V1`."""

    @property
    def starts_from_weights(self) -> bool:
        return bool(self.pretrained) or self.weights is not None


def answers(settings: Settings) -> Literal["image", "pixels"]:
    """What gets an answer of its own."""
    return "pixels" if settings.name.startswith(_PIXELS) else "image"


def build(settings: Settings, *, channels: int, classes: int | None, size: int, load: bool = True) -> Encoder:
    """The network for square images of `size` pixels, or its pooled features where `classes` is None.

    load   False leaves its weights random, for a caller that is about to put its own in their place
    Raises ConfigError for a name or an argument torchvision does not know, WeightsError for weights that cannot be had.
    """
    from torch import nn
    from torchvision import models

    from instar.models import _encoder, _parts

    _check_name(settings.name)
    if answers(settings) == "pixels":
        return _of_pixels(settings, channels=channels, classes=classes, size=size, load=load)
    chosen = _choose_weights(settings, size=size)
    _encoder.refuse(settings.args, _OURS)
    sized = _size_arguments(settings.name, size=size, ready=bool(settings.pretrained) and channels == 3)
    with _encoder.construction(settings):
        network = models.get_model(settings.name, num_classes=classes or 1, **sized, **settings.args)
    _parts.read_channels(network, channels)
    head = _parts.classifier(network)
    if settings.dropout is not None:
        _parts.drop_before(network, head, settings.dropout)
    unmatched = (
        _load_pretrained(network, chosen, settings, heads=[head], size=size) if load and settings.pretrained else []
    )
    if classes is None:
        _parts.replace(network, head, nn.Identity())
    statistics = chosen.transforms()
    return _encoder.finish(
        network,
        settings,
        heads=[head] if classes else [],
        channels=channels,
        classes=classes,
        size=size,
        mean=statistics.mean,
        std=statistics.std,
        load=load,
        unmatched=unmatched,
    )


def _of_pixels(settings: Settings, *, channels: int, classes: int | None, size: int, load: bool) -> Encoder:
    """A network that answers each pixel, of an image of any size: it resizes what it says itself."""
    from torchvision import models

    from instar.models import _encoder, _parts

    chosen = _choose_for_pixels(settings)
    _encoder.refuse(settings.args, _OURS | {"aux_loss": "instar, which trains on one output"})
    # torchvision's default would download a backbone's weights.
    fixed: dict[str, Any] = {"weights": None, "weights_backbone": None, "num_classes": classes or 1}
    with _encoder.construction(settings):
        network = models.get_model(settings.name, **fixed, **settings.args)
    _parts.read_channels(network, channels)
    layers = {name: part for name, part in network.named_modules() if name.startswith("classifier.")}
    heads = [name for name, part in layers.items() if getattr(part, "out_channels", None) == (classes or 1)]
    if settings.dropout is not None:
        for head in heads:
            _parts.drop_before(network, head, settings.dropout)
    unmatched = (
        _load_pretrained(network, chosen, settings, heads=heads, size=size) if load and settings.pretrained else []
    )
    network.register_forward_hook(_only_the_answer)
    statistics = chosen.transforms()
    return _encoder.finish(
        network,
        settings,
        heads=heads,
        channels=channels,
        classes=classes,
        size=size,
        mean=statistics.mean,
        std=statistics.std,
        load=load,
        unmatched=unmatched,
        stride=1,
    )


def _choose_for_pixels(settings: Settings) -> Any:
    """Which of the library's weights: by name, or the default."""
    from torchvision import models

    from instar.models import _encoder

    known = models.get_model_weights(settings.name)
    names = [one.name for one in known]
    if not isinstance(settings.pretrained, str):
        return known.DEFAULT
    if settings.pretrained not in names:
        sentence = _encoder.near_miss(settings.pretrained, names, of=f"weights for {settings.name}")
        raise ConfigError(f"model.pretrained: {sentence}")
    return known[settings.pretrained]


def _only_the_answer(network: "nn.Module", images: Any, answers: Any) -> "Tensor":
    """The logits out of torchvision's dictionary of outputs. A hook, so that the weights keep the library's names."""
    return answers["out"]


_PIXELS = ("deeplabv3", "fcn_", "lraspp")

# What has a setting of its own.
_OURS = {
    "num_classes": "the data",
    "image_size": "augment.size",
    "input_size": "augment.size",
    "weights": "model.pretrained",
    "weights_backbone": "model.pretrained",
    "progress": "instar",
    "aux_logits": "instar, which trains on one output",
    "transform_input": "model.pretrained",
}


def _check_name(name: str) -> None:
    from torchvision import models

    from instar.models import _encoder

    known = [*models.list_models(module=models), *models.list_models(module=models.segmentation)]
    if name not in known:
        raise ConfigError(f"model.name: {_encoder.near_miss(name, known, of='torchvision')}")


def _size_arguments(name: str, *, size: int, ready: bool) -> dict[str, Any]:
    """Arguments that some of the networks take, read from the signature of the class that is built.

    ready   whether three-channel weights of the library are to be read
    """
    from torchvision import models

    wanted = {
        "image_size": size,
        "input_size": (size, size),
        "aux_logits": False,  # extra heads that only exist in training, and answer with a tuple
        "init_weights": True,
        "transform_input": ready,  # weights from another library, which saw pixels of -1 to 1
    }
    takes = inspect.signature(typing.get_type_hints(models.get_model_builder(name))["return"]).parameters
    return {key: value for key, value in wanted.items() if key in takes}


def _choose_weights(settings: Settings, *, size: int) -> Any:
    """Which of the library's weights: by name, or the default, unless others were trained nearer to this size."""
    from torchvision import models

    from instar.models import _encoder

    known = models.get_model_weights(settings.name)
    names = [weights.name for weights in known]
    if isinstance(settings.pretrained, str):
        if settings.pretrained not in names:
            sentence = _encoder.near_miss(settings.pretrained, names, of=f"weights for {settings.name}")
            raise ConfigError(f"model.pretrained: {sentence}")
        return known[settings.pretrained]
    default_first = sorted(known, key=lambda weights: weights is not known.DEFAULT)
    return min(default_first, key=lambda weights: abs(weights.transforms().crop_size[0] - size))


def _load_pretrained(
    network: "nn.Module", chosen: Any, settings: Settings, *, heads: list[str], size: int
) -> list[str]:
    """Load all but the classifier."""
    from instar.models import _weights

    tensors = _resized(network, _downloaded(chosen, settings), size=size)
    unmatched = _weights.load(network, tensors, source=f"model.pretrained: {chosen}", heads=heads, keep_head=False)
    return [*(f"{head}: new, for your classes" for head in heads), *unmatched]


def downloads(settings: Settings, *, size: int) -> list[Download]:
    """The files that `pretrained` stands for, for images of `size` pixels."""
    _check_name(settings.name)
    chosen = _choose_for_pixels(settings) if answers(settings) == "pixels" else _choose_weights(settings, size=size)
    return [weights.at(chosen.url)]


def _downloaded(chosen: Any, settings: Settings) -> "dict[str, Tensor]":
    """The weights in the cache; raises WeightsError where they are not there, for the network is not asked."""
    file = weights.found(weights.at(chosen.url), command=f"instar fetch torchvision/{settings.name}")
    try:
        return chosen.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError, ValueError) as error:  # half a file
        raise WeightsError(
            f"model.pretrained: {file} cannot be read ({error}). Remove it and fetch it again."
        ) from error


def _resized(network: "nn.Module", tensors: "dict[str, Tensor]", *, size: int) -> "dict[str, Tensor]":
    """Position embeddings for this size, where the network has any, by the library's own function."""
    from collections import OrderedDict

    from torchvision.models import vision_transformer

    if not isinstance(network, vision_transformer.VisionTransformer):
        return tensors
    return vision_transformer.interpolate_embeddings(size, network.patch_size, OrderedDict(tensors))
