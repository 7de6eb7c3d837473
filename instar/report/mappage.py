"""The page of a map of embeddings: the map itself, clusters with examples, copies, components, numbers.

Legend: P points, C components, K classes.
"""

import base64
import json
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

import instar
from instar.embeddings import Embeddings
from instar.predictions import texts
from instar.report import html, sprites
from instar.report.blocks import Corner, Facts, Map, Note, Page, Section, Sets, Table, Text, Tile, Together

EXAMPLES = 9  # of each cluster
MOST_CLUSTERS = 40  # with examples in a page
MOST_COPIES = 24  # sets of equal embeddings with pictures
LEADING = 4  # components in the corner plot
NONE = 65535
NOBODY = 0xFFFFFFFF
THIN = html.THIN

PROJECTIONS = {"tsne": "t-SNE", "umap": "UMAP", "pca": "the first two principal components"}
CLUSTERS = {"kmeans": "k-means", "hdbscan": "HDBSCAN", "dbscan": "DBSCAN"}
CLUSTERS_LEAD = "The points nearest to the middle of each cluster, without copies. The largest cluster comes first."
COPIES_LEAD = (
    "Embeddings that are equal to the last bit: the same image twice, or images the network cannot tell apart."
)
COMPONENTS_LEAD = "The leading principal components against each other, each with its share of the variance."
NUMBERS_LEAD = "Measured in the leading components, not in the plane: what lies apart there may be together on the map."


@dataclass(frozen=True, eq=False)
class Shown:
    """All that a page shows.

    made       the map: place_P2, component_PC, cluster_P …
    row_P      row of each point in the embeddings;  branch_P   number of its branch
    partner_P  the other point of the same row, -1 where there is none
    label_P    number of its class, -1 where nobody knows it
    examples   points that show what each cluster is
    stamps     a small picture of each point, side x side x 3 bytes, b"" where there is none
    """

    name: str
    embeddings: Embeddings
    made: Any
    row_P: np.ndarray
    branch_P: np.ndarray
    partner_P: np.ndarray
    branches: Sequence[str]
    label_P: np.ndarray
    examples: Mapping[int, np.ndarray]
    stamps: Sequence[bytes]
    tiny: bool
    scores: Mapping[str, Any]
    about: Mapping[str, Any]
    notes: Sequence[str]


def page(shown: Shown) -> Page:
    """The page."""
    laid = sprites.sheets(shown.stamps, side=shown.about["side"])
    sections = [
        Section("", (*_notes(shown), Map(data(shown, laid), laid.sources, len(shown.row_P), _sentence(shown)))),
        Section("Clusters", _clusters(shown), CLUSTERS_LEAD),
        *([Section("Copies", _copies(shown), COPIES_LEAD)] if shown.made.same else []),
        *_components(shown),
        Section("Numbers", (_numbers(shown),), NUMBERS_LEAD),
        Section("Lineage", (_lineage(shown),), "What this map was made from."),
    ]
    return Page(
        title=shown.name,
        lead=_sentence(shown),
        sections=tuple(sections),
        kicker=f"Instar map · {shown.about['split']} rows · {shown.about['checkpoint']}",
        foot=f"Made by Instar {instar.__version__}, {time.strftime('%Y-%m-%d %H:%M %Z')}. This file is complete in "
        f"itself; the features behind it are in embeddings/{shown.about['split']}.parquet.",
    )


# --- what the map reads ----------------------------------------------------------------------------------------------


def data(shown: Shown, laid: sprites.Sheets) -> str:
    """The points as JSON; columns of numbers as base64, places in 65,536 steps."""
    place_P2 = shown.made.place_P2.astype(np.float64)
    low_2, high_2 = place_P2.min(axis=0), place_P2.max(axis=0)
    span = float((high_2 - low_2).max()) or 1.0
    low_2 = (low_2 + high_2) / 2 - span / 2  # a square, so that distances are the same both ways
    step_P2 = np.rint((place_P2 - low_2) / span * 65535).clip(0, 65535)
    ids = texts([shown.embeddings.ids[row] for row in shown.row_P.tolist()])
    return json.dumps(
        {
            "x": _words(step_P2[:, 0]),
            "y": _words(step_P2[:, 1]),
            "low": low_2.tolist(),
            "span": span,
            "names": ids,
            "shown": {at: html.harmless(name) for at, name in enumerate(ids) if html.harmless(name) != name},
            "branch": _base64(shown.branch_P.astype(np.uint8)),
            "branches": list(shown.branches),
            "partner": _numbers_of(shown.partner_P),
            "near": _numbers_of(shown.made.near_PM.reshape(-1)),
            "near_each": shown.made.near_PM.shape[1],
            "colourings": list(colourings(shown)),
            "stamps": {
                "side": laid.side,
                "columns": laid.columns,
                "rows": laid.rows,
                "of": _numbers_of(np.array([-1 if number is None else number for number in laid.number])),
                "tiny": shown.tiny,
            },
        },
        separators=(",", ":"),
    )


