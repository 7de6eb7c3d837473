"""The launcher of local ranks, with real processes that need no torch."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from instar.engine import deadline
from instar.engine.ranks import launch, reports
from instar.engine.ranks.launch import End
from instar.engine.ranks.reports import Report
from instar.errors import ConfigError, DataError

CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("INSTAR_", "SLURM_", "OMP_NUM"))}

HEAD = """
import os, signal, sys, time
from instar.engine.ranks import reports
from instar.engine import deadline
from instar.errors import DataError
rank, world = int(os.environ["INSTAR_RANK"]), int(os.environ["INSTAR_WORLD"])
"""


@pytest.fixture
def script(tmp_path: Path):
    def write(body: str) -> list[str]:
        file = tmp_path / "a 'rank'.py"
        file.write_text(HEAD + textwrap.dedent(body))
        return [sys.executable, str(file)]

    return write


def run(command: list[str], n: int = 2, *line: str) -> int:
    return launch.ranks(list(line), n, command=command, environ=CLEAN)


def background(command: list[str], n: int = 2) -> "subprocess.Popen[str]":
    code = "import sys; from instar.engine.ranks import launch; n, *command = sys.argv[1:]\n"
    code += "sys.exit(launch.ranks([], int(n), command=command))"
    return subprocess.Popen(
        [sys.executable, "-c", code, str(n), *command],
        env=CLEAN,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_each_rank_knows_its_place_and_only_rank_0_is_heard(script, capfd) -> None:
    command = script("""
        print(rank, world, os.environ["INSTAR_LOCAL_RANK"], os.environ["OMP_NUM_THREADS"], sys.argv[1:])
        print("chatter of rank", rank, file=sys.stderr)
    """)
    assert run(command, 2, "train", "a b", 'c"d') == 0
    out, err = capfd.readouterr()
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    assert out == f"0 2 0 {threads} ['train', 'a b', 'c\"d']\n"
    assert err == "chatter of rank 0\n"


def test_one_account_is_given_of_a_failure_and_the_others_are_ended(script, capfd) -> None:
    command = script("""
        if rank == 1:
            try:
                raise ValueError("the pixel is missing")
            except ValueError as error:
                reports.say(reports.of(error, rank))
                sys.exit(1)
        time.sleep(60)
    """)
    begun = time.monotonic()
    assert run(command, 3) == 1
    assert time.monotonic() - begun < 10
    err = capfd.readouterr().err
    assert err.count("Traceback") == 1 and "ValueError: the pixel is missing" in err
    assert "rank 1 of 3 on" in err


def test_a_rank_that_does_not_listen_is_killed_within_ten_seconds(script, capfd, monkeypatch) -> None:
    monkeypatch.setattr(launch, "_GRACE_SECONDS", 0.5)
    command = script("""
        if rank == 1:
            sys.exit(3)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(60)
    """)
    begun = time.monotonic()
    assert run(command) == 3
    assert time.monotonic() - begun < 5
    assert "rank 1 of 2" in (err := capfd.readouterr().err) and "left with code 3" in err


def test_a_rank_that_stops_in_good_order_leaves_the_others_time_to_save(script, capfd, monkeypatch) -> None:
    monkeypatch.setattr(launch, "_GRACE_SECONDS", 0.2)
    command = script("""
        from instar.errors import Again
        if rank == 0:
            time.sleep(1.0)
            print("saved")
        reports.say(reports.of(Again("signal SIGTERM"), rank))
        sys.exit(75)
    """)
    assert run(command) == 75
    out, err = capfd.readouterr()
    assert out == "saved\n" and err == "stopped  signal SIGTERM\n"


def test_a_mistake_of_the_users_is_told_once_though_every_rank_makes_it(script, capfd) -> None:
    command = script("""
        error = DataError("no images in /data")
        reports.say(reports.of(error, rank))
        sys.exit(error.exit_code)
    """)
    assert run(command) == 65
    assert capfd.readouterr().err.count("no images in /data") == 1


def test_a_crash_without_a_word_shows_the_last_words(script, capfd) -> None:
    command = script("""
        if rank == 1:
            raise RuntimeError("before anything could be reported")
        time.sleep(60)
    """)
    assert run(command) == 1
    err = capfd.readouterr().err
    assert err.count("Traceback") == 1 and "before anything could be reported" in err and "rank 1 of 2" in err


@pytest.mark.parametrize(
    ("number", "code", "text"),
    [
        (signal.SIGKILL, 75, "killed by SIGKILL. The same command carries on"),
        (signal.SIGSEGV, 1, "killed by SIGSEGV.\n"),
    ],
)
def test_a_killed_rank_is_queued_again_and_a_broken_one_is_not(script, capfd, number, code, text) -> None:
    command = script(f"os.kill(os.getpid(), {int(number)}) if rank == 1 else time.sleep(60)")
    assert run(command) == code
    assert text in capfd.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP])
def test_signals_reach_every_rank_and_75_comes_back(script, tmp_path: Path, number: signal.Signals) -> None:
    command = script(f"""
        deadline.install()
        open({str(tmp_path)!r} + f"/ready{{rank}}", "w").close()
        while not deadline.received():
            time.sleep(0.01)
        print(deadline.received())
        sys.exit(75)
    """)
    launcher = background(command)
    _until(lambda: all((tmp_path / f"ready{rank}").exists() for rank in range(2)))
    launcher.send_signal(number)
    out, err = launcher.communicate(timeout=10)
    assert launcher.returncode == 75 and err == ""
    assert out == f"{'SIGTERM' if number == signal.SIGHUP else number.name}\n"


def test_no_rank_and_no_worker_survives_a_killed_launcher(script, tmp_path: Path) -> None:
    command = script(f"""
        import multiprocessing
        from instar.engine.ranks import exits
        def work(parent):
            exits.die_with(parent)
            time.sleep(60)
        multiprocessing.get_context("fork").Process(target=work, args=(os.getpid(),), daemon=True).start()
        open({str(tmp_path)!r} + f"/ready{{rank}}", "w").close()
        time.sleep(60)
    """)
    launcher = background(command)
    _until(lambda: all((tmp_path / f"ready{rank}").exists() for rank in range(2)))
    assert len(_processes(command[1])) == 5  # the launcher's own line names the script too
    launcher.kill()
    launcher.communicate()
    _until(lambda: not _processes(command[1]), 5)


def test_workers_of_a_rank_that_fails_do_not_survive_it(script) -> None:
    command = script("""
        import subprocess
        subprocess.Popen(["sleep", "61.25"])
        sys.exit(9)
    """)
    assert run(command, 2) == 9
    _until(lambda: not _processes("61.25"), 5)


def test_a_third_interrupt_ends_everything_now(script, tmp_path: Path) -> None:
    command = script(f"""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        open({str(tmp_path)!r} + f"/ready{{rank}}", "w").close()
        time.sleep(60)
    """)
    launcher = background(command)
    _until(lambda: all((tmp_path / f"ready{rank}").exists() for rank in range(2)))
    for _ in range(3):
        launcher.send_signal(signal.SIGINT)
        time.sleep(0.1)
    launcher.communicate(timeout=5)
    assert launcher.returncode == 75


def test_a_signal_before_the_start_stops_before_anything_is_started(script, capfd) -> None:
    deadline.install()
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        assert run(script("print('started')")) == 75
    finally:
        deadline.restore()
    assert capfd.readouterr().out == ""


def test_ranks_are_not_started_inside_ranks(script) -> None:
    with pytest.raises(ConfigError, match="devices=2 cannot start ranks here: torchrun has started several already"):
        launch.ranks([], 2, command=script(""), environ={"RANK": "0", "WORLD_SIZE": "2"})


# --- what all ranks together mean -----------------------------------------------------------------------------------

STOPPED = Report("failed", 1, (1,), 75, "signal SIGTERM", at=0.5)
LOST = Report("lost", 0, (1,), 75, "rank 1 went silent", at=9.0)
CRASH = Report("failed", 1, (1,), 1, "Traceback", at=2.0)
MISTAKE = Report("failed", 0, (0,), 65, "no such folder", at=1.0)


@pytest.mark.parametrize(
    ("ends", "told", "code", "shown"),
    [
        ([(0, 1.0), (0, 2.0)], [], 0, None),
        ([(75, 1.0), (0, 2.0)], [], 75, None),
        ([(75, 1.0), (75, 2.0)], [LOST], 75, LOST),
        ([(75, 2.0), (-9, 1.0)], [LOST], 75, LOST),
        ([(75, 2.0), (-11, 1.0)], [LOST], 1, None),
        ([(1, 3.0), (1, 2.0)], [CRASH], 1, CRASH),
        ([(65, 1.0), (65, 2.0)], [CRASH, MISTAKE], 65, MISTAKE),
        ([(0, 1.0), (4, 2.0)], [], 4, None),
        ([(75, 1.0), (75, 2.0)], [STOPPED], 75, STOPPED),
        ([(65, 1.0), (75, 2.0)], [STOPPED, MISTAKE], 65, MISTAKE),
    ],
)
def test_the_first_failure_decides(ends, told, code, shown) -> None:
    assert launch.verdict([End(rank, *end) for rank, end in enumerate(ends)], told) == (code, shown)


def test_a_rank_ended_by_us_is_not_the_cause() -> None:
    assert launch.verdict([End(0, 75, 1.0), End(1, -9, 2.0, by_us=True)], []) == (75, None)


def test_a_report_survives_its_way_and_only_the_rank_itself_may_send_one() -> None:
    report = reports.of(DataError("a 'name' with \n lines"), 3)
    assert reports.from_json(report.to_json()) == report
    assert not reports.tell(report, environ={"INSTAR_REPORT": f"99:{os.getpid()}"})


@pytest.mark.parametrize(
    ("shown", "count"), [("0,1,2", 3), ("", 1), ("GPU-aa,GPU-bb", 2), ("0,-1,2", 1), ("-1", 1), ("MIG-1", 1)]
)
def test_visible_devices_are_counted_as_cuda_does(shown: str, count: int) -> None:
    assert launch.count_devices("auto", environ={"CUDA_VISIBLE_DEVICES": shown}) == count
    assert launch.count_devices("cpu", environ={"CUDA_VISIBLE_DEVICES": shown}) == 1


def _processes(text: str) -> list[int]:
    """Living processes whose command line holds the text."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().decode("utf-8", "replace")
            state = file.with_name("stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if text in words and state != "Z" and int(file.parent.name) != os.getpid():
            found.append(int(file.parent.name))
    return found


def _until(condition, seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def test_what_the_dead_leave_behind_is_ended_too():
    code = (
        "import subprocess, sys\nfrom instar.engine.ranks import exits\n"
        "with exits.nothing_left():\n"
        "    done = subprocess.run(['sh', '-c', 'setsid sleep 600 >/dev/null & echo $!'], stdout=subprocess.PIPE, text=True)\n"
        "print(done.stdout.strip())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not Path(f"/proc/{done.stdout.strip()}").exists()
