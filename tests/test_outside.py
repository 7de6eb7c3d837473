import subprocess
import sys
import time

from instar import outside


def test_an_answer_is_kept_as_it_is():
    told = outside.ask([sys.executable, "-c", "import sys; print('käse'); print('bad', file=sys.stderr); sys.exit(3)"])
    assert (told.code, told.out, told.error, told.good) == (3, "käse\n", "bad\n", False)


def test_a_program_that_is_not_there_is_no_traceback():
    told = outside.ask(["/no/such program"])
    assert told.code is None and "No such file" in told.problem
    assert "null" in outside.ask(["a\0b"]).problem


def test_bytes_that_are_no_text_are_shown_somehow():
    assert outside.ask(["/bin/sh", "-c", r"printf '\377\376x'"]).out.endswith("x")


def test_a_program_that_hangs_is_ended_with_all_it_started(tmp_path):
    """Its child holds the output open, which would keep a reader waiting."""
    mark = tmp_path / "pid"
    begun = time.monotonic()
    told = outside.ask(["/bin/sh", "-c", f"sleep 60 & echo $! > {mark}; echo half; wait"], seconds=0.5)
    assert time.monotonic() - begun < 3 and told.code is None and not told.good
    assert told.problem == "gave no answer in 0.5 s" and told.out == "half\n"
    alive = subprocess.run(["ps", "-o", "stat=", "-p", mark.read_text().strip()], capture_output=True, text=True)
    assert alive.stdout.strip()[:1] in ("", "Z")
