"""Slurm: sbatch, squeue, scancel; requeue or a chain. Written for 20.11 and later.

Paths never stand in a directive: sbatch is called in the job's folder, and the log's name there is a plain word.
"""

import re
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from instar.clusters._limits import Limits, Partition, amount, seconds
from instar.clusters._mpi import launch as mpi
from instar.clusters._text import one_word
from instar.job import Job, Standing, State

if TYPE_CHECKING:
    from instar.site import Site

DIRECTIVE = "#SBATCH"
BY_HAND = "sbatch script.sh"
LOG, ELEMENT_LOG = "log.txt", "log-{element}.txt"
AGAIN, LAUNCHER = ("requeue", "chain", "none"), "srun"
CANNOT: tuple[str, ...] = ()
NEEDS, MAY_BE_SILENT = ("sbatch", "squeue", "scancel", "scontrol", "sinfo"), ("associations",)

# Everything else is kept as it is said and counts as ended.
_STANDING: dict[str, Standing] = {
    "PENDING": "queued",
    "REQUEUED": "queued",
    "REQUEUE_HOLD": "queued",
    "REQUEUE_FED": "queued",
    "SPECIAL_EXIT": "queued",
    "CONFIGURING": "running",
    "RUNNING": "running",
    "COMPLETING": "running",
    "SUSPENDED": "running",
    "SIGNALING": "running",
    "STOPPED": "running",
    "RESIZING": "running",
    "STAGE_OUT": "running",
}


