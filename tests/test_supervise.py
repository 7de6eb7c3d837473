"""The part of a job script that stands around the command, run by bash without any scheduler.

`work` is a training of a few lines, and srun, scontrol and sbatch are those of tests/fakes/schedulers.
"""

import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from instar.site import Site
from tests.fakes.jobs import HOSTILE, job, script

FAKES = Path(__file__).parent / "fakes" / "schedulers"
JOB = {"SLURM_JOB_ID": "100"}


@dataclass
class Link:
    """One start of a script: its job's folder, its run, and where the fakes tell of their calls."""

    folder: Path
    run: Path
    process: subprocess.Popen

    def end(self, seconds=20):
        self.said, _ = self.process.communicate(timeout=seconds)
        return self.process.returncode

    def tell(self, number):
        wait_for(self.run / "ready")
        self.process.send_signal(number)

    def kept(self, name):
        file = self.folder / name
        return file.read_text().strip() if file.exists() else None

    def calls(self, command):
        file = self.folder / "calls" / command
        return file.read_text().splitlines() if file.exists() else []

    def events(self, run=None):
        return [json.loads(line) for line in ((run or self.run) / "events.jsonl").read_text().splitlines()]


def number_of(process, environ, scheduler):
    """The number that its scheduler gives a job with these variables; empty for one that is run by hand."""
    if scheduler == "local":
        begin = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19]
        return f"{process.pid}-{begin}-n1"
    number = environ.get("SLURM_ARRAY_JOB_ID") or environ.get("SLURM_JOB_ID")
    return number or environ.get("PBS_ARRAY_ID", environ.get("PBS_JOBID", "")).partition(".")[0]


def wait_for(file, seconds=10):
    end = time.monotonic() + seconds
    while not file.exists():
        assert time.monotonic() < end, f"{file.name} never came"
        time.sleep(0.01)