def colourings(shown: Shown) -> list[dict[str, Any]]:
    """What points can be coloured by, of what there is: class, cluster, split, group, time."""
    embeddings, rows = shown.embeddings, shown.row_P.tolist()
    found = []
    if (shown.label_P >= 0).any():
        found.append(_named("class", texts(embeddings.classes), shown.label_P, none="unknown"))
    names = [f"cluster {number + 1}" for number in range(int(shown.made.cluster_P.max(initial=-1)) + 1)]
    found.append(_named("cluster", names, shown.made.cluster_P, none="in no cluster"))
    for title, values in (("split", embeddings.splits), ("group", embeddings.groups)):
        given = texts([values[row] for row in rows])
        names = sorted({value for value in given if value})
        if 1 < len(names) < NONE:
            number = {name: at for at, name in enumerate(names)}
            found.append(_named(title, names, np.array([number.get(value, -1) for value in given]), none="none"))
    moments = [moment(embeddings.ids[row]) for row in rows]
    known = [one for one in moments if one is not None]
    if len(known) > 0.9 * len(moments) and max(known) > min(known):
        low, high = min(known), max(known)
        step_P = [NONE if one is None else round((one - low) / (high - low) * 65534) for one in moments]
        found.append(
            {"name": "time", "scale": True, "low": low, "high": high, "of": _words(np.array(step_P)), "none": "unknown"}
        )
    return found


def moment(name: str) -> float | None:
    """Seconds since 1970, taken as UTC, of the time in a name such as `20230521-095736`; None where there is none."""
    found = _MOMENT.search(name)
    if found is None:
        return None
    try:
        return datetime(*map(int, found.groups()), tzinfo=UTC).timestamp()  # type: ignore[arg-type, misc]
    except ValueError:
        return None


_MOMENT = re.compile(r"(?<!\d)((?:19|20)\d\d)-?(\d\d)-?(\d\d)[-_T ]?(\d\d)[:-]?(\d\d)[:-]?(\d\d)(?!\d)")


def _named(title: str, names: Sequence[str], group_P: np.ndarray, *, none: str) -> dict[str, Any]:
    group_P = np.where((group_P < 0) | (group_P >= NONE), NONE, group_P)
    return {
        "name": title,
        "names": list(names),
        "seen": list(map(html.harmless, names)),
        "of": _words(group_P),
        "none": none,
    }


def _words(values: np.ndarray) -> str:
    return _base64(values.astype("<u2"))


def _numbers_of(values: np.ndarray) -> str:
    return _base64(np.where(values < 0, NOBODY, values).astype("<u4"))


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode("ascii")


# --- what stands below it --------------------------------------------------------------------------------------------


def _sentence(shown: Shown) -> str:
    rows, classes = len(np.unique(shown.row_P)), len(np.unique(shown.label_P[shown.label_P >= 0]))
    text = f"{rows:,} {shown.about['split']} rows".replace(",", THIN).replace("all rows", "rows")
    if len(shown.branches) > 1:
        text += f", each as {' and '.join(shown.branches)}"
    text += f" of {classes} classes" if classes else ""
    text += f", laid out by {PROJECTIONS[shown.about['projection']]}"
    if "neighbour_accuracy" in shown.scores:
        text += f"; {html.percent(shown.scores['neighbour_accuracy'])} lie among neighbours of their own class"
    if "pair_retrieval_at_1" in shown.scores:
        text += f"; {html.percent(shown.scores['pair_retrieval_at_1'])} are nearest to their own partner"
    return f"{text}."


def _notes(shown: Shown) -> list[Note]:
    notes = [Note(note) for note in shown.notes]
    total, rows = len(shown.embeddings), len(np.unique(shown.row_P))
    unreadable, broken = shown.about["unreadable"], shown.scores["not_numbers"]
    if unreadable:
        notes.append(Note(f"{len(unreadable)} rows could not be read and are not on the map: {_few(unreadable)}"))
    if broken:
        notes.append(Note(f"{len(broken)} embeddings are not made of numbers and are left out: {_few(broken)}"))
    if rows + len(unreadable) + len(broken) < total:
        notes.append(Note(f"{rows:,} of {total:,} rows are shown, drawn at random; the file of embeddings has all."))
    return notes


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(map(html.harmless, names[:5])) + more


