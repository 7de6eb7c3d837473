"""DINO: a student learns to say of small crops what its own running average, the teacher, says of large ones.

    task: {kind: dino, prototypes: 4096, strategy: image_teaches}
    data: {root: sky/train, reader: {kind: image_pair, other: {bounds: [-10, 15]}}}

One network sees both sensors, so both need as many channels: `bounds` make three of temperatures. Strategies:

    image, other      one sensor only (image: also with reader image_label)
    alternate         one step all of the first sensor, the next all of the second, student and teacher alike
    image_teaches     the teacher sees the first sensor, the student the second
    other_teaches     the other way round

`augment` says what the two large crops are (scale 0.4 to 1 is usual), `local` what the small ones are. Teacher and
centre are in every checkpoint. Caron et al. 2021, https://arxiv.org/abs/2104.14294.

Legend: B batch, P prototypes.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from instar.augment import Crops
from instar.errors import ConfigError
from instar.networks import Encoder, Learner
from instar.settings import Settings as Base
from instar.settings import Span
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

Share = Annotated[float, Field(ge=0, le=1)]
Warmth = Annotated[float, Field(gt=0)]
Positive = Annotated[int, Field(ge=1)]


class Local(Base):
    """Small crops, which only the student sees."""

    count: Annotated[int, Field(ge=0, le=64)] = 8
    """How many of each picture."""
    size: Annotated[int, Field(ge=8)] = 96
    """Height and width, in pixels."""
    scale: tuple[Share, Share] = (0.05, 0.4)
    """Smallest and largest share of the picture that one covers."""


class Settings(Base):
    """A student learns from its own running average, without labels."""

    kind: Literal["dino"] = "dino"
    """A student learns from its own running average, without labels."""
    strategy: Literal["image", "other", "alternate", "image_teaches", "other_teaches"] = "alternate"
    """Which sensor the student and the teacher see."""
    prototypes: Positive = 65536
    """How many things a picture can be like: width of the last layer."""
    hidden: Positive = 2048
    """Width of the head's layers."""
    bottleneck: Positive = 256
    """Width of the vectors that are compared with the prototypes."""
    layers: Annotated[int, Field(ge=1, le=8)] = 3
    """Layers of the head before the prototypes."""
    unit_prototypes: bool = True
    """Whether prototypes keep length 1, which holds training steady."""
    momentum: Share = 0.996
    """What the teacher keeps of itself at a step, at the beginning; it rises to 1 along half a cosine."""
    temperature: Warmth = 0.1
    """How sharp the student's answers are; smaller is sharper."""
    teacher_temperature: Warmth = 0.04
    """How sharp the teacher's are. 0.07 may do better where `teacher_warmup` is long."""
    teacher_start: Warmth = 0.04
    """How sharp they are at the beginning."""
    teacher_warmup: Span = Span(0, "epochs")
    """How long it takes from there to `teacher_temperature`."""
    centre: Share = 0.9
    """What the centre of the teacher's answers keeps of itself at a step."""
    freeze_last: Span = Span(1, "epochs")
    """How long the prototypes stand still at the beginning."""
    local: Local = Local()
    """Small crops beside the two large ones."""

    @model_validator(mode="after")
    def _sharper_teacher(self) -> "Settings":
        if max(self.teacher_temperature, self.teacher_start) >= self.temperature:
            raise conflict(
                [
                    (
                        ("teacher_temperature", "temperature"),
                        "must be below temperature: a blunter teacher has nothing to say",
                    )
                ]
            )
        return self


