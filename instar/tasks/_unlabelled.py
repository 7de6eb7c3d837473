"""Unlabelled: what tasks without labels share. Scores of vectors, what is watched, and what the page shows.

A task has them by importing them. Legend: N rows, D features.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

    import numpy as np

    from instar.report.blocks import Section
    from instar.vectors import Vectors

REMEDY = "Nothing is learnt any more. Lower optim.lr, lengthen schedule.warmup, or raise what holds vectors apart"
_PREVIEW = 96  # pixels of the longer side: 2 kB
_TWINS = 1e-3  # relative distance of two networks' weights under which they are the same network


def kept(
    columns: "Mapping[str, np.ndarray]", batch: Mapping[str, Any], *, whole: bool, settings: Any
) -> "dict[str, Any]":
    """What is kept of the predictions of a batch: all; and where they are to be stored, a small picture a branch."""
    import numpy as np

    from instar.tasks import _previews

    found = dict(columns)
    for name in ("image", "other", "again") if whole else ():
        if name in columns:
            seen = name if name in batch else "other"  # a task of the second sensor alone calls it `image`
            pictures = [
                _previews.jpeg(image, side=_PREVIEW) if label >= 0 else b""
                for image, label in zip(batch[seen].numpy(), columns["label"], strict=True)
            ]
            found[f"preview {name}"] = np.array([*pictures, None], object)[:-1]
    return found


def measure(columns: "Mapping[str, np.ndarray]") -> dict[str, float]:
    """What is watched while training: retrieval, spread, rank, cosine, and kNN where there are classes."""
    from instar.metrics import vectors as metrics

    known_N = columns["label"] >= 0
    found = {name: column[known_N] for name, column in columns.items() if column.ndim == 2}
    return metrics.summary(found, columns["label"][known_N]) if known_N.any() else {}


def alarms(line: Mapping[str, Any]) -> list[str]:
    """What a person must know of an evaluation at once: collapse, and two encoders that are one."""
    from instar.metrics import vectors as metrics

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


def curves() -> tuple[str, ...]:
    """Scores that the page draws over epochs, beside the metric."""
    from instar.metrics import vectors as metrics

    return ("std", "spread", "effective_rank", "cosine", f"retrieval_{metrics.TOP}", "knn")


def stored() -> "ModuleType":
    """The noun that predictions are stored as."""
    from instar import vectors

    return vectors


def scores(predictions: "Vectors") -> dict[str, Any]:
    """All scores of vectors, by name; retrieval is among them."""
    from instar.metrics import vectors as metrics

    return metrics.scores(predictions.vector_ND, predictions.label_N, len(predictions.classes))


def ahead(first: "Vectors", second: "Vectors") -> tuple[float, float, float]:
    """By how much retrieval is higher in `second`, on the same rows, with the interval of that difference."""
    import numpy as np

    from instar.metrics import intervals

    before, now = _hits(first), _hits(second)
    names = [name for name in before if name in now]
    was = np.concatenate([before[name] for name in names]) if names else np.zeros(0, bool)
    is_now = np.concatenate([now[name] for name in names]) if names else np.zeros(0, bool)
    gained, lost = int((is_now & ~was).sum()), int((was & ~is_now).sum())
    return (gained - lost) / max(1, len(was)), *intervals.difference(gained, lost, len(was))


def sections(predictions: "Vectors", scores: Mapping[str, Any]) -> "list[Section]":
    """What the run page shows of vectors; the first section, which has no title, opens the page."""
    from instar.report import vectors as show

    return show.sections(predictions, scores)


def worst(predictions: "Vectors") -> "np.ndarray":
    """Rows, those first whose partner is furthest from being the nearest; rows that could not be read are left out."""
    import numpy as np

    from instar.errors import ConfigError
    from instar.metrics import vectors as metrics

    rows = np.flatnonzero(predictions.known_N)
    both = metrics.pair({name: one[rows] for name, one in predictions.vector_ND.items()})
    if both is None or len(rows) < 2:
        raise ConfigError("no row has a partner that could be missed; name rows, or class:NAME")
    margin_N = np.minimum(metrics.margins(*both)[0], metrics.margins(*both[::-1])[0])
    return rows[np.argsort(margin_N, kind="stable")]


def _hits(found: "Vectors") -> "dict[str, np.ndarray]":
    """Whether each row was found, both ways, by its name."""
    import numpy as np

    from instar.metrics import vectors as metrics

    rows = np.flatnonzero(found.known_N)
    both = metrics.pair({name: one[rows] for name, one in found.vector_ND.items()})
    if both is None:
        return {}
    hit_N2 = np.stack([metrics.ranks(*both) == 0, metrics.ranks(*both[::-1]) == 0], axis=1)
    return {found.ids[row]: hit_N2[at] for at, row in enumerate(rows.tolist())}