def _clusters(shown: Shown) -> tuple[Any, ...]:
    made = shown.made
    count = int(made.cluster_P.max(initial=-1)) + 1
    if count == 0:
        return (Text("No points lie close enough to one another to be a cluster."),)
    sets: list[Together] = []
    rows: list[tuple[Any, ...]] = []
    for cluster in range(count):
        inside = np.flatnonzero(made.cluster_P == cluster)
        parts = Counter(shown.label_P[inside].tolist()).most_common()
        named = [(shown.embeddings.classes[label] if label >= 0 else "unknown", many) for label, many in parts]
        share = named[0][1] / len(inside)
        known = bool((shown.label_P[inside] >= 0).any())
        title = f"Cluster {cluster + 1}, {len(inside):,} points"
        if known:
            title += f", {html.percent(share, 0)} {html.harmless(named[0][0])}"
            rows.append((cluster + 1, len(inside), html.percent(share), _made_of(named)))
        else:
            rows.append((cluster + 1, len(inside), "", ""))
        if cluster < MOST_CLUSTERS:
            sets.append(Together(title, tuple(_tile(shown, int(point)) for point in shown.examples[cluster])))
    noise = int((made.cluster_P < 0).sum())
    if noise:
        rows.append(("none", noise, "", ""))
    table = Table(
        ("cluster", "points", "purity", "made of"),
        tuple(rows),
        title="What each cluster is made of",
        numeric=frozenset({"points", "purity"}),
        shown=16,
    )
    return (Sets(tuple(sets), shown=16, wide=True), table)


def _made_of(named: Sequence[tuple[str, int]]) -> str:
    text = ", ".join(f"{many} {html.harmless(name)}" for name, many in named[:5])
    return f"{text}, {sum(many for _, many in named[5:])} of {len(named) - 5} others" if len(named) > 5 else text


def _copies(shown: Shown) -> tuple[Any, ...]:
    sets = []
    for group in shown.made.same[:MOST_COPIES]:
        classes = {int(label) for label in shown.label_P[group] if label >= 0}
        style = "wrong" if len(classes) > 1 else ""
        title = f"{len(group)} equal embeddings" + (f" of {len(classes)} classes" if style else "")
        tiles = tuple(_tile(shown, int(point)) for point in group[:6])
        sets.append(Together(title, tiles, style=style, more=max(0, len(group) - 6)))
    more = len(shown.made.same) - MOST_COPIES
    notes = [Note(f"{more} more sets are not shown.")] if more > 0 else []
    return (Sets(tuple(sets), shown=12), *notes)


def _tile(shown: Shown, point: int) -> Tile:
    row, label = int(shown.row_P[point]), int(shown.label_P[point])
    note = shown.embeddings.classes[label] if label >= 0 else ""
    badge = shown.branches[int(shown.branch_P[point])] if len(shown.branches) > 1 else ""
    source = sprites.picture(shown.stamps[point], side=shown.about["side"], tiny=shown.tiny)
    return Tile(source, shown.embeddings.ids[row], note=note, badge=badge, tiny=shown.tiny)


def _components(shown: Shown) -> list[Section]:
    component_PC, explained_C = shown.made.component_PC, shown.made.explained_C
    many = min(LEADING, int((explained_C > 1e-6).sum()))
    if many < 2:
        return []
    names = tuple(f"{number + 1}: {html.percent(explained_C[number])}" for number in range(many))
    group_P = shown.label_P if (shown.label_P >= 0).any() else shown.made.cluster_P
    whole = html.percent(float(explained_C.sum()))
    said = f"The {len(explained_C)} components that everything here is made from hold {whole} of the variance."
    return [Section("Components", (Corner(component_PC[:, :many], names, group_P), Text(said)), COMPONENTS_LEAD)]


def _numbers(shown: Shown) -> Facts:
    names = {
        "points": "points",
        "clusters": "clusters",
        "in_no_cluster": "points in no cluster",
        "identical": "points that equal another one",
        "silhouette": "silhouette of the clusters, -1 to 1",
        "class_silhouette": "silhouette of the classes, -1 to 1",
        "adjusted_rand": "clusters and classes: adjusted Rand index",
        "normalised_mutual_information": "clusters and classes: mutual information",
        "purity": "purity: points of their cluster's main class",
        "neighbour_accuracy": "points whose neighbours say their class",
        "pair_retrieval_at_1": "points whose nearest counterpart is their own",
    }
    shares = ("purity", "neighbour_accuracy", "pair_retrieval_at_1")
    pairs = [
        (name, html.percent(shown.scores[key]) if key in shares else shown.scores[key])
        for key, name in names.items()
        if key in shown.scores
    ]
    return Facts(tuple(pairs))


def _lineage(shown: Shown) -> Facts:
    about = shown.about
    widths = {branch: feature.shape[1] for branch, feature in shown.embeddings.feature.items()}
    return Facts(
        (
            ("run", about["run"]),
            ("checkpoint", about["checkpoint"]),
            ("rows", f"{html.number(len(shown.embeddings))} ({about['split']})"),
            ("features", ", ".join(f"{branch} {width}" for branch, width in widths.items())),
            ("map", f"{PROJECTIONS[about['projection']]}, seed {about['seed']}"),
            ("clusters", CLUSTERS[about["clusters"]]),
            ("manifest", about["manifest"][:16]),
        )
    )
