"""What every kind of model can be told."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, JsonValue, model_validator

from instar.settings import Settings
from instar.validation import conflict


class ModelSettings(Settings):
    """A classifier by name, where its weights come from, and which of them may move."""

    name: str = Field(min_length=1)
    """Name of the network in its library."""
    weights: Path | None = None
    """Weights to start from: a .safetensors file, or the folder of an earlier run (its best checkpoint)."""
    branch: str | None = None
    """Which encoder of `weights`, where they are of a run that learnt without labels: image, other, teacher, student.
    Null for image, or teacher."""
    trust: bool = False
    """Whether `weights` may be a .pt or .pth file of somebody you trust. Only its tensors are read."""
    freeze: tuple[str, ...] = ()
    """Parts that keep their weights and statistics, by name; `head` is the classifier."""
    train_only: tuple[str, ...] = ()
    """The only parts that learn, by name; all others are frozen."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of features dropped before the classifier; null for what the library does."""
    args: dict[str, JsonValue] = Field(default_factory=dict)
    """Further arguments for the library."""

    @property
    def starts_from_weights(self) -> bool:
        """Whether anything but random numbers is there at the start."""
        return self.weights is not None

    @model_validator(mode="after")
    def _parts_agree(self) -> "ModelSettings":
        found: list[tuple[tuple[str, ...], str]] = []
        if self.freeze and self.train_only:
            found.append((("train_only", "freeze"), "cannot stand beside `freeze`; write one of the two"))
        elif (self.freeze or self.train_only) and not self.starts_from_weights:
            frozen = "freeze" if self.freeze else "train_only"
            found.append(
                ((frozen, "pretrained"), "would freeze random weights; set `pretrained: true`, or `weights` to a file")
            )
        if found:
            raise conflict(found)
        return self
