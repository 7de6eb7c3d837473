"""What a batch holds is a function of its position. Workers may come, die and go."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from instar.engine import faults
from instar.engine.loading import cores, loaders, workers
from instar.engine.loading.cores import usable_cpus
from instar.engine.loading.loaders import eval_stream, keyed, train_stream
from instar.engine.loading.order import Order
from instar.engine.loading.steps import Draws
from instar.errors import DataError

ROWS, BATCH, TOTAL = 50, 8, 120


class Painter:
    """A reader of made-up images: the row, and what its generator draws. Some rows cannot be read."""

    def __init__(self, bad=(), doing=None):
        self.bad, self.doing = frozenset(bad), doing

    def read(self, row, draw):
        if self.doing is not None:
            self.doing(row)
        if row in self.bad:
            raise DataError(f"row {row} is torn")
        image = np.full((4, 4, 3), row, np.uint8)
        if draw is not None:
            image[0] = draw.integers(0, 256, (4, 3), np.uint8)
        return {"image": image, "label": row % 3}

    def name(self, row):
        return f"it's row {row}.png"


def order(rows: int = ROWS) -> Order:
    of_class = [np.arange(rows)[number::3] for number in range(3)]
    return Order(of_class, [20, 20, 20], seed=5)  # classes of 17, 17 and 16: some rows come twice in an epoch


def stream(reader=None, *, start=0, total=TOTAL, **how):
    return train_stream(reader or Painter(), order(), start=start, total=total, batch=BATCH, seed=3, **how)


def content(batches) -> list[bytes]:
    """For each batch its rows, labels and pixels, as bytes."""
    return [b"".join(batch[name].numpy().tobytes() for name in ("row", "label", "image")) for batch in batches]


def digest(batches) -> str:
    return hashlib.sha256(b"".join(content(batches))).hexdigest()


def children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def idle(pids: list[int], seconds: float = 10.0) -> list[int]:
    """The same, once none of them has used a processor for a while: they have nothing to do."""
    until, before = time.monotonic() + seconds, None
    while (now := [processor_ticks(pid) for pid in pids]) != before and time.monotonic() < until:
        before = now
        time.sleep(0.3)
    return pids


def processor_ticks(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]


def ended(pids: list[int], seconds: float = 5.0) -> bool:
    until = time.monotonic() + seconds
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


# --- content -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_workers_do_not_change_a_batch(num_workers):
    assert digest(stream(workers=num_workers)) == digest(stream())


@pytest.mark.parametrize("start", [BATCH, 5 * BATCH, 14 * BATCH])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_restart_at_any_step_carries_on_with_the_same_batches(start, num_workers):
    assert content(stream(start=start, workers=num_workers)) == content(stream())[start // BATCH :]


@pytest.mark.parametrize("world", [2, 3])
def test_the_ranks_together_have_the_batch_of_one_rank(world):
    ranks = [list(stream(rank=rank, world=world, workers=rank)) for rank in range(world)]
    for number, whole in enumerate(stream()):
        for name in ("row", "label", "image"):
            assert torch.equal(torch.cat([rank[number][name] for rank in ranks]), whole[name])


def test_a_batch_is_uint8_rows_by_columns_by_channels_with_its_rows_and_labels():
    batch = next(stream())
    assert (batch["image"].shape, batch["image"].dtype) == ((BATCH, 4, 4, 3), torch.uint8)
    assert batch["row"].tolist() == order().draw(np.arange(BATCH)).row_N.tolist()
    assert (batch["label"] == batch["row"] % 3).all()
    assert batch["label"].dtype == batch["row"].dtype == torch.int64
    assert (batch["bad"], batch["notes"]) == ([], [])
    assert batch["seconds"] > 0


def test_a_row_that_comes_again_is_varied_anew():
    drawn = {tuple(keyed(*key).integers(0, 256, 8)) for key in [(3, 0, 7, 0), (3, 0, 7, 1), (3, 1, 7, 0), (4, 0, 7, 0)]}
    assert len(drawn) == 4
    assert np.array_equal(keyed(3, 1, 7, 2).random(5), keyed(3, 1, 7, 2).random(5))
    assert len({float(keyed(0, 0, row, repeat, tried).random()) for row, repeat, tried in np.ndindex(9, 9, 9)}) == 729


def test_one_generator_set_anew_draws_what_a_new_one_draws():
    draws = Draws(seed=2**62)
    for key in [(0, 7, 0, 0), (0, 8, 1, 2), (5, 7, 0, 0), (0, 7, 0, 0)]:
        again, new = draws.of(*key), keyed(2**62, *key)
        assert np.array_equal(again.integers(0, 256, 5, np.uint8), new.integers(0, 256, 5, np.uint8))  # leaves a half
        assert np.array_equal(again.random(9), new.random(9))


class Beginner(Painter):
    """One that says what it will do before it does it, of every row but each third; every fourth fails at one of both."""

    def begin(self, row, draw):
        if row % 3 == 0:
            return None
        if row % 8 == 4:
            raise DataError("it could not begin")
        sample = self.read(row, draw) if row % 8 else None

        def put(places):
            if sample is None:
                raise DataError(f"row {row} is torn")
            places["image"][...] = sample.pop("image")
            return sample

        return put


@pytest.mark.parametrize("num_workers", [0, 2])
def test_rows_that_are_begun_before_the_first_is_done_are_what_they_would_be(num_workers):
    torn = [row for row in range(ROWS) if row % 8 == 0]
    batches = list(stream(Beginner(bad=torn), workers=num_workers))
    plain = list(stream(Painter(bad=torn)))
    assert content(batches) == content(plain)
    assert [batch["bad"] for batch in batches] == [batch["bad"] for batch in plain]
    assert any(batch["bad"] for batch in plain)
    rows = np.arange(ROWS)
    ours, theirs = ([*eval_stream(reader, rows, batch=7)] for reader in (Beginner(bad=torn), Painter(bad=torn)))
    assert content(ours) == content(theirs) and [one["bad"] for one in ours] == [one["bad"] for one in theirs]


def test_a_stream_leaves_the_random_state_of_the_training_alone():
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(stream(workers=2))
    list(eval_stream(Painter(), np.arange(5), batch=2, workers=1))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_batches_that_are_kept_keep_what_is_in_them(num_workers):
    kept = list(stream(workers=num_workers, total=40 * BATCH))
    assert content(kept) == content(stream(total=40 * BATCH))


def test_memory_is_used_again_once_nobody_holds_it():
    places = {batch["image"].data_ptr() for batch in stream(workers=1, total=60 * BATCH)}
    assert len(places) <= 4


def test_seeking_costs_nothing():
    far = train_stream(
        Painter(), Order([np.arange(ROWS)], [ROWS], seed=0), start=10**9, total=10**9 + 8, batch=8, seed=0
    )
    began = time.perf_counter()
    assert len(next(far)["row"]) == 8
    assert time.perf_counter() - began < 0.5


def test_a_stream_that_is_over_gives_nothing():
    assert list(stream(start=TOTAL)) == []
    assert list(eval_stream(Painter(), np.zeros(0, int), batch=4, workers=2)) == []


# --- evaluation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_sees_each_row_once_in_order_and_unvaried(num_workers):
    rows = np.array([3, 1, 4, 15, 9, 2, 6])
    batches = list(eval_stream(Painter(), rows, batch=3, workers=num_workers))
    assert torch.cat([batch["row"] for batch in batches]).tolist() == rows.tolist()
    assert [len(batch["image"]) for batch in batches] == [3, 3, 1]
    assert all((batch["image"] == batch["row"][:, None, None, None]).all() for batch in batches)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bad_row_is_evaluated_with_an_unknown_label_and_named(num_workers):
    told = []
    rows = np.arange(6)
    batches = list(
        eval_stream(Painter({0, 4}), rows, batch=4, workers=num_workers, on_bad=lambda *what: told.append(what))
    )
    assert torch.cat([batch["row"] for batch in batches]).tolist() == rows.tolist()
    assert torch.cat([batch["label"] for batch in batches]).tolist() == [-1, 1, 2, 0, -1, 2]
    assert batches[1]["image"][0].max() == 0
    assert told == [(0, "row 0 is torn"), (4, "row 4 is torn")]


# --- bad samples ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{"workers": 2}, {"workers": 1, "start": 5 * BATCH}])
def test_a_bad_sample_is_replaced_by_the_same_other_of_its_class_every_time(how):
    bad = {7, 8, 22}
    whole = list(stream(Painter(bad)))
    again = list(stream(Painter(bad), **how))
    assert content(again) == content(whole)[-len(again) :]
    wanted = order().draw(np.arange(TOTAL)).row_N
    shown = torch.cat([batch["row"] for batch in whole]).numpy()
    assert set(wanted[wanted != shown]) == bad
    assert not set(shown) & bad
    assert np.array_equal(wanted % 3, shown % 3)
    assert all(batch["label"].tolist() == (batch["row"] % 3).tolist() for batch in whole)
    assert {row for batch in whole for row, _ in batch["bad"]} == bad


def test_where_a_whole_class_is_bad_another_class_takes_its_place_with_its_own_label():
    batches = list(stream(Painter(range(0, ROWS, 3)), total=3 * BATCH))
    assert all((batch["label"] == batch["row"] % 3).all() and (batch["label"] > 0).all() for batch in batches)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_where_nothing_can_be_read_the_error_names_files_and_reasons(num_workers):
    with pytest.raises(
        DataError, match=r"cannot be read \(it's row \d+.png: row \d+ is torn; .*Is their folder still there"
    ):
        list(stream(Painter(range(ROWS)), workers=num_workers))
    with pytest.raises(DataError, match="cannot be read"):
        list(eval_stream(Painter(range(ROWS)), np.arange(ROWS), batch=4, workers=num_workers))


def test_who_is_told_of_a_bad_sample_may_stop_the_stream():
    def stop(row, reason):
        raise DataError(f"enough: {reason}")

    with pytest.raises(DataError, match="enough: row 7 is torn"):
        list(stream(Painter({7}), workers=1, on_bad=stop))
    assert not children()


# --- workers that die, hang or fail --------------------------------------------------------------------------------


def dying(where: Path, rows: set[int], times: int = 1):
    """Kills the worker that comes to one of these rows, so many times in all."""

    def at(row: int) -> None:
        deaths = len(list(where.iterdir()))
        if row in rows and deaths < times and os.getpid() != int(where.name):
            (where / str(deaths)).touch()
            os.kill(os.getpid(), signal.SIGKILL)

    return at


@pytest.fixture
def deaths(tmp_path) -> Path:
    (tmp_path / str(os.getpid())).mkdir()
    return tmp_path / str(os.getpid())


@pytest.mark.parametrize("num_workers", [1, 2])
def test_after_a_worker_is_killed_all_batches_still_come(deaths, num_workers):
    notes: list[str] = []

    def noting(batches):
        for batch in batches:
            notes.extend(batch["notes"])
            yield batch

    assert content(noting(stream(Painter(doing=dying(deaths, {11})), workers=num_workers))) == content(stream())
    assert len(notes) == 1
    assert "a loader worker was killed by SIGKILL" in notes[0]
    assert "it's row 11.png; all were started again, and no batch is lost" in notes[0]
    assert not children()


def test_a_worker_that_is_killed_again_and_again_is_an_error_that_names_the_file(deaths):
    with pytest.raises(DataError, match=r"was killed by SIGKILL.* at it's row 11.png, .*workers=1"):
        content(stream(Painter(doing=dying(deaths, {11}, times=9)), workers=2))
    assert not children()


def test_a_file_that_takes_too_long_is_named(monkeypatch):
    monkeypatch.setattr(workers, "_LOOK", 0.05)
    began = time.monotonic()
    reader = Painter(doing=lambda row: time.sleep(30) if row == 11 and children() == [] else None)
    with pytest.raises(DataError, match=r"it's row 11.png: reading it takes more than 1 s"):
        content(stream(reader, workers=2, timeout=1))
    assert time.monotonic() - began < 8
    assert not children()


def test_a_worker_that_is_stopped_is_replaced(monkeypatch):
    monkeypatch.setattr(workers, "_LOOK", 0.05)
    batches, notes = stream(workers=1, timeout=1), []
    seen = content([next(batches)])
    (pid,) = idle(children())  # it is ahead as far as it may be, and waits
    os.kill(pid, signal.SIGSTOP)
    for batch in batches:
        seen += content([batch])
        notes += batch["notes"]
    assert seen == content(stream())
    assert notes == ["a loader worker stopped answering; all were started again, and no batch is lost"]


def test_a_slow_batch_is_no_hanging_file(monkeypatch):
    monkeypatch.setattr(workers, "_LOOK", 0.02)
    reader = Painter(doing=lambda row: time.sleep(0.1))
    assert len(list(stream(reader, workers=1, total=BATCH, timeout=0.7))) == 1


def test_a_mistake_in_a_reader_comes_back_with_its_traceback():
    def slip(row):
        if row == 11:
            raise ZeroDivisionError("who divides by row 11?")

    with pytest.raises(RuntimeError, match=r"in a loader worker:\n(.*\n)*ZeroDivisionError: who divides by row 11"):
        content(stream(Painter(doing=slip), workers=2))
    with pytest.raises(ZeroDivisionError):
        list(stream(Painter(doing=slip)))


def test_workers_do_not_hear_what_is_meant_for_the_training():
    batches = stream(workers=2)
    seen = [next(batches)]
    for pid in children():
        for name in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
            os.kill(pid, name)
    seen += list(batches)
    assert content(seen) == content(stream())
    assert not any(batch["notes"] for batch in seen)


def test_workers_end_when_a_stream_is_left():
    batches = stream(workers=2)
    next(batches)
    pids = children()
    assert len(pids) == 2
    batches.close()
    assert ended(pids)


# Without torch, whose import would be most of the time these take.
WORKERS = """
    import os, sys, time
    import numpy as np
    from instar.engine.loading import workers

    def make(number, arrays, watch):
        arrays["image"][:] = number % 256
        return workers.Made(arrays, {"row": np.arange(4)}, [], 0.0)

    shapes = {"image": ((5,), np.dtype(np.uint8))}
    work = workers.Work(num=2000, rows=4, shapes=shapes, make=make, name=str)
    batches = workers.batches(work, workers=2, timeout=9)
