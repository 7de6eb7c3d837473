"""Unlabelled: what tasks without labels share. Pixels to the network, scores of vectors, and what the page shows.

Legend: B batch, V views, H W pixels, C channels, D features.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from instar import vectors
from instar.metrics import intervals
from instar.metrics import vectors as metrics
from instar.networks import Encoder, pixels

if TYPE_CHECKING:
    from instar.report.blocks import Section
    from instar.vectors import Vectors

CURVES = ("std", "spread", "effective_rank", "cosine", f"retrieval_{metrics.TOP}", "knn")
_TWINS = 1e-3  # relative distance of two networks' weights under which they are the same network


class Eyes:
    """Brings batches into the form that networks see: normalised float32 image_BCHW."""

    def __init__(self, encoders: Mapping[str, Encoder], *, channels_last: bool):
        self._channels_last = channels_last
        self._moments = {name: (torch.tensor(one.mean), torch.tensor(one.std)) for name, one in encoders.items()}

    def see(self, image_BHWC: Tensor, name: str) -> Tensor:
        """What the network called `name` sees; of numbers, which the reader normalised, only the order changes."""
        if image_BHWC.is_floating_point():
            layout = torch.channels_last if self._channels_last else torch.contiguous_format
            return image_BHWC.permute(0, 3, 1, 2).to(torch.float32, memory_format=layout)
        mean_C, std_C = self._moments[name]
        if mean_C.device != image_BHWC.device:
            self._moments[name] = mean_C, std_C = mean_C.to(image_BHWC.device), std_C.to(image_BHWC.device)
        return pixels(image_BHWC, mean_C, std_C, channels_last=self._channels_last)


def views(batch: Mapping[str, Any], name: str) -> list[Tensor]:
    """The views of one branch, image_BHWC each; one where the loader was asked for one."""
    found: Tensor = batch[name]
    return [found] if found.ndim == 4 else list(found.unbind(1))


def distance(first: nn.Module, second: nn.Module) -> float | None:
    """How far the weights of two networks are apart, as a share of their length; None where their shapes differ."""
    pairs = list(zip(first.parameters(), second.parameters(), strict=False))
    same = len(list(first.parameters())) == len(list(second.parameters()))
    if not same or any(one.shape != two.shape for one, two in pairs):
        return None
    apart = sum(float((one.detach() - two.detach()).square().sum()) for one, two in pairs)
    length = sum(float(one.detach().square().sum()) for one, _ in pairs)
    return (apart / length) ** 0.5 if length else 0.0


def measure(columns: Mapping[str, np.ndarray]) -> dict[str, float]:
    """What is watched while training; see `metrics.summary`."""
    known_N = columns["label"] >= 0
    found = {name: column[known_N] for name, column in columns.items() if column.ndim == 2}
    return metrics.summary(found, columns["label"][known_N]) if known_N.any() else {}


def alarms(line: Mapping[str, Any]) -> list[str]:
    """What a person must know of an evaluation at once: collapse, and two encoders that are one."""
    found = []
    if why := metrics.collapsed(line):
        found.append(f"collapsed: {why}. {REMEDY}")
    apart = line.get("train_encoders_apart")
    if apart is not None and apart < _TWINS:
        found.append(
            f"the two encoders have the same weights (apart by {apart:.1g} of their length): do both branches see the "
            f"same files? Look at data.reader.image and data.reader.other"
        )
    return found


REMEDY = "Nothing is learnt any more. Lower optim.lr, lengthen schedule.warmup, or raise what holds vectors apart"


def stored() -> ModuleType:
    """The noun that predictions are stored as."""
    return vectors


def scores(found: "Vectors") -> dict[str, Any]:
    """All scores of vectors, by name."""
    return metrics.scores(found.vector_ND, found.label_N, len(found.classes))


def ahead(first: "Vectors", second: "Vectors") -> tuple[float, float, float]:
    """By how much retrieval is higher in `second`, on the same rows, with the interval of that difference."""
    before, now = _hits(first), _hits(second)
    names = [name for name in before if name in now]
    was = np.concatenate([before[name] for name in names]) if names else np.zeros(0, bool)
    is_now = np.concatenate([now[name] for name in names]) if names else np.zeros(0, bool)
    gained, lost = int((is_now & ~was).sum()), int((was & ~is_now).sum())
    return (gained - lost) / max(1, len(was)), *intervals.difference(gained, lost, len(was))


def _hits(found: "Vectors") -> dict[str, np.ndarray]:
    """Whether each row was found, both ways, by its name."""
    rows = np.flatnonzero(found.known_N)
    both = metrics.pair({name: one[rows] for name, one in found.vector_ND.items()})
    if both is None:
        return {}
    hit_N2 = np.stack([metrics.ranks(*both) == 0, metrics.ranks(*both[::-1]) == 0], axis=1)
    return {found.ids[row]: hit_N2[at] for at, row in enumerate(rows.tolist())}


def sections(found: "Vectors", score: Mapping[str, Any]) -> "list[Section]":
    """What the run page shows; the first section, which has no title, opens the page."""
    from instar.report import vectors as show

    return show.sections(found, score)
