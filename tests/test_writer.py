"""The writer process: what it promises when signalled, killed, fenced off, or given a disk that is full or gone."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from instar.engine.checkpoint import store as checkpoint
from instar.engine.checkpoint import writer
from instar.engine.ranks import lease as leases
from instar.errors import Again, RunError

FILES = {"model": {"weight": torch.arange(1000.0)}}
SLOW = "writer.bytes:1:sleep0.3"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "it's a run" / "checkpoints"


def one(checkpoints, samples=1, **more):
    """Save, wait, and return how it went."""
    checkpoints.save(FILES, {}, samples=samples, **more)
    assert checkpoints.wait(20)
    (result,) = checkpoints.poll()
    return result


def started(checkpoints, folder):
    """Save, and return once the writer is in the middle of it."""
    checkpoints.save(FILES, {}, samples=1)
    until = time.monotonic() + 10
    while not list(folder.glob(".tmp-*")) and time.monotonic() < until:
        time.sleep(0.005)


def temporary(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".tmp-")]


def test_it_starts_without_torch_numpy_or_site_packages(tmp_path):
    code = (
        "import runpy, sys; sys.argv = ['writer', '0', '1']; runpy.run_path(sys.orig_argv[-1], run_name='__main__');"
        "print(sorted({'torch', 'numpy', 'site', 'safetensors', 'pydantic'} & set(sys.modules)))"
    )
    command = [sys.executable, "-S", "-P", "-c", code, writer.__file__]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("number", writer.STOPPING)
def test_signals_that_stop_a_training_do_not_break_a_save(folder, monkeypatch, number):
    monkeypatch.setenv("INSTAR_FAULT", "writer.bytes:1:sleep0.05")
    with checkpoint.Checkpoints(folder) as checkpoints:
        pid = checkpoints._writer.pid
        os.kill(pid, number)  # before it can have set anything up
        started(checkpoints, folder)
        os.kill(pid, number)
        checkpoints.wait()
        assert checkpoints._writer.pid == pid
        assert checkpoints.poll()[0].problem == ""


def test_a_writer_that_dies_is_replaced_and_the_save_done_again(folder, monkeypatch):
    monkeypatch.setenv("INSTAR_FAULT", SLOW)
    with checkpoint.Checkpoints(folder) as checkpoints:
        started(checkpoints, folder)
        os.kill(checkpoints._writer.pid, signal.SIGKILL)
        assert checkpoints.wait(20)
        assert [result.problem for result in checkpoints.poll()] == [""]
    assert checkpoint.load(folder).samples == 1
    assert temporary(folder) == []


def test_a_writer_that_died_between_saves_is_not_noticed_by_anyone(folder):
    with checkpoint.Checkpoints(folder) as checkpoints:
        one(checkpoints, 1)
        os.kill(checkpoints._writer.pid, signal.SIGKILL)
        assert one(checkpoints, 2).problem == ""


def test_a_writer_that_dies_every_time_is_reported_and_the_next_save_tries_again(folder, monkeypatch):
    monkeypatch.setenv("INSTAR_FAULT", "writer.synced:1:exit")
    with checkpoint.Checkpoints(folder) as checkpoints:
        result = one(checkpoints)
        assert (result.problem, result.name) == ("broken", "")
        assert "the writer process ended with status 1, twice" in result.error
        monkeypatch.delenv("INSTAR_FAULT")
        checkpoints._writer.close()
        assert one(checkpoints, 2).problem == ""
    assert temporary(folder) == []


def test_an_error_of_our_own_is_reported_too(folder, monkeypatch):
    monkeypatch.setenv("INSTAR_FAULT", "writer.manifest:1:raise")
    with checkpoint.Checkpoints(folder) as checkpoints:
        result = one(checkpoints)
        assert (result.problem, temporary(folder)) == ("broken", [])
        assert "RuntimeError: fault on purpose at writer.manifest" in result.error
        assert one(checkpoints).problem == ""


def test_it_ends_when_stdin_ends_and_leaves_no_descriptor(folder):
    def descriptors():
        return {path.name for path in Path("/proc/self/fd").iterdir()}

    before = descriptors()
    checkpoints = checkpoint.Checkpoints(folder)
    process = checkpoints._writer._process
    one(checkpoints)
    checkpoints.close()
    assert process.returncode == 0
    assert descriptors() == before


def test_waiting_can_be_bounded_and_closing_too(folder, monkeypatch):
    monkeypatch.setenv("INSTAR_FAULT", "writer.bytes:1:sleep60")
    checkpoints = checkpoint.Checkpoints(folder)
    checkpoints.save(FILES, {}, samples=1)
    assert not checkpoints.wait(0.05)
    begun = time.monotonic()
    checkpoints.close(0.05)
    assert time.monotonic() - begun < 5


def test_what_a_killed_writer_left_is_cleared_away_at_the_next_start(folder):
    with checkpoint.Checkpoints(folder) as checkpoints:
        one(checkpoints, best=True)
    (folder / ".tmp-samples-000000000002-ab12").mkdir()
    (folder / ".tmp-samples-000000000002-ab12" / "model.safetensors").write_bytes(b"half")
    (folder / ".tmp-latest-cd34").write_text("x")
    outside = folder.parent / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    (folder / ".tmp-link").symlink_to(outside)
    for pointer in ("latest", "best"):
        (folder / pointer).write_text("samples-000000000000\n")
    checkpoint.Checkpoints(folder).close()
    assert sorted(path.name for path in folder.iterdir()) == ["best", "latest", "samples-000000000001"]
    assert {(folder / name).read_text() for name in ("latest", "best")} == {"samples-000000000001\n"}
    assert (outside / "precious").exists()


# --- the fence -----------------------------------------------------------------------------------------------------


def test_nothing_becomes_visible_once_the_lease_is_another_s(folder, tmp_path):
    lease = tmp_path / "lease.json"
    lease.write_text(json.dumps({"token": "ours"}))
    with checkpoint.Checkpoints(folder, fence=(lease, "ours")) as checkpoints:
        assert one(checkpoints, 1).problem == ""
        lease.write_text(json.dumps({"token": "theirs"}))
        result = one(checkpoints, 2)
        assert result.problem == "fenced"
        with pytest.raises(RunError, match=r"lease\.json names another holder \(theirs\)"):
            result.check()
        lease.unlink()
        assert one(checkpoints, 3).problem == "fenced"
    assert checkpoint.names(folder) == ["samples-000000000001"]
    assert temporary(folder) == []


def test_who_takes_over_may_sweep_and_the_loser_says_fenced(folder, tmp_path, monkeypatch):
    lease = tmp_path / "lease.json"
    lease.write_text(json.dumps({"token": "ours"}))
    monkeypatch.setenv("INSTAR_FAULT", SLOW)
    with checkpoint.Checkpoints(folder, fence=(lease, "ours"), pauses=()) as checkpoints:
        started(checkpoints, folder)
        lease.write_text(json.dumps({"token": "theirs"}))
        for path in folder.glob(".tmp-*"):
            shutil.rmtree(path)
        checkpoints.wait()
        assert checkpoints.poll()[0].problem == "fenced"


def test_a_takeover_counts_from_its_first_step(folder, tmp_path):
    lease = tmp_path / "lease.json"
    lease.write_text(json.dumps({"token": "ours"}))
    (tmp_path / ".lease.json.after-ours").write_text(json.dumps({"token": "theirs"}))
    with checkpoint.Checkpoints(folder, fence=(lease, "ours")) as checkpoints:
        assert one(checkpoints).problem == "fenced"


def test_the_lease_we_really_take_lets_us_save(folder, tmp_path):
    with (
        leases.acquire(tmp_path / "lease.json") as held,
        checkpoint.Checkpoints(folder, fence=(held.path, held.token)) as checkpoints,
    ):
        assert one(checkpoints).problem == ""


# --- disks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", ["writer.begin", "writer.bytes", "writer.synced", "writer.manifest"])
def test_a_full_disk_leaves_the_last_checkpoint_as_it_was(folder, monkeypatch, point):
    monkeypatch.setenv("INSTAR_FAULT", f"{point}:{5 if point == 'writer.bytes' else 2}:enospc")
    with checkpoint.Checkpoints(folder) as checkpoints:
        one(checkpoints, 1)
        result = one(checkpoints, 2)
        assert result.problem == "full"
        with pytest.raises(Again, match=r"disk is full .*No space left.* newest one there is samples-000000000001\."):
            result.check()
        assert temporary(folder) == []
        assert checkpoint.load(folder).samples == 1
        assert one(checkpoints, 3).problem == ""


def test_a_limit_on_file_sizes_is_a_full_disk(folder):
    with checkpoint.Checkpoints(folder) as checkpoints:
        one(checkpoints, 1)
        resource.prlimit(checkpoints._writer.pid, resource.RLIMIT_FSIZE, (1000, 1000))
        result = one(checkpoints, 2)
        assert result.problem == "full"
        assert os.strerror(errno.EFBIG) in result.error
        assert temporary(folder) == []
    assert checkpoint.load(folder).samples == 1


def test_a_folder_that_vanished_is_reported_and_not_made_anew(folder):
    with checkpoint.Checkpoints(folder, pauses=(0.01, 0.01)) as checkpoints:
        one(checkpoints, 1)
        folder.parent.rename(folder.parent.with_name("moved"))
        result = one(checkpoints, 2)
        assert result.problem == "unwritable"
        with pytest.raises(Again, match="No such file"):
            result.check()
        assert not folder.parent.exists()


def test_a_folder_that_comes_back_is_written(folder):
    away = folder.parent.with_name("moved")
    with checkpoint.Checkpoints(folder, pauses=(0.2, 1.0)) as checkpoints:
        one(checkpoints, 1)
        folder.parent.rename(away)
        checkpoints.save(FILES, {}, samples=2)
        time.sleep(0.1)
        away.rename(folder.parent)
        checkpoints.wait()
        assert checkpoints.poll()[0].problem == ""
    assert checkpoint.load(folder).samples == 2


@pytest.fixture
def mount(tmp_path):
    """Mounts a tmpfs with options and gives its path; skips where that is not permitted."""
    path = tmp_path / "small disk"
    path.mkdir()

    def mounted(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
        if os.geteuid() or not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("may not mount a tmpfs here")
        return path

    yield mounted
    subprocess.run(["umount", str(path)], capture_output=True)


def test_a_disk_that_fills_up_during_the_save(mount, monkeypatch):
    folder = mount("size=64k") / "checkpoints"
    monkeypatch.setattr(checkpoint, "_missing", lambda *sizes: "")
    files = {"model": {"weight": torch.zeros(5000)}}
    with checkpoint.Checkpoints(folder, keep=9) as checkpoints:
        for samples in range(4):
            checkpoints.save(files, {}, samples=samples)
        checkpoints.wait()
        assert [result.problem for result in checkpoints.poll()] == ["", "", "full", "full"]
        assert checkpoint.names(folder) == ["samples-000000000001", "samples-000000000000"]
        assert temporary(folder) == []
    assert checkpoint.load(folder).samples == 1


def test_a_disk_without_room_or_inodes_is_found_before_writing(mount):
    folder = mount("size=64k,nr_inodes=14") / "checkpoints"
    with checkpoint.Checkpoints(folder) as checkpoints:
        assert one(checkpoints, 1).problem == ""
        result = one(checkpoints, 2)
        assert result.problem == "full"
        assert "free inodes" in result.error
        assert temporary(folder) == []
        checkpoints.save({"model": {"weight": torch.zeros(50_000)}}, {}, samples=3)
        assert "needs 0.2 MB and 8 files, found 0.0 MB and 7 free inodes" in checkpoints.poll()[0].error


def test_a_read_only_disk_is_tried_again_and_reported(mount):
    path = mount("size=1m")
    with checkpoint.Checkpoints(path / "checkpoints", pauses=(0.01,)) as checkpoints:
        one(checkpoints, 1)
        subprocess.run(["mount", "-o", "remount,ro", str(path)], check=True)
        result = one(checkpoints, 2)
        assert (result.problem, "Read-only file system" in result.error) == ("unwritable", True)
        subprocess.run(["mount", "-o", "remount,rw", str(path)], check=True)
        assert one(checkpoints, 3).problem == ""
