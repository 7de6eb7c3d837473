"""One label an image, one of K classes.

    task: {kind: classification, balance: oversample, loss: cross_entropy, label_smoothing: 0.1, cutmix: 1.0}

Needs image and label. Trains with cross-entropy or focal loss, and gives the probability of every class.
Legend: B batch, C channels, H W pixels, K classes.
"""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from instar import plugins
from instar.errors import ConfigError
from instar.networks import Encoder, Learner, features, pixels
from instar.settings import Settings as Base
from instar.validation import conflict

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from instar.plan import Plan, Progress
    from instar.predictions import Predictions
    from instar.report.blocks import Section
    from instar.report.methods import Aim

needs = frozenset({"image", "label"})
METRIC = "accuracy"
MODE = "max"


def _balancer(kind: str) -> str:
    if kind not in plugins.kinds("balancers") and "." not in kind:
        raise ValueError(f"must be {' or '.join(plugins.kinds('balancers'))}")
    return kind


class Settings(Base):
    """One label an image."""

    kind: Literal["classification"] = "classification"
    """One label an image."""
    balance: Annotated[str, AfterValidator(_balancer)] = "none"
    """What is done about classes of different size: `none`, `weights` in the loss, `oversample` or `sqrt` draws."""
    loss: Literal["cross_entropy", "focal"] = "cross_entropy"
    """What is minimised. `focal` counts easy images less."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each label that is spread over all classes."""
    gamma: Annotated[float, Field(ge=0)] = 2.0
    """How much less an easy image counts, for `loss: focal`."""
    mixup: Annotated[float, Field(ge=0)] = 0.0
    """Strength of blending neighbouring images, 0 for none; 0.2 is usual."""
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    """Strength of pasting a box of one image into another, 0 for none; 1.0 is usual."""

    @model_validator(mode="after")
    def _gamma_is_used(self) -> "Settings":
        if self.loss != "focal" and self.gamma != 2.0:
            raise conflict(
                [(("gamma", "loss"), f"says nothing to loss {self.loss!r}; set loss to focal, or leave it out")]
            )
        return self


class Classifier(Learner):
    """Trains a network that gives logits_BK."""

    def __init__(self, settings: Settings, encoder: Encoder, plan: "Plan"):
        import torch

        from instar.tasks import _losses

        classes = len(plan.classes)
        self.module = encoder.network
        self._head = encoder.head
        self.counts = {"confusion": torch.zeros(classes, classes, dtype=torch.int64)}
        self._one_B = torch.ones(0, dtype=torch.int64)
        self._settings = settings
        self._seed = plan.seed
        self._channels_last = plan.channels_last
        self._mean_C, self._std_C = torch.tensor(encoder.mean), torch.tensor(encoder.std)
        weights = plan.class_weights_K
        self._weight_K = None if weights is None else torch.tensor(weights, dtype=torch.float32)
        loss = _losses.cross_entropy
        if settings.loss == "focal":
            loss = partial(_losses.focal, gamma=settings.gamma)
        self._loss = partial(loss, smoothing=settings.label_smoothing)

    def losses(self, batch: Mapping[str, Any], progress: "Progress") -> "dict[str, Tensor]":
        """The mean loss of the rows, and which were right; where images are mixed, the larger share is the answer."""
        image_BCHW, label_B = self._seen(batch["image"]), batch["label"]
        if self._settings.mixup == 0 and self._settings.cutmix == 0:
            logits_BK = self.module(image_BCHW)
            loss_B = self._loss(logits_BK, label_B, weight_K=self._weight_K)
            return {"total": loss_B.mean(), "accuracy": self._count(logits_BK, label_B)}
        return self._mixed(image_BCHW, label_B, progress)

    def predict(self, batch: Mapping[str, Any]) -> "dict[str, Tensor]":
        """probability_BK (float32), and loss_B: plain cross-entropy in nats, not a number where the label is unknown.

        The loss has no weights, smoothing or gamma in it, so that runs that differ in those can be compared.
        """
        from torch.nn import functional

        from instar.tasks import _losses

        logits_BK = _losses.wide(self.module(self._seen(batch["image"])))
        label_B = batch["label"]
        loss_B = functional.cross_entropy(logits_BK, label_B, ignore_index=-1, reduction="none")
        return {"probability": logits_BK.softmax(1).float(), "loss": loss_B.masked_fill(label_B < 0, float("nan"))}

    def answer(self, image_BHWC: "Tensor") -> "dict[str, Tensor]":
        """probability_BK, as `predict` gives it."""
        from instar.tasks import _losses

        return {"probability": _losses.wide(self.module(self._seen(image_BHWC))).softmax(1).float()}

    def embed(self, batch: Mapping[str, Any]) -> "dict[str, Tensor]":
        """What the classifier reads of each image."""
        return {"image": features(self.module, self._head, self._seen(batch["image"]))}

    def summary(self, counts: "Mapping[str, Tensor]") -> dict[str, float]:
        return summary(counts)

    def seen(self, counts: "Mapping[str, Tensor]") -> list[int]:
        """The labels the loss was given; where images are mixed, those of the larger share."""
        return counts["confusion"].sum(1).tolist()

    def _mixed(self, image_BCHW: "Tensor", label_B: "Tensor", progress: "Progress") -> "dict[str, Tensor]":
        import torch

        from instar.tasks import _mix

        settings = self._settings
        image_BCHW, other_B, own = _mix.mixed(
            image_BCHW, label_B, progress, seed=self._seed, mixup=settings.mixup, cutmix=settings.cutmix
        )
        logits_BK = self.module(image_BCHW)
        # Every loss here is linear in the label, so the loss of a mixed label is the mix of the losses.
        loss_B = own * self._loss(logits_BK, label_B, weight_K=self._weight_K)
        loss_B = loss_B + (1 - own) * self._loss(logits_BK, other_B, weight_K=self._weight_K)
        return {"total": loss_B.mean(), "accuracy": self._count(logits_BK, torch.where(own >= 0.5, label_B, other_B))}

    def _seen(self, image_BHWC: "Tensor") -> "Tensor":
        if self._mean_C.device != image_BHWC.device:
            self._mean_C, self._std_C = self._mean_C.to(image_BHWC.device), self._std_C.to(image_BHWC.device)
            self._weight_K = None if self._weight_K is None else self._weight_K.to(image_BHWC.device)
        return pixels(image_BHWC, self._mean_C, self._std_C, channels_last=self._channels_last)

    def _count(self, logits_BK: "Tensor", label_B: "Tensor") -> "Tensor":
        """Add the rows to the confusion counts (label, prediction); gives which were right."""
        import torch

        # Each call of PyTorch costs microseconds a step: no ones are made anew, and the mean waits for a log line.
        prediction_B = torch.max(logits_BK.detach(), 1)[1]  # measured: three times as fast as argmax on a CPU
        cell_B = torch.add(prediction_B, label_B, alpha=logits_BK.shape[1])
        if self._one_B.numel() != cell_B.numel() or self._one_B.device != cell_B.device:
            self._one_B = torch.ones_like(cell_B)
        self.counts["confusion"].view(-1).scatter_add_(0, cell_B, self._one_B)
        return torch.eq(prediction_B, label_B)


