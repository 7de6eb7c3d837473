"""A decoder of segmentation-models-pytorch on any encoder of timm: networks that answer each pixel.

    model: {kind: smp, name: unet, encoder: resnet18}
    model: {kind: smp, name: deeplabv3plus, encoder: tf_efficientnet_b4.ns_jft_in1k, pretrained: true}

`name` is the decoder: unet, unetplusplus, manet, linknet, fpn, pspnet, deeplabv3, deeplabv3plus, pan, upernet,
segformer, dpt. `pretrained: true` starts a timm encoder from the weights its tag says, from the cache of Hugging Face
(HF_HOME), where `instar fetch` puts them. The only door to the library; it comes with `pip install instar[seg]`.
https://smp.readthedocs.io
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from instar import weights
from instar.errors import ConfigError
from instar.models._settings import ModelSettings
from instar.networks import Encoder
from instar.weights import Download

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn


class Settings(ModelSettings):
    """A decoder of segmentation-models-pytorch on any encoder of timm, for pixel labels."""

    kind: Literal["smp"] = "smp"
    """A decoder of segmentation-models-pytorch on any encoder of timm, for pixel labels."""
    name: str = "unet"
    """The decoder: `unet`, `fpn`, `deeplabv3plus` …"""
    encoder: Annotated[str, Field(min_length=1)] = "resnet18"
    """The encoder's name in timm, with or without its weights' tag; or the library's own: `mit_b0`."""
    pretrained: bool = False
    """Whether the encoder starts from its library's weights."""

    @property
    def starts_from_weights(self) -> bool:
        return self.pretrained or self.weights is not None


def answers(settings: Settings) -> Literal["image", "pixels"]:
    """What gets an answer of its own."""
    return "pixels"


def build(settings: Settings, *, channels: int, classes: int | None, size: int, load: bool = True) -> Encoder:
    """The network; the sides of its images must be multiples of its encoder's stride, usually 32.

    load   False leaves its weights random, for a caller that is about to put its own in their place
    Raises ConfigError for a name the library does not know, WeightsError for weights that cannot be had.
    """
    from instar.models import _encoder, _parts

    encoder = _encoder_name(settings)
    network = _create(settings, encoder, channels=channels, classes=classes or 1, pretrained=load)
    head = "segmentation_head.0"
    if settings.dropout is not None:
        _parts.drop_before(network, head, settings.dropout)
    return _encoder.finish(
        network,
        settings,
        heads=[head],
        channels=channels,
        classes=classes,
        size=size,
        mean=_MEAN,
        std=_STD,
        load=load,
        stride=int(network.encoder.output_stride),  # type: ignore[union-attr, arg-type]
    )


# Of ImageNet, which all encoders with weights were trained on.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_OURS = {
    "encoder_name": "model.encoder",
    "encoder_weights": "model.pretrained",
    "in_channels": "the reader",
    "classes": "the data",
    "activation": "the task",
    "aux_params": "the task, which has one output",
}


def _encoder_name(settings: Settings) -> str:
    """The encoder under the library's name for it: `tu-` stands before names of timm.

    Raises ConfigError where neither knows it, or the decoder is unknown.
    """
    import timm

    from instar.models import _encoder

    smp = _library()
    decoders = sorted(smp.MODEL_ARCHITECTURES_MAPPING)
    if settings.name not in decoders:
        raise ConfigError(f"model.name: {_encoder.near_miss(settings.name, decoders, of='smp')}")
    own = sorted(smp.encoders.encoders)
    name = settings.encoder.removeprefix("timm/").removeprefix("tu-")
    if timm.is_model(name.partition(".")[0]):
        return f"tu-{name}"
    if name in own:
        return name
    raise ConfigError(f"model.encoder: {_encoder.near_miss(name, [*timm.list_models(), *own], of='timm or smp')}")


def _library() -> Any:
    try:
        import segmentation_models_pytorch
    except ImportError as error:
        raise ConfigError(
            f"model.kind smp needs segmentation-models-pytorch, which is not here ({error}). Install it with "
            f"pip install 'instar[seg]', or take model.kind=torchvision with model.name=deeplabv3_resnet50."
        ) from error
    return segmentation_models_pytorch


def _create(settings: Settings, encoder: str, *, channels: int, classes: int, pretrained: bool) -> "nn.Module":
    from instar.models import _encoder

    _encoder.refuse(settings.args, _OURS)
    wanted = pretrained and settings.pretrained
    # With the file named, timm asks no network.
    file = {"pretrained_cfg_overlay": {"file": str(_file(settings, encoder))}} if wanted else {}
    with _encoder.construction(settings):
        return _library().create_model(
            settings.name,
            encoder_name=encoder,
            encoder_weights="imagenet" if wanted else None,
            in_channels=channels,
            classes=classes,
            **file,
            **settings.args,
        )


def downloads(settings: Settings, *, size: int) -> list[Download]:
    """The files that `pretrained` stands for; raises ConfigError where timm has none for this encoder."""
    return [_download(_encoder_name(settings))]


def _download(encoder: str) -> Download:
    import timm

    name = encoder.removeprefix("tu-")
    declared: Any = timm.get_pretrained_cfg(name) if encoder.startswith("tu-") else None
    if declared is None or not declared.has_weights:
        raise ConfigError(
            f"model.pretrained: timm has no weights for {name!r}. Set pretrained=false, or another encoder."
        )
    if not declared.hf_hub_id:
        return weights.at(declared.url)
    repository, _, revision = declared.hf_hub_id.partition("@")
    named = [declared.hf_hub_filename] if declared.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    return weights.on_hub(repository, *named, revision=revision or "main")


def _file(settings: Settings, encoder: str) -> "Path":
    """The weights' file in the cache; raises WeightsError where it is not there, for the network is not asked."""
    return weights.found(_download(encoder), command=f"instar fetch timm/{encoder.removeprefix('tu-')}")
