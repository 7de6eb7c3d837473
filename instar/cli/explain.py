"""See what mattered in single images: attention head by head, or Grad-CAM, on a page with sliders

    instar explain RUN worst:8              the rows it was most wrong about (after instar evaluate)
    instar explain RUN class:Vanessa most=6     rows of a class of the test split; split=val for others
    instar explain RUN 0417.jpg 12 test     rows by name, by number, or some of a split
    instar explain RUN photo.jpg            an image file that is no row at all

    method=gradcam      attention or gradcam; by default attention for a ViT, and Grad-CAM for others
    layer=layer3        for Grad-CAM: the part of the network whose map is taken; by default the last
    checkpoint=latest   instead of the best
    device=cpu
    runs=FOLDER         where runs are, instead of runs/
    --json              where page and maps are, as one JSON object

Writes RUN/explanations/ROWS-METHOD.html and the maps as numbers beside it (.npz).
"""

import json
from pathlib import Path

from instar import caches, terminal
from instar.cli.words import Words, to_type
from instar.errors import DONE
from instar.formats import count, one_line

FLAGS = ()
THINGS = (2, 99)
MACHINE = ("device", "timeout", "stage", "cache")


def run(words: Words) -> int:
    from instar import run as runs
    from instar.machine import Machine
    from instar.validation import validate

    caches.refuse_network()
    from instar import explain

    given = words.only(*explain.Question.model_fields, "runs", *MACHINE)
    found = runs.find(words.things[0], Path(given.get("runs", "runs")))
    machine = validate(Machine, {}, [f"{key}={given[key]}" for key in MACHINE if key in given])
    asked = [f"{key}={given[key]}" for key in explain.Question.model_fields if key in given]
    told = explain.explain(found, words.things[1:], validate(explain.Question, {}, asked), machine=machine)
    if "json" in words:
        terminal.say(json.dumps({"run": str(found.path), **told}))
    elif "quiet" not in words:
        lines = [f"{told['method']:<9}{count(len(told['rows']))} rows of {one_line(found.name)}   {told['how']}"]
        lines += [f"note     cannot be read: {one_line(one)}" for one in told["unreadable"]]
        lines += [f"look     {one_line(told['page'])}", f"next     instar embed {to_type(found.path)}"]
        terminal.say("\n".join(lines))
    return DONE
