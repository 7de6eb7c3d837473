"""The dialect of PBS: what is asked, and what its answers mean."""

import time

import pytest

from instar.clusters import pbs
from instar.site import Gpus, Site
from tests.fakes.jobs import HOSTILE, job

# As OpenPBS 23 prints it: long values go on after a tab, and the variables of a job may hold anything.
QSTAT = """\
Job Id: 101.server.example.org
    Job_Name = flowers
    job_state = R
    queue = gpu
    Variable_List = PBS_O_HOME=/home/a,PBS_O_LOGNAME=a,PBS_O_PATH=/usr/bin:/usr
\t/local/bin,BASH_FUNC_module()=() {  eval `x`
job_state = Z
}
    comment = Job run at Fri Jul 01 at 14:42 on (node-2:ncpus=1)
    stime = Fri Jul  1 14:42:57 2022

Job Id: 102.server
    job_state = Q
    comment = Not Running: Insufficient amount of resource: ngp
\tus
    estimated.start_time = Fri Jul  1 18:00:00 2022

Job Id: 103.server
    job_state = F
    Exit_status = 75

Job Id: 104[].server
    job_state = B
    array = True

Job Id: 104[0].server
    job_state = X
    Exit_status = 0

Job Id: 104[1].server
    job_state = R

Job Id: 105.server
    job_state = &
"""


def test_states_are_read_out_of_the_full_listing():
    found = pbs.states(QSTAT)
    standings = {number: (state.standing, state.word) for number, state in found.items()}
    assert standings == {
        "101": ("running", "RUNNING"),
        "102": ("queued", "QUEUED"),
        "103": ("ended", "FINISHED"),
        "104[]": ("running", "BEGUN"),
        "104[]_0": ("ended", "EXPIRED"),
        "104[]_1": ("running", "RUNNING"),
        "105": ("ended", "&"),  # a state nobody knows is kept
    }
    assert found["101"].start == time.mktime((2022, 7, 1, 14, 42, 57, 0, 0, -1))
    assert found["102"].reason == "Not Running: Insufficient amount of resource: ngpus"
    assert found["103"].reason == "exit status 75"


@pytest.mark.parametrize("answer", ["", "garbage\n\tmore", "Job Id: \n    job_state = R", "\x00\xff", "Job Id: 1.a\n"])
def test_an_answer_that_is_none_has_no_states(answer):
    assert pbs.states(answer) == {}


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("1234.server.example.org\n", "1234"),
        ("Welcome\n1234.server\n", "1234"),
        ("77[].server", "77[]"),
        ("12", "12"),
        ("", None),
        ("qsub: Unknown queue", None),
        ("12; rm -rf /", None),
    ],
)
def test_the_number_of_a_new_job(answer, number):
    assert pbs.submitted(answer) == number


def test_commands_spell_elements_as_pbs_does():
    assert pbs.submit("104[]") == ["qsub", "-W", "depend=afterany:104[]", "script.sh"]
    assert pbs.ask(["101", "104[]_1"]) == ["qstat", "-x", "-f", "-t", "101", "104[1]"]
    assert pbs.cancel(["104[]", "104[]_1"]) == ["qdel", "104[]", "104[1]"]
    assert pbs.forgotten("qstat: Unknown Job Id 9.server") and not pbs.forgotten("cannot connect to server")


def test_resources_are_asked_for_by_the_node(tmp_path):
    site = Site(
        scheduler="pbs", account="A1", partition="gpu", constraint="system=x", gpus=Gpus(per_node=4), memory="480G"
    )
    asked = pbs.directives(job(tmp_path, nodes=2, tasks_per_node=4, cores_per_task=8, gpus_per_node=4), site)
    assert "-l select=2:ncpus=32:ngpus=4:mpiprocs=4:mem=480gb:system=x" in asked
    assert {"-A A1", "-q gpu", "-l place=scatter", "-l walltime=01:00:00", "-r y"} <= set(asked)


def test_memory_by_the_gpu_is_added_up(tmp_path):
    site = Site(scheduler="pbs", gpus=Gpus(per_node=4), memory_per_gpu="60G")
    assert "mem=240gb" in " ".join(pbs.directives(job(tmp_path, gpus_per_node=4), site))


@pytest.mark.parametrize(("elements", "at_once", "asked"), [(1, 0, None), (2, 0, "-J 0-1"), (10, 4, "-J 0-9%4")])
def test_an_array_of_one_is_none_to_pbs(tmp_path, elements, at_once, asked):
    made = pbs.directives(job(tmp_path, elements=((),) * elements, run=tmp_path, at_once=at_once), Site())
    assert next((line for line in made if line.startswith("-J")), None) == asked


def test_the_name_of_a_job_is_one_plain_word(tmp_path):
    name = pbs.directives(job(tmp_path, name=HOSTILE), Site())[0]
    assert name.startswith("-N a-b-touch") and " " not in name[3:] and len(name) < 70


def test_times():
    assert [pbs.clock(seconds) for seconds in (61, 3600, 4 * 86400)] == ["00:01:01", "01:00:00", "96:00:00"]
