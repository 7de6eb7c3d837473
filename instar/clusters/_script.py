"""Job + Site -> the script: what a person could have typed, and can run again by hand.

Directives first, then what this job is, the set-up of the site, the command, and around it a part that never changes.
"""

import shlex
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from instar import __version__
from instar.caches import environment
from instar.clusters._text import filled_in, words, wrapped
from instar.job import Job

if TYPE_CHECKING:
    from instar.site import Container, Site

SUPERVISE = Path(__file__).with_name("_supervise.sh")
_INDENT = " " * 8


def script(job: Job, site: "Site", cluster: ModuleType) -> str:
    """The whole script.

    cluster   a kind of instar/clusters: DIRECTIVE, BY_HAND, directives, launch and shell make the parts that differ
    """
    parts = [
        "#!/bin/bash",
        *(f"{cluster.DIRECTIVE} {line}" for line in cluster.directives(job, site)),
        f"# Written by instar {__version__}. To run it by hand, in its own folder: {cluster.BY_HAND}",
        "",
        _title("what this job is"),
        f"folder={shlex.quote(str(job.folder))}",
        f"longest={job.seconds} lead={job.lead} links={job.links}",
        "told=; trap 'told=USR1' USR1                   # set-up may take long enough to be warned in it",
        cluster.shell(job, site).strip(),
        *_run(job),
        "",
        *_set_up(job, site),
        _title("the command"),
        f"cd {shlex.quote(str(job.start))} || exit 66",
        "command_in_step() {",
        f"    exec {wrapped(_command(job, site, cluster), indent=_INDENT)}",
        "}",
        "",
        SUPERVISE.read_text(encoding="utf-8"),
    ]
    return "\n".join(parts)


def _title(text: str) -> str:
    return f"# --- {text} ".ljust(119, "-")


def _run(job: Job) -> list[str]:
    """Where the work keeps its records, and the further words of an element of an array."""
    if job.elements:
        assert job.run is not None, "the elements of an array are runs"
        cases = [
            f"    {number}) run={shlex.quote(str(job.run / f'{number:04}'))} more=({words(element)}) ;;"
            for number, element in enumerate(job.elements)
        ]
        run = ["case $element in", *cases, "    *) exit 66 ;;", "esac", 'mkdir -p "$run" || exit 73']
    else:
        run = [f"run={shlex.quote(str(job.run or job.folder))}"]
    return [*run, f"events=$run/events.jsonl progress=$run/{shlex.quote(job.progress)}"]


def _set_up(job: Job, site: "Site") -> list[str]:
    lines = [*site.setup, *(f"export {name}={filled_in(value)}" for name, value in site.environment.items())]
    lines += _caches(site)
    return [_title("set-up of the site"), *lines, ""] if lines else []


def _caches(site: "Site") -> list[str]:
    """Where libraries keep what they download and compile, unless the user or the set-up has said so."""
    if site.caches is None:
        return []
    local = f"{site.local}/instar-caches-$USER" if site.local else None
    values = environment(site.caches, local, given=site.environment)
    return [f'[ -n "${{{name}:-}}" ] || export {name}={filled_in(value)}' for name, value in values.items()]


def _command(job: Job, site: "Site", cluster: ModuleType) -> list[str]:
    """The parts of the command: the launcher, the container, Instar, and what an element adds."""
    more = [f'"${{more[@]}}" {shlex.quote(job.word)}="$run"'] if job.elements else []
    return [
        words(cluster.launch(job, site)),
        _contained(site.container, job) if site.container else "",
        words(job.command),
        *more,
    ]


def _contained(container: "Container", job: Job) -> str:
    """What runs the command in its image; pyxis is options of srun instead."""
    own = _outermost([path for path in (job.start, job.folder, job.run) if path])
    if container.runtime == "pyxis":
        mounts = ",".join([*(f"{path}:{path}" for path in own), *container.binds])
        parts = [
            f"--container-image={filled_in(container.image)}",
            f"--container-mounts={filled_in(mounts)}",
            f"--container-workdir={shlex.quote(str(job.start))}",
            words(container.options),
        ]
    else:
        # Whatever the image sees by itself, it has to see where this job works.
        binds = [*(_bound(str(path)) for path in own), *(f"--bind {filled_in(bind)}" for bind in container.binds)]
        begin = " ".join(part for part in (container.runtime, "exec", words(container.options)) if part)
        parts = [begin, *binds, filled_in(container.image)]
    return wrapped(parts, indent=_INDENT)


def _outermost(folders: list[Path]) -> list[Path]:
    """Those folders that do not lie in another one of them."""
    return [one for one in dict.fromkeys(folders) if not any(other in one.parents for other in folders)]


def _bound(path: str) -> str:
    """The option that lets an image see a folder, whatever its name is."""
    if not set(path) & set(',:"'):
        return f"--bind {shlex.quote(path)}"
    quoted = path.replace('"', '""')  # fields of CSV
    return "--mount " + shlex.quote(f'type=bind,"source={quoted}","destination={quoted}"')
