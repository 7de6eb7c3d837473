import xml.etree.ElementTree as ElementTree

import numpy as np

from instar.metrics.calibration import reliability
from instar.report import figures
from instar.report.blocks import Chart, Line, Mark

CHART = Chart(
    "Loss $x$ <b>",
    (Line("train", (0.0, 1.0, 2.0), (3.0, float("nan"), 1.0)), Line("val", (1.0,), (2.0,), "second")),
    "epoch & more",
    marks=(Mark(1.0, "killed", "stop"), Mark(2.0, "<best> $1$", "best", y=1.0)),
)


def drawings():
    table = reliability(np.random.default_rng(0).random(50), np.arange(50) % 2 == 0)
    return [figures.chart(CHART), figures.reliability(table), figures.confidence_histogram(table)]


def test_a_figure_is_whole_and_its_text_is_text():
    for drawing in drawings():
        tree = ElementTree.fromstring(drawing)
        assert tree.tag.endswith("svg") and "viewBox" in tree.attrib and "width" not in tree.attrib
    assert "&lt;best&gt; $1$" in drawings()[0] and "epoch &amp; more" in drawings()[0]


def test_a_figure_has_the_colours_of_the_page_and_no_other():
    for drawing in drawings():
        assert "#0102" not in drawing and "var(--" in drawing
        assert "<style" not in drawing and "font-family" not in drawing and "http://matplotlib" not in drawing


def test_the_same_data_gives_the_same_figure():
    assert drawings() == drawings()


def test_two_figures_of_a_page_share_no_name():
    other = figures.chart(Chart("Accuracy", CHART.lines, "epoch"))
    names = [set(figure.split('id="')[1:]) for figure in (drawings()[0], other)]
    assert not {name.partition('"')[0] for name in names[0]} & {name.partition('"')[0] for name in names[1]}


def test_a_long_line_is_thinned_to_means():
    line = Line("train", tuple(map(float, range(10_000))), tuple(map(float, range(10_000))))
    x, y = figures.thinned(line)
    assert len(x) == figures.POINTS
    np.testing.assert_allclose(x, y)
    assert x[0] < 40 and x[-1] > 9_960


def test_a_chart_of_a_single_point_and_of_a_flat_line_is_drawn():
    for values in ((1.0,), (0.0, 0.0), (0.0,)):
        line = Line("train", tuple(map(float, range(len(values)))), values)
        for options in ({}, {"percent": True}, {"short": True}):
            assert "<svg" in figures.chart(Chart("flat", (line,), "epoch", **options))
