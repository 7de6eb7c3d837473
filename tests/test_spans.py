import pytest
from pydantic import ValidationError

from instar import spans
from instar.settings import Settings, Span, Time, Training


class Watch(Settings):
    every: Time = Span(10, "min")
    warmup: Training = Span(5, "%")
    either: Span = Span(1, "epochs")


@pytest.mark.parametrize(
    "text, span",
    [
        ("10 min", Span(10, "min")),
        ("10min", Span(10, "min")),
        ("5 %", Span(5, "%")),
        ("5%", Span(5, "%")),
        ("1 epoch", Span(1, "epochs")),
        ("0.5 epochs", Span(0.5, "epochs")),
        ("1e3 steps", Span(1000, "steps")),
        ("30 seconds", Span(30, "s")),
        (" 2 h ", Span(2, "h")),
    ],
)
def test_spellings(text, span):
    assert Span.parse(text) == span


@pytest.mark.parametrize("text", ["", "10", "min", "-5 min", "5 parsecs", "5 % of it", "1 2 min", "inf min", "nan %"])
def test_other_spellings_say_what_is_allowed(text):
    with pytest.raises(ValueError, match="a number and one of s, min, h"):
        Span.parse(text)


@pytest.mark.parametrize("span", [Span(10, "min"), Span(0.1, "%"), Span(50000, "samples"), Span(2.5, "h")])
def test_what_is_written_reads_back(span):
    assert Span.parse(str(span)) == span


def test_seconds():
    assert (Span.parse("30 s").seconds, Span.parse("10 min").seconds, Span.parse("1.5 h").seconds) == (30, 600, 5400)
    with pytest.raises(ValueError, match="is not a time"):
        _ = Span(5, "%").seconds


@pytest.mark.parametrize("text, samples", [("5 %", 60), ("2 epochs", 200), ("3 steps", 24), ("7 samples", 7)])
def test_samples(text, samples):
    assert Span.parse(text).samples(epoch_samples=100, batch=8, total=1200) == samples


def test_a_time_has_no_samples():
    with pytest.raises(ValueError, match="is a time"):
        Span(1, "h").samples(epoch_samples=1, batch=1, total=1)


def test_settings_take_and_give_text():
    watch = Watch(every="1 h", warmup="1 epochs")
    assert watch.model_dump(mode="json") == {"every": "1 h", "warmup": "1 epochs", "either": "1 epochs"}
    assert Watch.model_validate(watch.model_dump()) == watch


@pytest.mark.parametrize(
    "given, message",
    [
        ({"every": "5 %"}, "must be a time"),
        ({"warmup": "5 min"}, "must be a stretch of training"),
        ({"either": 5}, "must be a number and one of"),
    ],
)
def test_the_wrong_sort_is_refused(given, message):
    with pytest.raises(ValidationError, match=message):
        Watch(**given)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1GB", 10**9),
        ("500 MB", 5 * 10**8),
        ("2GiB", 2**31),
        ("1.5kB", 1500),
        (".5 TB", 5 * 10**11),
        ("64", 64),
        (7, 7),
    ],
)
def test_amounts_of_bytes_are_read_as_people_write_them(text, number):
    assert spans.bytes_of(text) == number


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1 XB", "1GBs", "many", "1e9999 GB"])
def test_what_is_no_amount_of_bytes_says_what_is(text):
    with pytest.raises(ValueError, match="for example '1GB'"):
        spans.bytes_of(text)
