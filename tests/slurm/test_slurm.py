"""Jobs in a real Slurm of two nodes: cut off by time, cancelled, preempted, robbed of a node; never of their work."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from tests.fakes.training import fingerprint
from tests.slurm.conftest import ROOT, happened, until

pytestmark = pytest.mark.slurm
TWO = ("nodes=2", "cores=1")


def compare(home, run, *, devices: int = 2, words=()) -> None:
    """The run is, to the bit, what the same recipe gives where nobody disturbs it."""
    here = ("run=undisturbed", "workers=0", "device=cpu", f"devices={devices}", "--quiet")
    home.instar("train", "recipe.yaml", *here, *words)
    assert fingerprint(run) == fingerprint(home.run("undisturbed"))


def done(home, name, seconds=150):
    until(lambda: home.run(name).status()["state"] == "done", seconds, f"{name} is done:\n{home.log(name)}")


def test_a_training_on_two_nodes_outlives_its_time_limit_and_loses_nothing(home):
    run = home.submit("long", *TWO, "time=10min", "longest=1min", "train.epochs=500")
    done(home, "long", 300)
    assert happened(run, "job_started") >= 2 and happened(run, "job_continues") >= 1
    assert {event["job"] for event in run.events() if event["event"] == "job_started"} == {home.number("long")}
    until(lambda: run.events()[-1]["event"] == "job_ended", 20, "the job has ended, too")
    assert run.events()[-1]["state"] == "done"
    assert home.log("long").count("data     120 images") >= 2, "the log of the first life is kept"
    compare(home, run, words=("train.epochs=500",))


def test_where_nothing_may_be_queued_again_a_chain_carries_on(home):
    run = home.submit("chain", "time=30min", "longest=10min", "again=chain")
    numbers = (run.jobs / "0001" / "ids").read_text().split()
    assert len(numbers) == 3
    until(lambda: happened(run, "saved") > 3, 60, "it saves")
    home.call("scancel", "--batch", "--signal=USR1", numbers[0])
    done(home, "chain", 200)
    until(lambda: not home.call("squeue", "--noheader").strip(), 60, "the last link found nothing left to do")
    started = [event["job"] for event in run.events() if event["event"] == "job_started"]
    assert started == numbers[: len(started)] and len(started) >= 2
    compare(home, run, devices=1)


def test_a_cancelled_job_saves_and_stays_cancelled(home):
    run = home.submit("cancelled", *TWO, "time=1h")
    until(lambda: happened(run, "saved") > 3, 60, "it saves")
    home.call("scancel", home.number("cancelled"))
    until(lambda: run.status()["state"] == "stopped", 30, "it has stopped")
    until(lambda: not home.call("squeue", "--noheader").strip(), 60, "nothing waits")
    assert happened(run, "job_started") == 1 and "told to stop by TERM" in run.events()[-1]["reason"]
    assert "instar resume" in home.instar("why", "cancelled") or "carries on" in home.instar("why", "cancelled")
    home.instar("resume", "cancelled")
    done(home, "cancelled")
    compare(home, run)


def test_stop_takes_the_whole_chain_out_of_the_queue(home):
    run = home.submit("stopped", "time=3h", "longest=1h", "again=chain")
    until(lambda: happened(run, "saved") > 3, 60, "it saves")
    home.instar("stop", "stopped")
    until(lambda: not home.call("squeue", "--noheader").strip(), 60, "nothing waits or runs")
    assert run.status()["state"] == "stopped" and happened(run, "job_started") == 1


def test_a_node_that_goes_down_costs_no_more_than_the_steps_since_the_last_save(home):
    run = home.submit("crash", *TWO, "time=1h")
    until(lambda: happened(run, "saved") > 3, 60, "it saves")
    home.cluster("crash", "2")
    home.call("scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=crashed")
    home.cluster("boot", "2")
    home.call("scontrol", "update", "NodeName=n2", "State=RESUME", code=None)
    done(home, "crash", 200)
    assert happened(run, "job_started") == 2 and happened(run, "resumed") >= 1
    compare(home, run)


def test_a_dead_daemon_on_a_node_costs_nothing_either(home):
    run = home.submit("daemon", *TWO, "time=1h")
    until(lambda: happened(run, "saved") > 3, 60, "it saves")
    home.cluster("kill-slurmd", "2")
    home.cluster("start-slurmd", "2")
    done(home, "daemon", 200)
    compare(home, run)


def test_a_preempted_job_carries_on_when_there_is_room_again(home):
    run = home.submit("low", *TWO, "time=1h", "partition=low")
    until(lambda: happened(run, "saved") > 3, 60, "it saves")
    home.call("sbatch", "-N2", "--exclusive", "-p", "day", "-o", "/dev/null", "--wrap", "sleep 8")
    until(lambda: happened(run, "stopped") > 0, 60, "it was told to make room")
    done(home, "low", 200)
    assert happened(run, "job_started") >= 2
    compare(home, run)


def test_the_elements_of_an_array_are_queued_again_one_by_one(home):
    words = (
        "submit",
        "train",
        "recipe.yaml",
        "run=sweep",
        "seed=0..2",
        "train.epochs=300",
        "cores=1",
        "--sweep",
        "time=1h",
    )
    home.instar(*words, *home.words)
    runs = [home.run(f"sweep/{number:04}") for number in range(3)]
    until(lambda: all(happened(run, "saved") > 3 for run in runs), 90, "all save")
    number = (home.folder / "runs/sweep/jobs/0001/ids").read_text().strip()
    # The last element has the number of the array as its own; that must not start the others again.
    for element in (1, 2):
        home.call("scancel", "--batch", "--signal=USR1", f"{number}_{element}")
    until(lambda: all(run.status()["state"] == "done" for run in runs), 200, f"all are done\n{home.log('sweep')}")
    assert [happened(run, "job_started") for run in runs] == [1, 2, 2]
    assert [run.path.name for run in runs] == ["0000", "0001", "0002"]


def test_a_command_that_cannot_start_ends_its_job_at_once(home):
    (home.folder / "here.yaml").write_text(
        (home.folder / "here.yaml").read_text() + "python: [python3, -m, nothing_here]\n"
    )
    run = home.submit("broken", "time=1h")
    until(lambda: happened(run, "job_ended") == 1, 60, "it has ended")
    until(lambda: not home.call("squeue", "--noheader").strip(), 30, "nothing waits")
    assert run.status()["state"] == "failed" and happened(run, "job_started") == 1
    assert "nothing_here" in home.instar("logs", "broken")


def test_the_same_run_is_not_submitted_twice_and_never_written_by_two(home):
    run = home.submit("twice", "time=1h")
    said = home.instar(
        "submit",
        "train",
        "recipe.yaml",
        "run=twice",
        "time=1h",
        "workers=0",
        "device=cpu",
        "--on",
        "./here.yaml",
        code=65,
    )
    assert "in the queue already" in said
    until(lambda: happened(run, "saved") > 3, 60, "it saves")
    second = run.jobs / "0001"
    number = home.call("sh", "-c", f"cd '{second}' && sbatch --parsable script.sh").strip()
    until(lambda: number not in home.call("squeue", "--noheader", "--format=%A"), 60, "the second has left")
    assert "is in use by process" in home.log(
        "twice"
    ) and f"stop it there (scancel {home.number('twice')})" in home.log("twice")
    assert run.status()["state"] == "running", "the first goes on"
    home.instar("stop", "twice")


def test_a_refusal_is_told_in_the_words_of_the_scheduler_and_nothing_stays(home):
    said = home.instar("submit", "train", "recipe.yaml", "run=refused", "partition=dya", *home.words, code=65)
    assert "dya" in said and "day" in said, said
    assert not home.call("squeue", "--noheader").strip()


def test_a_job_can_be_dry(home):
    said = home.instar("submit", "train", "recipe.yaml", "run=dry", *TWO, "time=2h", "--dry", *home.words)
    assert "#SBATCH --nodes=2" in said and "start " in said and not (home.folder / "runs").exists()


@pytest.mark.skipif(not shutil.which("ch-run"), reason="Debian's charliecloud-runtime is not installed")
def test_in_a_container_the_warning_arrives_and_the_script_outside_queues_it_again(home, tmp_path):
    image = tmp_path / "image"
    seen = {
        "/usr",
        sys.base_prefix,
        sys.prefix,
        str(Path(sys.prefix).resolve()),
        str(ROOT),
        *(name for name in ("/lib", "/lib64", "/bin") if Path(name).is_dir()),
    }
    for folder in (*seen, "/etc", "/dev", "/proc", "/sys", "/tmp", "/root", "/mnt"):
        (image / folder[1:]).mkdir(parents=True, exist_ok=True)
    for name in ("passwd", "group", "hosts", "resolv.conf"):
        (image / "etc" / name).touch()
    container = {"runtime": "apptainer", "image": str(image), "binds": [f"{name}:{name}" for name in sorted(seen)]}
    with open(home.folder / "here.yaml", "a") as site:
        site.write(f"container: {json.dumps(container)}\npython: {json.dumps([sys.executable, '-m', 'instar'])}\n")
    run = home.submit("boxed", *TWO, "time=1h")
    until(lambda: happened(run, "saved") > 3, 90, f"it saves\n{home.log('boxed')}")
    home.call("scancel", "--batch", "--signal=USR1", home.number("boxed"))
    done(home, "boxed", 200)
    assert happened(run, "job_started") == 2
    assert "boxed" in home.log("boxed") and "apptainer exec" in (run.jobs / "0001" / "script.sh").read_text()
    compare(home, run)
