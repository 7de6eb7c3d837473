"""The doctor says what is wrong with a machine, whatever the machine answers, and never hangs or breaks itself."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from instar import cli, doctor, outside, quota
from instar.cli import doctor as verb
from instar.doctor import disks, gpus, machine, network, ranks, scheduler, versions

ROOT = Path(__file__).parent.parent
HANGS, RUBBISH = "sleep 60 & wait", r"printf '\377\376 not, what, was \033[2J asked\n'; exit 0"
SMI = """case "$1" in
--query*) echo "NVIDIA A100-SXM4-64GB, 535.54"; echo "NVIDIA A100-SXM4-64GB, 535.54";;
*) echo "| NVIDIA-SMI 535.54   Driver Version: 535.54   CUDA Version: 12.2 |";;
esac"""


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Puts executables on a PATH of their own: tools(name, script)."""
    folder = tmp_path / "it's bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}")
    for name in ("SLURM_JOB_ID", "PBS_JOBID", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)

    def put(name, script):
        file = folder / name
        file.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
        file.chmod(0o755)

    return put


def answer(out, error="", code=0, problem="", seconds=3.0):
    return outside.Answer(None if problem else code, out, error, seconds, problem)


def said(**facts):
    return "\n".join("instar-doctor " + json.dumps({name: value}) for name, value in facts.items())


TORCH = {"version": "2.11.0", "cuda": "13.0", "hip": None, "devices": [], "seconds": 2.0}
GLOO = {"ranks": 2, "right": True, "seconds": 0.0042, "interface": "hsn0"}


# --- versions ----


@pytest.mark.parametrize(
    ("requirement", "problem"),
    [
        ("pytest>=2,<1000", ""),
        ("pytest>=1000", "pytest 8 instead of >=1000"),
        ("pytest<2", "pytest 8 instead of <2"),
        ("no-such-thing>=1; python_version > '3'", "no-such-thing is not installed (>=1)"),
        ("pytest", ""),
    ],
)
def test_a_package_that_will_not_do_is_named(requirement, problem, monkeypatch):
    monkeypatch.setattr(versions, "_version", lambda name: "8" if name == "pytest" else None)
    assert versions.unmet(requirement) == problem


@pytest.mark.parametrize(
    ("have", "relation", "wanted", "holds"),
    [
        ("2.10.0+cu128", ">=", "2.10", True),
        ("2.9.1", ">=", "2.10", False),
        ("2.16.0rc1", "<", "2.16", False),
        ("1.3", "==", "1.3.0", True),
        ("2.16.1", "!=", "2.16", True),
    ],
)
def test_releases_are_compared_as_numbers(have, relation, wanted, holds):
    assert versions._holds(versions._numbers(have), relation, versions._numbers(wanted)) is holds


def test_this_environment_will_do():
    assert [one.level for one in versions.look()] == ["ok", "ok"]


# --- machine ----


def test_the_memory_of_a_control_group_is_found_above_it(tmp_path):
    proc, root = tmp_path / "proc", tmp_path / "cgroup"
    (root / "job" / "step").mkdir(parents=True)
    (root / "job" / "memory.max").write_text("4294967296\n")
    (root / "job" / "step" / "memory.max").write_text("max\n")
    proc.write_text("0::/job/step\n")
    assert machine.memory_limit(proc=proc, cgroups=root) == 4 << 30
    proc.write_text("3:cpu:/job\n4:memory:/slurm/uid_1\n")
    (root / "memory" / "slurm" / "uid_1").mkdir(parents=True)
    (root / "memory" / "slurm" / "uid_1" / "memory.limit_in_bytes").write_text("1073741824\n")
    (root / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert machine.memory_limit(proc=proc, cgroups=root) == 1 << 30
    assert machine.memory_limit(proc=tmp_path / "none", cgroups=root) is None


def test_small_shared_memory_and_one_core_are_told(monkeypatch):
    told = os.statvfs("/dev/shm")
    values = {name: getattr(told, name) for name in dir(told) if name.startswith("f_")}
    small = type("Told", (), values | {"f_bavail": 16384, "f_blocks": 16384, "f_frsize": 4096})
    monkeypatch.setattr(os, "statvfs", lambda path: small)
    monkeypatch.setattr(machine.cores, "usable_cpus", lambda: 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 128)
    found = {one.what: one for one in machine.look()}
    assert found["/dev/shm"].level == "warning" and "67.1 MB" in found["/dev/shm"].found
    assert found["cores"].level == "warning" and found["cores"].found.startswith("1 of 128 usable")


@pytest.mark.parametrize(("value", "do"), [("64", "export OMP_NUM_THREADS=2"), ("4,2", "unset OMP_NUM_THREADS")])
def test_more_threads_than_cores_are_told(value, do, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    monkeypatch.setattr(machine.cores, "usable_cpus", lambda: 2)
    found = machine._threads()
    assert found.level == "warning" and found.do.startswith(do)


# --- GPUs ----


def test_the_drivers_own_tool_is_read(tools):
    tools("nvidia-smi", SMI)
    found = gpus.driver()
    assert (found.names, found.version, found.cuda) == (("NVIDIA A100-SXM4-64GB",) * 2, "535.54", "12.2")
    assert gpus.look(found)[0].found == "2 x NVIDIA A100-SXM4-64GB, driver 535.54, CUDA up to 12.2"


def test_rocm_is_read(tools):
    tools("rocm-smi", "echo 'device,Card series'; echo 'card0,AMD Instinct MI250X'; echo 'card1,AMD Instinct MI250X'")
    assert gpus.look(gpus.driver())[0].found == "2 x AMD Instinct MI250X"


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        (HANGS, "gave no answer in 0.5 s"),
        (RUBBISH, "ended with 0 and said: "),
        ("echo 'NVIDIA-SMI has failed because' >&2; exit 9", "ended with 9 and said: 'NVIDIA-SMI has failed because'"),
        ("exit 0", "said: 'nothing'"),
    ],
)
def test_a_driver_that_is_broken_is_a_red_line(script, problem, tools, monkeypatch):
    monkeypatch.setattr(gpus, "_SECONDS", 0.5)
    tools("nvidia-smi", script)
    (found,) = gpus.look(gpus.driver())
    assert found.level == "error" and problem in found.found and "nvidia-smi by hand" in found.do


