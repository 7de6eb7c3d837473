"""Jobs and their scripts, for tests."""

from pathlib import Path

from instar import plugins
from instar.clusters import _script
from instar.job import Job
from instar.site import Site

HOSTILE = "a b'\"$(touch pwned)`touch pwned`\n;&|*~ é漢 -rf " + "x" * 200


def job(folder: Path, **changes: object) -> Job:
    """A job of one process, in `folder`."""
    usual = {
        "name": "flowers",
        "folder": folder,
        "start": folder,
        "command": ("python3", "-m", "instar", "train", "recipe.yaml"),
        "run": None,
        "nodes": 1,
        "tasks_per_node": 1,
        "cores_per_task": 1,
        "gpus_per_node": 0,
        "seconds": 3600,
        "links": 3,
        "lead": 60,
    }
    return Job(**usual | changes)


def script(job: Job, site: Site) -> str:
    """The script that the site's scheduler would get."""
    return _script.script(job, site, plugins.load("clusters", site.scheduler))
