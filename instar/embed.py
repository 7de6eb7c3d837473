"""Run -> embeddings of every row, a map of them, clusters, neighbours -> page.

Read top to bottom: embed, map, score, write.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from instar import embeddings as stored
from instar import plugins, predictions
from instar.embeddings import Embeddings
from instar.errors import Again, DataError
from instar.machine import Machine
from instar.manifest import Manifest
from instar.report import html, mappage
from instar.run import Run, write_atomically
from instar.settings import Settings

SPLITS = ("train", "val", "test")
SHEET_PIXELS = 10_000_000  # of all small pictures of a page: two to three megabytes


class Look(Settings):
    """What is embedded, and how the map of it is made."""

    split: Literal["test", "val", "train", "all"] = "test"
    """Which rows."""
    checkpoint: Literal["best", "latest"] = "best"
    """Which state of the run."""
    projection: Literal["tsne", "umap", "pca"] = "tsne"
    """How the plane comes out of the components."""
    clusters: Literal["kmeans", "hdbscan", "dbscan"] = "kmeans"
    """How clusters are found."""
    k: Annotated[int, Field(ge=1)] | None = None
    """How many, for kmeans; null for one a class, or what fits best where there are no classes."""
    eps: Annotated[float, Field(gt=0)] | None = None
    """How near the points of a cluster are, for dbscan; null to find it in the data."""
    perplexity: Annotated[float, Field(gt=1)] = 30.0
    """How many neighbours t-SNE heeds."""
    points: Annotated[int, Field(ge=10, le=200_000)] = 20_000
    """Most rows that the map shows, drawn by the seed; the file of embeddings has all."""
    seed: Annotated[int, Field(ge=0)] = 0
    """What everything random is drawn from."""


def embed(
    run: Run,
    look: Look | None = None,
    *,
    machine: Machine | None = None,
    world: Any = None,
    tick: Callable[[int], None] = lambda rows: None,
    told: Callable[[str], None] = lambda sentence: None,
) -> dict[str, Any]:
    """Embed every row of a split exactly once, and write embeddings, their map, its scores and its page.

    world   the ranks that do it together; by default this process alone. Only rank 0 gets and writes the scores
    tick    told the rows done so far;  told: what is being done
    Raises RunError or CheckpointError where there is nothing to embed with, DataError where the split has no rows,
    ConfigError where the task gives no embeddings, Again where a signal came meanwhile.
    """
    from instar.engine import trained

    look, machine = look or Look(), machine or Machine()
    with nullcontext(world) if world is not None else trained.alone(run, machine) as together:
        found = _embedded(run, look, machine=machine, world=together, tick=tick)
    if found is None:
        return {}
    embeddings, shown_P, stamps = found
    stored.write(embeddings, run.embeddings(look.split))
    told(f"{len(embeddings)} rows are in {run.embeddings(look.split)}")
    scores = mapped(run, look, embeddings, shown_P, stamps)
    run.log_event("embedded", rank=0, split=look.split, checkpoint=embeddings.meta["checkpoint"], rows=len(embeddings))
    return scores


def mapped(
    run: Run, look: Look, embeddings: Embeddings, shown_R: np.ndarray, stamps: Mapping[str, Mapping[int, bytes]]
) -> dict[str, Any]:
    """Make the map of embeddings; write it, its scores and its page. Gives the scores, and the names of all `maps`.

    Branches of one width share a space, and so a map. Others have one each: the first is called as the split is.
    shown_R   the rows that are on the map
    stamps    a small picture of each row by its number, for each branch; b"" or nothing where there is none
    """
    spaces = _spaces(embeddings)
    name_of = {branches[0]: f"{look.split}.{branches[0]}" if at else look.split for at, branches in enumerate(spaces)}
    scores = {}
    for branches in spaces:
        name = name_of[branches[0]]
        note = _apart(embeddings, branches, name_of) if len(spaces) > 1 else []
        scores[name] = _map(run, look, embeddings, shown_R, stamps, branches=branches, name=name, notes=note)
    return {**scores[look.split], "maps": list(scores)}


def _map(
    run: Run,
    look: Look,
    embeddings: Embeddings,
    shown_R: np.ndarray,
    stamps: Mapping[str, Mapping[int, bytes]],
    *,
    branches: list[str],
    name: str,
    notes: list[str],
) -> dict[str, Any]:
    """The map of branches that share a space, under a name."""
    from instar.engine import faults, mapping

    whole = {branch: np.isfinite(embeddings.feature[branch]).all(axis=1) for branch in branches}
    row_P = np.concatenate([shown_R[whole[branch][shown_R]] for branch in branches])
    branch_P = np.concatenate([np.full(whole[branch][shown_R].sum(), at) for at, branch in enumerate(branches)])
    if not len(row_P):
        raise DataError(
            f"{run.name}: none of the {len(embeddings)} embeddings is made of numbers. See: instar why {run.name}"
        )
    feature_PD = np.concatenate([embeddings.feature[branch][shown_R[whole[branch][shown_R]]] for branch in branches])
    label_P = embeddings.label_N[row_P]
    named = len(embeddings.classes) > 1 and len(np.unique(label_P[label_P >= 0])) > 0
    made = mapping.make(
        feature_PD,
        seed=look.seed,
        projection=look.projection,
        clusters=look.clusters,
        k=look.k or (len(np.unique(label_P[label_P >= 0])) if named else None),
        eps=look.eps,
        perplexity=look.perplexity,
    )
    partner_P = _partners(row_P, branch_P)
    label_P = label_P if named else np.full(len(row_P), -1, np.int32)
    scores = mapping.scores(made, label_P, partner_P, seed=look.seed)
    scores |= {"rows": len(embeddings), "unreadable": len(embeddings.meta["unreadable"])}
    scores["not_numbers"] = _not_numbers(embeddings)
    about = {**look.model_dump(mode="json"), **embeddings.meta, "branches": branches}
    _write_map(run.map_file(name), embeddings, made, (row_P, branch_P), about)
    write_atomically(run.map_scores(name), json.dumps({**scores, "about": about}, indent=1, ensure_ascii=False) + "\n")
    page = mappage.page(
        mappage.Shown(
            name=run.name,
            embeddings=embeddings,
            made=made,
            row_P=row_P,
            branch_P=branch_P,
            partner_P=partner_P,
            branches=[embeddings.meta["names"].get(branch, branch) for branch in branches],
            label_P=label_P,
            examples={
                cluster: mapping.typical(made, cluster, most=mappage.EXAMPLES) for cluster in range(scores["clusters"])
            },
            stamps=[
                stamps.get(branches[at], {}).get(row, b"")
                for row, at in zip(row_P.tolist(), branch_P.tolist(), strict=True)
            ],
            tiny=embeddings.meta["tiny"],
            scores=scores,
            about=about,
            notes=[*notes, *made.notes],
        )
    )
    html.write(page, run.map_page(name), halfway=lambda: faults.point("map.write"))
    return {**scores, "about": about}


def _embedded(
    run: Run, look: Look, *, machine: Machine, world: Any, tick: Callable[[int], None]
) -> tuple[Embeddings, np.ndarray, dict[str, Any]] | None:
    """Embeddings in the order of the manifest, the rows to be shown, their stamps; None on ranks other than 0."""
    from instar.engine import deadline, mapping, predict, stamps, trained
    from instar.engine.loading import loaders

    asked = trained.with_rows(run, checkpoint=look.checkpoint, machine=machine, devices=world.size)
    manifest = asked.manifest
    rows = _rows(manifest, look.split)
    if not len(rows):
        filled = [f"split={name}" for name in SPLITS if len(manifest.rows(name))]
        raise DataError(f"{run.name} has no {look.split} rows. Embed {' or '.join(filled) or 'another run'}.")
    shown_R = mapping.drawn_rows(len(rows), look.points, seed=look.seed)
    shown = set(rows[shown_R].tolist())
    gives = plugins.load("readers", asked.experiment.data.reader.kind).gives
    side = _side(asked.plan.size, len(shown) * (2 if "other" in gives else 1))

    def keep(columns: dict[str, Any], batch: dict[str, Any]) -> dict[str, Any]:
        """Features, and a stamp of what is shown; a row that could not be read has none of both."""
        unread = {row for row, _ in batch["bad"]}
        readable_B = np.array([row not in unread for row in columns["row"].tolist()])
        wanted_B = [row in shown and bool(read) for row, read in zip(columns["row"].tolist(), readable_B, strict=True)]
        kept: dict[str, Any] = {"row": columns["row"], "readable": readable_B}
        for branch in stored.BRANCHES:
            if branch in columns:
                kept[branch] = np.where(readable_B[:, None], columns[branch], np.float32("nan")).astype(np.float32)
                pictures = stamps.of(batch, branch, wanted_B, side=side) if branch in batch else [b""] * len(wanted_B)
                kept[f"stamp {branch}"] = np.array([*pictures, None], object)[:-1]
        return kept

    def note_bad(row: int, reason: str) -> None:
        run.log_event("bad_sample", rank=world.rank, split=look.split, row=row, path=manifest.ids[row], reason=reason)

    batches = partial(
        loaders.eval_stream,
        asked.reader,
        batch=asked.plan.micro,
        workers=asked.plan.workers,
        timeout=machine.timeout.seconds,
        on_bad=note_bad,
    )
    try:
        columns = predict.split(
            asked.learner,
            batches,
            rows,
            precision=asked.plan.precision,
            world=world,
            ask=asked.learner.embed,
            keep=keep,
            tick=tick,
            stopping=lambda: deadline.received() is not None,
        )
    except predict.Abandoned as given_up:
        raise Again(f"signal {deadline.received()} while the {look.split} rows were embedded") from given_up
    if not columns:
        return None
    meta = {
        "run": run.name,
        "split": look.split,
        "checkpoint": asked.checkpoint,
        "samples": asked.samples,
        "manifest": manifest.hash,
        "unreadable": [manifest.ids[row] for row in columns["row"][~columns["readable"]].tolist()],
        "names": stored.names_of(asked.experiment),
        "side": side,
        "tiny": asked.plan.size <= stamps.TINY,
    }
    found = {branch: columns[branch] for branch in stored.BRANCHES if branch in columns}
    pictures = {branch: {int(row): columns[f"stamp {branch}"][row] for row in shown_R.tolist()} for branch in found}
    return _of_rows(manifest, rows, found, meta), shown_R, pictures


def _of_rows(manifest: Manifest, rows: np.ndarray, feature: dict[str, np.ndarray], meta: dict[str, Any]) -> Embeddings:
    """What the manifest says of the rows beside their features."""
    table = manifest.table.take(pa.array(rows))
    files = [manifest.paths(row) for row in rows.tolist()]
    return Embeddings(
        ids=table["id"].to_pylist(),
        paths=[str(paths[0]) for paths in files],
        others=[str(paths[1]) if "other" in feature and len(paths) > 1 else "" for paths in files],
        splits=table["split"].to_pylist(),
        groups=[group or "" for group in table["group"].to_pylist()],
        label_N=manifest.targets[rows].astype(np.int32),
        feature=feature,
        classes=manifest.classes,
        meta=meta,
    )


def _rows(manifest: Manifest, split: str) -> np.ndarray:
    if split != "all":
        return manifest.rows(split)
    return np.sort(np.concatenate([manifest.rows(name) for name in SPLITS]))


def _side(size: int, stamps: int) -> int:
    """Pixels a side of a stamp: as large as an image, a thumb, or what all of them together may be."""
    return max(16, min(size, 96, int((SHEET_PIXELS / max(1, stamps)) ** 0.5)))


def _spaces(embeddings: Embeddings) -> list[list[str]]:
    """The branches by the space that they share, which those of one width do."""
    of_width: dict[int, list[str]] = {}
    for branch, feature in embeddings.feature.items():
        of_width.setdefault(feature.shape[1], []).append(branch)
    return list(of_width.values())


def _apart(embeddings: Embeddings, branches: Sequence[str], name_of: Mapping[str, str]) -> list[str]:
    """What must be said on the map of some branches where others have maps of their own."""
    many = " and ".join(str(embeddings.feature[branch].shape[1]) for branch in name_of)
    others = " and ".join(f"{name}.html" for branch, name in name_of.items() if branch not in branches)
    return [
        f"The branches have {many} features, which share no space, so each has a map of its own. This is "
        f"{embeddings.meta['names'].get(branches[0], branches[0])}; beside this file lies {others}."
    ]


def _partners(row_P: np.ndarray, branch_P: np.ndarray) -> np.ndarray:
    """The other point of the same row, -1 where there is none."""
    partner_P = np.full(len(row_P), -1, np.int64)
    order = np.lexsort((branch_P, row_P))
    first = np.flatnonzero(row_P[order][1:] == row_P[order][:-1])
    partner_P[order[first]], partner_P[order[first + 1]] = order[first + 1], order[first]
    return partner_P


def _not_numbers(embeddings: Embeddings) -> list[str]:
    """Rows that were read, and whose features are not all numbers."""
    unreadable = set(embeddings.meta["unreadable"])
    broken_N = np.logical_or.reduce([~np.isfinite(feature).all(axis=1) for feature in embeddings.feature.values()])
    return [name for row in np.flatnonzero(broken_N).tolist() if (name := embeddings.ids[row]) not in unreadable]


def _write_map(path: Path, embeddings: Embeddings, made: Any, points: Sequence[np.ndarray], about: Any) -> None:
    """The map as a table: one line a point, whose row and branch are `points`."""
    row_P, branch_P = points
    ids = predictions.texts([embeddings.ids[row] for row in row_P.tolist()])
    nearest = [[ids[near] for near in row] for row in made.near_PM.tolist()]
    leading = range(min(5, made.component_PC.shape[1]))
    table = pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "branch": pa.array([about["branches"][at] for at in branch_P.tolist()], pa.string()),
            "label": pa.array(embeddings.label_N[row_P], pa.int32()),
            "x": pa.array(made.place_P2[:, 0]),
            "y": pa.array(made.place_P2[:, 1]),
            "cluster": pa.array(made.cluster_P, pa.int32()),
            "neighbours": pa.array(nearest, pa.list_(pa.string())),
            **{f"component_{number + 1}": pa.array(made.component_PC[:, number]) for number in leading},
        }
    )
    stored.write_table(table, path, about={"about": about, "classes": embeddings.classes})