class Dino(Learner):
    """Trains a student; its teacher and the centre of the teacher's answers follow after each step."""

    def __init__(self, settings: Settings, encoder: Encoder, plan: "Plan"):
        import copy

        import torch
        from torch import nn

        from instar.tasks import _dino
        from instar.tasks._eyes import Eyes

        head = _dino.Head(
            encoder.num_features,
            settings.prototypes,
            hidden=settings.hidden,
            bottleneck=settings.bottleneck,
            layers=settings.layers,
            unit=settings.unit_prototypes,
        )
        self._student = nn.ModuleDict({"encoder": encoder.network, "head": head})
        self._teacher = copy.deepcopy(self._student).requires_grad_(False)
        _dino.keep_everything(self._teacher)
        self.module = nn.Module()
        self.module.encoders = nn.ModuleDict({"student": self._student["encoder"], "teacher": self._teacher["encoder"]})
        self.module.heads = nn.ModuleDict({"student": self._student["head"], "teacher": self._teacher["head"]})
        self.module.register_buffer("centre", torch.zeros(1, settings.prototypes))
        self.counts = {}
        self._settings, self._plan = settings, plan
        self._eyes = Eyes({"network": encoder}, channels_last=plan.channels_last)
        self._answers: list[Tensor] = []  # sums of the teacher's answers in this step, and how many they are

    def losses(self, batch: Mapping[str, Any], progress: "Progress") -> "dict[str, Tensor]":
        """The mean cross-entropy of the student's views with the teacher's; and how far the teacher is from sure."""
        import torch

        from instar.tasks import _dino

        settings, lengths = self._settings, _lengths(progress)
        told, learning = self._sensors(progress)
        frozen = progress.samples < settings.freeze_last.samples(**lengths)
        warmth = _dino.warmed(
            settings.teacher_start,
            settings.teacher_temperature,
            progress.samples,
            settings.teacher_warmup.samples(**lengths),
        )
        with torch.no_grad():
            teacher = [self._logits("teacher", view) for view in self._large(batch, told)]
        student = [self._logits("student", view, frozen=frozen) for view in self._large(batch, learning)]
        student += [self._logits("student", view, frozen=frozen) for view in self._small(batch, learning)]
        centre_P = self._centre()
        total = _dino.cross_entropy(student, teacher, centre_P, warmth=settings.temperature, teacher_warmth=warmth)
        self._answers.append(torch.stack([one.float().sum(0) for one in teacher]).sum(0))
        with torch.no_grad():
            sure_BP = torch.softmax((teacher[0].float() - centre_P) / warmth, -1)
            entropy_B = -(sure_BP * sure_BP.clamp_min(1e-12).log()).sum(-1)
        return {"total": total, "teacher_entropy": entropy_B}

    def after_step(self, progress: "Progress") -> None:
        """The teacher follows the student, and the centre the answers of all ranks to the whole batch."""
        import torch
        import torch.distributed as dist

        from instar.tasks import _dino

        momentum = _dino.rising(self._settings.momentum, 1.0, progress.share)
        _dino.follow(self._teacher, self._student, momentum)
        sum_P = torch.stack(self._answers).sum(0)
        self._answers.clear()
        if self._plan.devices > 1 and dist.is_initialized():
            dist.all_reduce(sum_P)
        mean_P = sum_P / (2 * self._plan.batch)
        self._centre().lerp_(mean_P[None], 1 - self._settings.centre)

    def predict(self, batch: Mapping[str, Any]) -> "dict[str, Tensor]":
        """The vector of each branch, and of how the picture looks in training (`again`), where there is one only."""
        found = self.embed(batch)
        if "again" in batch:
            found["again"] = self._vector(batch["again"])
        return found if "image" in found else {"image": found.pop("other"), **found}

    def embed(self, batch: Mapping[str, Any]) -> "dict[str, Tensor]":
        """What the teacher's encoder gives of each sensor."""
        return {name: self._vector(batch[name]) for name in crops(self._settings).branches}

    def summary(self, counts: "Mapping[str, Tensor]") -> dict[str, float]:
        return {}

    def _centre(self) -> "Tensor":
        return self.module.get_buffer("centre")

    def _sensors(self, progress: "Progress") -> tuple[str, str]:
        """What the teacher sees in this step, and what the student does."""
        at = {
            "image_teaches": ("image", "other"),
            "other_teaches": ("other", "image"),
            "image": ("image", "image"),
            "other": ("other", "other"),
        }
        alternate = "image" if progress.step % 2 == 0 else "other"
        return at.get(self._settings.strategy, (alternate, alternate))

    def _large(self, batch: Mapping[str, Any], name: str) -> "list[Tensor]":
        return list(batch[name].unbind(1))

    def _small(self, batch: Mapping[str, Any], name: str) -> "list[Tensor]":
        return list(batch[f"{name}_local"].unbind(1)) if self._settings.local.count else []

    def _logits(self, who: str, image_BHWC: "Tensor", *, frozen: bool = False) -> "Tensor":
        parts = self._student if who == "student" else self._teacher
        feature_BD = parts["encoder"](self._eyes.see(image_BHWC, "network"))
        logits_BP: Tensor = parts["head"](feature_BD, frozen=frozen)
        return logits_BP

    def _vector(self, image_BHWC: "Tensor") -> "Tensor":
        found: Tensor = self._teacher["encoder"](self._eyes.see(image_BHWC, "network"))
        return found.float()


