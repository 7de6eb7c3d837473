"""Real `instar train` processes that are stopped, killed, starved and broken, and what is left when they come again.

"Nothing is lost" is checked by hash: weights, optimiser, running sums and metrics (times aside) must be those of a
run that nobody disturbed. A fault `step.end:5:sleep2` only makes sure that a signal from outside meets a known step.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from instar import evaluate
from instar.engine import deadline
from instar.engine.checkpoint import store as checkpoint
from instar.errors import Again, RunError
from instar.machine import Machine
from tests.fakes import training
from tests.fakes.processes import Command, Ended, Started, command, losses
from tests.fakes.training import fingerprint

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")

EPOCHS = 6
PLAIN = {"train__epochs": EPOCHS}
EXACT = {**PLAIN, "model__dropout": 0.0}  # nothing drawn by rank, so that any number of ranks gives one curve
STEPS = 33
# A run is over within ten seconds; three times that for a machine that others use too.
SOON = 30.0
HERE = Machine(workers=0, device="cpu", devices=1)
PAUSE = "step.end:5:sleep2"


@pytest.fixture
def train(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """train(ranks=2): a command in a folder of its own, whose processes are gone afterwards."""
    made: list[Command] = []

    def make(**settings: object) -> Command:
        made.append(Command(tmp_path, **{**PLAIN, **settings}))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.sweep()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], dict[str, str]]:
    """undisturbed(ranks): the fingerprint of a run that nobody disturbed."""
    known: dict[int, dict[str, str]] = {}

    def fingerprint_of(ranks: int) -> dict[str, str]:
        if ranks not in known:
            with command(tmp_path_factory.mktemp("nobody's"), ranks=ranks, **PLAIN) as whole:
                assert whole.go().code == 0
                known[ranks] = fingerprint(whole.run)
        return known[ranks]

    return fingerprint_of


@pytest.fixture(scope="module")
def curve(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of one process without dropout. They are logged in single precision: a row too many shows at 1e-3."""
    return losses(training.train(tmp_path_factory.mktemp("nobody's"), **EXACT).run)


def finish(it: Command, undisturbed: Callable[[int], dict[str, str]]) -> Ended:
    """The same command once more, undisturbed: it ends well, leaves no process, and nothing was lost."""
    ended = it.go()
    assert ended.code == 0, ended.output
    assert it.left() == []
    assert fingerprint(it.run) == undisturbed(it.ranks)
    return ended


def in_the_pause(started: Started) -> Started:
    """Wait until a start with the fault PAUSE sleeps after its fifth step."""
    started.until_it_trains()
    time.sleep(0.7)
    return started


def stopped(started: Started, number: signal.Signals) -> Ended:
    in_the_pause(started).tell(number)
    return started.end(SOON)


# --- signals and kills: rows 1, 2, 5, 6, 7, 8 ------------------------------------------------------------------------


def test_stopped_and_killed_again_and_again_one_process_loses_nothing(train, undisturbed):
    it = train()
    for fault, code in [("step.end:5:term", 75), ("step.end:4:usr1", 75), ("step.end:7:kill", -9)]:
        assert it.go(fault=fault).code == code
    assert it.run.status()["state"] in ("running", "silent")  # it had no time for a last word
    finish(it, undisturbed)
    assert len(it.events("resumed")) == 3


def test_killed_in_every_phase_of_a_save_nothing_is_lost(train, undisturbed):
    it = train()
    assert it.go(fault="step.end:4:term").code == 75
    for point in ("bytes", "synced", "manifest", "renamed", "pointer"):
        assert it.go(fault=f"writer.{point}:2:kill").code == -9, point
        assert checkpoint.load(it.run.checkpoints) is not None
    finish(it, undisturbed)
    assert [file.name for file in it.run.checkpoints.iterdir() if file.name.startswith(".")] == []


def test_told_again_and_again_to_its_very_end_it_saves(train, undisturbed):
    it = train()
    started = in_the_pause(it.start(fault=f"{PAUSE},writer.begin:3:sleep1"))
    started.tell(signal.SIGTERM)
    started.until(lambda: bool(it.events("signal")))
    while started.process.poll() is None:
        started.tell(signal.SIGTERM)
        started.tell(signal.SIGUSR1)
        time.sleep(0.01)
    assert started.end(SOON).code == 75
    assert checkpoint.load(it.run.checkpoints).samples == it.events("stopped")[0]["samples"] > 0
    finish(it, undisturbed)


