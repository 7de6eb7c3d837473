"""Figures as inline SVG in the page's own colours, so that they follow light, dark and print. Matplotlib's door."""

import colorsys
import io
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from instar.metrics.calibration import Reliability
from instar.report.blocks import Chart, Corner, Line, Mark, Trace

# Colours nobody would choose, each standing for a variable of style.css. Matplotlib writes colours in small letters.
PLACEHOLDERS = {
    "ink": "#010203",
    "soft": "#010204",
    "rule": "#010205",
    "accent": "#010206",
    "second": "#010207",
    "wrong": "#010208",
    "good": "#010209",
    "paper": "#01020a",
    "faint": "#01020b",
}
STYLES: dict[str, dict[str, Any]] = {
    "main": {"color": PLACEHOLDERS["accent"], "linewidth": 1.7},
    "second": {"color": PLACEHOLDERS["second"], "linewidth": 1.7},
    "faint": {"color": PLACEHOLDERS["faint"], "linewidth": 0.9},
}
SETTINGS: Any = {
    "svg.fonttype": "none",  # text stays text: the page's font, selectable, searchable
    "svg.hashsalt": "instar",  # the same data gives the same file
    "text.parse_math": False,  # a name with $ in it is a name
    "font.size": 10,
    "axes.edgecolor": PLACEHOLDERS["rule"],
    "axes.linewidth": 1,
    "axes.labelcolor": PLACEHOLDERS["soft"],
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": PLACEHOLDERS["rule"],
    "grid.linewidth": 0.7,
    "text.color": PLACEHOLDERS["ink"],
    "xtick.color": PLACEHOLDERS["soft"],
    "ytick.color": PLACEHOLDERS["soft"],
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
}
WIDTH, HEIGHT, SHORT = 4.6, 2.6, 1.55  # inches of 72 points: about as wide as a phone, so that text keeps its size
POINTS = 300  # of a line; more cannot be told apart at this width


def chart(block: Chart) -> str:
    """A chart of lines and marks, as an <svg> element."""
    height = SHORT if block.short else HEIGHT
    with _axes(WIDTH, height) as (figure, axes):
        # The same margins everywhere, so that charts above and beside each other line up.
        figure.subplots_adjust(left=0.135, right=0.985, top=0.985 - 0.03 / height, bottom=0.47 / height)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=4 if block.short else 6))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        for line in block.lines:
            x, y = thinned(line)
            lonely: dict[str, Any] = {"marker": "o", "markersize": 3} if len(x) < 3 else {}
            axes.plot(x, y, **STYLES[line.style], **lonely)
        _limits(axes, block)
        for mark in block.marks:
            _mark(axes, mark)
        axes.set_xlabel(block.x_name)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=axes.get_xlim()[1] > 2))
        if block.percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=_decimals(axes), symbol=" %"))
        return _svg(figure, block.title)


def corner(block: Corner) -> str:
    """Each component against each other one below the diagonal, and its distribution on it."""
    many = len(block.names_C)
    with matplotlib.rc_context(SETTINGS | {"axes.grid": False, "axes.spines.left": True, "figure.dpi": 150}):
        figure = Figure(figsize=(1.75 * many, 1.75 * many))
        FigureCanvasSVG(figure)
        figure.subplots_adjust(left=0.08, right=0.995, top=0.995, bottom=0.08, hspace=0.09, wspace=0.09)
        colour_P3 = _group_colours(block.group_P)
        order_P = np.random.default_rng(0).permutation(len(block.group_P))  # so that no group lies on all others
        for row in range(many):
            for column in range(row + 1):
                axes = figure.add_subplot(many, many, row * many + column + 1)
                x_P, y_P = block.component_PC[:, column], block.component_PC[:, row]
                if row == column:
                    axes.hist(x_P, bins=48, color=PLACEHOLDERS["soft"], alpha=0.45)
                    axes.set_yticks([])
                    axes.spines["left"].set_visible(False)
                else:
                    size = min(6.0, max(0.8, 3000 / max(1, len(x_P))))
                    axes.scatter(
                        x_P[order_P],
                        y_P[order_P],
                        s=size,
                        c=colour_P3[order_P],
                        linewidths=0,
                        alpha=0.6,
                        rasterized=True,
                    )
                _corner_ticks(axes, row, column, many, block.names_C)
        return _svg(figure, "Leading components against each other")