def test_no_driver_is_no_mistake(tools):
    assert gpus.driver() is None and gpus.look(None)[0].level == "ok"


# --- ranks ----


DRIVER = gpus.Driver("nvidia-smi", ("A100", "A100"), "535.54", "12.2")


@pytest.mark.parametrize(
    ("facts", "driver", "level", "text"),
    [
        ({}, None, "ok", "built for CUDA 13.0, sees no GPU"),
        ({"cuda": None}, DRIVER, "error", "build for GPUs"),
        ({}, DRIVER, "error", "the driver runs CUDA up to 12.2"),
        ({"cuda": "12.6"}, DRIVER, "error", "ask torch why"),
        ({"devices": ["A100", "A100"]}, DRIVER, "ok", "sees 2 x A100"),
        ({"cuda": None, "hip": "6.4", "devices": ["MI250X"]}, None, "ok", "ROCm 6.4, sees 1 x MI250X"),
    ],
)
def test_torch_and_driver_must_see_the_same(facts, driver, level, text, tools):
    torch, gloo, *_ = ranks.findings([answer(said(started=True, torch=TORCH | facts, gloo=GLOO))] * 2, driver)
    assert torch.level == level and text in f"{torch.found} {torch.do}"
    assert (gloo.level, gloo.found) == ("ok", "2 processes, 4 MB in 4.2 ms over hsn0")


