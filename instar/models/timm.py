"""Any classifier of timm, by name, with a head for your classes and channels.

    model: {kind: timm, name: resnet18}
    model: {kind: timm, name: timm/maxvit_tiny_tf_224.in1k, pretrained: true, train_only: [head]}

`pretrained: true` takes the weights the name's tag says (`.in1k`), from the cache of Hugging Face (HF_HOME), where
`instar fetch` puts them. `instar show model timm` lists the settings; https://huggingface.co/docs/timm the names.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from instar import weights
from instar.errors import ConfigError, WeightsError
from instar.models._settings import ModelSettings
from instar.networks import Encoder
from instar.weights import Download

if TYPE_CHECKING:
    from torch import nn


class Settings(ModelSettings):
    """Any classifier of timm, by name."""

    kind: Literal["timm"] = "timm"
    """Any classifier of timm, by name."""
    name: str = "resnet18"
    """Name in timm, with or without its weights' tag: `resnet50`, `maxvit_tiny_tf_224.in1k`."""
    pretrained: bool = False
    """Whether to start from the library's weights, the classifier excepted."""

    @property
    def starts_from_weights(self) -> bool:
        return self.pretrained or self.weights is not None


def answers(settings: Settings) -> Literal["image", "pixels"]:
    """What gets an answer of its own."""
    return "image"


def build(settings: Settings, *, channels: int, classes: int | None, size: int, load: bool = True) -> Encoder:
    """The network for square images of `size` pixels, or its pooled features where `classes` is None.

    load   False leaves its weights random, for a caller that is about to put its own in their place
    Raises ConfigError for a name or an argument timm does not know, WeightsError for weights that cannot be had.
    """
    from instar.models import _encoder

    name = settings.name.removeprefix("timm/")
    declared = _declared(name)
    arguments = _arguments(settings, declared, size=size)
    arguments |= {"num_classes": classes or 0, "in_chans": channels}
    network = _create(name, settings, arguments, declared if load and settings.pretrained else None)
    heads = _heads(network) if classes else []
    unmatched = [f"{head}: new, for {classes} classes" for head in heads] if load and settings.pretrained else []
    return _encoder.finish(
        network,
        settings,
        heads=heads,
        channels=channels,
        classes=classes,
        size=size,
        mean=declared.mean,
        std=declared.std,
        load=load,
        unmatched=unmatched,
    )


def _declared(name: str) -> Any:
    """What timm declares about a name; raises ConfigError with the near miss where it does not know it."""
    import timm

    from instar.models import _encoder

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise ConfigError(f"model.name: {_encoder.near_miss(architecture, timm.list_models(), of='timm')}")
    names = timm.list_models(architecture, pretrained=True)
    tags = [known.partition(".")[2] for known in names if known.startswith(architecture + ".")]
    if tag and tag not in tags:
        tagged = [f"{architecture}.{known}" for known in tags]
        raise ConfigError(f"model.name: {_encoder.near_miss(name, tagged, of='timm')}")
    return timm.get_pretrained_cfg(name)


def _arguments(settings: Settings, declared: Any, *, size: int) -> dict[str, Any]:
    from instar.models import _encoder

    _encoder.refuse(settings.args, _OURS)
    # timm's own sign for networks whose weights depend on the size of the image, which it then takes as `img_size`.
    sized = {"img_size": size} if declared.fixed_input_size else {}
    dropped = {} if settings.dropout is None else {"drop_rate": settings.dropout}
    return {**sized, **dropped, **settings.args}


# What has a setting of its own, and what would read files that nobody was asked to trust.
_OURS = {
    "num_classes": "the data",
    "in_chans": "the reader",
    "img_size": "augment.size",
    "drop_rate": "model.dropout",
    "pretrained": "model.pretrained",
    "pretrained_cfg": "model.name and model.pretrained",
    "pretrained_cfg_overlay": "model.name and model.pretrained",
    "checkpoint_path": "model.weights",
    "cache_dir": "the environment (HF_HOME)",
    "features_only": "the task",
}


def _create(name: str, settings: Settings, arguments: dict[str, Any], pretrained: Any) -> "nn.Module":
    import timm

    from instar.models import _encoder

    if pretrained is None:
        with _encoder.construction(settings):
            return timm.create_model(name, **arguments)
    file = _file(settings, pretrained)
    # Only originals in JAX's format are read by the network's own function; timm's copies on the hub are plain tensors.
    overlay = {"file": str(file), "custom_load": bool(pretrained.custom_load) and file.suffix == ".npz"}
    try:
        with _encoder.construction(settings):
            return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **arguments)
    except (OSError, ImportError) as error:
        raise WeightsError(f"model.pretrained: {file} cannot be read ({error}).") from error


def downloads(settings: Settings, *, size: int) -> list[Download]:
    """The files that `pretrained` stands for; raises ConfigError where timm has none for this name."""
    return [_download(settings, _declared(settings.name.removeprefix("timm/")))]


def _download(settings: Settings, declared: Any) -> Download:
    if not declared.has_weights:
        raise ConfigError(
            f"model.pretrained: timm has no weights for {settings.name!r}. Set pretrained=false, or another name."
        )
    if not declared.hf_hub_id:
        return weights.at(declared.url)
    repository, _, revision = declared.hf_hub_id.partition("@")
    named = [declared.hf_hub_filename] if declared.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    return weights.on_hub(repository, *named, revision=revision or "main")


def _file(settings: Settings, declared: Any) -> Path:
    """The weights' file in the cache; raises WeightsError where it is not there, for the network is not asked."""
    return weights.found(
        _download(settings, declared), command=f"instar fetch timm/{settings.name.removeprefix('timm/')}"
    )


def _heads(network: "nn.Module") -> list[str]:
    declared: Any = network.pretrained_cfg
    names = declared["classifier"]
    return [names] if isinstance(names, str) else list(names)
