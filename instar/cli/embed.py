"""Map what a run has learnt: embeddings of every row, clusters, neighbours, a page to walk about in

    instar embed RUN                        the test rows
    instar embed RUN split=all              or val, train, all of them
    instar embed RUN clusters=hdbscan       kmeans (k=12), hdbscan or dbscan (eps=0.5)
    instar embed RUN projection=umap        tsne (perplexity=30), umap or pca

    points=20000        most rows on the map, drawn by seed=0; the file of embeddings always has all
    checkpoint=latest   instead of the best
    device=cpu workers=4
    runs=FOLDER         where runs are, instead of runs/
    --json              the scores as one JSON object

Writes RUN/embeddings/SPLIT.parquet (id, path, split, label, features), SPLIT.map.parquet (place, cluster, neighbours,
components of each point), SPLIT.json (scores) and SPLIT.html, the map.
"""

import json
from pathlib import Path
from typing import Any

from instar import caches, terminal
from instar.cli.words import Words, to_type
from instar.errors import DONE
from instar.formats import count, one_line, percent, table

FLAGS = ()
THINGS = (1, 1)
MACHINE = ("device", "workers", "timeout", "stage", "cache")


def run(words: Words) -> int:
    from instar import run as runs
    from instar.machine import Machine
    from instar.validation import validate

    caches.refuse_network()
    from instar import embed

    given = words.only(*embed.Look.model_fields, "runs", *MACHINE)
    found = runs.find(words.things[0], Path(given.get("runs", "runs")))
    machine = validate(Machine, {}, [f"{key}={given[key]}" for key in MACHINE if key in given])
    look = validate(embed.Look, {}, [f"{key}={given[key]}" for key in embed.Look.model_fields if key in given])
    scores = embed.embed(found, look, machine=machine)
    if "json" in words:
        terminal.say(json.dumps({"run": str(found.path), "split": look.split, "scores": scores}))
    elif "quiet" not in words:
        terminal.say("\n".join(lines(found, look.split, scores)))
    return DONE


def lines(found: Any, split: str, scores: dict[str, Any]) -> list[str]:
    """What was embedded, how the clusters are, and where to look."""
    shares = ("purity", "neighbour_accuracy", "pair_retrieval_at_1")
    told = [
        (name.replace("_", " "), percent(value) if name in shares else f"{value:.3f}")
        for name, value in scores.items()
        if isinstance(value, float)
    ]
    head = f"{count(scores['rows'])} rows of {one_line(found.name)}, {count(scores['points'])} points"
    notes = [
        f"note     {count(many)} {what}"
        for many, what in (
            (scores["unreadable"], "rows could not be read, and have no embedding"),
            (len(scores["not_numbers"]), "embeddings are not made of numbers, and are not on the map"),
            (scores["identical"], "points equal another one"),
        )
        if many
    ]
    return [
        f"{split:<9}{head} in {scores['clusters']} clusters",
        *(f"         {line}" for line in table(told, right=(1,))),
        *notes,
        *(f"look     {one_line(str(found.map_page(name)))}" for name in scores["maps"]),
        f"         {one_line(str(found.embeddings(split)))}",
        f"next     instar explain {to_type(found.path)} worst:8",
    ]