def start(folder, *words, site=None, environ=JOB, without=(), calls=None, **changes):
    """Start a script whose command is `work WORDS…`. without: commands that this machine does not have."""
    site = site or Site(again="requeue")
    run = folder / "run"
    at = folder / "job"
    (at / "calls").mkdir(parents=True, exist_ok=True)
    run.mkdir(exist_ok=True)
    (run / "ready").unlink(missing_ok=True)
    command = ("work", *words) if changes.get("elements") else ("work", *words, f"run={run}")
    made = job(at, **{"run": run, "command": command, "start": folder} | changes)
    (at / "script.sh").write_text(script(made, site))
    for name, text in (calls or {}).items():
        (at / "calls" / name).write_text(text)
    fakes = folder / "bin"
    fakes.mkdir(exist_ok=True)
    for fake in FAKES.iterdir():
        target = fakes / fake.name
        target.unlink(missing_ok=True)
        if fake.name not in without:
            target.symlink_to(fake)
    path = f"{fakes}:/usr/bin:/bin"
    if without:  # neither those of this machine, where Slurm may be installed
        tools = folder / "tools"
        tools.mkdir(exist_ok=True)
        for name in ("bash", "cat", "date", "grep", "mkdir", "rm", "touch", "env", "wc", "timeout", "setsid"):
            if not (tools / name).exists():
                (tools / name).symlink_to(Path("/usr/bin") / name)
        path = f"{fakes}:{tools}"
    process = subprocess.Popen(
        ["/bin/bash", "./script.sh"],
        cwd=at,
        env={"PATH": path, "CALLS": str(at / "calls"), "HOME": str(folder), "HOSTNAME": "n1", **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    ids = at / "ids"
    number = number_of(process, environ, site.scheduler)
    if number and number not in (ids.read_text().split() if ids.exists() else []):
        with open(ids, "a") as file:  # as whoever submits it does, a moment later
            file.write(f"{number}\n")
    return Link(at, run, process)


# --- how the command ends --------------------------------------------------------------------------------------------


def test_a_command_that_is_done_ends_the_job(tmp_path):
    link = start(tmp_path, "save=100", "exit=0")
    assert link.end() == 0
    assert link.kept("over") == "done" and not link.calls("scontrol")
    events = link.events()
    assert [event["event"] for event in events] == ["job_started", "job_ended"]
    assert (events[1]["state"], events[1]["job"], events[1]["host"]) == ("done", "100", "n1")


@pytest.mark.parametrize(("code", "said"), [(65, "a mistake to mend"), (1, "it crashed with code 1")])
def test_a_mistake_or_a_crash_ends_it_for_good(tmp_path, code, said):
    link = start(tmp_path, "save=100", f"exit={code}")
    assert link.end() == code
    assert link.kept("over") == "failed" and said in link.said and not link.calls("scontrol")


def test_a_command_that_saved_is_queued_again_once(tmp_path):
    link = start(tmp_path, "save=100", "exit=75")
    assert link.end() == 0
    assert link.calls("scontrol") == ["scontrol requeue 100"]
    assert link.kept("over") is None and link.kept("carried") == "1"
    assert link.events()[-1]["event"] == "job_continues"


def test_a_command_killed_without_a_word_carries_on(tmp_path):
    link = start(tmp_path, "save=100", "kill")
    link.end()
    assert link.calls("scontrol") == ["scontrol requeue 100"]
    assert link.events()[-1]["reason"] == "killed"


def test_a_crash_of_one_rank_counts_more_than_the_stop_of_the_others(tmp_path):
    link = start(tmp_path, "save=100", "word=0:75 SIGUSR1", "word=1:70", "exit=75")
    assert link.end() == 70
    assert link.kept("over") == "failed"


def test_the_word_of_the_ranks_counts_more_than_the_code_of_the_launcher(tmp_path):
    link = start(tmp_path, "save=100", "word=0:75", "exit=143")
    link.end()
    assert link.calls("scontrol") == ["scontrol requeue 100"]


def test_a_rank_that_was_done_before_the_others_stopped_does_not_end_the_job(tmp_path):
    link = start(tmp_path, "save=100", "word=0:75", "word=1:0", "exit=75")
    link.end()
    assert link.calls("scontrol") == ["scontrol requeue 100"]


def test_words_of_an_earlier_link_are_forgotten(tmp_path):
    start(tmp_path, "save=100", "word=1:70", "exit=75").end()
    link = start(tmp_path, "save=200", "exit=0", environ=JOB | {"SLURM_RESTART_COUNT": "1"})
    assert link.end() == 0


def test_rubbish_in_a_word_breaks_neither_the_job_nor_its_events(tmp_path):
    link = start(tmp_path, "save=100", 'word=0:75 "}\\ $(touch pwned)', "exit=75")
    link.end()
    assert link.events()[-1]["event"] == "job_continues"
    assert not (tmp_path / "pwned").exists()


# --- signals ---------------------------------------------------------------------------------------------------------


def test_a_warning_reaches_the_command_which_saves_and_is_queued_again(tmp_path):
    link = start(tmp_path, "wait")
    link.tell(signal.SIGUSR1)
    link.end()
    assert link.calls("scontrol") == ["scontrol requeue 100"]
    assert link.events()[-1]["reason"] == "SIGUSR1"


def test_a_warning_during_the_set_up_is_passed_on_when_there_is_somebody_to_tell(tmp_path):
    site = Site(again="requeue", setup=("kill -s USR1 $$",))
    link = start(tmp_path, "wait", site=site)
    link.end()
    assert link.calls("scontrol") == ["scontrol requeue 100"]


def test_being_cancelled_is_no_reason_to_come_back(tmp_path):
    link = start(tmp_path, "save=100", "wait")
    link.tell(signal.SIGTERM)
    assert link.end() == 75
    assert (link.run / "checkpoints" / "latest").read_text() == "samples-000000000110\n"  # it could still save
    assert link.kept("over") == "stopped" and not link.calls("scontrol") + link.calls("sbatch")
    assert "told to stop by TERM" in link.said


def test_a_preemption_which_tells_the_ranks_only_is_no_end(tmp_path):
    link = start(tmp_path, "save=100", "word=0:75 SIGTERM", "exit=75")
    link.end()
    assert link.calls("scontrol") == ["scontrol requeue 100"]


def test_the_limit_itself_after_the_warning_is_not_a_cancellation(tmp_path):
    link = start(tmp_path, "slow=0.4", "wait")
    link.tell(signal.SIGUSR1)
    time.sleep(0.1)
    link.process.send_signal(signal.SIGTERM)
    link.end()
    assert link.calls("scontrol") == ["scontrol requeue 100"]


def test_a_save_slower_than_the_warning_is_queued_again_before_the_limit_ends_all(tmp_path):
    link = start(tmp_path, "save=100", "deaf", lead=1)
    link.tell(signal.SIGUSR1)
    begin = time.monotonic()
    link.end()
    assert time.monotonic() - begin < 5
    assert link.calls("scontrol") == ["scontrol requeue 100"]
    assert link.events()[-1]["reason"] == "the save took longer than the warning"


def test_nothing_is_left_of_a_job_that_ended(tmp_path):
    link = start(tmp_path, "wait", site=Site(scheduler="pbs", again="none"), environ={}, lead=5)
    link.tell(signal.SIGTERM)
    link.end()
    left = subprocess.run(["pgrep", "-f", "script.sh"], capture_output=True, text=True).stdout.split()
    assert all(Path(f"/proc/{pid}/cwd").resolve() != link.folder for pid in left)


# --- carrying on -----------------------------------------------------------------------------------------------------


def test_a_busy_controller_is_asked_again(tmp_path):
    link = start(tmp_path, "save=100", "exit=75", calls={"scontrol-is-busy": "2"})
    assert link.end() == 0
    assert len(link.calls("scontrol")) == 3 and not link.calls("sbatch")


def test_where_queueing_again_is_refused_a_new_job_takes_its_place(tmp_path):
    link = start(tmp_path, "save=100", "exit=75", calls={"scontrol-is-busy": "99"})
    link.end()
    assert link.calls("sbatch") == ["sbatch --parsable --dependency=afterany:100 script.sh"]
    assert link.kept("ids") == "100\n901"


def test_without_scontrol_a_new_job_takes_its_place_at_once(tmp_path):
    link = start(tmp_path, "save=100", "exit=75", without=("scontrol",))
    link.end()
    assert link.calls("sbatch") == ["sbatch --parsable --dependency=afterany:100 script.sh"]


def test_where_nothing_is_allowed_the_job_says_how_to_go_on(tmp_path):
    link = start(tmp_path, "save=100", "exit=75", without=("scontrol",), calls={"sbatch-refuses": ""})
    assert link.end() == 75
    assert link.kept("over") == "stopped" and "instar resume" in link.said


def test_a_link_of_a_chain_leaves_the_rest_to_the_next(tmp_path):
    link = start(tmp_path, "save=100", "exit=75", site=Site(again="chain"))
    assert link.end() == 75
    assert link.kept("over") is None and not link.calls("scontrol") + link.calls("sbatch")


def test_later_links_of_a_chain_that_is_over_end_at_once(tmp_path):
    chain = Site(again="chain")
    start(tmp_path, "save=100", "exit=0", site=chain).end()
    link = start(tmp_path, "exit=1", site=chain, environ={"SLURM_JOB_ID": "101"})
    assert link.end() == 0
    assert "nothing left to do: done" in link.said
    assert len(link.events()) == 2


def test_a_job_that_is_started_again_by_hand_begins_anew(tmp_path):
    start(tmp_path, "save=100", "exit=1").end()
    link = start(tmp_path, "save=200", "exit=0", environ={})
    assert link.end() == 0
    assert (link.kept("over"), link.kept("over-by-hand")) == ("failed", "done")
    assert link.events()[-1]["job"] == "by-hand"


def test_a_job_that_the_site_preempted_and_queued_again_goes_on(tmp_path):
    link = start(tmp_path, "wait")
    link.tell(signal.SIGTERM)
    link.end()
    link = start(tmp_path, "save=200", "exit=0", environ=JOB | {"SLURM_RESTART_COUNT": "1"})
    assert link.end() == 0 and link.kept("over") == "done"


def test_two_links_that_save_nothing_new_end_the_chain(tmp_path):
    chain = Site(again="chain")
    start(tmp_path, "save=100", "exit=75", site=chain, links=9).end()
    first = start(tmp_path, "exit=75", site=chain, links=9)
    assert first.end() == 75 and first.kept("over") is None
    second = start(tmp_path, "exit=75", site=chain, links=9)
    assert second.end() == 1
    assert second.kept("over") == "failed" and "saved nothing new" in second.said


def test_a_link_that_saves_something_makes_up_for_one_that_did_not(tmp_path):
    chain = Site(again="chain")
    for words in (("exit=75",), ("save=10", "exit=75"), ("exit=75",)):
        link = start(tmp_path, *words, site=chain, links=9)
        link.end()
    assert link.kept("over") is None and link.kept("fruitless") == "1"


def test_the_time_that_was_asked_for_is_not_exceeded(tmp_path):
    chain = Site(again="chain")
    start(tmp_path, "save=10", "exit=75", site=chain, links=2).end()
    link = start(tmp_path, "save=20", "exit=75", site=chain, links=2)
    assert link.end() == 75
    assert link.kept("over") == "stopped" and "used up" in link.said


# --- arrays and names ------------------------------------------------------------------------------------------------


def test_elements_of_an_array_keep_their_own_records_and_are_queued_again_by_their_own_number(tmp_path):
    elements = (("save=1", "exit=75"), ("save=1", "exit=0"))
    ids = {"SLURM_JOB_ID": "100", "SLURM_ARRAY_JOB_ID": "100"}
    for number in (0, 1):
        link = start(tmp_path, elements=elements, environ=ids | {"SLURM_ARRAY_TASK_ID": str(number)})
        link.end()
    assert link.calls("scontrol") == ["scontrol requeue 100_0"]
    assert (link.kept("carried-0"), link.kept("over-0"), link.kept("over-1")) == ("1", None, "done")
    assert link.events(tmp_path / "run" / "0001")[-1]["job"] == "100_1"


def test_the_successor_of_an_element_is_that_element_alone(tmp_path):
    ids = {"SLURM_JOB_ID": "104", "SLURM_ARRAY_JOB_ID": "100", "SLURM_ARRAY_TASK_ID": "1"}
    elements = ((), ("save=1", "exit=75"))
    link = start(tmp_path, elements=elements, environ=ids, without=("scontrol",))
    link.end()
    assert link.calls("sbatch") == ["sbatch --parsable --dependency=afterany:104 --array=1 script.sh"]


def test_names_are_never_commands(tmp_path):
    folder = tmp_path / HOSTILE
    folder.mkdir()
    link = start(folder, "save=100", "note=" + HOSTILE, "exit=75")
    assert link.end() == 0
    assert link.calls("scontrol") == ["scontrol requeue 100"]
    assert not [file for file in tmp_path.rglob("pwned")] and not Path("pwned").exists()


def test_the_command_is_told_about_its_job(tmp_path):
    begin = time.time()
    link = start(tmp_path, "environment", "exit=0", environ=JOB | {"SLURM_RESTART_COUNT": "2"})
    link.end()
    told = dict(line.split("=", 1) for line in (link.run / "environment").read_text().splitlines() if "=" in line)
    assert (told["INSTAR_JOB"], told["INSTAR_ATTEMPT"]) == ("100", "2")
    assert abs(int(told["INSTAR_JOB_END"]) - begin - 3600) < 10


# --- PBS and this machine --------------------------------------------------------------------------------------------

PBS = Site(scheduler="pbs", launcher="mpiexec")


def test_pbs_keeps_its_log_in_the_folder_of_the_job_over_all_links(tmp_path):
    for number in ("7.server", "8.server.long.name"):
        link = start(tmp_path, "save=1", "exit=75", site=PBS, environ={"PBS_JOBID": number})
        assert link.end() == 75 and link.said == ""
    assert link.kept("log.txt").count("carries on") == 2
    assert [event["job"] for event in link.events()] == ["7", "7", "8", "8"]


def test_pbs_warns_nobody_so_the_script_does(tmp_path):
    link = start(tmp_path, "wait", site=PBS, environ={"PBS_JOBID": "7.server"}, seconds=3, lead=2)
    assert link.end(8) == 75
    assert link.events()[-1]["reason"] == "SIGUSR1"


def test_pbs_looks_for_its_marker_when_it_is_to_stop(tmp_path):
    link = start(tmp_path, "wait", site=PBS, environ={"PBS_JOBID": "7.server"})
    wait_for(link.run / "ready")
    (link.folder / "over").write_text("stopped by somebody\n")
    assert link.end(15) == 75
    assert link.events()[-1]["state"] == "stopped"


def test_an_array_that_was_stopped_as_a_whole_stops_in_every_element(tmp_path):
    ids = {"PBS_JOBID": "7[0].server", "PBS_ARRAY_ID": "7[].server", "PBS_ARRAY_INDEX": "0"}
    link = start(tmp_path, "wait", elements=((), ()), site=PBS, environ=ids)
    wait_for(tmp_path / "run" / "0000" / "ready")
    (link.folder / "over").write_text("stopped by somebody\n")
    assert link.end(15) == 75 and link.kept("over-0") == "stopped"
    later = start(
        tmp_path,
        "wait",
        elements=((), ()),
        site=PBS,
        environ=ids | {"PBS_JOBID": "7[1].server", "PBS_ARRAY_INDEX": "1"},
    )
    assert later.end() == 0 and "nothing left to do: stopped by somebody" in later.kept("log-1.txt")


def test_pbs_elements_know_their_number_also_where_there_is_only_one(tmp_path):
    ids = {"PBS_JOBID": "7[1].server", "PBS_ARRAY_ID": "7[].server", "PBS_ARRAY_INDEX": "1"}
    link = start(tmp_path, elements=((), ("save=1", "exit=0")), site=PBS, environ=ids)
    link.end()
    assert link.events(tmp_path / "run" / "0001")[-1]["job"] == "7[]_1"
    assert "all is done" in link.kept("log-1.txt")
    link = start(tmp_path, "exit=0", elements=((),), site=PBS, environ={"PBS_JOBID": "9.server"})
    link.end()
    assert link.events(tmp_path / "run" / "0000")[-1]["job"] == "9_0"


def test_pbs_counts_how_often_a_job_was_run_again_by_the_site(tmp_path):
    for attempt in (0, 1):
        link = start(tmp_path, "save=1", "exit=75", site=PBS, environ={"PBS_JOBID": "7.server"})
        link.end()
        assert link.events()[-1]["attempt"] == attempt


LOCAL = Site(scheduler="local", again="requeue", launcher="none")


def test_this_machine_starts_the_script_again_in_the_same_process(tmp_path):
    link = start(tmp_path, "more=1", "exit=75", site=LOCAL, environ={}, links=3)
    number = str(link.process.pid)
    assert link.end() == 75 and link.kept("over") == "stopped"
    events = link.events()
    assert [event["attempt"] for event in events if event["event"] == "job_started"] == [0, 1, 2]
    assert {event["job"].split("-")[0] for event in events} == {number}


def test_this_machine_ends_what_takes_too_long_and_carries_on(tmp_path):
    link = start(tmp_path, "wait", site=LOCAL, environ={}, seconds=2, lead=1, links=2)
    assert link.end(15) == 75
    reasons = [event["reason"] for event in link.events() if event["event"] != "job_started"]
    assert reasons == ["SIGUSR1", "the time that was asked for is used up"]


def test_this_machine_kills_what_does_not_listen(tmp_path):
    link = start(tmp_path, "deaf", site=LOCAL, environ={}, seconds=2, lead=1, links=9)
    assert link.end(15) == 1  # twice nothing new
    assert "saved nothing new" in link.said


def test_this_machine_runs_the_elements_of_an_array_one_after_the_other(tmp_path):
    elements = (("save=1", "exit=0"), ("exit=65",), ("save=1", "exit=0"))
    link = start(tmp_path, elements=elements, site=LOCAL, environ={}, at_once=2)
    assert link.end() == 0
    assert [link.kept(f"over-{number}") for number in range(3)] == ["done", "failed", "done"]
    assert "a mistake to mend" in link.kept("log-1.txt")


def test_an_array_on_this_machine_stops_as_a_whole(tmp_path):
    link = start(tmp_path, "wait", elements=((), (), ()), site=LOCAL, environ={})
    wait_for(tmp_path / "run" / "0000" / "ready")
    link.process.send_signal(signal.SIGTERM)
    assert link.end() == 0
    assert (link.kept("over-0"), link.kept("over-1")) == ("stopped", None)


def test_the_fakes_are_ordinary_executables():
    assert all(os.access(file, os.X_OK) for file in FAKES.iterdir())
