"""All scores of a classifier from its predictions."""

from typing import Any

from instar.metrics import calibration, counts, intervals, ranking
from instar.predictions import Predictions

TOP = (3, 5)  # only where there are more classes than that


def scores(predictions: Predictions) -> dict[str, Any]:
    """Scores by name, 0 to 1 unless said otherwise, and "intervals": {name: [low, high]} at 95 %.

    Rows without a label are left out of every score and counted in "unlabelled".
    log_loss is in nats, brier goes from 0 to 2 (for both, and for ece, less is better).
    """
    known_N = predictions.known_N
    label_N, probability_NK = (
        predictions.label_N[known_N],
        predictions.probability_NK[known_N],
    )
    confusion_KK = counts.confusion(label_N, predictions.prediction_N[known_N], len(predictions.classes))
    rank_N = ranking.ranks(label_N, probability_NK)
    top = {f"top_{k}": ranking.top_k(rank_N, k) for k in TOP if k < len(predictions.classes)}
    rows = len(label_N)
    return {
        "rows": rows,
        "unlabelled": len(predictions) - rows,
        **averages(confusion_KK),
        **top,
        "log_loss": calibration.log_loss(label_N, probability_NK),
        "brier": calibration.brier(label_N, probability_NK),
        "ece": calibration.expected_calibration_error(
            predictions.confidence_N[known_N], predictions.correct_N[known_N]
        ),
        "intervals": {
            "accuracy": list(intervals.share(int(confusion_KK.trace()), rows)),
            "macro_f1": list(intervals.macro_f1_share(confusion_KK)),
            **{name: list(intervals.share(round(value * rows), rows)) for name, value in top.items()},
        },
    }


def averages(confusion_KK) -> dict[str, float]:
    """The scores that need nothing but a confusion matrix."""
    classes = counts.per_class(confusion_KK)
    return {
        "accuracy": counts.accuracy(confusion_KK),
        "balanced_accuracy": counts.balanced_accuracy(confusion_KK),
        "macro_precision": counts.macro(classes.precision_K, classes),
        "macro_recall": counts.macro(classes.recall_K, classes),
        "macro_f1": counts.macro(classes.f1_K, classes),
        "weighted_f1": counts.weighted(classes.f1_K, classes),
    }
