"""Blocks: the parts a page is made of, as plain data. A task returns sections of them; `html` turns them into a page.

Every text may hold anything at all (class names and paths are somebody else's); `html` makes it harmless.
K classes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from instar.metrics.calibration import Reliability


@dataclass(frozen=True)
class Number:
    """One headline number; `share` draws it on a scale from 0 to 1, with its interval."""

    name: str
    value: str
    note: str = ""
    share: float | None = None
    interval: tuple[float, float] | None = None
    chance: float | None = None
    """What guessing would give, marked on the scale."""


@dataclass(frozen=True)
class Headline:
    """The numbers one came for; the first is the largest."""

    numbers: tuple[Number, ...]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Note:
    """A remark that must not be missed, such as what was left out."""

    text: str


@dataclass(frozen=True)
class Alarm:
    """What makes everything else on the page worthless; shown in red."""

    text: str


@dataclass(frozen=True)
class Code:
    """Text that is shown as it is, such as a configuration. `copy` adds a button that copies it."""

    text: str
    title: str = ""
    copy: bool = False


@dataclass(frozen=True)
class Quote:
    """A sentence to copy."""

    text: str


@dataclass(frozen=True)
class Facts:
    """Names and values."""

    pairs: tuple[tuple[str, Any], ...]
    title: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under column names; columns in `numeric` are set to the right. Rows after `shown` are folded away."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    title: str = ""
    numeric: frozenset[str] = frozenset()
    shown: int = 12


@dataclass(frozen=True)
class Line:
    """One line of a chart. style is 'main', 'second' or 'faint'."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    style: str = "main"


@dataclass(frozen=True)
class Mark:
    """Something that happened at x. style is 'stop' (a stop or kill), 'resume', or 'best' (with a point at y)."""

    x: float
    text: str
    style: str
    y: float | None = None


@dataclass(frozen=True)
class Chart:
    """Lines over a common axis."""

    title: str
    lines: tuple[Line, ...]
    x_name: str
    y_name: str = ""
    marks: tuple[Mark, ...] = ()
    percent: bool = False
    short: bool = False
    """Half as high, from zero: something to glance at."""
    x_end: float | None = None
    """Where the axis ends; charts side by side share it."""


@dataclass(frozen=True)
class Charts:
    """Charts side by side."""

    charts: tuple[Chart, ...]
    legend: tuple[tuple[str, str], ...] = ()
    """(style of a line or mark, what it means)."""


@dataclass(frozen=True)
class Bar:
    """One row of `Bars`: values of 0 to 1, or None where there is nothing to divide by."""

    name: str
    count: int
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class Bars:
    """Small bars in columns, one row a class, in the order given. Rows after `shown` are folded away."""

    columns: tuple[str, ...]
    rows: tuple[Bar, ...]
    count_name: str = "rows"
    row_name: str = "class"
    shown: int = 24
    percent: bool = True
    """Whether the values are written beside the bars, in per cent."""


@dataclass(frozen=True)
class Picture:
    """A thumbnail with what was said about it.

    source    data: address, or "" where the file cannot be read any more
    cell      (true, predicted) class numbers
    ranking   the most probable classes with their probabilities
    """

    source: str
    name: str
    true: str
    predicted: str
    confidence: float
    cell: tuple[int, int]
    ranking: tuple[tuple[str, float], ...] = ()
    tiny: bool = False
    """A picture of few pixels, to be shown with its pixels."""
    first: bool = False
    """The first one of its cell: where the cell's link leads without JavaScript."""