def group_colour(number: int) -> tuple[float, float, float]:
    """A colour in the middle between light and dark, good on both; the first ten are far apart."""
    if number < len(_GROUP_HUES):
        return colorsys.hls_to_rgb(_GROUP_HUES[number] / 360, 0.5, 0.55)
    return colorsys.hls_to_rgb(number * 0.381966 % 1, (0.4, 0.5, 0.6)[number % 3], 0.45)


_GROUP_HUES = (210, 28, 150, 350, 265, 50, 185, 320, 95, 235)


def _group_colours(group_P: np.ndarray) -> np.ndarray:
    colour_Q3 = np.array([*map(group_colour, range(int(group_P.max(initial=-1)) + 1)), (0.5, 0.5, 0.5)])
    return colour_Q3[group_P]


def _corner_ticks(axes: Axes, row: int, column: int, many: int, names_C: tuple[str, ...]) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(nbins=3))
    if row != column:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=3))
    axes.tick_params(labelsize=8, labelbottom=row == many - 1, labelleft=column == 0 and row > 0)
    if row == many - 1:
        axes.set_xlabel(names_C[column], fontsize=9)
    if column == 0 and row > 0:
        axes.set_ylabel(names_C[row], fontsize=9)


def reliability(table: Reliability) -> str:
    """Accuracy against confidence, bin by bin; the diagonal is what an honest model does."""
    with _axes(3.5, 3.3) as (figure, axes):
        filled = table.count_M > 0
        width = table.edges[1] - table.edges[0]
        x_M, accuracy_M, confidence_M = table.edges[:-1] + width / 2, table.accuracy_M, table.confidence_M
        axes.plot([0, 1], [0, 1], color=PLACEHOLDERS["soft"], linewidth=1, linestyle=(0, (3, 3)))
        for x, accuracy, confidence in zip(x_M[filled], accuracy_M[filled], confidence_M[filled], strict=True):
            over, low, high = confidence > accuracy, min(confidence, accuracy), max(confidence, accuracy)
            axes.bar(x, low, width * 0.86, color=PLACEHOLDERS["accent"], alpha=0.8)
            axes.bar(x, high - low, width * 0.86, low, color=PLACEHOLDERS["wrong" if over else "accent"], alpha=0.3)
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="confidence")
        _percent_axes(figure, axes)
        return _svg(figure, "Reliability diagram: accuracy against confidence")


def confidence_histogram(table: Reliability) -> str:
    """How sure the model is, as shares of all rows."""
    with _axes(3.5, 3.3) as (figure, axes):
        width = table.edges[1] - table.edges[0]
        share_M = table.count_M / max(1, table.count_M.sum())
        axes.bar(table.edges[:-1] + width / 2, share_M, width * 0.86, color=PLACEHOLDERS["soft"], alpha=0.55)
        for value, color in zip(overall(table), ("accent", "wrong"), strict=True):
            axes.axvline(value, color=PLACEHOLDERS[color], linewidth=1.6)
        axes.set(xlim=(0, 1.005), xlabel="confidence")
        _percent_axes(figure, axes)
        return _svg(figure, "Histogram of confidence")


def pathed(trace: Trace) -> str:
    """The line of a trace as an SVG path, axes 130 apart and 240 high; it jumps over axes where it has no height."""
    parts = []
    pen = "M"
    for number, height in enumerate(trace.heights):
        if height is not None:
            parts.append(f"{pen}{130 * number} {240 * (1 - height):.1f}")
            pen = "L"
    return " ".join(parts)


def overall(table: Reliability) -> tuple[float, float]:
    """Accuracy and mean confidence of all rows of the table."""
    total = max(1, table.count_M.sum())
    return float(table.accuracy_M @ table.count_M / total), float(table.confidence_M @ table.count_M / total)


