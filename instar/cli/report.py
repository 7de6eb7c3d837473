"""Write the page of a run: one HTML file that opens anywhere, offline

instar report RUN

runs=FOLDER    where runs are, instead of runs/
--json         where the page is, as JSON
"""

import json
from pathlib import Path

from instar import terminal
from instar.cli.words import Words, to_type
from instar.errors import DONE
from instar.formats import one_line

FLAGS = ()
THINGS = (1, 1)


def run(words: Words) -> int:
    from instar import brought
    from instar import run as runs

    found = runs.find(words.things[0], Path(words.only("runs").get("runs", "runs")))

    from instar import study

    if study.is_study(found.path):
        from instar.tune import page

        page.write(study.Study(found.path))
    elif brought.of_file(found.path) is not None:
        from instar import fit

        fit.report(found)
    else:
        from instar import evaluate

        evaluate.report(found)
    if "json" in words:
        terminal.say(json.dumps({"run": str(found.path), "report": str(found.report)}))
    elif "quiet" not in words:
        terminal.say(f"look     {one_line(str(found.report))}\nnext     instar compare {to_type(found.path)} OTHER")
    return DONE
