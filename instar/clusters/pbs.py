"""PBS: qsub, qstat, qdel; a chain. Written for OpenPBS and PBS Pro from 2020 on.

Paths never stand in a directive: qsub is called in the job's folder, and the script finds its own log.
Jobs are known by their number alone, `1234` or `1234[]` for an array, as the default server takes them:
the name of that server is spelled one way by qsub, another by qstat and a third inside the job.
"""

import re
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from instar.clusters._limits import Limits, Partition, amount, megabytes, seconds
from instar.clusters._mpi import launch as mpi
from instar.clusters._text import one_word
from instar.job import Job, Standing, State

if TYPE_CHECKING:
    from instar.site import Site

DIRECTIVE = "#PBS"
BY_HAND = "qsub script.sh"
LOG, ELEMENT_LOG = "log.txt", "log-{element}.txt"
# `qrerun` is an operator's, so no job can queue itself again.
AGAIN, LAUNCHER = ("chain", "none"), "mpiexec"
CANNOT = ("qos",)
NEEDS, MAY_BE_SILENT = ("qsub", "qstat", "qdel"), ("nodes",)

# Everything else is kept as it is said and counts as ended.
_STANDING: dict[str, Standing] = {
    "Q": "queued",
    "H": "queued",
    "W": "queued",
    "T": "queued",
    "M": "queued",
    "R": "running",
    "B": "running",
    "E": "running",
    "S": "running",
    "U": "running",
}
_NAMES = {
    "Q": "QUEUED",
    "H": "HELD",
    "W": "WAITING",
    "T": "IN TRANSIT",
    "M": "MOVED",
    "R": "RUNNING",
    "B": "BEGUN",
    "E": "EXITING",
    "S": "SUSPENDED",
    "U": "SUSPENDED",
    "F": "FINISHED",
    "X": "EXPIRED",
}


def directives(job: Job, site: "Site") -> list[str]:
    """The options of qsub, one a line."""
    cores, gpus = job.tasks_per_node * job.cores_per_task, job.gpus_per_node
    memory = _size(site.memory) or (_times(site.memory_per_gpu, gpus) if gpus else None)
    chunk = [
        f"{job.nodes}:ncpus={cores}",
        f"ngpus={gpus}" if gpus and site.gpus.ask != "none" else None,
        f"mpiprocs={job.tasks_per_node}",
        f"mem={memory}" if memory else None,
        site.constraint,
    ]
    options = [
        f"-N {one_word(job.name)}",
        f"-A {site.account}" if site.account else None,
        f"-q {site.partition}" if site.partition else None,
        f"-l select={':'.join(part for part in chunk if part)}",
        "-l place=scatter",
        f"-l walltime={clock(job.seconds)}",
        f"-J {_range(job)}" if len(job.elements) > 1 else None,
        # What PBS itself says goes here; a later link would write over it, so the script keeps its own log.
        "-j oe",
        f"-o scheduler{'-^array_index^' if len(job.elements) > 1 else ''}.txt",
        "-k doe",
        f"-M {site.mail}" if site.mail else None,
        f"-m {'ea' if site.mail else 'n'}",
        "-S /bin/bash",
        "-r n" if site.again == "none" else "-r y",
    ]
    return [*(line for line in options if line), *site.options]


def launch(job: Job, site: "Site") -> tuple[str, ...]:
    """What starts one process a device on every node."""
    return mpi(job, site)


def _range(job: Job) -> str:
    return f"0-{len(job.elements) - 1}{f'%{job.at_once}' if job.at_once else ''}"


def _size(text: str | None) -> str | None:
    """`480G` as PBS spells it: `480gb`."""
    return re.sub(r"(?<=\d)([KMGT])(B?)$", lambda found: found[1].lower() + "b", text) if text else None


def _times(text: str | None, number: int) -> str | None:
    found = re.fullmatch(r"(\d+)(\D*)", text) if text else None
    return _size(f"{int(found[1]) * number}{found[2]}") if found else None


_ARRAY_SHELL = """\
# An array of one is no array to PBS.
element=${PBS_ARRAY_INDEX:-0} job=${PBS_ARRAY_ID:-${PBS_JOBID:-by-hand}}
job=${job%%.*}_$element
if [ -n "${PBS_JOBID:-}" ]; then exec >>"$folder/log-$element.txt" 2>&1; fi
"""
_SINGLE_SHELL = """\
job=${PBS_JOBID:-by-hand} element=
job=${job%%.*}
if [ -n "${PBS_JOBID:-}" ]; then exec >>"$folder/log.txt" 2>&1; fi
"""
_COMMON_SHELL = """\
# PBS counts no restarts, and warns nobody before the limit: it is all over ten seconds after its TERM.
attempt=$(grep -sxcF -- "$job" "$folder/starts")
attempt=${attempt:-0} unwarned=1
echo "$job" >>"$folder/starts"
"""
_CHAIN = """\
carry_on() { exit 75; }                         # the next job of the chain waits for this one's end
"""
_NEVER = """\
carry_on() { return 1; }
"""


def shell(job: Job, site: "Site") -> str:
    """Who this job is, and what it does to carry on, in bash."""
    who = _ARRAY_SHELL if job.elements else _SINGLE_SHELL
    return who + _COMMON_SHELL + (_NEVER if site.again == "none" else _CHAIN)


def submit(after: str | None = None) -> list[str]:
    """The command that hands over script.sh, called in its folder.

    after   the job whose end it waits for, however that ends
    """
    return ["qsub", *(["-W", f"depend=afterany:{after}"] if after else []), "script.sh"]