def thinned(line: Line) -> tuple[np.ndarray, np.ndarray]:
    """At most POINTS points: means of neighbours where there are more, without what is not finite."""
    x_P, y_P = np.asarray(line.x, float), np.asarray(line.y, float)
    keep_P = np.isfinite(x_P) & np.isfinite(y_P)
    x_P, y_P = x_P[keep_P], y_P[keep_P]
    if len(x_P) <= POINTS:
        return x_P, y_P
    starts = np.linspace(0, len(x_P), POINTS, endpoint=False).astype(int)
    sizes = np.diff(np.append(starts, len(x_P)))
    return np.add.reduceat(x_P, starts) / sizes, np.add.reduceat(y_P, starts) / sizes


@contextmanager
def _axes(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(width, height))
        FigureCanvasSVG(figure)
        yield figure, figure.add_subplot()


def _limits(axes: Axes, block: Chart) -> None:
    values = [value for line in block.lines for value in line.y if math.isfinite(value)]
    ends = [value for line in block.lines for value in line.x if math.isfinite(value)]
    if ends:
        axes.set_xlim(min(0.0, *ends), 1.02 * (block.x_end or max(ends)) or 1)
    if values and block.short:
        axes.set_ylim(0, 1.15 * max(values) or 1)
    elif values and block.percent:
        low, high = min(values), max(values)
        axes.set_ylim(max(0.0, low - 0.08 * (high - low)), min(1.02, high + 0.16 * (high - low) + 0.005))


def _mark(axes: Axes, mark: Mark) -> None:
    color = PLACEHOLDERS[{"stop": "wrong", "resume": "good", "best": "second"}[mark.style]]
    if mark.y is None:
        axes.axvline(mark.x, color=color, linewidth=1.1, linestyle=(0, (1, 2.2)), dash_capstyle="round", zorder=1.5)
        return
    axes.plot([mark.x], [mark.y], marker="o", markersize=6.5, color=color, markeredgecolor=PLACEHOLDERS["paper"])
    low, high = axes.get_xlim()
    late = (mark.x - low) / (high - low) > 0.6
    axes.annotate(
        mark.text,
        (mark.x, mark.y),
        textcoords="offset points",
        xytext=(-4 if late else 4, 7),  # above: the best is a peak or a trough of its line
        ha="right" if late else "left",
        color=color,
        fontsize=9.5,
    )


def _percent_axes(figure: Figure, axes: Axes) -> None:
    figure.subplots_adjust(left=0.13, right=0.95, top=0.98, bottom=0.15)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        axis.set_major_locator(MaxNLocator(nbins=5))


def _decimals(axes: Axes) -> int:
    low, high = axes.get_ylim()
    return 0 if high - low > 0.08 else 1 if high - low > 0.008 else 2


def _svg(figure: Figure, title: str) -> str:
    buffer = io.StringIO()
    # Identifiers inside the drawing are hashes of its content and the salt; with the title in it, no two figures of a
    # page share one.
    with matplotlib.rc_context({"svg.hashsalt": f"instar {title}"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    svg = text[text.index("<svg") :]
    for pattern, replacement in _CLEANING:
        svg = re.sub(pattern, replacement, svg, flags=re.DOTALL)
    for name, color in PLACEHOLDERS.items():
        svg = svg.replace(color, f"var(--{name})")
    return svg


# Matplotlib writes a document; a page wants an element.
_CLEANING = (
    (r"<metadata>.*?</metadata>", ""),
    (r"<style.*?</style>", ""),  # inside HTML it would apply to the whole page
    (r"<g id=\"[^\"]*\"", "<g"),  # the same in every figure, and nobody refers to them
    (r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px"),  # the page's font
    (r" font-family: [^;\"]*;", ""),
    (r" transform=\"rotate\(-0 [^\"]*\"", ""),
    (r"(<svg[^>]*?) width=\"[^\"]*\"", r"\1"),  # the page says how wide; the view box keeps the proportions
    (r"(<svg[^>]*?) height=\"[^\"]*\"", r"\1"),
    (r"\s*\n\s*", " "),
)
