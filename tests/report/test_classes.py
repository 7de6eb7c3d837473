from dataclasses import replace

import numpy as np
import pytest

from instar.metrics import classification
from instar.predictions import Predictions
from instar.report import classes, thumbnails
from instar.report.thumbnails import Thumbnail


@pytest.fixture(autouse=True)
def _no_files(monkeypatch):
    monkeypatch.setattr(thumbnails, "of", lambda path: Thumbnail(f"data:{path}"))


def made(label_N, probability_NK):
    names = [f"{row}.png" for row in range(len(label_N))]
    K = np.shape(probability_NK)[1]
    return Predictions(names, names, np.array(label_N), np.array(probability_NK), tuple(f"class {k}" for k in range(K)))


def many(rows=3000, K=20):
    generator = np.random.default_rng(0)
    label_N = generator.integers(0, K, rows)
    answer_N = np.where(generator.random(rows) < 0.5, label_N, generator.integers(0, K, rows))
    noise_NK = generator.dirichlet(np.ones(K), rows)
    return made(label_N, 0.5 * noise_NK + 0.5 * np.eye(K)[answer_N])


def test_the_gallery_begins_with_the_most_confident_mistakes():
    predictions = many()
    wrong = np.flatnonzero(~predictions.correct_N)
    first = wrong[np.argsort(-predictions.confidence_N[wrong], kind="stable")][:24]
    mistakes, _, _ = classes.galleries(predictions)
    assert [picture.name for picture in mistakes.pictures[:24]] == [f"{row}.png" for row in first]
    confidence = [picture.confidence for picture in mistakes.pictures]
    assert confidence == sorted(confidence, reverse=True)


def test_every_cell_has_a_picture_before_any_has_many():
    predictions = many()
    wrong = ~predictions.correct_N
    cells = set(zip(predictions.label_N[wrong].tolist(), predictions.prediction_N[wrong].tolist(), strict=True))
    mistakes, _, notes = classes.galleries(predictions)
    assert len(cells) > 300 and {picture.cell for picture in mistakes.pictures} == cells
    assert f"400 of {wrong.sum()} mistakes" in notes[0].text


def test_each_cell_has_one_place_its_link_leads_to():
    mistakes, doubtful, _ = classes.galleries(many(rows=200, K=4))
    pictures = mistakes.pictures + doubtful.pictures
    assert sorted(p.cell for p in pictures if p.first) == sorted({p.cell for p in pictures})


def test_right_answers_shown_are_the_least_sure():
    predictions = made([0] * 5, [[0.9, 0.1], [0.6, 0.4], [0.8, 0.2], [0.7, 0.3], [0.99, 0.01]])
    mistakes, doubtful, _ = classes.galleries(predictions)
    assert mistakes.pictures == () and [picture.name for picture in doubtful.pictures] == ["1.png", "3.png", "2.png"]


def test_unlabelled_rows_are_in_no_gallery_and_are_told_of():
    predictions = made([-1, 0], [[0.1, 0.9], [0.1, 0.9]])
    mistakes, doubtful, _ = classes.galleries(predictions)
    assert [picture.name for picture in mistakes.pictures] == ["1.png"] and doubtful.pictures == ()
    assert "1 images have no label" in classes.left_out(predictions, classification.scores(predictions))[0].text


def test_unreadable_rows_are_not_called_unlabelled():
    predictions = replace(made([-1, 0], [[0.1, 0.9], [0.1, 0.9]]), meta={"unreadable": 1})
    (note,) = classes.left_out(predictions, classification.scores(predictions))
    assert "1 images could not be read" in note.text


def test_a_page_says_which_pictures_are_gone(monkeypatch):
    monkeypatch.setattr(thumbnails, "of", lambda path: Thumbnail(""))
    assert "1 pictures could not be read" in classes.galleries(made([1], [[0.9, 0.1]]))[2][0].text


def test_a_full_page_says_what_it_leaves_out(monkeypatch):
    monkeypatch.setattr(classes, "MOST_BYTES", 30)
    mistakes, _, notes = classes.galleries(made([1] * 9, [[0.9, 0.1]] * 9))
    assert 0 < len(mistakes.pictures) < 9 and "of 9 mistakes have a picture" in notes[0].text


def test_nothing_wrong_is_no_proof_of_perfection():
    predictions = made([0, 1], [[0.9, 0.1], [0.1, 0.9]])
    assert "rule of three" in classes.left_out(predictions, classification.scores(predictions))[0].text


def test_bars_begin_with_the_worst_and_end_with_classes_without_rows():
    bars = classes.per_class(np.array([[9, 1, 0], [5, 5, 0], [0, 0, 0]]), ("good", "bad", "absent"))
    assert [bar.name for bar in bars.rows] == ["bad", "good", "absent"]
    assert bars.rows[-1].values == (None, None, None) and bars.rows[0].count == 10


def test_a_thousand_classes_show_those_with_mistakes():
    confusion_KK = np.eye(1000, dtype=int)
    confusion_KK[999, 500] = 3
    note, block = classes.confusion(confusion_KK, tuple(map(str, range(1000))))
    assert "1000 classes" in note.text and len(block.classes) == 200 and {"999", "500"} <= set(block.classes)
    place = block.classes.index("999"), block.classes.index("500")
    assert block.count_KK[place] == 3 and (block.number_K[place[0]], block.number_K[place[1]]) == (999, 500)


@pytest.mark.parametrize("K, fourth", [(2, "balanced"), (4, "top-3"), (9, "top-5")])
def test_the_headline_leads_with_accuracy_and_what_guessing_gives(K, fourth):
    predictions = many(rows=100, K=K)
    headline = classes.headline(classification.scores(predictions), K)
    assert [number.name for number in headline.numbers] == ["accuracy", "macro F1", fourth, "calibration error"]
    first = headline.numbers[0]
    assert first.chance == 1 / K and first.interval[0] < first.share < first.interval[1]