def submitted(answer: str) -> str | None:
    """The number of the new job; None where the answer has none."""
    last = answer.strip().rpartition("\n")[2]
    found = re.fullmatch(r"(\d+(?:\[\])?)(\.\S+)?", last)
    return found[1] if found else None


def trial() -> None:
    """PBS has no command that checks a script and queues nothing."""


def earliest(answer: str) -> float | None:
    """Nothing says it before a job is queued."""
    return None


def ask(ids: Sequence[str]) -> list[str]:
    """The command that tells how jobs stand: those of an array one by one, and those that ended."""
    # Not as JSON: that is broken by a variable of the job with a quote in it, and some versions leave out all jobs but
    # the first (https://github.com/openpbs/openpbs/issues/2541, /2672).
    return ["qstat", "-x", "-f", "-t", *map(_spelled, ids)]


def ask_accounting(ids: Sequence[str]) -> list[str]:
    """Nothing to ask beyond that: `qstat -x` is the history."""
    return []


def states(answer: str) -> dict[str, State]:
    """Number of a job, or number_element -> how it stands."""
    found = {}
    for number, about in _records(answer, "Job Id"):
        key = re.fullmatch(r"(\d+)(\[(\d*)\])?(\..*)?", number)
        if key and "job_state" in about:
            name = f"{key[1]}[]" if key[2] else key[1]
            found[f"{name}_{key[3]}" if key[3] else name] = _state(about)
    return found


def _state(about: Mapping[str, str]) -> State:
    letter = about["job_state"]
    reason = about.get("comment", "")
    if letter in ("F", "X"):
        code = about.get("Exit_status", "")
        reason = f"exit status {code}" if code else reason
    start = _moment(about.get("stime") or about.get("estimated.start_time", ""))
    return State(_STANDING.get(letter, "ended"), _NAMES.get(letter, letter), reason, start)


def _records(answer: str, head: str) -> list[tuple[str, dict[str, str]]]:
    """What `qstat -f` lists: a line `head: NAME`, then `key = value`, long values going on after a tab."""
    records: list[tuple[str, dict[str, str]]] = []
    key = ""
    for line in answer.splitlines():
        if line.startswith(f"{head}:"):
            records.append((line.partition(":")[2].strip(), {}))
            key = ""
        elif line.startswith("\t") and records and key:
            records[-1][1][key] += line.strip()
        elif records and (found := re.match(r"    (\S+) = (.*)", line)):
            key = found[1]
            records[-1][1][key] = found[2]
    return records


def forgotten(answer: str) -> bool:
    """Whether an answer says that it knows none of the jobs, which is no failure to answer."""
    return any(sign in answer for sign in ("Unknown Job Id", "Unknown Job ID", "has finished"))


def cancel(ids: Sequence[str]) -> list[str]:
    """The command that ends jobs, whether they wait or run."""
    return ["qdel", *map(_spelled, ids)]


def warn(ids: Sequence[str]) -> list[str]:
    """The command that lets running jobs save and stop by themselves: nothing, they look for their marker.

    A signal of PBS goes to every process of the job, the shell around the script too, which dies of it: then all that
    is left is killed.
    """
    return ["true"]


def _spelled(number: str) -> str:
    """A number as PBS spells it: an element of an array is `1234[5]`."""
    array, underscore, element = number.rpartition("_")
    return f"{array.removesuffix('[]')}[{element}]" if underscore else number


def clock(seconds: int) -> str:
    """A time limit: `26:03:04`."""
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _moment(text: str) -> float | None:
    """Seconds since 1970 of `Fri Jul  1 14:42:57 2022`."""
    try:
        return time.mktime(time.strptime(text))
    except ValueError:
        return None


def in_job(environ: Mapping[str, str]) -> bool:
    """Whether this process runs inside a job."""
    return "PBS_JOBID" in environ


def questions(user: str) -> dict[str, list[str]]:
    """The commands that tell what this cluster allows."""
    return {"queues": ["qstat", "-Q", "-f"], "nodes": ["pbsnodes", "-a"]}


def limits(answers: Mapping[str, str]) -> Limits:
    """What those commands told, by the name of the question; nodes are not told apart by queue."""
    cores, memory, gpus = _best_node(answers.get("nodes", ""))
    partitions = {
        name: Partition(
            name,
            up=about.get("enabled") == "True" and about.get("started") == "True" if "enabled" in about else None,
            seconds=seconds(about.get("resources_max.walltime", "")),
            nodes=amount(about.get("resources_max.nodect", "")),
            cores=cores,
            megabytes=memory,
            gpus=gpus,
        )
        for name, about in _records(answers.get("queues", ""), "Queue")
    }
    return Limits(partitions=partitions or None)


def _best_node(answer: str) -> tuple[int | None, int | None, dict[str, int] | None]:
    """The most cores, memory in MB and GPUs of any node that `pbsnodes -a` lists."""
    found = re.findall(r"^ +resources_available\.(ncpus|mem|ngpus) = (\S+)$", answer, re.MULTILINE)
    cores = [int(value) for name, value in found if name == "ncpus" and value.isdigit()]
    memory = [size for name, value in found if name == "mem" and (size := megabytes(value)) is not None]
    gpus = [int(value) for name, value in found if name == "ngpus" and value.isdigit()]
    return max(cores, default=None), max(memory, default=None), {"": max(gpus)} if gpus else None