def directives(job: Job, site: "Site") -> list[str]:
    """The options of sbatch, one a line."""
    array = f"0-{len(job.elements) - 1}{f'%{job.at_once}' if job.at_once else ''}" if job.elements else None
    gpus, ask = job.gpus_per_node, site.gpus.ask
    typed = f"{site.gpus.type}:{gpus}" if site.gpus.type else str(gpus)
    options: dict[str, str | int | None] = {
        "job-name": one_word(job.name),
        "account": site.account,
        "partition": site.partition,
        "qos": site.qos,
        "constraint": site.constraint,
        "nodes": job.nodes,
        "ntasks-per-node": job.tasks_per_node,
        "cpus-per-task": job.cores_per_task,
        "gpus-per-node": typed if gpus and ask == "gpus-per-node" else None,
        "gpus-per-task": max(1, gpus // job.tasks_per_node) if gpus and ask == "gpus-per-task" else None,
        "gres": f"gpu:{typed}" if gpus and ask == "gres" else None,
        "mem": site.memory,
        "mem-per-gpu": site.memory_per_gpu if gpus else None,
        "time": clock(job.seconds),
        "array": array,
        "output": "log-%a.txt" if job.elements else LOG,
        "mail-user": site.mail,
        "mail-type": "END,FAIL" if site.mail else None,
        "signal": f"B:USR1@{job.lead}",
    }
    lines = [f"--{name}={value}" for name, value in options.items() if value is not None]
    # A job that is queued again, by us or by the site after a node failed, must not lose the log of its earlier life.
    requeue = "--no-requeue" if site.again == "none" else "--requeue"
    return [*_merged(lines, site.options), "--open-mode=append", requeue]


def _merged(lines: list[str], further: Sequence[str]) -> list[str]:
    """Further options; --gres of the site's goes into the one that asks for GPUs, since only the last would count."""
    for option in further:
        ours = next((i for i, line in enumerate(lines) if line.startswith("--gres=")), None)
        if option.startswith("--gres=") and ours is not None:
            lines[ours] += "," + option.removeprefix("--gres=")
        else:
            lines.append(option)
    return lines


def launch(job: Job, site: "Site") -> tuple[str, ...]:
    """What starts one process a device on every node."""
    if site.launcher not in ("srun", None):
        return mpi(job, site)
    masks = f"--cpu-bind=mask_cpu:{','.join(site.bind[: job.tasks_per_node])}" if site.bind else ""
    # The first rank to leave must not get the others killed while they save. A step does not inherit the cores of a
    # task since 22.05.
    return tuple(
        word
        for word in (
            "srun",
            f"--nodes={job.nodes}",
            f"--ntasks={job.tasks}",
            f"--ntasks-per-node={job.tasks_per_node}",
            f"--cpus-per-task={job.cores_per_task}",
            "--kill-on-bad-exit=0",
            f"--wait={max(60, job.lead)}",
            masks,
            *site.launch,
        )
        if word
    )


_SHELL = """\
job=${SLURM_JOB_ID:-by-hand} attempt=${SLURM_RESTART_COUNT:-0} element=${SLURM_ARRAY_TASK_ID:-}
# The last element of an array has the number of the whole array as its own: queue that one again, and all start again.
[ -z "$element" ] || job=${SLURM_ARRAY_JOB_ID}_$element
"""
_AGAIN = """\
carry_on() {
    local try id
    trap 'exit 0' TERM                          # the answer to `scontrol requeue` is a TERM to everything here
    for try in 1 2 3 4 5; do
        command -v scontrol >/dev/null || break
        if scontrol requeue "$job"; then sleep 600 & wait $!; exit 0; fi
        sleep $((2 * try))                      # busy controllers and networks say no for a while
    done
    # Not allowed here: a new job takes its place.
    cd "$folder" || return 1
    id=$(sbatch --parsable --dependency="afterany:$SLURM_JOB_ID" ${element:+--array="$element"} script.sh) || return 1
    id=${id##*$'\\n'}                            # some sites greet first
    echo "${id%%;*}" >>ids
}
"""
_CHAIN = """\
carry_on() { exit 75; }                         # the next job of the chain waits for this one's end
"""
_NEVER = """\
carry_on() { return 1; }
"""


def shell(job: Job, site: "Site") -> str:
    """Who this job is, and what it does to carry on, in bash."""
    return _SHELL + {"requeue": _AGAIN, "chain": _CHAIN, "none": _NEVER}[site.again]


def submit(after: str | None = None) -> list[str]:
    """The command that hands over script.sh, called in its folder.

    after   the job whose end it waits for, however that ends
    """
    # A dependency that can never be fulfilled would keep it in the queue for ever.
    wait = [f"--dependency=afterany:{after}", "--kill-on-invalid-dep=yes"] if after else []
    return ["sbatch", "--parsable", *wait, "script.sh"]


def submitted(answer: str) -> str | None:
    """The number of the new job; None where the answer has none."""
    last = answer.strip().rpartition("\n")[2]
    found = re.fullmatch(r"(\d+)(;\S+)?", last)
    return found[1] if found else None


def trial() -> list[str]:
    """The command that checks script.sh and says when it could start, and queues nothing."""
    return ["sbatch", "--test-only", "script.sh"]


def earliest(answer: str) -> float | None:
    """When it could start, seconds since 1970, in what `trial` answered."""
    found = re.search(r"to start at (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)", answer)
    return _moment(found[1]) if found else None


def ask(ids: Sequence[str]) -> list[str]:
    """The command that tells how jobs stand."""
    return ["squeue", "--noheader", "--states=all", "--array", "--format=%i|%T|%r|%S", f"--jobs={','.join(ids)}"]


def ask_accounting(ids: Sequence[str]) -> list[str]:
    """The same for jobs that the controller has forgotten, where there is accounting."""
    names = "--format=JobID,State,Reason,Start"
    return ["sacct", "--noheader", "--parsable2", "--allocations", "--duplicates", names, f"--jobs={','.join(ids)}"]


def states(answer: str) -> dict[str, State]:
    """Number of a job, or number_element -> how it stands; the last line about one counts."""
    found: dict[str, State] = {}
    for line in answer.splitlines():
        fields = line.split("|")
        if len(fields) == 4 and re.fullmatch(r"\d+(_\S+)?", fields[0]):
            word = fields[1].split(" ")[0].rstrip("+")  # CANCELLED by 1000
            reason = "" if fields[2] in ("None", "(null)") else fields[2]
            found[fields[0]] = State(_STANDING.get(word, "ended"), word, reason, _moment(fields[3]))
    return found


def forgotten(answer: str) -> bool:
    """Whether an answer says that it knows none of the jobs, which is no failure to answer."""
    return "Invalid job id" in answer


def cancel(ids: Sequence[str]) -> list[str]:
    """The command that ends jobs, whether they wait or run."""
    return ["scancel", *ids]


def warn(ids: Sequence[str]) -> list[str]:
    """The command that lets running jobs save and stop by themselves."""
    return ["scancel", "--signal=TERM", "--batch", *ids]


def clock(seconds: int) -> str:
    """A time limit: `1-02:03:04`."""
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{days}-{hour:02}:{minute:02}:{second:02}" if days else f"{hour:02}:{minute:02}:{second:02}"


def _moment(text: str) -> float | None:
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return None


def in_job(environ: Mapping[str, str]) -> bool:
    """Whether this process runs inside a job."""
    return "SLURM_JOB_ID" in environ


def questions(user: str) -> dict[str, list[str]]:
    """The commands that tell what this cluster allows."""
    about = "format=Account,Partition,QOS"
    return {
        "nodes": ["sinfo", "--noheader", "--format=%P|%a|%l|%s|%c|%m|%G"],
        "partitions": ["scontrol", "--oneliner", "show", "partition"],
        "configuration": ["scontrol", "show", "config"],
        "associations": ["sacctmgr", "--noheader", "--parsable2", "show", "associations", f"user={user}", about],
    }


def limits(answers: Mapping[str, str]) -> Limits:
    """What those commands told, by the name of the question."""
    facts: dict[str, dict[str, object]] = defaultdict(dict)
    default = _from_sinfo(answers.get("nodes", ""), facts)
    for line in answers.get("partitions", "").splitlines():
        about = dict(re.findall(r"(\w+)=(\S*)", line))
        if "PartitionName" in about:
            facts[about["PartitionName"]] |= _from_scontrol(about)
            default = about["PartitionName"] if about.get("Default") == "YES" else default
    size = re.search(r"^MaxArraySize\s*=\s*(\d+)", answers.get("configuration", ""), re.MULTILINE)
    rows = [line.split("|") for line in answers.get("associations", "").splitlines() if line.count("|") == 2]
    return Limits(
        partitions={name: Partition(name, **known) for name, known in facts.items()} if facts else None,  # type: ignore[arg-type]
        default=default,
        accounts=frozenset(row[0] for row in rows) if rows else None,
        qos=frozenset(name for row in rows for name in row[2].split(",") if name) or None,
        array=int(size[1]) - 1 if size else None,
    )


def _from_sinfo(answer: str, facts: dict[str, dict[str, object]]) -> str | None:
    """Adds what each line of sinfo says, the best node of a partition; returns the default partition."""
    default = None
    for line in answer.splitlines():
        fields = line.strip().split("|")
        if len(fields) != 7 or not fields[0]:
            continue
        name = fields[0].removesuffix("*")
        default = name if fields[0].endswith("*") else default
        known = facts[name]
        known["up"] = fields[1] == "up"
        known["seconds"] = seconds(fields[2])
        known["nodes"] = amount(fields[3].rpartition("-")[2])
        for key, text in (("cores", fields[4]), ("megabytes", fields[5])):
            known[key] = max(filter(None, (known.get(key), amount(text.rstrip("+")))), default=None)  # type: ignore[type-var]
        gpus: dict[str, int] = known.setdefault("gpus", {})  # type: ignore[assignment]
        for kind, number in re.findall(r"\bgpu(?::([^:(),]+))?:(\d+)", fields[6]):
            gpus[kind] = max(gpus.get(kind, 0), int(number))
    return default


def _from_scontrol(about: Mapping[str, str]) -> dict[str, object]:
    """What `scontrol show partition` says of one."""
    known: dict[str, object] = {
        "seconds": seconds(about.get("MaxTime", "")),
        "nodes": _least(amount(about.get("MaxNodes", "")), amount(about.get("TotalNodes", ""))),
        "up": about["State"] == "UP" if "State" in about else None,
        "qos": _listed(about.get("AllowQos")),
        "accounts": _listed(about.get("AllowAccounts")),
    }
    return {name: value for name, value in known.items() if value is not None}


def _least(*numbers: float | None) -> float | None:
    return min((number for number in numbers if number is not None), default=None)


def _listed(text: str | None) -> frozenset[str] | None:
    return None if text in (None, "", "ALL", "(null)") else frozenset(str(text).split(","))
