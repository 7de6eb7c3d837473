"""local: this machine, without a scheduler: a process of its own that outlives the terminal, with a time limit.

Needs bash, setsid (util-linux), timeout (coreutils) and /proc. A job is known as PID-START-HOST: a number that was used
again has another start, and another machine is not asked about its processes.
"""

import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from instar.clusters._limits import Limits, Partition
from instar.clusters._mpi import launch as mpi
from instar.job import Job, Standing, State

if TYPE_CHECKING:
    from instar.site import Site

DIRECTIVE = "#"
BY_HAND = "bash script.sh"
LOG, ELEMENT_LOG = "log.txt", "log-{element}.txt"
AGAIN, LAUNCHER = ("requeue", "none"), "none"
NEEDS, MAY_BE_SILENT = ("bash", "setsid", "timeout"), ("gpus",)
CANNOT = ("account", "partition", "qos", "constraint", "memory", "memory_per_gpu", "mail")

# How a process reads in /proc/PID/stat after its name: T and t are stopped, Z and X are gone.
_STANDING: dict[str, Standing] = {"RUNNING": "running", "STOPPED": "running", "ELSEWHERE": "unknown"}

# Every text below is one constant; what differs comes as arguments, and is never read as commands.
_WHO = """\
begin() {  # begin PID: clock ticks from the start of the machine to that of a process that lives
    local line; { read -r line <"/proc/$1/stat"; } 2>/dev/null || return 1
    read -ra line <<<"${line##*) }"
    case ${line[0]} in Z | X) return 1 ;; esac
    echo "${line[19]}"
}
here=${HOSTNAME//_/-}
"""
_SUBMIT = (
    _WHO
    + """\
unset INSTAR_ATTEMPT INSTAR_ELEMENT INSTAR_ARRAY
setsid bash ./script.sh </dev/null >>log.txt 2>&1 &
echo "$!-$(begin "$!")-$here"
"""
)
_ASK = (
    _WHO
    + """\
for id; do
    pid=${id%%-*} rest=${id#*-} word=ENDED why=
    if [ "${rest#*-}" != "$here" ]; then word=ELSEWHERE why="ask on ${rest#*-}"
    elif [ "$(begin "$pid")" = "${rest%%-*}" ]; then word=RUNNING; fi
    echo "$id|$word|$why"
done
"""
)
_STOP = (
    _WHO
    + """\
failed=0
for id; do
    pid=${id%%-*} rest=${id#*-}
    if [ "${rest#*-}" != "$here" ]; then echo "$id runs on ${rest#*-}: stop it there" >&2; failed=1
    elif [ "$(begin "$pid")" = "${rest%%-*}" ]; then kill -s TERM "$pid"; fi
done
exit $failed
"""
)


def directives(job: Job, site: "Site") -> list[str]:
    """Nothing: nobody reads them."""
    return []


def launch(job: Job, site: "Site") -> tuple[str, ...]:
    """What ends the command in time: a warning, and where it does not end itself, the end."""
    # `timeout` sends its first signal at once to whoever it is told, and starts the grace of its second then, too.
    limit = (
        "timeout",
        "--preserve-status",
        "--signal=USR1",
        f"--kill-after={job.lead}",
        str(max(1, job.seconds - job.lead)),
    )
    return (*(limit if job.seconds else ()), *mpi(job, site))


