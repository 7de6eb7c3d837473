"""What predicted masks look like: headline, bars of each class, pixels taken for others, panels of the worst images.

N rows, K classes, H W pixels.
"""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from instar.masks import Masks, decoded
from instar.metrics import pixels as metrics
from instar.metrics.counts import ratio
from instar.report import addresses
from instar.report import classes as show
from instar.report.blocks import Bar, Bars, Headline, Note, Number, Panel, Panels, Section
from instar.report.overlays import CONFUSED, INVENTED, MISSED, css, errors, legend_of, overlay

WORST, TYPICAL = 24, 6
FIRST = 6
MOST_BYTES = 5 * 2**20  # of pictures in one page: opens at once, and goes through any mail
THIN = "\N{NARROW NO-BREAK SPACE}"

CLASSES_LEAD = "IoU is what two masks share, as a share of what either covers, over all pixels of the split."
CONFUSIONS_LEAD = "Pixels. Rows are true classes; colour is the share of the true class."
WORST_LEAD = (
    "The image, its true mask, and the errors of the predicted one: the worst first, by the mean IoU of the image."
)
TYPICAL_LEAD = "Images from the middle and the top of the same list, so that the worst do not stand for all."


def sections(masks: Masks, scores: Mapping[str, Any]) -> list[Section]:
    """All sections; the first, which has no title, opens the page."""
    found = [Section("", (headline(scores, len(masks.classes)), *left_out(masks, scores)))]
    if not scores["rows"]:
        return found
    rows = np.flatnonzero(masks.known_N)
    order = rows[np.argsort(metrics.sample_iou(masks.counts_N3K[rows]), kind="stable")]
    worst, notes = panels(masks, order[:WORST].tolist(), most_bytes=MOST_BYTES * 4 // 5)
    found += [
        Section("Classes", (per_class(scores),), CLASSES_LEAD),
        Section("Worst images", (worst, *notes), WORST_LEAD),
    ]
    if len(order) > WORST:
        middle = np.linspace(WORST, len(order) - 1, TYPICAL).round().astype(int)
        typical, _ = panels(masks, order[np.unique(middle)].tolist(), most_bytes=MOST_BYTES // 5)
        found += [Section("Typical images", (typical,), TYPICAL_LEAD)]
    return [*found, Section("Confusions", tuple(show.confusion(masks.confusion_KK, masks.classes)), CONFUSIONS_LEAD)]


def headline(scores: Mapping[str, Any], num_classes: int) -> Headline:
    """Mean IoU with its interval first, then what it hides."""
    interval = scores["intervals"]
    pixels, images = (f"{scores[name]:,}".replace(",", THIN) for name in ("pixels", "rows"))
    note = f"{num_classes} classes, {pixels} pixels of {images} images"
    numbers = [_share("mean IoU", scores["mean_iou"], note, interval.get("mean_iou"))]
    numbers += [_share("IoU by image", scores["sample_iou"], "every image counts the same", interval.get("sample_iou"))]
    numbers += [_share("boundary F1", scores["boundary_f1"], "outlines that lie where they should")]
    numbers += [_share("pixel accuracy", scores["pixel_accuracy"], "large classes count most")]
    return Headline(tuple(numbers))


def left_out(masks: Masks, scores: Mapping[str, Any]) -> list[Note]:
    """What the scores do not speak of."""
    if not scores["unlabelled"]:
        return []
    return [Note(f"{scores['unlabelled']} images could not be read. events.jsonl names them; no score counts them.")]


def per_class(scores: Mapping[str, Any]) -> Bars:
    """IoU, recall, precision and boundary F1 of every class, the worst first; classes without pixels last."""
    found = sorted(scores["per_class"].items(), key=lambda one: (one[1]["iou"] is None, one[1]["iou"] or 0.0))
    return Bars(
        columns=("IoU", "recall", "precision", "boundary F1"),
        rows=tuple(
            Bar(name, one["pixels"], (one["iou"], one["recall"], one["precision"], one["boundary_f1"]))
            for name, one in found
        ),
        count_name="pixels",
    )


def panels(masks: Masks, rows: list[int], *, most_bytes: int) -> tuple[Panels, list[Note]]:
    """Three pictures of each row: the image, its true mask, and the errors of the predicted one."""
    made: list[Panel] = []
    used, iou_N = 0, metrics.sample_iou(masks.counts_N3K)
    for row in rows:
        pictures = _pictures(masks, row)
        used += sum(map(len, pictures))
        if used > most_bytes:
            break
        taken, truth = _taken_for(masks, row)
        made.append(Panel(pictures, str(masks.ids[row]), float(iou_N[row]), taken, truth))
    legend = legend_of(masks.classes)
    ground = masks.classes[0]
    errors = [(css(MISSED), f"missed: taken for {ground}"), (css(INVENTED), f"invented: is {ground}")]
    if len(masks.classes) > 2:
        errors.append((css(CONFUSED), "taken for another class"))
    more = len(masks.classes) - 9
    notes = [Note(f"{more} more classes have colours of their own, and no room in the legend.")] if more > 0 else []
    return Panels(tuple(made), legend, tuple(errors), shown=FIRST), notes


def _pictures(masks: Masks, row: int) -> tuple[str, str, str]:
    """The addresses of the three pictures."""
    truth_HW = decoded(masks.truth_preview[row])
    size = (truth_HW.shape[1], truth_HW.shape[0])
    class_HW = np.asarray(Image.fromarray(masks.predicted(row)).resize(size, Image.Resampling.NEAREST))
    with Image.open(io.BytesIO(masks.image_preview[row])) as preview:
        image_HW3 = np.asarray(preview.convert("RGB").resize(size, Image.Resampling.BILINEAR), np.float32)
    return address(image_HW3), address(overlay(image_HW3, truth_HW)), address(errors(image_HW3, truth_HW, class_HW))


def _taken_for(masks: Masks, row: int) -> tuple[str, str]:
    """An image's largest error: how much of a class was taken for which, and that class; '' where there is none."""
    K = len(masks.classes)
    pairs_C2 = np.frombuffer(masks.confusion[row], np.int64).reshape(-1, 2)
    true_C, predicted_C = np.divmod(pairs_C2[:, 0], K)
    wrong_C = np.where(true_C == predicted_C, 0, pairs_C2[:, 1])
    if not len(wrong_C) or wrong_C.max() == 0:
        return "", ""
    at = int(wrong_C.argmax())
    share = 100 * float(ratio(wrong_C[at], pairs_C2[true_C == true_C[at], 1].sum()))
    shown = f"{share:.0f}" if share >= 1 else f"{share:.1g}"
    return f"{shown}{THIN}% taken for {masks.classes[predicted_C[at]]}", masks.classes[true_C[at]]


def _share(name: str, value: float, note: str, interval: Any = None) -> Number:
    text = f"{100 * value:.1f}{THIN}%"
    return Number(name, text, note, value, tuple(interval) if interval else None)


def address(image_HW3: np.ndarray) -> str:
    return addresses.of_image(Image.fromarray(image_HW3.clip(0, 255).astype(np.uint8)), "JPEG", quality=82)