"""
LEFT_BEHIND = """
    next(batches)
    print(open(f"/proc/self/task/{os.getpid()}/children").read(), flush=True)
    if sys.argv[1:] == ["wait"]:
        time.sleep(60)
    sys.exit(7)
"""
SUM = """
    print(sum(int(made.arrays["image"].sum()) for made in batches))
"""
ROOT = Path(__file__).parent.parent


def script(code: str, *words: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(WORKERS) + textwrap.dedent(code), *words]


@pytest.mark.parametrize("how", ["wait", "exit"])
def test_no_worker_outlives_its_training(how):
    with subprocess.Popen(script(LEFT_BEHIND, how), stdout=subprocess.PIPE, text=True, cwd=ROOT) as running:
        pids = [int(pid) for pid in running.stdout.readline().split()]
        assert len(pids) == 2
        if how == "wait":
            running.kill()
        running.wait(timeout=20)
    assert running.returncode == (-signal.SIGKILL if how == "wait" else 7)
    assert ended(pids)


def test_workers_need_no_dev_shm():
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("taking /dev/shm away takes the right to mount")
    hidden = ["unshare", "--mount", "sh", "-c", 'umount /dev/shm && exec "$@"', "sh"]
    done = subprocess.run([*hidden, *script(SUM)], capture_output=True, text=True, cwd=ROOT)
    if "unshare:" in done.stderr or "umount:" in done.stderr:
        pytest.skip("this machine does not let /dev/shm be taken away")
    assert done.stdout.split() == [str(20 * sum(number % 256 for number in range(2000)))], done.stderr


def test_without_processes_batches_are_made_here_and_it_is_said(monkeypatch):
    monkeypatch.setattr(os, "fork", lambda: (_ for _ in ()).throw(BlockingIOError(11, "no more processes")))
    batches = list(stream(workers=2))
    assert content(batches) == content(stream())
    assert "no loader workers can be started" in batches[0]["notes"][0]


def test_fault_points_are_passed_once_a_sample_and_once_a_batch():
    try:
        faults.arm("loader.batch:3:raise")
        with pytest.raises(RuntimeError, match=r"on purpose at loader\.batch"):
            for number, _ in enumerate(stream()):
                assert number < 2
        faults.arm(f"loader.read:{BATCH + 1}:raise")
        batches = stream(workers=1)
        next(batches)
        with pytest.raises(RuntimeError, match=r"on purpose at loader\.read"):
            next(batches)
    finally:
        faults.arm("")


# --- how many ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line, files, expected",
    [
        ("0::/job/step", {"job/step/cpu.max": "max 100000", "job/cpu.max": "250000 100000"}, 3),
        ("0::/job/step", {"job/step/cpu.max": "max 100000"}, 16),
        ("0::/not/here", {"cpu.max": "400000 100000"}, 4),
        ("0::/", {"cpu.max": "10000 100000"}, 1),
        ("4:cpu,b:/job", {"cpu,b/job/cpu.cfs_quota_us": "150000", "cpu,b/job/cpu.cfs_period_us": "100000"}, 2),
        ("4:cpu,b:/job", {"cpu/job/cpu.cfs_quota_us": "-1", "cpu/job/cpu.cfs_period_us": "100000"}, 16),
        ("3:memory:/job", {}, 16),
    ],
)
def test_cores_are_those_of_the_quota_and_the_affinity(tmp_path, monkeypatch, line, files, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    (tmp_path / "cgroup").write_text(f"{line}\n")
    for name, text in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(f"{text}\n")
    assert usable_cpus(proc=tmp_path / "cgroup", cgroups=tmp_path / "fs") == expected


def test_there_is_always_one_core(tmp_path):
    assert usable_cpus(proc=tmp_path / "nothing", cgroups=tmp_path) >= 1
    assert loaders.usable_cpus is cores.usable_cpus
