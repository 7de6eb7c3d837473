"""Sites that come with Instar, and the script each makes of the same job."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from instar import __version__, site
from instar.clusters import _script
from instar.errors import ConfigError
from instar.experiment import Experiment
from instar.site import Container, Part, Site
from instar.validation import validate
from tests.fakes.jobs import HOSTILE, job, script

GOLDEN = Path(__file__).parent / "golden" / "sites"
SHIPPED = sorted(file.stem for file in site.SHIPPED.glob("*.yaml"))
MAIN = Path("/project/flowers")


def usual(name, **changes):
    """Two whole nodes of a site for 24 hours, four times; what the site does not say is one process."""
    here = site.load(name)
    gpus = here.gpus.per_node
    tasks = 1 if here.launcher == "none" else max(1, gpus)
    asked = {
        "run": MAIN / "runs" / "flowers",
        "start": MAIN,
        "nodes": min(2, here.nodes or 2),
        "tasks_per_node": tasks,
        "cores_per_task": (here.cores or 1) // tasks,
        "gpus_per_node": gpus,
        "seconds": 24 * 3600,
        "links": 4,
        "lead": 180,
    }
    return script(job(MAIN / "runs" / "flowers" / "jobs" / "0001", **asked | changes), here)


def with_container():
    here = site.load("leonardo").model_copy(
        update={"container": Container(image="$WORK/images/torch.sif", binds=("$WORK/data:/data",), options=("--nv",))}
    )
    start = Path("/project/a, b")
    made = job(start / "jobs" / "1", start=start, run=start / "runs" / "1", nodes=2, tasks_per_node=4, gpus_per_node=4)
    return script(made, here)


def with_pyxis():
    here = Site(container=Container(runtime="pyxis", image="nvcr.io#nvidia/pytorch:25.10-py3", binds=("/data:/data",)))
    return script(job(MAIN / "jobs" / "1", start=MAIN, nodes=2, tasks_per_node=4, gpus_per_node=4), here)


def hostile():
    here = Site(environment={"GREETING": HOSTILE}, mail="me@example.org")
    folder = Path("/project") / HOSTILE / "jobs" / "0001"
    return script(
        job(folder, name=HOSTILE, start=folder, run=folder.parent, command=("instar", "train", HOSTILE)), here
    )


def array(name):
    return usual(name, elements=(("optim.lr=0.1",), ("optim.lr=0.01", "note=a 'b'")), at_once=1)


SCRIPTS = {
    **{name: lambda name=name: usual(name) for name in SHIPPED},
    **{f"array-{name}": lambda name=name: array(name) for name in ("lumi", "polaris", "laptop")},
    "container": with_container,
    "pyxis": with_pyxis,
    "hostile": hostile,
    "no-limit": lambda: usual("laptop", seconds=0),
    "one-gpu-of-puhti": lambda: script(
        job(MAIN, cores_per_task=10, gpus_per_node=1, seconds=4 * 3600), site.load("puhti").suited(1)
    ),
    "no-gpu-of-lumi": lambda: script(job(MAIN, cores_per_task=16), site.load("lumi").suited(0)),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_script_of_a_site_is_the_one_that_was_looked_at(name):
    made = SCRIPTS[name]().replace(__version__, "VERSION", 1)
    around = _script.SUPERVISE.read_text()
    assert made.endswith(around)
    file = GOLDEN / f"{name}.sh"
    if os.environ.get("GOLDEN"):
        file.write_text(made.removesuffix(around))
    assert made.removesuffix(around) == file.read_text()


@pytest.mark.parametrize("name", SCRIPTS)
def test_bash_can_read_every_script(name, tmp_path):
    (tmp_path / "script.sh").write_text(SCRIPTS[name]())
    checked = subprocess.run(["bash", "-n", "script.sh"], cwd=tmp_path, capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
@pytest.mark.parametrize("name", ["leonardo", "array-lumi", "array-polaris", "array-laptop", "container", "hostile"])
def test_shellcheck_finds_nothing(name, tmp_path):
    (tmp_path / "script.sh").write_text(SCRIPTS[name]())
    # A user's dollar in single quotes is meant; functions called by traps and by other files are reached.
    found = subprocess.run(
        ["shellcheck", "-s", "bash", "-e", "SC2016,SC2317", "script.sh"], cwd=tmp_path, capture_output=True, text=True
    )
    assert found.stdout == ""


def test_no_line_of_a_hostile_name_becomes_a_directive():
    lines = hostile().splitlines()
    # Slurm reads directives up to the first line that is none and no comment.
    head = lines[: next(i for i, line in enumerate(lines) if i and not line.startswith("#"))]
    assert "touch" in "\n".join(lines[len(head) :])
    for line in head[1:-1]:
        assert re.fullmatch(r"#SBATCH --[a-z-]+(=[A-Za-z0-9.:@,_-]+)?", line), line


@pytest.mark.parametrize("name", SHIPPED)
def test_a_site_in_its_file_is_read_whole_and_says_what_it_is(name):
    here = site.load(name)
    assert here.about and here.account is None  # nobody's account is shipped
    for gpus in (0, 1, here.gpus.per_node):
        assert script(job(MAIN, gpus_per_node=gpus), here.suited(gpus))


@pytest.mark.parametrize("name", SHIPPED)
def test_nothing_secret_gets_into_a_script(name, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "canary-1f3a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-1f3a")
    here = site.load(name, ("+environment.WANDB_API_KEY=$WANDB_API_KEY",))
    made = script(job(MAIN), here)
    assert "canary-1f3a" not in made
    assert 'export WANDB_API_KEY="$WANDB_API_KEY"' in made


HOW_TO = Path(__file__).parent.parent / "docs" / "how-to"


@pytest.mark.parametrize(
    ("page", "golden"),
    [("leonardo", "leonardo"), ("lumi", "lumi"), ("musica", "musica"), ("leo5", "leo5"), ("puhti", "one-gpu-of-puhti")],
)
def test_the_how_to_of_a_site_shows_the_script_it_gets(page, golden):
    shown = re.findall(r"^#SBATCH .*$", (HOW_TO / f"{page}.md").read_text(), re.MULTILINE)
    made = SCRIPTS[golden]().splitlines()
    assert len(shown) > 5 and [line for line in shown if line not in made] == []


@pytest.mark.parametrize("page", ["leonardo", "lumi", "musica", "leo5", "puhti"])
def test_settings_that_a_how_to_names_are_there(page):
    text = (HOW_TO / f"{page}.md").read_text()
    named = re.findall(
        r"\b((?:data|model|task|optim|schedule|train)\.[a-z_.]+=(?:\[[^\]]*\]|[^\s`,;]*[^\s`,;…]))", text
    )
    assert named
    for change in set(named):
        validate(Experiment, {"data": {"root": "images"}, "model": {"pretrained": True}}, [change])


def test_a_job_of_a_part_of_a_node_asks_for_that_part():
    lumi = site.load("lumi")
    assert (lumi.partition, lumi.suited(8)) == ("standard-g", lumi)
    part = lumi.suited(2)
    assert (part.partition, part.nodes, part.bind, part.longest.seconds) == ("small-g", 4, (), 3 * 86400)
    assert (lumi.suited(0).partition, lumi.suited(0).cores) == ("small", 128)


def test_what_is_said_for_one_job_goes_before_what_a_part_of_the_site_says():
    lumi = site.load("lumi", ("partition=dev-g",))
    assert (lumi.suited(1).partition, lumi.suited(1).nodes) == ("dev-g", 4)


def test_memory_of_a_node_is_not_asked_for_by_a_part_of_it():
    assert site.load("musica").suited(1).memory is None
    told = Site(gpus={"per_node": 4}, memory="400G", shared=Part(memory="90G"))
    assert (told.suited(4).memory, told.suited(1).memory) == ("400G", "90G")


def test_a_site_of_ones_own_goes_before_a_shipped_one(tmp_path, monkeypatch):
    monkeypatch.setattr(site, "OWN", tmp_path)
    (tmp_path / "lumi.yaml").write_text("account: project_1\n")
    (tmp_path / "ours.yaml").write_text("scheduler: pbs\nlauncher: mpirun\n")
    assert site.load("lumi").account == "project_1"
    assert site.load("ours").launcher == "mpirun"
    assert site.load(str(tmp_path / "ours.yaml")) == site.load("ours")
    assert "ours" in site.names()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("scheduler: slrum", "unknown scheduler 'slrum': did you mean 'slurm'?"),
        ("{scheduler: pbs, again: requeue}", "again is requeue, but pbs knows chain and none. Write again: chain."),
        ("{scheduler: local}", "again is chain, but local knows requeue and none. Write again: requeue."),
        ("{scheduler: pbs, launcher: srun}", "launcher is srun, which only slurm has. Write launcher: mpiexec."),
        ("{scheduler: pbs, bind: ['7e']}", "bind needs srun"),
        ("{scheduler: pbs, qos: high}", "qos is high, but pbs cannot ask for it. Write qos: null."),
        ("{scheduler: local, again: none, memory: 4G}", "memory is 4G, but local cannot ask for it"),
        ("partition: 'gpu\n#SBATCH --wrap'", "partition"),
        ("{partiton: gpu}", "did you mean 'partition'?"),
        ("{mail: 'me@x;rm -rf /'}", "mail"),
        ("{options: ['--a b']}", "options"),
    ],
)
def test_a_mistake_in_a_site_is_named_with_its_file(text, said, tmp_path):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        site.load(str(tmp_path / "mine.yaml"))
    assert said in str(error.value) and "mine.yaml" in str(error.value)


def test_an_unknown_site_is_told_with_the_near_miss():
    with pytest.raises(ConfigError, match="did you mean 'leonardo'"):
        site.load("leonard")
