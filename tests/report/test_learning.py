import math

from instar.report import learning
from instar.report.timeline import Attempt


def val(epoch, **scores):
    return {"kind": "val", "epoch": epoch, "samples": 100 * epoch, **scores}


def test_the_best_is_found_by_number_and_the_last_of_equals_wins():
    metrics = [val(1, accuracy=0.9), val(2, accuracy=0.10), val(3, accuracy=0.95), val(4, accuracy=0.95)]
    assert learning.best_point(metrics, "accuracy", "max")["epoch"] == 4
    assert learning.best_point(metrics, "accuracy", "min")["epoch"] == 2


def test_what_is_no_number_is_never_the_best():
    metrics = [val(1, loss=math.nan), val(2, loss=2.0), val(3, loss=None), val(4)]
    assert learning.best_point(metrics, "loss", "min")["epoch"] == 2
    assert learning.best_point([], "loss", "min") is None


def test_every_interruption_is_marked_where_training_went_on():
    turns = [
        Attempt(0, 9, 0, "killed", "a"),
        Attempt(20, 30, 150, "stopped", "a"),
        Attempt(40, 50, 300, "finished", "a"),
    ]
    marks = learning.interruptions(turns, 100)
    assert [(mark.x, mark.text) for mark in marks] == [(1.5, "killed, resumed"), (3.0, "stopped, resumed")]


def test_charts_share_their_axis_and_mark_the_best():
    metrics = [val(1, loss=2.0, accuracy=0.5, train_accuracy=0.6), val(2, loss=1.0, accuracy=0.8, train_accuracy=0.9)]
    metrics += [{"kind": "train", "epoch": 2.5, "loss": 0.5, "lr": 0.1, "images_per_second": 9.0}]
    found = learning.charts(metrics, [], metric="accuracy", mode="max", epoch_samples=100)
    assert [chart.title for chart in found.charts] == ["Loss", "Accuracy", "Learning rate", "Images per second"]
    assert {chart.x_end for chart in found.charts} == {2.5}
    assert found.charts[1].percent and found.charts[1].marks[-1].text == "80.0 %"


def test_the_best_is_marked_on_the_loss_where_that_is_what_counts():
    metrics = [val(1, loss=2.0), val(2, loss=1.0), val(3, loss=1.5)]
    (chart,) = learning.charts(metrics, [], metric="loss", mode="min", epoch_samples=9).charts
    assert (chart.title, chart.marks[-1].x, chart.marks[-1].text) == ("Loss", 2, "1")


def test_a_run_without_validation_has_its_loss():
    metrics = [{"kind": "train", "epoch": 1.0, "loss": 0.5}]
    assert [c.title for c in learning.charts(metrics, [], metric="accuracy", mode="max", epoch_samples=9).charts] == [
        "Loss"
    ]
    assert learning.numbers(metrics, "accuracy", "max").rows == ()
