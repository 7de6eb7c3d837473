"""The process tree is killed at every point of a save, and nothing that was complete is lost.

The training here is a forked process: it has torch already, so each death costs hundredths of a second.
"""

import os
import signal
import time

import pytest
import torch

from instar.engine import faults
from instar.engine.checkpoint import store as checkpoint

# Some Pythons warn of every fork of a process with threads; the child uses one thread and tiny tensors.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

BEFORE_THE_RENAME = ["save.copy", "writer.begin", "writer.bytes", "writer.synced", "writer.manifest"]
AFTER_THE_RENAME = ["writer.renamed", "writer.pointer", "writer.pruned"]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "$(run) 'a'" / "checkpoints"


def save(checkpoints, samples, best=False):
    weight = torch.full((1000,), float(samples))
    files = {"model": {"weight": weight}, "optimizer": {"0.exp_avg": weight * 2}}
    checkpoints.save(files, {"samples": samples}, samples=samples, best=best)


def forked(work, *arguments):
    """Run `work` in a process of its own group; returns its pid."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.setpgid(0, 0)
        torch.set_num_threads(1)
        work(*arguments)
        status = 0
    finally:
        os._exit(status)


def ended(pid, seconds=10.0):
    """How the process ended: an exit status, or minus a signal; a hang is a failure."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return pytest.fail("it hangs")


def save_under(fault, folder, samples):
    os.environ["INSTAR_FAULT"] = fault
    faults.arm(fault)
    with checkpoint.Checkpoints(folder) as checkpoints:
        save(checkpoints, samples, best=True)
        time.sleep(5 if fault.endswith("kill") else 0)  # until the writer takes this process along


def killed_at(point, folder, passage=1):
    with checkpoint.Checkpoints(folder) as checkpoints:
        save(checkpoints, 100, best=True)
    assert ended(forked(save_under, f"{point}:{passage}:kill", folder, 200)) == -signal.SIGKILL


def check_whole(folder, samples):
    found = checkpoint.load(folder)
    assert (found.samples, found.state, found.rejected) == (samples, {"samples": samples}, ())
    assert torch.equal(found.files["optimizer"]["0.exp_avg"], torch.full((1000,), 2.0 * samples))


def check_tidy_after_a_restart(folder, samples):
    checkpoint.Checkpoints(folder).close()
    assert not list(folder.glob(".tmp*"))
    for pointer in ("latest", "best"):
        assert (folder / pointer).read_text() == f"samples-{samples:012d}\n"
    check_whole(folder, samples)
    assert checkpoint.load_best(folder).samples == samples
    with checkpoint.Checkpoints(folder) as checkpoints:
        save(checkpoints, 300)
    check_whole(folder, 300)


@pytest.mark.parametrize("point", BEFORE_THE_RENAME)
def test_killed_before_the_rename_the_previous_one_loads(folder, point):
    killed_at(point, folder)
    check_whole(folder, 100)
    check_tidy_after_a_restart(folder, 100)


@pytest.mark.parametrize("passage", range(2, 7))
def test_killed_after_some_of_the_bytes_the_previous_one_loads(folder, passage):
    killed_at("writer.bytes", folder, passage)
    check_whole(folder, 100)
    check_tidy_after_a_restart(folder, 100)


@pytest.mark.parametrize("point", AFTER_THE_RENAME)
def test_killed_after_the_rename_the_new_one_loads(folder, point):
    killed_at(point, folder)
    check_whole(folder, 200)
    check_tidy_after_a_restart(folder, 200)


def test_killed_while_handing_over_one_of_the_two_loads(folder):
    killed_at("save.handed", folder)
    samples = checkpoint.load(folder).samples
    assert samples in (100, 200)
    check_tidy_after_a_restart(folder, samples)


def test_killed_in_the_very_first_save_it_is_a_fresh_start(folder):
    folder.parent.mkdir()
    assert ended(forked(save_under, "writer.manifest:1:kill", folder, 200)) == -signal.SIGKILL
    assert checkpoint.load(folder) is None
    checkpoint.Checkpoints(folder).close()
    assert list(folder.iterdir()) == []


def save_many(folder, ready):
    with checkpoint.Checkpoints(folder) as checkpoints:
        for samples in range(1, 10_000):
            save(checkpoints, samples, best=samples % 3 == 0)
            if samples == 1:
                checkpoints.wait()
                os.write(ready, b"x")


def test_killed_at_any_moment_all_that_is_there_is_whole(folder):
    delays = [0.001 + 0.0137 * (number * 7 % 12) for number in range(12)]
    newest = 0
    for delay in delays:
        hears, ready = os.pipe()
        pid = forked(save_many, folder, ready)
        assert os.read(hears, 1) == b"x"
        os.close(hears)
        os.close(ready)
        time.sleep(delay)
        os.killpg(pid, signal.SIGKILL)
        ended(pid)
        found = checkpoint.load(folder)
        assert found.rejected == ()
        assert found.number > newest
        newest = found.number
        assert torch.equal(found.files["model"]["weight"], torch.full((1000,), float(found.samples)))
    with checkpoint.Checkpoints(folder) as checkpoints:
        save(checkpoints, 20_000)  # whoever was killed before pruning left that to the next save
    assert len(list(folder.iterdir())) <= 2 + 3  # two pointers, the two newest, the best


def test_no_writer_outlives_its_training(folder):
    hears, ready = os.pipe()

    def tell_and_sleep():
        os.environ["INSTAR_FAULT"] = "writer.bytes:1:sleep60"
        checkpoints = checkpoint.Checkpoints(folder)
        save(checkpoints, 100)
        os.write(ready, str(checkpoints._writer.pid).encode())
        time.sleep(60)

    pid = forked(tell_and_sleep)
    writer_pid = int(os.read(hears, 20))
    os.close(hears)
    os.close(ready)
    time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)  # the training alone
    ended(pid)
    until = time.monotonic() + 5
    while running(writer_pid) and time.monotonic() < until:
        time.sleep(0.01)
    assert not running(writer_pid)


def running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("name", ["TERM", "INT", "USR1", "USR2"])
def test_a_signal_to_the_whole_group_during_a_save_lets_it_finish(folder, name):
    number = signal.Signals[f"SIG{name}"]

    def save_and_note():
        received = []
        signal.signal(number, lambda *_: received.append(1))
        os.environ["INSTAR_FAULT"] = "writer.bytes:2:sleep0.1"
        with checkpoint.Checkpoints(folder) as checkpoints:
            save(checkpoints, 100)
            for _ in range(2):  # and a second one while it is saving
                time.sleep(0.02)
                os.killpg(0, number)
            checkpoints.wait()
            assert [result.problem for result in checkpoints.poll()] == [""]
        assert len(received) == 2

    assert ended(forked(save_and_note)) == 0
    check_whole(folder, 100)


def test_a_second_process_on_the_folder_never_breaks_what_is_there(folder):
    """Two trainings on one run is what the lease forbids; should it happen all the same, every checkpoint is whole."""
    hears, ready = os.pipe()
    both = [forked(save_many, folder, ready) for _ in range(2)]
    for _ in both:
        os.read(hears, 1)
    time.sleep(0.3)
    for pid in both:
        os.killpg(pid, signal.SIGKILL)
        ended(pid)
    os.close(hears)
    os.close(ready)
    assert checkpoint.load(folder).rejected == ()
