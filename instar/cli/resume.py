"""Hand the last job of a run over once more; it carries on from the last save

    instar resume RUN
    instar resume RUN time=3d nodes=4 --on SITE      with other wishes than before

    runs=FOLDER    where runs are, instead of runs/
    --dry          what it would be, and the script
    --anyway       submit although a check found a mistake
    --json         one JSON object

A run that was never a job carries on with the same instar train.
"""

from pathlib import Path

from instar.cli import submit as submitting
from instar.cli.words import Words
from instar.errors import RunError

FLAGS = ("dry", "anyway", "on=")
THINGS = (1, 1)


def run(words: Words) -> int:
    from instar import queue, submit
    from instar import run as runs
    from instar import site as sites
    from instar.submit import Request
    from instar.validation import validate

    asked, of_site, rest = submitting.sorted_words(words, tuple(Request.model_fields))
    given = Words(words.things, rest, words.flags, words.line).only("runs")
    found = runs.find(words.things[0], Path(given.get("runs", "runs")))
    last = queue.newest(found)
    if last is None:
        raise RunError(f"{found.path} was never a job. It carries on here with: instar train {found.path}")
    if queue.element_of(found, last) is not None:
        raise RunError(
            f"{found.path} is one of {last.elements} runs of an array. Carry on with: instar train {found.path}"
        )
    work, before = submit.asked_before(last.folder)
    wished = next((change[3:] for change in words.changes if change.startswith("on=")), None)
    # The site as it was asked for then, so that a file that changed since does not change the job.
    settings = sites.load(wished, of_site) if wished else validate(sites.Site, before["settings"], list(of_site))
    request = validate(Request, before["request"], list(asked))
    return submitting.hand_over(
        words, work, settings, name=wished or before["site"], request=request, recipe=last.folder / "recipe.yaml"
    )