def test_told_to_stop_while_the_test_rows_are_scored_they_are_scored_by_the_next_start(tmp_path):
    run = training.train(tmp_path, train__epochs=1).run
    deadline.install()
    try:
        signal.raise_signal(signal.SIGTERM)  # to this thread: noted when the call returns, whatever else runs
        assert deadline.received() == "SIGTERM"
        with pytest.raises(Again, match="SIGTERM while the test rows were scored"):
            evaluate.evaluate(run, machine=HERE)
    finally:
        deadline.restore()
    assert run.scores("test") == {}
    assert evaluate.evaluate(run, machine=HERE)["accuracy"] >= 0


def test_the_end_of_the_job_is_kept_without_any_signal(train, undisturbed):
    it = train()
    limit = int(time.time()) + 20
    slow = ",".join(f"step.end:{step}:sleep1" for step in range(1, STEPS))
    ended = it.go(fault=slow, SLURM_JOB_END_TIME=str(limit))
    assert ended.code == 75, ended.output
    assert it.events("stopped")[0]["time"] < limit  # saved, and only the process itself left to end
    assert it.events("stopped")[0]["reason"] == "time limit"
    finish(it, undisturbed)


def test_two_ranks_are_stopped_and_killed_from_outside_and_lose_nothing(train, undisturbed):
    it = train(ranks=2)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        assert stopped(it.start(fault=PAUSE), number).code == 75
    assert stopped(it.start("workers=1", fault=PAUSE), signal.SIGKILL).code == -signal.SIGKILL
    end = time.monotonic() + 5
    while it.left() and time.monotonic() < end:
        time.sleep(0.05)
    assert it.left() == []  # no rank, no worker, no writer
    finish(it, undisturbed)
    assert len(it.events("resumed")) == 3


# --- one of two ranks: rows 3, 6, 9, 10, 20 --------------------------------------------------------------------------


def test_what_befalls_one_rank_ends_both_and_nothing_is_lost(train, undisturbed):
    it = train(ranks=2)
    assert it.go(fault="step.end@1:5:term").code == 75
    assert len({event["samples"] for event in it.events("stopped")}) == 1  # both stopped at one step
    killed = it.go(fault="step.end@1:5:kill")
    assert (killed.code, "rank 1 of 2" in killed.output) == (75, True), killed.output
    raised = it.go(fault="step.end@1:5:raise")
    assert raised.code not in (0, 65, 75)
    assert raised.output.count("Traceback") == 1
    assert "rank 1 of 2" in raised.output.splitlines()[-1]
    assert raised.at - it.events("resumed")[-1]["time"] < SOON
    finish(it, undisturbed)


def test_a_rank_that_hangs_is_named_and_nothing_is_lost(train, undisturbed):
    it = train(ranks=2)
    ended = it.go(fault="step.end@1:5:stop")
    assert ended.code == 75
    assert "rank 1 of 2" in ended.output
    assert it.events("stopped")[-1]["rank"] == 1
    assert ended.at - it.events("started")[0]["time"] < SOON
    assert it.left() == []
    finish(it, undisturbed)


def test_out_of_memory_on_one_rank_halves_the_micro_batch_of_all(train, curve):
    it = train(ranks=2, **EXACT)
    ended = it.go(fault="step.forward@1:4:oom")
    assert (ended.code, "out of memory on rank 1" in ended.output) == (75, True), ended.output
    assert it.run.status()["state"] == "stopped"
    assert it.go().code == 0
    assert [event["now"] for event in it.events("micro_batch")] == [2]
    assert losses(it.run) == pytest.approx(curve, rel=1e-6)


# --- what stands in the folder: rows 13, 15, 21, 28, 30 --------------------------------------------------------------


