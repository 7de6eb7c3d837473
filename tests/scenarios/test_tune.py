"""Searches in real processes: killed at random moments, by two workers at once, with trials that fail.

INSTAR_IMAGES=FOLDER takes a folder of real photographs, one folder a class, instead of made-up ones:

    INSTAR_IMAGES=PATH/TO/cifar10/test python -m pytest tests/scenarios/test_tune.py -k five_random_moments
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from instar.study import Study
from tests.fakes import searches
from tests.fakes.images import folder_of_images
from tests.fakes.processes import ROOT
from tests.fakes.searches import HOW, RECIPE, SPACE, orphans, searched, started, trials, until

pytestmark = pytest.mark.scenario
REAL = Path(os.environ["INSTAR_IMAGES"]).absolute() if "INSTAR_IMAGES" in os.environ else None


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return searches.home(tmp_path_factory.mktemp("it's $(home)"), images=REAL)


@pytest.fixture(scope="module")
def whole(home) -> list[dict]:
    said = searched(home, "recipe.yaml", *SPACE, *HOW, "study=whole")
    assert "trials   8 of 8" in said and "look     runs/whole/report.html" in said
    return trials(home, "whole")


def test_killed_at_five_random_moments_a_search_ends_with_the_same_trials_and_the_same_best(home, whole):
    chance, kills = random.Random(7), 0
    while kills < 5:
        process = started(home, "recipe.yaml", *SPACE, *HOW, "study=killed")
        try:
            process.communicate(timeout=chance.uniform(3, 11 if REAL is None else 45))
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
    assert kills >= 3, "it was too quick to be killed often"
    searched(home, "recipe.yaml", *SPACE, *HOW, "study=killed")
    assert trials(home, "killed") == whole and len(whole) == 8
    assert (
        Study(home / "runs/killed").best_file.read_text().partition("\n")[2]
        == Study(home / "runs/whole").best_file.read_text().partition("\n")[2]
    )
    end = time.monotonic() + 15
    while orphans(home) and time.monotonic() < end:
        time.sleep(0.2)
    assert not orphans(home)


@pytest.fixture
def small_disk(home: Path) -> Iterator[Path]:
    """A file system of six megabytes."""
    path = home / "small disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(path)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield path
    subprocess.run(["umount", "-l", str(path)], capture_output=True, check=False)


def test_a_disk_that_fills_up_stops_a_search_with_75_and_no_trial_is_blamed(home, whole, small_disk):
    words = ("recipe.yaml", *SPACE, *HOW, "study=small disk/full")
    process, study = started(home, *words), Study(small_disk / "full")
    until(lambda: list(study.trials.glob("*/checkpoints/samples-*")))
    filler = small_disk / "somebody else's"
    with open(filler, "wb") as file, suppress(OSError):
        while True:
            os.write(file.fileno(), bytes(4096))
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 75 and "Traceback" not in said, said
    filler.unlink()
    searched(home, *words)
    kept = ("trial", "state", "value", "settings", "curve", "reason")
    assert [{key: one.get(key) for key in kept} for one in study.summary()["trials"]] == whole


def test_told_to_stop_a_search_saves_its_trials_and_leaves_with_75(home, whole):
    process = started(home, "recipe.yaml", *SPACE, *HOW, "study=stopped")
    study = Study(home / "runs/stopped")
    until(lambda: list(study.trials.glob("*/checkpoints/samples-*")))
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 75 and "signal SIGTERM" in said, said
    said = searched(home, "stopped", "workers=0", "device=cpu")
    assert "carries on" in said and trials(home, "stopped") == whole


def test_two_workers_share_a_study_and_no_trial_is_run_twice(home, whole):
    both = [started(home, "recipe.yaml", *SPACE, *HOW, "study=shared") for _ in range(2)]
    said = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    found = trials(home, "shared")
    assert [one["trial"] for one in found] == list(range(8)) and all(one["state"] != "running" for one in found)
    starts = [
        sum(event["event"] == "started" for event in Study(home / "runs/shared").trial(n).events()) for n in range(8)
    ]
    assert starts == [1] * 8
    assert {one["settings"]["optim.lr"] for one in found[:3]} == {one["settings"]["optim.lr"] for one in whole[:3]}


def test_a_study_that_was_killed_may_be_given_more_samples_by_two_who_start_at_once(home, whole):
    """The place that was cut off is carried on, and the two new ones are begun, each by one of them."""
    few = ("recipe.yaml", *SPACE, *HOW[1:], "study=grown")
    process, study = started(home, *few, "samples=6"), Study(home / "runs/grown")
    until(lambda: list(study.trials.glob("0002/checkpoints/samples-*")))
    process.kill()
    process.communicate()
    both = [started(home, *few, "samples=8") for _ in range(2)]
    said = [one.communicate(timeout=300)[0] for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    found = trials(home, "grown")
    assert [one["trial"] for one in found] == list(range(8)) and all(one["state"] != "running" for one in found)
    assert found[:2] == whole[:2] and found[2]["settings"] == whole[2]["settings"]
    starts = [sum(event["event"] == "started" for event in study.trial(n).events()) for n in range(8)]
    assert starts == [1] * 8, "none from its beginning twice"


def test_more_samples_and_lists_and_reasons(home, whole):
    said = searched(home, "whole", "samples=9", "workers=0", "device=cpu", "--json")
    told = json.loads(said.splitlines()[-1])
    assert told["samples"] == 9 and len(told["trials"]) == 9
    assert [{key: one.get(key) for key in whole[0]} for one in told["trials"][:8]] == whole
    for words in (["runs"], ["why", "whole"], ["why", "runs/whole/trials/0000"], ["report", "runs/whole/trials/0000"]):
        done = subprocess.run(
            [sys.executable, "-m", "instar", *words],
            cwd=home,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        if words == ["runs"]:
            assert "9 of 9" in done.stdout and "study" in done.stdout


def test_a_trial_imports_nothing_that_the_search_did_not_import_for_all_of_them(home):
    words = ("recipe.yaml", "optim.lr=choice(0.003)", "sampler=grid", *HOW[2:], "study=imports", "epochs=1")
    searched(home, *words, PYTHONPROFILEIMPORTTIME="1")
    log = Study(home / "runs/imports").trial_log(0).read_text()
    of_training = log[: log.index("next     instar runs")]  # afterwards the best one is scored, once
    late = {line.rpartition("|")[2].strip() for line in of_training.splitlines() if line.startswith("import time:")}
    of_the_writer = {"instar", "instar.errors", *(f"instar.engine{name}" for name in (
        "", ".checkpoint", ".checkpoint.entries", ".faults", ".ranks", ".ranks.lease", ".ranks.process"
    ))}  # fmt: skip
    ours = {name for name in late if name.partition(".")[0] in ("instar", "torch", "numpy", "pyarrow", "PIL", "pandas")}
    assert late and not ours - of_the_writer


def test_trials_that_fail_are_results_with_a_reason_and_the_search_goes_on(home):
    said = searched(
        home, "recipe.yaml", "optim.lr=choice(0.003,0.01)", "sampler=grid", *HOW[2:], "study=failing", "pruner=none",
        INSTAR_FAULT=",".join(f"step.loss:{passage}:nan" for passage in range(7, 60)),
        code=65,
    )  # fmt: skip
    found = trials(home, "failing")
    assert [one["state"] for one in found] == ["failed", "failed"], said
    assert all("not a finite number" in one["reason"] for one in found)


def test_a_trial_that_is_killed_twice_has_failed_and_one_that_takes_too_long_too(home):
    words = ("recipe.yaml", "optim.lr=choice(0.003,0.01)", "sampler=grid", *HOW[2:], "pruner=none")
    searched(home, *words, "study=oom", INSTAR_FAULT="step.begin:3:kill", code=65)
    assert [one["reason"] for one in trials(home, "oom")] == ["killed by SIGKILL (out of memory?)"] * 2
    searched(home, *words, "study=slow", "limit=2s", INSTAR_FAULT="step.begin:2:sleep5", code=65)
    assert [one["reason"] for one in trials(home, "slow")] == ["took longer than 2 s"] * 2


def test_other_data_or_another_search_in_the_same_folder_are_refused(home, whole):
    said = searched(home, "recipe.yaml", *SPACE[:2], *HOW, "study=whole", code=65)
    assert "holds another study" in said and "space.optim.weight_decay" in said
    copy = home / "other images"
    folder_of_images(copy, classes=3, each=40)
    recipe = home / "moving.yaml"
    recipe.write_text(RECIPE.replace("IMAGES", str(copy)))
    words = ("moving.yaml", "task.balance=choice(none,weights)", "sampler=grid", "epochs=1", *HOW[2:], "study=moved")
    searched(home, *words)
    next(copy.glob("*/0000.png")).unlink()
    said = searched(home, *words, code=65)
    assert "changed under" in said and "trials on other rows" in said


def test_a_search_starts_from_what_is_known(home, whole):
    best = max((one for one in whole if one["state"] == "finished"), key=lambda one: one["value"])
    searched(home, "recipe.yaml", *SPACE, *HOW[1:], "samples=1", "study=after", "start=whole")
    assert trials(home, "after")[0]["settings"] == best["settings"]
    assert Study(home / "runs/after").summary()["learnt"] > 0
    run = f"runs/whole/trials/{best['trial']:04}"
    searched(home, "recipe.yaml", *SPACE, *HOW[1:], "samples=1", "study=again", f"start={run}")
    assert trials(home, "again")[0]["settings"] == best["settings"]
