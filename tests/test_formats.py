import math

import pytest

from instar import formats


@pytest.mark.parametrize(
    "told, text",
    [
        (formats.count(3670), "3 670"),
        (formats.count(12), "12"),
        (formats.percent(0.8723), "87.2 %"),
        (formats.score("accuracy", 0.905), "90.5 %"),
        (formats.score("val_loss", 0.905), "0.905"),
        (formats.score("ece", 0.02), "0.02"),
        (formats.score("depth", 12.3), "12.3"),
        (formats.score("accuracy", math.nan), "nan"),
        (formats.interval("accuracy", 0.872, 0.933), "[87.2, 93.3]"),
        (formats.loss(1.0204), "1.020"),
        (formats.loss(123.45), "123.5"),
        (formats.epoch(3.0), "3"),
        (formats.epoch(2.9999999), "3"),
        (formats.epoch(1.02, step=0.045), "1"),
        (formats.epoch(1.46, step=0.045), "1.46"),
        (formats.epoch(0.5, step=0.001), "0.50"),
        (formats.rate(312.4), "312"),
        (formats.rate(9.871), "9.87"),
        (formats.clock(28), "0:28"),
        (formats.clock(3723), "1:02:03"),
        (formats.clock(59.6), "1:00"),
        (formats.clock(math.inf), "-:--"),
        (formats.ago(5), "just now"),
        (formats.ago(301), "5 min ago"),
        (formats.ago(3 * 3600), "3 h ago"),
        (formats.ago(2 * 86400), "2 days ago"),
        (formats.ago(86400), "1 day ago"),
        (formats.ago(-3), "just now"),
        (formats.cut("abcdef", 4), "abc…"),
        (formats.cut("abcd", 4), "abcd"),
        (formats.cut("蝶蝶蝶", 4), "蝶…"),
    ],
)
def test_numbers_read_well(told, text):
    assert told == text


def test_a_name_cannot_move_the_cursor():
    assert formats.one_line("a\nb\x1b[2Jc\r") == "a\\nb\\x1b[2Jc\\r"


def test_columns_line_up_whatever_is_in_them():
    lines = formats.table([("run", "val"), ("蝶", "9.0 %"), ("cafe\u0301", "91.0 %")], right=(1,))
    assert [formats.width(line) for line in lines] == [12, 12, 12]
    assert lines[1].endswith("   9.0 %")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (46_807_446, "46.8 MB"),
        (999_960_000, "1.0 GB"),
        (3.2e15, "3200 TB"),
    ],
)
def test_sizes(number, text):
    assert formats.size(number) == text