def test_a_damaged_checkpoint_is_told_and_the_one_before_carries_on(train, undisturbed):
    it = train()
    assert it.go(fault="step.end:8:kill").code == -9
    newest = it.run.checkpoints / checkpoint.names(it.run.checkpoints)[0]
    weights = bytearray((newest / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (newest / "model.safetensors").write_bytes(weights)
    ended = finish(it, undisturbed)
    assert f"checkpoint {newest.name} is not whole" in ended.output
    assert it.events("rejected")[0]["checkpoint"] == newest.name


def test_the_same_command_twice_at_once_runs_once_and_names_the_holder(train, undisturbed):
    it = train()
    first = it.start(fault="step.end:5:sleep15")
    first.until_it_trains()
    second = it.go()
    assert second.code == 65
    assert str(first.process.pid) in second.output, second.output
    assert first.end().code == 0
    assert fingerprint(it.run) == undisturbed(1)


def test_two_starts_that_save_nothing_new_end_the_chain(tmp_path):
    stop = {"fault": "loop.evaluate:1:term", "train__epochs": 2}
    for _ in range(2):  # the first of them came as far as the evaluation
        with pytest.raises(Again):
            training.train(tmp_path, **stop)
    with pytest.raises(RunError, match=r"two starts in a row .* SIGTERM"):
        training.train(tmp_path, **stop)
    stopped = training.train(tmp_path, train__epochs=2)
    whole = training.train(tmp_path, train__epochs=2, run="whole")
    assert fingerprint(stopped.run) == fingerprint(whole.run)


@pytest.mark.scenario
def test_a_rank_that_dies_at_the_same_step_every_time_ends_the_chain(train):
    it = train(ranks=2, train__every="10 min")
    assert [it.go(fault="step.end@1:2:kill").code for _ in range(3)] == [75, 75, 65]
    assert "two starts in a row" in it.events("failed")[-1]["reason"]
    assert it.go().code == 0  # by hand, after the machine was seen to


def test_a_disk_that_is_always_full_ends_the_chain_too(tmp_path):
    full = {"fault": "writer.begin:1:enospc", "train__epochs": 1}
    with pytest.raises(Again, match="the disk is full"):
        training.train(tmp_path, **full)
    with pytest.raises(RunError, match=r"two starts in a row .* the disk is full"):
        training.train(tmp_path, **full)
    assert training.train(tmp_path, train__epochs=1).state == "finished"


# --- another shape: rows 11, 37, 38 ----------------------------------------------------------------------------------


def test_other_numbers_of_ranks_and_workers_see_the_same_rows(train, curve):
    it = train(**EXACT)
    assert it.go("workers=1", fault="step.end:8:term").code == 75
    assert it.go("devices=2", "workers=1", fault="step.end@0:8:term").code == 75
    assert it.go().code == 0
    assert losses(it.run) == pytest.approx(curve, rel=1e-6)
    changes = [(event["before"], event["now"]) for event in it.events("machine_changed")]
    assert changes == [(1, 2), (2, 1)]


def test_a_killed_loader_worker_is_told_and_replaced(train, undisturbed):
    it = train()
    started = in_the_pause(it.start("workers=1", fault=PAUSE))
    (worker,) = started.children()
    os.kill(worker, signal.SIGKILL)
    ended = started.end(60)
    assert ended.code == 0
    assert "a loader worker was killed by SIGKILL" in ended.output
    assert it.events("loader")
    assert fingerprint(it.run) == undisturbed(1)


# --- the machine around it: rows 13, 15, 36, 39, 45, 46, 47 ----------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a megabyte."""
    path = tmp_path / "small disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield path
    subprocess.run(["umount", "-l", str(path)], capture_output=True)


def test_a_disk_that_fills_up_stops_the_training_and_nothing_is_lost(train, undisturbed, small_disk):
    it = train(run="small disk/run")
    started = in_the_pause(it.start(fault=PAUSE))
    filler = small_disk / "somebody else's"
    with open(filler, "wb") as file, pytest.raises(OSError):
        while True:
            os.write(file.fileno(), bytes(4096))
    ended = started.end(60)
    assert ended.code == 75, ended.output
    assert "Traceback" not in ended.output
    os.truncate(filler, filler.stat().st_size - 60_000)
    ended = it.go()  # what will not fit is said before anything begins
    assert ended.code == 65, ended.output
    assert re.search(r"checkpoints of this run need 0\.\d MB and \d+ files, found 0\.\d MB", ended.output)
    filler.unlink()
    finish(it, undisturbed)


@pytest.mark.scenario
def test_a_folder_that_vanishes_stops_the_training_and_nothing_is_lost(train, undisturbed):
    it = train()
    started = in_the_pause(it.start(fault=PAUSE))
    it.run.path.rename(it.folder / "elsewhere")
    ended = started.end(60)
    assert ended.code == 75, ended.output
    assert "Traceback" not in ended.output
    (it.folder / "elsewhere").rename(it.run.path)
    finish(it, undisturbed)


def isolated(script: str, *flags: str) -> list[str]:
    """A wrapper that runs `script` and then the command in namespaces of its own."""
    wrapper = ["unshare", *flags, "--", "sh", "-c", f'{script}; exec "$@"', "sh"]
    if (
        os.geteuid()
        or not shutil.which("unshare")
        or subprocess.run([*wrapper, "true"], capture_output=True).returncode
    ):
        pytest.skip("needs root and unshare")
    return wrapper


def test_without_a_network_and_with_a_host_name_nobody_knows_ranks_meet(train, undisturbed):
    it = train(ranks=2)
    nowhere = isolated("hostname nowhere.invalid; ip link set lo up", "--net", "--uts")
    ended = it.go(before=nowhere)
    assert ended.code == 0, ended.output
    assert it.events("started")[0]["host"] == "nowhere.invalid"
    assert fingerprint(it.run) == undisturbed(2)


@pytest.mark.scenario
def test_without_any_network_one_process_trains(train, undisturbed):
    it = train()
    ended = it.go(before=isolated(":", "--net"))
    assert ended.code == 0, ended.output
    assert fingerprint(it.run) == undisturbed(1)


def test_a_home_that_cannot_be_written_and_no_shared_memory_are_no_obstacle(train, undisturbed):
    it = train()
    home = it.folder / "home"
    home.mkdir()
    mounts = f"mount -t tmpfs -o ro tmpfs '{home}' && mount -t tmpfs -o ro,size=4k tmpfs /dev/shm"
    ended = it.go(
        "workers=1",
        before=isolated(mounts, "--mount"),
        HOME=str(home),
        TMPDIR=str(home),
        XDG_CACHE_HOME=str(home / ".cache"),
    )
    assert ended.code == 0, ended.output
    assert fingerprint(it.run) == undisturbed(1)


def in_a_terminal(it: Command, times: int) -> Ended:
    """Start it in a terminal of its own and press Ctrl-C in the pause, once or more."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", TAKE_THE_TERMINAL, *it.line()],
        env=it.environ("step.end:5:sleep60" if times > 1 else PAUSE, TERM="xterm", COLUMNS="40", LANG="C"),
        cwd=it.folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown: list[bytes] = []
    reader = threading.Thread(target=read_all, args=(ours, shown), daemon=True)
    reader.start()
    started = in_the_pause(Started(it, process))
    for _ in range(times):
        os.write(ours, b"\x03")
        time.sleep(0.3)
    process.wait(SOON)
    ended_at = time.time()
    reader.join(5)
    os.close(ours)
    assert started.process.returncode is not None
    return Ended(process.returncode, b"".join(shown).decode("utf-8", "replace"), ended_at)


# The session's leader takes the terminal, so that Ctrl-C there reaches it, and becomes the command.
TAKE_THE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


def read_all(descriptor: int, into: list[bytes]) -> None:
    with contextlib.suppress(OSError):  # the terminal ends with its last process
        while some := os.read(descriptor, 65536):
            into.append(some)


def test_ctrl_c_once_saves_and_twice_is_now(train, undisturbed):
    it = train()
    once = in_a_terminal(it, 1)
    assert (once.code, "Traceback" in once.output) == (75, False), once.output
    assert checkpoint.load(it.run.checkpoints).samples == it.events("stopped")[0]["samples"] > 0
    twice = in_a_terminal(it, 2)
    assert (twice.code, "Traceback" in twice.output) == (130, False), twice.output
    assert twice.at - it.events("resumed")[-1]["time"] < SOON
    finish(it, undisturbed)


@pytest.mark.scenario
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_reader_that_goes_away_ends_nothing(train, undisturbed, ranks):
    it = train(ranks=ranks)
    first_line_only = ["bash", "-c", 'set -o pipefail; "$@" 2>&1 | head -n 1', "bash"]
    ended = it.go(before=first_line_only)
    assert (ended.code, len(ended.output.splitlines())) == (0, 1), ended.output
    assert fingerprint(it.run) == undisturbed(ranks)


@pytest.mark.scenario
def test_without_any_output_it_trains(train, undisturbed):
    it = train()
    assert it.go(before=["sh", "-c", 'exec "$@" >&- 2>&-', "sh"]).code == 0
    assert fingerprint(it.run) == undisturbed(1)


# --- the page that tells of it ---------------------------------------------------------------------------------------


def test_every_test_that_the_page_names_is_there():
    tests = Path(__file__).parent.parent
    page = (tests.parent / "docs" / "reliability.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+)::(test_\w+)`", page)
    assert len(named) > 50
    for file, name in named:
        texts = [path.read_text(encoding="utf-8") for path in tests.rglob(f"{file}.py")]
        assert any(f"def {name}(" in text for text in texts), f"{file}::{name} is named in the page and not there"


# --- secrets: row 26 -------------------------------------------------------------------------------------------------

SECRETS = ("WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "SLURM_JWT", "CANARY")


def test_no_secret_reaches_a_file_of_a_run(train):
    it, canary = train(), "canary-7f3a"
    secrets = {name: f"{canary} {name}" for name in SECRETS}
    refused = it.go(f"tracker.api_key={canary}", **secrets)
    assert refused.code == 65 and canary not in refused.output
    assert not it.run.path.exists()
    raised = it.go(fault="step.end:4:raise", **secrets)
    assert raised.code == 70 and it.events("failed")[0]["traceback"]
    done = it.go(**secrets)
    assert done.code == 0, done.output
    files = [file for file in it.run.path.rglob("*") if file.is_file()]
    assert {"provenance.json", "report.html", "test.parquet", "state.json"} <= {file.name for file in files}
    for file in files:
        assert canary.encode() not in file.read_bytes(), file
        if file.suffix == ".parquet":
            table = pq.read_table(file)
            assert canary not in str(table.to_pylist()) + str(table.schema.metadata), file
    assert canary not in raised.output + done.output
