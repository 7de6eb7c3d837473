"""A made-up map: blobs of points with names, groups, times and little pictures, small and hostile or large."""

from pathlib import Path

import numpy as np

from instar.embed import Look, mapped
from instar.embeddings import Embeddings
from instar.engine.mapping import Map
from instar.report import mappage
from instar.run import Run
from tests.report.made import HOSTILE


def embeddings(
    *, rows: int = 60, classes: tuple[str, ...] = HOSTILE, branches: int = 1, width: int = 8, spread: float = 0.3
) -> Embeddings:
    """Rows of all classes in turn, each class a blob; the other branch lies close by."""
    generator = np.random.default_rng(0)
    label_N = (np.arange(rows) % max(1, len(classes))).astype(np.int32)
    middle_KD = 2 * generator.normal(size=(max(1, len(classes)), width))
    image_ND = (middle_KD[label_N] + spread * generator.normal(size=(rows, width))).astype(np.float32)
    feature = {"image": image_ND}
    if branches > 1:
        feature["other"] = image_ND + np.float32(0.05) * generator.normal(size=image_ND.shape).astype(np.float32)
    return Embeddings(
        ids=[f'{at % 7}/<i>{at:05d}</i>\n, it\'s "2023-05-{1 + at % 28:02d} 10:00:00".png' for at in range(rows)],
        paths=[f"/data/{at}.png" for at in range(rows)],
        others=[""] * rows,
        splits=["train" if at % 3 else "test" for at in range(rows)],
        groups=[f"node $({at % 4})" for at in range(rows)],
        label_N=label_N if len(classes) > 1 else np.full(rows, -1, np.int32),
        feature=feature,
        classes=classes,
        meta={
            "run": "made",
            "split": "test",
            "checkpoint": "samples-1",
            "samples": 1,
            "manifest": "0" * 64,
            "unreadable": [],
            "names": {"image": "RGB", "other": "thermal"},
            "side": 16,
            "tiny": True,
        },
    )


def stamps(rows: int, side: int = 16) -> dict[int, bytes]:
    """A picture of one colour for each row."""
    return {row: bytes([row * 37 % 256, row * 11 % 256, 128]) * side * side for row in range(rows)}


def run(folder: Path, made: Embeddings, **settings: object) -> Run:
    """A run folder with the map of these embeddings."""
    found = Run(folder / "it's a <run>")
    found.path.mkdir(parents=True)
    pictures = {branch: stamps(len(made)) for branch in made.feature}
    mapped(found, Look.model_validate(settings), made, np.arange(len(made)), pictures)
    return found


def large(points: int, *, classes: int = 10) -> mappage.Shown:
    """A page's worth of points, placed by hand: nothing is computed."""
    generator = np.random.default_rng(1)
    made = embeddings(rows=points, classes=tuple(f"class {number}" for number in range(classes)), width=4)
    place_P2 = (6 * generator.normal(size=(classes, 2))[made.label_N] + generator.normal(size=(points, 2))).astype("f4")
    near_PM = (np.arange(points)[:, None] + np.arange(1, 9)) % points
    drawn = Map(
        place_P2, place_P2, np.array([0.6, 0.4]), made.label_N, near_PM.astype("i4"), np.ones(near_PM.shape), [], []
    )
    about = {**Look().model_dump(), **made.meta, "branches": ["image"]}
    scores = {"points": points, "clusters": classes, "not_numbers": []}
    pictures = stamps(points, 22)
    return mappage.Shown(
        name="large",
        embeddings=made,
        made=drawn,
        row_P=np.arange(points),
        branch_P=np.zeros(points, int),
        partner_P=np.full(points, -1),
        branches=["image"],
        label_P=made.label_N,
        examples={cluster: np.arange(cluster, 90, classes)[:9] for cluster in range(classes)},
        stamps=[pictures[row] for row in range(points)],
        tiny=False,
        scores=scores,
        about={**about, "side": 22},
        notes=[],
    )
