"""VICReg: two views of a scene get alike vectors, and different scenes different ones. No labels.

    task: {kind: vicreg, projector: [2048, 2048, 2048]}
    task: {kind: vicreg, other: {kind: vit, name: tiny, patch: 8}}
    task: {kind: vicreg, branches: image}

With `branches: both` (reader image_pair) each sensor has an encoder of its own: `model` for the first, `other` for the
second. With `image` or `other` one encoder sees two views of the same picture. Variance and covariance are those of the
whole batch over all devices, so the number of devices changes nothing, and a batch cannot be cut into micro-batches.
Bardes, Ponce and LeCun 2022, https://arxiv.org/abs/2105.04906.

Legend: B batch, N rows of all ranks, D features.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from instar.augment import Crops
from instar.errors import ConfigError
from instar.networks import Encoder, Learner
from instar.settings import Settings as Base
from instar.settings import Shelf
from instar.tasks._unlabelled import ahead, alarms, curves, kept, measure, scores, sections, stored, worst  # noqa: F401
from instar.validation import conflict

if TYPE_CHECKING:
    from torch import Tensor

    from instar.plan import Plan, Progress
    from instar.report.methods import Aim

needs = frozenset({"image"})
READER = "image_pair"
METRIC = "retrieval"
MODE = "max"
CUTS = False

Weight = Annotated[float, Field(ge=0)]


class Settings(Base):
    """Alike vectors for two views of a scene, without labels."""

    kind: Literal["vicreg"] = "vicreg"
    """Alike vectors for two views of a scene, without labels."""
    branches: Literal["both", "image", "other"] = "both"
    """What is compared: `both` sensors of a pair, or two views of the first (`image`) or second (`other`) picture."""
    other: Annotated[Any, Shelf("models", default="timm", names=True)] | None = None
    """The network of the second branch, as `model` is that of the first; null for another one like it."""
    projector: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (8192, 8192, 8192)
    """Widths of the layers behind an encoder while it is trained; the loss looks at the last."""
    invariance: Weight = 25.0
    """Weight of the distance of two views."""
    variance: Weight = 25.0
    """Weight of how far features fall short of deviation 1."""
    covariance: Weight = 1.0
    """Weight of what features have in common."""

    @model_validator(mode="after")
    def _one_network_is_enough(self) -> "Settings":
        if self.other is not None and self.branches != "both":
            raise conflict([(("other", "branches"), f"is of a second branch, but branches is {self.branches!r}")])
        return self


class Vicreg(Learner):
    """Trains an encoder and a projector a branch."""

    cuts = False

    def __init__(self, settings: Settings, encoders: Mapping[str, Encoder], plan: "Plan"):
        from torch import nn

        from instar.tasks import _projector
        from instar.tasks._eyes import Eyes

        self.module = nn.ModuleDict(
            {
                "encoders": nn.ModuleDict({name: one.network for name, one in encoders.items()}),
                "projectors": nn.ModuleDict(
                    {name: _projector.of(one.num_features, settings.projector) for name, one in encoders.items()}
                ),
            }
        )
        self.counts = {}
        self._settings, self._batch, self._names = settings, plan.batch, tuple(encoders)
        self._eyes = Eyes(encoders, channels_last=plan.channels_last)

    def losses(self, batch: Mapping[str, Any], progress: "Progress") -> "dict[str, Tensor]":
        """The weighted sum of the three terms, and each of them, over the rows of all ranks."""
        import torch

        from instar.tasks import _gather, _vicreg
        from instar.tasks._eyes import views

        pairs = [(name, view) for name in self._names for view in views(batch, name)]
        left, right = (self._projected(view, name) for name, view in pairs)
        # Squares of thousands of sums lose their small differences in half precision.
        with torch.autocast(left.device.type, enabled=False):
            left_ND, right_ND = (_gather.everybody(one.float(), batch=self._batch) for one in (left, right))
            terms = _vicreg.terms(left_ND, right_ND)
            total = sum(getattr(self._settings, name) * term for name, term in terms.items())
        return {"total": total, **terms}  # type: ignore[dict-item]

    def predict(self, batch: Mapping[str, Any]) -> "dict[str, Tensor]":
        """The vector of each branch; and of how the picture looks in training (`again`), where there is one only."""
        found = self.embed(batch)
        if "again" in batch:
            found["again"] = self._vector(batch["again"], self._names[0])
        return found if "image" in found else {"image": found.pop("other"), **found}

    def embed(self, batch: Mapping[str, Any]) -> "dict[str, Tensor]":
        """What the projectors give of two branches, which is where they are alike; of one, what its encoder gives."""
        return {name: self._vector(batch[name], name) for name in self._names}

    def summary(self, counts: "Mapping[str, Tensor]") -> dict[str, float]:
        """How far the two encoders' weights are apart, where they could be the same."""
        from instar.tasks._eyes import distance

        networks: Any = self.module["encoders"]  # type: ignore[index]
        apart = distance(*networks.values()) if len(self._names) == 2 else None
        return {} if apart is None else {"encoders_apart": apart}

    def _vector(self, image_BHWC: "Tensor", name: str) -> "Tensor":
        if len(self._names) > 1:
            return self._projected(image_BHWC, name).float()
        found: Tensor = self.module["encoders"][name](self._eyes.see(image_BHWC, name))  # type: ignore[index]
        return found.float()

    def _projected(self, image_BHWC: "Tensor", name: str) -> "Tensor":
        feature_BD = self.module["encoders"][name](self._eyes.see(image_BHWC, name))  # type: ignore[index]
        return self.module["projectors"][name](feature_BD)  # type: ignore[index,no-any-return]


def networks(settings: Settings, model: Any) -> dict[str, Any]:
    """The settings of the network of each branch."""
    if settings.branches != "both":
        return {settings.branches: model}
    return {"image": model, "other": settings.other or model}


def crops(settings: Settings) -> Crops:
    """What the reader is to give of a row: one view of both pictures, which move together; or two of one."""
    if settings.branches == "both":
        return Crops()
    return Crops(branches=(settings.branches,), views=2, together=False)


def learner(settings: Settings, encoders: Mapping[str, Encoder], plan: "Plan") -> Vicreg:
    """The learner; raises ConfigError where a batch is too small to have a variance."""
    if plan.batch < 2 * plan.devices:
        raise ConfigError(
            f"train.batch is {plan.batch} for {plan.devices} devices, but variance takes two rows on each. Write at "
            f"least {2 * plan.devices}."
        )
    return Vicreg(settings, encoders, plan)


def aim(settings: Settings, classes: int) -> "Aim":
    """What the methods paragraph says of the task."""
    from instar.report.methods import Aim

    both = "an encoder for each sensor" if settings.branches == "both" else "two views of each image"
    widths = "-".join(map(str, settings.projector))
    weights = ", ".join(f"{name} {getattr(settings, name):g}" for name in ("invariance", "variance", "covariance"))
    return Aim(f"without labels by VICReg, with {both} and a projector of {widths},", weights)