def _lengths(progress: "Progress") -> dict[str, int]:
    return {"epoch_samples": progress.epoch_samples, "batch": progress.batch, "total": progress.total}


def networks(settings: Settings, model: Any) -> dict[str, Any]:
    """The settings of the one network, by the branch whose size it is built for."""
    return {"other" if settings.strategy == "other" else "image": model}


def crops(settings: Settings) -> Crops:
    """What the reader is to give of a row: two large views of each sensor, and the small ones."""
    branches = (settings.strategy,) if settings.strategy in ("image", "other") else ("image", "other")
    local = settings.local
    return Crops(branches, 2, local.count, local.size, local.scale, together=False)


def learner(settings: Settings, encoders: Mapping[str, Encoder], plan: "Plan") -> Dino:
    """The learner; raises ConfigError where one network cannot see both sensors, or crops of two sizes."""
    import torch

    both = settings.strategy not in ("image", "other")
    if both and (plan.channels, plan.size) != (plan.other_channels, plan.other_size):
        raise ConfigError(
            f"task dino has one network for both sensors, but the first has {plan.channels} channels of {plan.size} "
            f"pixels, the second {plan.other_channels} of {plan.other_size}. Make three channels of temperatures: "
            f"data.reader.other.bounds=[LOW, HIGH], and leave data.reader.other.size out."
        )
    (branch, encoder), *_ = encoders.items()
    channels = plan.other_channels if branch == "other" else plan.channels
    if settings.local.count:
        side = settings.local.size
        try:
            with torch.no_grad():
                was = encoder.network.training
                encoder.network.eval()(torch.zeros(1, channels, side, side))
                encoder.network.train(was)
        except (RuntimeError, AssertionError, ValueError) as error:
            raise ConfigError(
                f"task.local.size: the network does not take crops of {side}x{side} pixels beside images of "
                f"{plan.size}: {str(error).splitlines()[0]}. Use a multiple of its patch (model={{kind: vit}}; ViTs of "
                f"timm also need model.args.dynamic_img_size=true), or task.local.count=0."
            ) from error
    return Dino(settings, encoder, plan)


def aim(settings: Settings, classes: int) -> "Aim":
    """What the methods paragraph says of the task."""
    from instar.report.methods import Aim

    seen = {
        "image": "on the first sensor",
        "other": "on the second sensor",
        "alternate": "on both sensors in turn",
        "image_teaches": "the teacher seeing the first sensor and the student the second,",
        "other_teaches": "the teacher seeing the second sensor and the student the first,",
    }
    local = f", two large and {settings.local.count} small crops" if settings.local.count else ", two large crops"
    return Aim(
        f"without labels by DINO, {seen[settings.strategy]}",
        f"{settings.prototypes} prototypes, teacher momentum from {settings.momentum:g}, temperatures "
        f"{settings.teacher_temperature:g} and {settings.temperature:g}{local}",
    )
