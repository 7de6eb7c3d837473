import io
import sys
import time
from types import SimpleNamespace
from typing import ClassVar

import pytest

from instar import terminal
from instar.terminal import Terminal

PLAN = SimpleNamespace(
    total_samples=1200, epoch_samples=100, train_rows=100, val_rows=10, test_rows=12, classes=("a", "b"), batch=10,
    steps=120, seed=0, devices=1, device="cpu", precision="fp32", micro=10, workers=2,
)  # fmt: skip
RUN = SimpleNamespace(path="runs/flowers-mossy-lynx", name="flowers-mossy-lynx")


class Rows:
    """As much of a manifest as is shown."""

    skipped = (("broken.jpg", "truncated"), ("a\nb.jpg", "empty"))
    statistics: ClassVar = {"median_width": 500, "median_height": 375, "imbalance": 1.61, "duplicates": 0}

    def __len__(self):
        return 122


MANIFEST = Rows()
VAL = {"epoch": 1.0, "accuracy": 0.714, "loss": 0.9, "images_per_second": 312.2, "loader_ceiling": 330.4}


class Screen(io.StringIO):
    """A terminal."""

    encoding = "utf-8"

    def isatty(self):
        return True


def watched(stream, **options):
    view = Terminal(metric="accuracy", stream=stream, **options)
    view.announce(RUN, PLAN, MANIFEST)
    view.losses({**VAL, "loss": 1.1})
    view.losses({**VAL, "loss": 0.9})
    view.step(50)
    view.epoch(VAL, best=True)
    view.note("resumed at epoch 1.00")
    view.clear()
    return stream.getvalue()


def test_elsewhere_than_in_a_terminal_an_epoch_is_one_line():
    assert watched(io.StringIO()).splitlines() == [
        "data     122 images, 2 classes, median 500x375                              2 skipped (below)   imbalance 1.6x",
        "split    82/8/10 = 100 + 10 + 12, seed 0, no duplicates across",
        "plan     cpu fp32, batch 10, 12 epochs = 120 steps                          run    runs/flowers-mossy-lynx",
        "note     skipped broken.jpg: truncated",
        "note     skipped a\\nb.jpg: empty",
        " 1/12  loss 1.000  val 71.4 %*  312 img/s (loader ceiling 330)  0:00",
        "note     resumed at epoch 1.00",
    ]


def test_of_one_class_no_imbalance_is_told_and_of_pairs_that_there_are_no_labels(monkeypatch):
    alone = SimpleNamespace(**{**vars(PLAN), "classes": ("",)})
    line = terminal.announcement(RUN, alone, MANIFEST)[0]
    assert line.startswith("data     122 images, 1 class, ") and "imbalance" not in line
    monkeypatch.setattr(Rows, "statistics", {**Rows.statistics, "halves": True})
    assert terminal.announcement(RUN, alone, MANIFEST)[0].startswith("data     122 pairs, without labels, ")


def test_a_pipe_gets_no_control_characters():
    text = watched(io.StringIO())
    assert "\r" not in text and "\x1b" not in text


def test_a_terminal_gets_a_live_line_that_fits(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    text = watched(Screen())
    drawn = [line.split("\x1b")[0] for line in text.split("\r")[1:]]
    assert any(line.startswith("0.50/12") for line in drawn)
    assert all(len(line.split("\n")[0]) < 40 for line in drawn if "img/s (" not in line)


def test_the_live_line_tells_what_is_left(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    screen, now = Screen(), iter([0.0, 10.0, 20.0, 30.0])
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(now))
    view = Terminal(metric="accuracy", stream=screen)
    view.announce(RUN, PLAN, MANIFEST)
    view.step(100)
    view.step(200)
    assert "10 img/s" in screen.getvalue() and "1:40 left" in screen.getvalue()


def test_drawing_is_seldom(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    screen = Screen()
    view = Terminal(metric="accuracy", stream=screen)
    view.announce(RUN, PLAN, MANIFEST)
    for number in range(10_000):
        view.step(number % 1200)
    assert screen.getvalue().count("\r") <= 10


def test_a_step_that_draws_nothing_costs_next_to_nothing():
    view = Terminal(metric="accuracy", stream=io.StringIO())
    view.step(0)
    view._due = float("inf")
    begun = time.process_time()
    for number in range(20_000):
        view.step(number)
    assert (time.process_time() - begun) / 20_000 < 2e-6


@pytest.mark.parametrize("level, lines", [("silent", 0), ("quiet", 1), ("full", 7)])
def test_levels(level, lines):
    assert len(watched(io.StringIO(), level=level).splitlines()) == lines


def test_a_reader_that_has_gone_does_not_end_a_training():
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    watched(Gone())


def test_a_closed_or_missing_stream_does_not_end_a_training(monkeypatch):
    closed = io.StringIO()
    view = Terminal(metric="accuracy", stream=closed)
    closed.close()
    view.note("still here")
    monkeypatch.setattr(sys, "stdout", None)
    view = Terminal(metric="accuracy")
    view.note("nobody listens")
    view.clear()
    terminal.say("nor here")


def test_a_stream_of_plain_letters_gets_plain_letters():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="backslashreplace")
    view = Terminal(metric="accuracy", stream=stream)
    view.note("10 → 5 … × · grün")
    stream.flush()
    assert stream.buffer.getvalue() == b"note     10 -> 5 ... x - gr\\xfcn\n"


def test_an_epoch_without_validation_rows_still_has_its_line():
    stream = io.StringIO()
    view = Terminal(metric="accuracy", stream=stream)
    view.announce(RUN, PLAN, MANIFEST)
    stream.truncate(0)
    view.epoch({"epoch": 0.5}, best=False)
    assert stream.getvalue().strip("\x00").startswith("0.50/12")


def test_a_watched_score_stands_beside_the_tasks_own():
    stream = io.StringIO()
    view = Terminal(metric="accuracy", watched="loss", stream=stream)
    view.epoch({**VAL, "loss": 0.5}, best=True)
    assert "val 71.4 %  val loss 0.5*" in stream.getvalue()


def test_a_line_that_counts_is_drawn_in_a_terminal_and_nowhere_else(monkeypatch):
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    screen, pipe = Screen(), io.StringIO()
    for stream in (screen, pipe):
        line = terminal.Line(stream=stream)
        line.draw("pack     ", 1, 2)
        line.clear()
    assert "pack     " in screen.getvalue() and "1 of 2" in screen.getvalue()
    assert screen.getvalue().endswith("\r\x1b[K")
    assert pipe.getvalue() == ""