def test_fewer_gpus_on_purpose_are_no_mistake(tools, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    torch, *_ = ranks.findings([answer(said(torch=TORCH | {"devices": ["A100"]}, gloo=GLOO))] * 2, DRIVER)
    assert torch.level == "ok" and "CUDA_VISIBLE_DEVICES is set" in torch.found


@pytest.mark.parametrize(
    ("told", "what", "level", "text"),
    [
        (answer("", "ImportError: libcudart.so.12", 1), "torch", "error", "ended with 1: ImportError: libcudart.so.12"),
        (answer(said(started=True), problem="late", seconds=12), "torch", "warning", "seconds=60"),
        (answer(said(torch=TORCH), "RuntimeError: Connection refused", 1), "gloo all-reduce", "error", "refused"),
        (answer(said(torch=TORCH, gloo=GLOO | {"right": False})), "gloo all-reduce", "error", "wrong sum"),
        (
            answer(said(torch=TORCH | {"devices": ["A100"]}, gloo=GLOO), problem="gave no answer in 12 s", seconds=12),
            "nccl all-reduce",
            "error",
            "NCCL_DEBUG",
        ),
    ],
)
def test_what_does_not_work_together_is_a_red_line(told, what, level, text, tools):
    found = ranks.findings([told, told], None)[-1]
    assert (found.what, found.level) == (what, level) and text in f"{found.found} {found.do}"


def test_a_torch_that_does_not_import_is_a_red_line(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise ImportError('GLIBC_2.99 not found')\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (found,) = ranks.look(lambda: None, seconds=20)
    assert found.level == "error" and "ImportError: GLIBC_2.99 not found" in found.found


# --- disks ----


def test_every_file_system_is_looked_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(quota, "of", lambda folder: None)
    for name in disks._WORK:
        monkeypatch.setenv(name, str(tmp_path))
    found = disks.look([tmp_path / "it's new"], speeds=True)
    assert len([one for one in found if str(tmp_path) in one.what]) == 1
    assert "free" in found[0].found and "small files/s" in found[0].found
    assert not list(tmp_path.iterdir())


def test_slow_disks_and_wrong_clocks_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(disks, "_small_files", lambda folder: 7.0)
    assert disks.pace(tmp_path).do.endswith("instar pack")
    monkeypatch.setattr(disks, "_write", lambda folder: 3e6)
    assert disks.pace(tmp_path).found == "writes 3.0 MB/s synced, 7 small files/s"
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 90)
    found = disks.pace(tmp_path)
    assert found.level == "error" and "its clock is +90.0 s from this machine's" in found.found


def test_a_folder_that_cannot_be_written_is_a_red_line(tmp_path):
    (tmp_path / "file").write_text("x")
    (found,) = [one for one in disks.look([tmp_path / "file"], speeds=True) if one.level == "error"]
    assert "cannot be written" in found.found


# --- scheduler ----


SLURM = {"sbatch": "echo slurm 23.11.4", "squeue": 'echo "$@" > "$0.asked"'}


def test_a_scheduler_that_answers_is_green(tools, tmp_path):
    for name, script in SLURM.items():
        tools(name, script)
    (found,) = scheduler.look()
    assert found.level == "ok" and found.found.startswith("slurm 23.11.4, ") and "answered in 0." in found.found
    assert f"--user={os.getuid()}" in (tmp_path / "it's bin" / "squeue.asked").read_text()


@pytest.mark.parametrize(
    ("scripts", "level", "text"),
    [
        ({"squeue": HANGS}, "error", "squeue gave no answer in 0.5 s"),
        (
            {"squeue": "echo 'Unable to contact slurm controller' >&2; exit 1"},
            "error",
            "failed with 1: Unable to contact",
        ),
        ({"sbatch": HANGS}, "ok", "version unknown"),
        ({"sbatch": RUBBISH}, "ok", "version unknown"),
        ({"squeue": "sleep 0.2"}, "warning", "it is busy"),
    ],
)
def test_a_scheduler_that_does_not_answer_well_is_told(scripts, level, text, tools, monkeypatch):
    monkeypatch.setattr(scheduler, "_SECONDS", 0.5)
    monkeypatch.setattr(scheduler, "_PATIENCE", 0.1 if level == "warning" else 5.0)
    for name, script in (SLURM | {"squeue": "exit 0"} | scripts).items():
        tools(name, script)
    (found,) = scheduler.look()
    assert found.level == level and text in f"{found.found} {found.do}"


def test_pbs_and_no_scheduler_at_all(tools):
    assert "jobs run here" in scheduler.look()[0].found
    tools("qsub", "echo 'pbs_version = 23.06' >&2")
    tools("qstat", "exit 0")
    assert scheduler.look()[0].found.startswith("pbs_version = 23.06")


# --- network ----


def test_a_hub_that_cannot_be_reached_is_no_reason_to_stop(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    (found,) = network.look()
    assert found.level == "warning" and "instar fetch" in found.do


# --- all of it ----


def test_a_probe_that_breaks_or_hangs_leaves_the_others(monkeypatch, tools):
    monkeypatch.setattr(versions, "look", lambda: 1 / 0)
    monkeypatch.setattr(disks, "look", lambda *args, **kwargs: time.sleep(30))
    sections = {one.name: one.findings for one in doctor.examine(quick=True, seconds=0.5)}
    assert sections["versions"][0].found == "this probe failed: ZeroDivisionError: division by zero"
    assert sections["disks"][0].found == "no answer in 0.5 s" and sections["disks"][0].level == "error"
    assert [one.level for one in sections["scheduler"]] == ["ok"]


def test_quick_is_quick_and_asks_nobody(tools, capsys):
    for name in ("sbatch", "squeue", "qsub", "qstat"):
        tools(name, HANGS)
    begun = time.monotonic()
    assert cli.main(["doctor", "--quick", "--json"]) in (0, 65)
    assert time.monotonic() - begun < 2
    told = json.loads(capsys.readouterr().out)
    assert {"section", "level", "what", "found", "do"} == set(told[0])
    assert all(one["do"] for one in told if one["level"] != "ok")
    assert not [one for one in told if one["section"] == "ranks"]


def test_a_whole_examination_in_a_pipe(tmp_path):
    """Words and no colours; two processes really meet."""
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "instar", "doctor", str(tmp_path), "seconds=60"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    took = time.monotonic() - begun
    assert done.returncode in (0, 65) and done.stderr == "" and "\x1b" not in done.stdout
    assert "\nok       gloo all-reduce    2 processes, 4 MB in " in done.stdout, done.stdout
    assert done.stdout.splitlines()[-1].startswith("found    ")
    assert took < 40


def test_a_line_has_a_word_as_well_as_a_colour():
    assert verb.lines("error", "a\nb", "bad", "mend it", colours=True) == [
        "\x1b[31merror    \x1b[0ma\\nb               bad",
        "         do                 mend it",
    ]
    assert verb.verdict(["ok", "error", "ok"]) == "found    2 ok, 1 error"


def test_a_time_that_is_none_is_refused(capsys):
    assert cli.main(["doctor", "seconds=soon"]) == 65
    assert "seconds is 'soon'" in capsys.readouterr().err