_SHELL = """\
element=${INSTAR_ELEMENT:-} attempt=${INSTAR_ATTEMPT:-0}
read -r stat <"/proc/$$/stat"
read -ra stat <<<"${stat##*) }"
job=$$-${stat[19]}-${HOSTNAME//_/-}
"""
# An array is one process that starts its elements, as many at a time as may be; each is this script with its number.
_ARRAY = """if [ -z "$element" ]; then
    cd "$folder" || exit 66
    export INSTAR_ARRAY=$job
    running=() stopped=
    trap 'stopped=1; kill -s TERM "${running[@]}" 2>/dev/null' TERM INT
    for ((next = 0; next < elements; next++)); do
        INSTAR_ELEMENT=$next bash ./script.sh >>"log-$next.txt" 2>&1 &
        running+=($!)
        while [ "$(jobs -rp | wc -l)" -ge "$at_once" ]; do wait -n; done
        [ -z "$stopped" ] || break
    done
    while [ -n "$(jobs -rp)" ]; do wait; done
    exit 0
fi
job=${INSTAR_ARRAY:-by-hand}_$element
"""
_AGAIN = """\
carry_on() {  # the same process starts over, so that whoever knows its number still does
    kill "${timers[@]}" 2>/dev/null
    cd "$folder" || return 1
    export INSTAR_ATTEMPT=$((attempt + 1))
    exec bash ./script.sh
}
"""
_NEVER = """\
carry_on() { return 1; }
"""


def shell(job: Job, site: "Site") -> str:
    """Who this job is, and what it does to carry on, in bash."""
    many = f"elements={len(job.elements)} at_once={max(1, job.at_once)}\n{_ARRAY}" if job.elements else ""
    return _SHELL + many + (_NEVER if site.again == "none" else _AGAIN)


def submit(after: str | None = None) -> list[str]:
    """The command that starts script.sh, called in its folder, and says what to know it by.

    after   never: a job carries on by itself here
    """
    assert after is None, "local has no chains"
    return ["bash", "-c", _SUBMIT, "submit"]


def submitted(answer: str) -> str | None:
    """What the new job is known by; None where the answer has nothing."""
    last = answer.strip().rpartition("\n")[2]
    return last if re.fullmatch(r"\d+-\d+-[^\s|_]+", last) else None


def trial() -> None:
    """Nothing to ask: there is no queue."""


def earliest(answer: str) -> float | None:
    """At once."""
    return None


def ask(ids: Sequence[str]) -> list[str]:
    """The command that tells how jobs stand."""
    return ["bash", "-c", _ASK, "ask", *ids]


def ask_accounting(ids: Sequence[str]) -> list[str]:
    """Nobody remembers: the markers in the job's folder do."""
    return []


def states(answer: str) -> dict[str, State]:
    """What a job is known by -> how it stands; an array is one process."""
    found = {}
    for line in answer.splitlines():
        fields = line.split("|")
        if len(fields) == 3 and submitted(fields[0]):
            found[fields[0]] = State(_STANDING.get(fields[1], "ended"), fields[1], fields[2])
    return found


def forgotten(answer: str) -> bool:
    """Never: every job is answered for."""
    return False


def cancel(ids: Sequence[str]) -> list[str]:
    """The command that ends jobs; they save first, if that takes no longer than the warning."""
    return ["bash", "-c", _STOP, "cancel", *ids]


def warn(ids: Sequence[str]) -> list[str]:
    """The command that lets running jobs save and stop by themselves."""
    return ["bash", "-c", _STOP, "warn", *ids]


def clock(seconds: int) -> str:
    """A time limit: `26:03:04`."""
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def in_job(environ: Mapping[str, str]) -> bool:
    """Whether this process runs inside a job."""
    return "INSTAR_JOB" in environ


def questions(user: str) -> dict[str, list[str]]:
    """The commands that tell what this machine has."""
    return {"gpus": ["nvidia-smi", "--list-gpus"]}


def limits(answers: Mapping[str, str]) -> Limits:
    """What this machine has, as the one partition there is; a machine without nvidia-smi may have other GPUs."""
    listed = [line for line in answers.get("gpus", "").splitlines() if line.startswith("GPU ")]
    cores = len(os.sched_getaffinity(0))
    here = Partition("this machine", nodes=1, cores=cores, gpus={"": len(listed)} if "gpus" in answers else None)
    return Limits(partitions={here.name: here}, default=here.name)
