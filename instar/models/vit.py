"""Vision transformers of DINO's sizes, with any patch size, and positions that are interpolated for other image sizes.

    model: {kind: vit, name: tiny, patch: 16}
    task:  {kind: vicreg, other: {kind: vit, name: tiny, patch: 8}}

Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929; tiny, small and base as in Caron et al. 2021. Built by timm.
The feature is that of the class token. Height and width of images must be multiples of the patch.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from instar.errors import ConfigError
from instar.models._settings import ModelSettings

if TYPE_CHECKING:
    from instar.networks import Encoder

# Width, blocks and heads.
_SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12)}
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_OURS = {
    "img_size": "augment.size",
    "patch_size": "model.patch",
    "in_chans": "the reader",
    "num_classes": "the data",
    "embed_dim": "model.name",
    "num_heads": "model.name",
    "drop_path_rate": "model.drop_path",
    "drop_rate": "model.dropout",
}


class Settings(ModelSettings):
    """A vision transformer with any patch size."""

    kind: Literal["vit"] = "vit"
    """A vision transformer with any patch size."""
    name: Literal["tiny", "small", "base"] = "tiny"
    """192, 384 or 768 features, in 12 blocks of 3, 6 or 12 heads."""
    patch: Annotated[int, Field(ge=2, le=64)] = 16
    """Height and width of a patch, in pixels; half as large costs about four times as much."""
    depth: Annotated[int, Field(ge=1, le=48)] | None = None
    """How many blocks; null for 12."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of blocks that are skipped in training, growing from 0 to this with depth; 0.1 is usual."""


def answers(settings: Settings) -> Literal["image", "pixels"]:
    """What gets an answer of its own."""
    return "image"


def build(settings: Settings, *, channels: int, classes: int | None, size: int, load: bool = True) -> "Encoder":
    """The network for square images of `size` pixels, or the feature of its class token where `classes` is None.

    Raises ConfigError where patches do not divide the image.
    """
    from timm.models import VisionTransformer

    from instar.models import _encoder

    if size % settings.patch:
        low = size // settings.patch * settings.patch
        near = " or ".join(str(one) for one in (low, low + settings.patch) if one >= 8)
        raise ConfigError(
            f"model.patch is {settings.patch}, which does not divide images of {size}x{size} pixels. Write a size of "
            f"{near}, or another patch."
        )
    _encoder.refuse(settings.args, _OURS)
    width, depth, heads = _SIZES[settings.name]
    with _encoder.construction(settings):
        network = VisionTransformer(
            img_size=size,
            patch_size=settings.patch,
            in_chans=channels,
            num_classes=classes or 0,
            embed_dim=width,
            depth=settings.depth or depth,
            num_heads=heads,
            drop_path_rate=settings.drop_path,
            drop_rate=settings.dropout or 0.0,
            dynamic_img_size=True,  # bicubic positions where crops are smaller
            **settings.args,  # type: ignore[arg-type]
        )
    return _encoder.finish(
        network,
        settings,
        heads=["head"] if classes else [],
        channels=channels,
        classes=classes,
        size=size,
        mean=_MEAN,
        std=_STD,
        load=load,
    )