def learner(settings: Settings, encoder: Encoder, plan: "Plan") -> Classifier:
    """The learner; raises ConfigError for a recipe that cannot be meant for this data."""
    mixes = [name for name in ("mixup", "cutmix") if getattr(settings, name) > 0]
    if mixes and plan.batch < 2:
        raise ConfigError(f"task.{mixes[0]} mixes neighbours, but train.batch is 1. Write at least 2, or leave it out.")
    if mixes and len(plan.classes) < 2:
        raise ConfigError(f"task.{mixes[0]} mixes labels, but there is one class, {plan.classes[0]!r}. Leave it out.")
    return Classifier(settings, encoder, plan)


def summary(counts: "Mapping[str, Tensor]") -> dict[str, float]:
    """Scores of the training rows, as they were seen, from summed counts."""
    from instar.metrics.classification import averages

    found = averages(counts["confusion"].cpu().numpy())
    return {name: found[name] for name in ("accuracy", "balanced_accuracy", "macro_f1")}


def measure(columns: "Mapping[str, np.ndarray]") -> dict[str, float]:
    """What is watched while training: loss, accuracy, balanced accuracy and macro-F1 of the rows of a split.

    columns   label_N, probability_NK and loss_N, as `predict` gave them
    """
    from instar.metrics.classification import averages
    from instar.metrics.counts import confusion

    probability_NK = columns["probability"]
    found = averages(confusion(columns["label"], probability_NK.argmax(1), probability_NK.shape[1]))
    known_N = columns["label"] >= 0
    loss = float(columns["loss"][known_N].mean(dtype="float64")) if known_N.any() else float("nan")
    return {"loss": loss, **{name: found[name] for name in ("accuracy", "balanced_accuracy", "macro_f1")}}


def scores(predictions: "Predictions") -> dict[str, Any]:
    """All scores of predictions, by name; METRIC is among them."""
    from instar.metrics import classification

    return classification.scores(predictions)


# --- the run page: what the report shows of a classifier -----------------------------------------------------------


def sections(predictions: "Predictions", scores: Mapping[str, Any]) -> "list[Section]":
    """What the run page shows of predictions; the first section, which has no title, opens the page."""
    from instar.metrics.counts import confusion
    from instar.report import classes as show
    from instar.report.blocks import Section

    names = predictions.classes
    confusion_KK = confusion(predictions.label_N, predictions.prediction_N, len(names))
    mistakes, doubtful, notes = show.galleries(predictions)
    found: list[Section] = [Section("", (show.headline(scores, len(names)), *show.left_out(predictions, scores)))]
    if scores["rows"]:
        found += [
            Section("Classes", (show.per_class(confusion_KK, names),), show.CLASSES_LEAD),
            Section("Confusions", tuple(show.confusion(confusion_KK, names)), show.CONFUSIONS_LEAD),
            Section("Mistakes", (mistakes, *notes, doubtful), show.MISTAKES_LEAD),
            Section("Calibration", (show.calibration(predictions),), show.CALIBRATION_LEAD),
        ]
    return found


def aim(settings: Settings, classes: int) -> "Aim":
    """What the methods paragraph says of the task."""
    from instar.report.methods import Aim

    parts = ["focal loss" if settings.loss == "focal" else "cross-entropy"]
    parts += [f"label smoothing {settings.label_smoothing:g}"] if settings.label_smoothing else []
    parts += [f"{name} {value:g}" for name, value in (("mixup", settings.mixup), ("cutmix", settings.cutmix)) if value]
    balances = {
        "weights": "weighted by class",
        "oversample": "classes drawn equally often",
        "sqrt": "rare classes drawn more often",
    }
    parts += [balances[settings.balance]] if settings.balance in balances else []
    return Aim(f"to tell {classes} classes apart,", ", ".join(parts))
