import json

import numpy as np
import pytest
from sklearn import metrics as truth

from instar.metrics import classification
from instar.predictions import Predictions


def made(classes=8, rows=200, unlabelled=0):
    generator = np.random.default_rng(0)
    label_N = generator.integers(0, classes, rows)
    label_N[:unlabelled] = -1
    probability_NK = generator.dirichlet(np.ones(classes), rows) * 0.5 + 0.5 * np.eye(classes)[label_N]
    names = [f"{row}.png" for row in range(rows)]
    return Predictions(names, names, label_N, probability_NK, tuple("abcdefghij"[:classes]))


def test_all_scores_are_scikit_learns():
    predictions = made()
    label_N, prediction_N, probability_NK = (
        predictions.label_N,
        predictions.prediction_N,
        predictions.probability_NK,
    )
    ours = classification.scores(predictions)
    theirs = {
        "accuracy": truth.accuracy_score(label_N, prediction_N),
        "balanced_accuracy": truth.balanced_accuracy_score(label_N, prediction_N),
        "macro_precision": truth.precision_score(label_N, prediction_N, average="macro"),
        "macro_recall": truth.recall_score(label_N, prediction_N, average="macro"),
        "macro_f1": truth.f1_score(label_N, prediction_N, average="macro"),
        "weighted_f1": truth.f1_score(label_N, prediction_N, average="weighted"),
        "top_3": truth.top_k_accuracy_score(label_N, probability_NK, k=3),
        "top_5": truth.top_k_accuracy_score(label_N, probability_NK, k=5),
        "log_loss": truth.log_loss(label_N, probability_NK),
        "brier": truth.brier_score_loss(label_N, probability_NK, scale_by_half=False),
    }
    assert {name: ours[name] for name in theirs} == pytest.approx(theirs, rel=1e-5)


def test_every_interval_holds_its_score():
    scores = classification.scores(made())
    assert set(scores["intervals"]) == {"accuracy", "macro_f1", "top_3", "top_5"}
    for name, (low, high) in scores["intervals"].items():
        assert low <= scores[name] <= high


def test_rows_without_a_label_are_counted_and_change_nothing():
    whole, some = made(), made(unlabelled=50)
    scores = classification.scores(some)
    assert (scores["rows"], scores["unlabelled"]) == (150, 50)
    kept = Predictions(
        whole.ids[50:],
        whole.paths[50:],
        whole.label_N[50:],
        whole.probability_NK[50:],
        whole.classes,
    )
    assert scores == classification.scores(kept) | {"unlabelled": 50}


def test_two_classes_have_no_top_three():
    assert "top_3" not in classification.scores(made(classes=2))


def test_scores_are_plain_json_even_without_a_single_label():
    scores = classification.scores(made(rows=5, unlabelled=5))
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores
    assert scores["accuracy"] == 0 and scores["rows"] == 0