@dataclass(frozen=True, eq=False)
class Confusion:
    """A confusion matrix; a cell opens those pictures of the page's galleries that belong to it.

    count_KK   rows are true classes
    number_K   the class number of each row and column, which `Picture.cell` refers to
    """

    classes: tuple[str, ...]
    count_KK: np.ndarray
    number_K: tuple[int, ...]


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side; those after `shown` are folded away, under `more`."""

    pictures: tuple[Picture, ...]
    shown: int = 24
    more: str = "more pictures"


@dataclass(frozen=True)
class Panel:
    """Three pictures of one image: itself, its true mask, the errors of the predicted one; data: addresses.

    iou           the mean over the classes in this image
    taken, truth  its largest error: share of a class and what it was taken for, and that class
    """

    sources: tuple[str, str, str]
    name: str
    iou: float
    taken: str = ""
    truth: str = ""


@dataclass(frozen=True)
class Panels:
    """Images with their masks; those after `shown` are folded away. Legends are (colour, what it means)."""

    panels: tuple[Panel, ...]
    classes: tuple[tuple[str, str], ...]
    errors: tuple[tuple[str, str], ...]
    shown: int = 8


@dataclass(frozen=True, eq=False)
class Calibration:
    """A reliability diagram and a histogram of confidence."""

    table: Reliability


@dataclass(frozen=True)
class Span:
    """A piece of time; start and width are shares of the whole line. style is 'run', 'pause' or 'queue'."""

    start: float
    width: float
    text: str
    style: str


@dataclass(frozen=True)
class Tick:
    """A moment; style is 'save', 'stop', 'best', 'end' or 'trouble'."""

    at: float
    text: str
    style: str


@dataclass(frozen=True)
class Timeline:
    """When the run ran, from its first start to its last event; long pauses are drawn short."""

    spans: tuple[Span, ...]
    ticks: tuple[Tick, ...]
    start: str
    end: str


@dataclass(frozen=True)
class Tile:
    """A picture with its name and a remark; `tiny` ones are shown with their pixels.

    source   data: address, or "" where the file cannot be read any more
    note     a word on it, such as its class
    badge    a short word that must be seen, such as its split
    """

    source: str
    name: str
    note: str = ""
    badge: str = ""
    tiny: bool = False


@dataclass(frozen=True)
class Together:
    """Pictures that belong side by side, under a title. style is 'wrong' where that is bad, else ''."""

    title: str
    tiles: tuple[Tile, ...]
    style: str = ""
    more: int = 0
    """How many others there are without a picture here."""


@dataclass(frozen=True)
class Sets:
    """Sets of pictures, each side by side; those after `shown` are folded away. `wide` gives each a line of its own.
    A legend is (colour, what it means)."""

    sets: tuple[Together, ...]
    shown: int = 24
    wide: bool = False
    title: str = ""
    legend: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Histogram:
    """Counts over ranges that lie side by side: names[i] is the range of counts[i]."""

    title: str
    names: tuple[str, ...]
    counts: tuple[int, ...]
    note: str = ""


@dataclass(frozen=True)
class Histograms:
    """Histograms side by side."""

    histograms: tuple[Histogram, ...]


@dataclass(frozen=True)
class Map:
    """Points in a plane to walk about in.

    data     what `map.js` reads, as JSON
    sheets   data: addresses of the small pictures, many in each
    points   how many there are
    about    what one sees, in a sentence, for those who do not see it
    """

    data: str
    sheets: tuple[str, ...]
    points: int
    about: str


@dataclass(frozen=True)
class Seen:
    """One image and what mattered in it.

    image     data: address;  over  the same with the first map laid over it, for who has no JavaScript
    answer    what the network says of it, and how sure it is;  truth   what it is, where that is something else
    maps      a name and a data: address of each map, a grey PNG as coarse as it is, brightest at its largest value
    peak      the largest value of each map
    """

    image: str
    over: str
    name: str
    answer: tuple[str, str]
    truth: str
    maps: tuple[tuple[str, str], ...]
    peak: tuple[float, ...]
    branch: str = ""
    tiny: bool = False


@dataclass(frozen=True)
class Overlays:
    """Images with maps laid over them, and sliders for all of them. `names` are the maps one can choose."""

    seen: tuple[Seen, ...]
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Corner:
    """Each of some components against each other one, and the distribution of each.

    component_PC   one row a point
    names_C        what the components are called, with their share of the variance
    group_P        number of each point's group, which its colour is; -1 for none
    """

    component_PC: np.ndarray
    names_C: tuple[str, ...]
    group_P: np.ndarray


@dataclass(frozen=True)
class Axis:
    """One upright axis of `Parallel`: its name, and ticks as (height from 0 to 1, what it says)."""

    name: str
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Trace:
    """One line across all axes: its height on each, from 0 to 1, or None where it has none.

    style   'best', 'good', 'plain' or 'faint'
    text    what it is, for who points at it
    """

    heights: tuple[float | None, ...]
    style: str
    text: str


@dataclass(frozen=True)
class Parallel:
    """Parallel coordinates. A range chosen on an axis leaves only the lines that go through it."""

    title: str
    axes: tuple[Axis, ...]
    traces: tuple[Trace, ...]


@dataclass(frozen=True)
class Section:
    """A titled part of a page. `lead` is one or two sentences on what one sees."""

    title: str
    blocks: tuple[Any, ...]
    lead: str = ""


@dataclass(frozen=True)
class Page:
    """A page. `lead` is the sentence under the title; `foot` stands at the very end."""

    title: str
    lead: str
    sections: tuple[Section, ...]
    kicker: str = ""
    foot: str = ""
