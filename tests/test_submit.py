import json
import os
import shlex
import stat
import time
from pathlib import Path

import pytest

from instar import cli, lock, queue, submit
from instar import job as jobs
from instar import site as sites
from instar.cli import submit as words_of
from instar.errors import ConfigError, RunError
from instar.machine import Machine, Start
from instar.run import Run
from instar.site import Site
from instar.submit import Request, Work
from tests.fakes.images import folder_of_images

WORK = Work("flowers", ("train", "@recipe.yaml"), Path("/runs/flowers"), Path("/runs/flowers/jobs"))
NODE = {"cores": 32, "gpus": {"per_node": 4}, "longest": "24 h", "nodes": 8}


def job(request=None, work=WORK, **settings):
    return submit.job_for(
        work, Site(**NODE | settings), Request(**request or {}), folder=Path("/runs/flowers/jobs/0001")
    )


@pytest.fixture
def queue_of(tmp_path, monkeypatch):
    """A scheduler that is a few lines of shell: it numbers jobs from 101 and keeps what it was asked."""
    folder = tmp_path / "the queue's"
    folder.mkdir()
    programs = {
        "sbatch": 'echo "$PWD: $*" >>"$Q/asked"; [ ! -e "$Q/full" ] || [ $(cat "$Q/number") -lt $(cat "$Q/full") ] || '
        '{ echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2; exit 1; }\n'
        'case "$*" in *--test-only*) echo "sbatch: Job 9 to start at 2031-05-06T07:08:09 using 8 processors" >&2; exit 0;; esac\n'
        'n=$(($(cat "$Q/number") + 1)); echo $n >"$Q/number"; echo "$n;cluster"; echo "$n|PENDING|Priority|N/A" >>"$Q/jobs"',
        "squeue": 'cat "$Q/jobs"',
        "scancel": 'echo "scancel $*" >>"$Q/asked"; sed -i "s/PENDING/CANCELLED/" "$Q/jobs"',
        "sacct": "exit 1",
    }
    for name, text in programs.items():
        file = folder / name
        file.write_text(f"#!/bin/bash\nQ={shlex.quote(str(folder))}\n{text}\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    (folder / "number").write_text("100\n")
    (folder / "jobs").write_text("")
    (folder / "asked").write_text("")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def images(tmp_path):
    return folder_of_images(tmp_path / "my $(touch pwned) 'images'", classes=2, each=4)


def submitted(*words, images):
    return cli.main(["submit", "train", str(images), "model=resnet9", *words, "--on", "generic-slurm", "cores=2"])


# --- what it comes to ---


def test_processes_are_one_a_gpu_and_share_the_cores():
    made = job({"nodes": 2})
    assert (made.tasks_per_node, made.tasks, made.cores_per_task, made.gpus_per_node) == (4, 8, 8, 4)
    half = job({"gpus": 2})
    assert (half.tasks_per_node, half.cores_per_task, half.gpus_per_node) == (2, 8, 2)
    none = job({"gpus": 0})
    assert (none.tasks_per_node, none.cores_per_task, none.gpus_per_node) == (1, 32, 0)


def test_time_beyond_one_job_becomes_links():
    assert (job({"time": "3 d"}).seconds, job({"time": "3 d"}).links) == (86400, 3)
    assert (job({"time": "25 h"}).seconds, job({"time": "25 h"}).links) == (86400, 2)
    assert (job({"time": "2 h"}).seconds, job({"time": "2 h"}).links) == (7200, 1)
    assert job({}).seconds == 86400


def test_everything_a_site_cannot_give_is_told_at_once():
    with pytest.raises(ConfigError) as told:
        job({"nodes": 99, "gpus": 8, "cores": 64, "time": "9 d"}, again="none")
    text = str(told.value)
    assert (
        all(part in text for part in ("gpus=8", "nodes=99", "64 cores each", "9 d")) and len(told.value.mistakes) == 4
    )


def test_the_price_counts_every_link_and_element():
    price = submit.price(job({"nodes": 2, "time": "3 d"}), Site(**NODE))
    assert price == {"node_hours": 144, "core_hours": 144 * 32, "gpu_hours": 144 * 4}
    many = Work("sweep", ("train",), Path("/runs/s"), Path("/runs/s/jobs"), (("a=1",), ("a=2",), ("a=3",)))
    assert submit.price(job({"time": "2 h"}, many), Site(**NODE))["gpu_hours"] == 24


def test_a_secret_never_gets_into_a_script():
    site = Site(environment={"WANDB_API_KEY": "s3cr3t", "HF_TOKEN": "$HF_TOKEN", "NCCL_DEBUG": "INFO"})
    found = [finding for finding in submit.findings(WORK, job(), site) if finding.level == "error"]
    assert [finding.what for finding in found if "secret" in finding.found] == ["WANDB_API_KEY"]


# --- words ---


def test_values_of_a_sweep_are_split_at_commas_outside_of_brackets_and_quotes():
    assert words_of._values("seed=0..3") == ["seed=0", "seed=1", "seed=2", "seed=3"]
    assert words_of._values("optim.lr=0.1,1e-2") == ["optim.lr=0.1", "optim.lr=1e-2"]
    assert words_of._values("optim.betas=[0.9,0.99],[0.8,0.9]") == ["optim.betas=[0.9,0.99]", "optim.betas=[0.8,0.9]"]
    assert words_of._values("name='a,b',c") == ["name='a,b'", "name=c"]


def test_only_commands_that_work_alone_can_be_jobs(queue_of, capsys):
    assert cli.main(["submit", "watch", "x", "--on", "generic-slurm"]) == 65
    assert "'watch' cannot be a job" in capsys.readouterr().err
    assert cli.main(["submit", "train", "x"]) == 65
    assert "say where: --on SITE" in capsys.readouterr().err


def test_mistakes_of_recipe_site_and_request_come_together_and_nothing_is_queued(queue_of, images, capsys):
    assert submitted("optim.lrr=1", "nodes=-1", "qos=a b", images=images) == 65
    told = capsys.readouterr().err
    assert "optim.lrr" in told and "nodes" in told and "qos" in told
    assert (queue_of / "asked").read_text() == "" and not Path("runs").exists()


# --- handing over ---


def test_a_training_is_handed_over_with_all_that_it_was(queue_of, images, capsys):
    assert submitted("run=one", "time=2h", "workers=0", images=images) == 0
    assert "queued   job 101" in capsys.readouterr().out
    folder = Path("runs/one/jobs/0001").absolute()
    assert {file.name for file in folder.iterdir()} >= {
        "script.sh",
        "recipe.yaml",
        "environment.txt",
        "code.json",
        "job.json",
    }
    assert (queue_of / "asked").read_text() == f"{folder}: --parsable script.sh\n"
    assert (folder / "ids").read_text() == "101\n"
    script = (folder / "script.sh").read_text()
    assert "#SBATCH --time=02:00:00" in script and f"run={folder.parent.parent}" in script
    assert not Path("pwned").exists()
    (run,) = [Run(folder.parent.parent)]
    assert run.events()[-1]["event"] == "queued" and run.status()["state"] == "queued"


def test_the_lock_of_the_weights_goes_with_the_recipe(queue_of, images, tmp_path):
    (tmp_path / "r.yaml").write_text(f"data: {{root: {json.dumps(str(images))}}}\n")
    (tmp_path / "r.lock.yaml").write_text("weights: []\n")
    assert cli.main(["submit", "train", "r.yaml", "run=x", "--on", "generic-slurm", "cores=2"]) == 0
    (kept,) = (tmp_path / "runs" / "x" / "jobs").glob("*/recipe.lock.yaml")
    assert kept.read_text() == "weights: []\n" and lock.beside(kept.with_name("recipe.yaml")) == kept


def test_a_chain_is_handed_over_whole(queue_of, images):
    assert submitted("run=one", "time=3d", "again=chain", "--quiet", images=images) == 0
    asked = (queue_of / "asked").read_text().splitlines()
    assert len(asked) == 3 and "--dependency=afterany:101" in asked[1] and "--dependency=afterany:102" in asked[2]
    assert jobs.read(Path("runs/one/jobs/0001")).ids == ("101", "102", "103")


def test_where_a_later_link_is_refused_nothing_stays_in_the_queue(queue_of, images, capsys):
    (queue_of / "full").write_text("102")
    assert submitted("run=one", "time=3d", "again=chain", images=images) == 65
    assert "QOSMaxSubmitJobPerUserLimit" in capsys.readouterr().err
    assert (queue_of / "asked").read_text().splitlines()[-1] == "scancel 101 102"
    assert jobs.read(Path("runs/one/jobs/0001")) is None
    assert [event["event"] for event in Run(Path("runs/one")).events()] == ["queued", "job_ended"]


def test_a_thousand_runs_are_one_array_of_one_script(queue_of, images):
    begun = time.monotonic()
    assert submitted("run=many", "seed=0..499", "optim.lr=0.1,0.01", "--sweep", "--quiet", images=images) == 0
    assert time.monotonic() - begun < 30, "the number of elements must not make it slow"
    script = Path("runs/many/jobs/0001/script.sh").read_text()
    assert "#SBATCH --array=0-999" in script and len((queue_of / "asked").read_text().splitlines()) == 1
    assert "    999) run=" in script and "more=(seed=499 optim.lr=0.01) ;;" in script


def test_a_mistake_in_any_value_of_a_sweep_is_found_before(queue_of, images, capsys):
    assert submitted("run=many", "optim.lr=0.1,0.01,-5", "seed=1,2", "--sweep", images=images) == 65
    assert "optim.lr" in capsys.readouterr().err and (queue_of / "asked").read_text() == ""


@pytest.mark.parametrize("more", [[], ["--sweep", "seed=1,2"]])
def test_what_is_said_of_the_machine_and_the_start_reaches_the_job(queue_of, images, capsys, more):
    said = ["workers=3", "device=cpu", "timeout=30s", "stage=auto", "cache=1 GB", "on_change=tail", "accept=true"]
    said += ["score=false", "walltime=2h"]
    assert {word.partition("=")[0] for word in said} | {"devices", "run", "runs"} == {
        *Machine.model_fields,
        *Start.model_fields,
    }
    assert submitted(*said, *more, "--dry", images=images) == 0
    script = capsys.readouterr().out
    for word in said:
        assert shlex.quote(word) in script.partition("next ")[0]


def test_dry_shows_the_script_and_makes_nothing(queue_of, images, capsys):
    assert submitted("run=one", "--dry", images=images) == 0
    out = capsys.readouterr().out
    assert "#!/bin/bash" in out and "start    Tue 06 May 07:08 at the earliest" in out
    assert not Path("runs").exists() and (queue_of / "number").read_text() == "100\n"


def test_a_run_that_waits_is_not_submitted_again(queue_of, images, capsys):
    assert submitted("run=one", images=images) == 0
    assert submitted("run=one", images=images) == 65
    assert "in the queue already: job 101 is pending" in capsys.readouterr().err
    (queue_of / "jobs").write_text("101|FAILED|NonZeroExitCode|N/A\n")
    assert submitted("run=one", images=images) == 0
    assert jobs.read(Path("runs/one/jobs/0002")).ids == ("102",)


def test_without_a_scheduler_the_mistake_is_named(tmp_path, images, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    assert submitted("run=one", images=images) == 65
    assert "sbatch: is not on the PATH" in capsys.readouterr().err


# --- afterwards ---


def test_stop_takes_what_waits_out_of_the_queue_and_marks_the_chain(queue_of, images, capsys):
    submitted("run=one", "time=2d", "again=chain", images=images)
    assert cli.main(["stop", "one"]) == 0
    assert "told     101, 102" in capsys.readouterr().out
    assert (queue_of / "asked").read_text().splitlines()[-1] == "scancel 101 102"
    assert Path("runs/one/jobs/0001/over").read_text().startswith("stopped by ")
    assert cli.main(["stop", "one"]) == 65


def test_a_run_whose_waiting_job_was_cancelled_is_not_said_to_wait(queue_of, images, capsys):
    submitted("run=one", images=images)
    capsys.readouterr()
    assert cli.main(["runs"]) == 0
    assert "queued 101" in capsys.readouterr().out
    (queue_of / "jobs").write_text("101|CANCELLED by 0|None|N/A\n")
    assert cli.main(["runs"]) == 0
    assert "cancelled" in capsys.readouterr().out
    assert cli.main(["why", "one"]) == 0
    assert "instar resume one submits it again" in capsys.readouterr().out


def test_resume_hands_over_the_same_work_with_other_wishes(queue_of, images):
    submitted("run=one", "time=2h", "optim.lr=0.02", images=images)
    (queue_of / "jobs").write_text("101|TIMEOUT|TimeLimit|N/A\n")
    assert cli.main(["resume", "one", "time=5h", "--quiet"]) == 0
    first, second = (Path(f"runs/one/jobs/000{number}") for number in (1, 2))
    assert (first / "recipe.yaml").read_text() == (second / "recipe.yaml").read_text()
    assert "--time=05:00:00" in (second / "script.sh").read_text()
    assert cli.main(["resume", "two"]) == 65


def test_logs_are_found_and_their_end_is_shown(queue_of, images, capsys):
    submitted("run=one", images=images)
    capsys.readouterr()
    assert cli.main(["logs", "one"]) == 0 and "not there yet" in capsys.readouterr().err
    (Path("runs/one/jobs/0001") / "log.txt").write_text("".join(f"line {n}\n" for n in range(100)))
    assert cli.main(["logs", "one", "lines=2"]) == 0
    assert capsys.readouterr().out == "line 98\nline 99\n"


def test_what_a_scheduler_does_not_say_is_unknown_and_no_crash(queue_of, images):
    submitted("run=one", images=images)
    (queue_of / "jobs").write_text("slurm_load_jobs error: rubbish\n101|WARMING_UP+|None|Unknown\n")
    (state,) = queue.standing(queue.newest(Run(Path("runs/one")))).values()
    assert (state.standing, state.word) == ("ended", "WARMING_UP")
    (queue_of / "squeue").write_text(
        "#!/bin/bash\necho 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1\n"
    )
    (state,) = queue.standing(queue.newest(Run(Path("runs/one")))).values()
    assert state.standing == "unknown" and "Unable to contact" in state.reason
    assert Run(Path("runs/one")).status()["state"] == "queued"


def test_a_site_of_ones_own_goes_before_a_shipped_one(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    own = tmp_path / ".config/instar/sites"
    own.mkdir(parents=True)
    (own / "generic-slurm.yaml").write_text("account: mine\n")
    assert sites.load("generic-slurm").account == "mine"
    with pytest.raises(ConfigError, match="generic-slurm"):
        sites.load("generic-slrum")


def test_no_directive_can_be_smuggled_into_a_script(tmp_path):
    for bad in ("a b", "x\n#SBATCH --uid=0", "$(id)", "`id`", ""):
        with pytest.raises(ConfigError):
            sites.load("generic-slurm", (f"account={json.dumps(bad)}",))


def test_an_unreadable_record_of_a_job_is_passed_over(tmp_path):
    (tmp_path / "0001").mkdir()
    (tmp_path / "0001" / "job.json").write_text("{torn")
    assert list(jobs.everything(tmp_path)) == []
    with pytest.raises(RunError):
        submit.asked_before(tmp_path / "0001")
