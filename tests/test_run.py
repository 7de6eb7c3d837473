"""Run: one folder, torn lines passed over, names that a person can say."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from instar.errors import RunError
from instar.run import Run, cut_back, everything, find, name_for, write_atomically


def make(folder, name, **plan):
    run = Run(folder / name)
    write_atomically(run.experiment_file, "seed: 0\n")
    write_atomically(run.plan_file, json.dumps({"total_samples": 100, "epoch_samples": 50, **plan}))
    return run


def test_a_line_torn_by_a_kill_is_passed_over(tmp_path):
    run = make(tmp_path, "a b'c")
    run.log_event("started", samples=0)
    with open(run.events_file, "a") as file:
        file.write('{"event": "sav')
    assert [event["event"] for event in run.events()] == ["started"]
    assert run.status()["state"] in ("running", "silent")


def test_status_counts_samples_of_metrics_and_events(tmp_path):
    run = make(tmp_path, "x")
    run.log_event("stopped", samples=60, reason="signal SIGTERM")
    run.metrics_file.write_text('{"kind": "val", "samples": 50}\n')
    status = run.status()
    assert (status["state"], status["samples"], status["share"], status["epoch"]) == ("stopped", 60, 0.6, 1.2)


@pytest.mark.parametrize("event", ["embedded", "explained", "exported", "export_failed", "tracker_failed"])
def test_who_looks_at_a_run_afterwards_does_not_change_how_it_stands(event, tmp_path):
    run = make(tmp_path, "x")
    run.log_event("evaluated", split="test")
    run.log_event(event)
    assert run.status()["state"] == "done"


def test_a_run_whose_lease_is_not_renewed_is_silent(tmp_path):
    run = make(tmp_path, "x")
    run.log_event("started")
    run.lease_file.write_text("{}")
    assert run.status()["state"] == "running"
    os.utime(run.lease_file, (time.time() - 600,) * 2)
    assert run.status()["state"] == "silent"


def test_a_run_is_found_by_path_by_name_and_by_the_end_of_its_name(tmp_path):
    run = make(tmp_path, "flowers-mossy-lynx")
    assert find(str(run.path), tmp_path).name == run.name
    assert find("flowers-mossy-lynx", tmp_path).name == run.name
    assert find("mossy-lynx", tmp_path).name == run.name


def test_a_run_that_is_not_there_names_the_near_miss(tmp_path):
    make(tmp_path, "flowers-mossy-lynx")
    with pytest.raises(RunError, match="did you mean 'flowers-mossy-lynx'"):
        find("flowers-mosy-lynx", tmp_path)
    with pytest.raises(RunError, match="holds no runs"):
        find("x", tmp_path / "nowhere")


def test_an_ambiguous_end_lists_what_it_could_be(tmp_path):
    make(tmp_path, "a-mossy-lynx")
    make(tmp_path, "b-mossy-lynx")
    with pytest.raises(RunError, match="could be any of"):
        find("mossy-lynx", tmp_path)


def test_runs_are_listed_newest_first_and_other_folders_left_out(tmp_path):
    for name in ("old", "new"):
        make(tmp_path, name).log_event("started")
    os.utime(tmp_path / "old" / "events.jsonl", (1, 1))
    (tmp_path / "not a run").mkdir()
    assert [run.name for run in everything(tmp_path)] == ["new", "old"]


def test_the_same_experiment_has_the_same_name_whatever_its_label_holds():
    assert name_for("Flowers & Bees / 2", "0123abcd9") == name_for("Flowers & Bees / 2", "0123abcd9")
    assert name_for("Flowers & Bees / 2", "0123abcd9").startswith("flowers-bees-2-")
    assert name_for("", "00000000").startswith("run-")
    assert name_for("<script>", "ffffffff").startswith("script-")


def test_cutting_back_goes_to_the_remembered_length_and_never_grows_a_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("12345\n67890\n")
    assert cut_back(path, 6) == 6
    assert path.read_text() == "12345\n"
    assert cut_back(path, 100) == 0
    assert cut_back(tmp_path / "none", 5) == 0


def test_writers_with_the_same_process_number_on_two_nodes_do_not_take_each_others_file(tmp_path):
    """Threads stand for nodes here: to both, this process has the same number."""
    with ThreadPoolExecutor(2) as nodes:
        written = [nodes.submit(write_atomically, tmp_path / "summary.json", "{}") for _ in range(100)]
        assert [one.result() for one in written] == [None] * 100
    assert [file.name for file in tmp_path.iterdir()] == ["summary.json"]


def test_an_atomic_write_leaves_no_temporary_file(tmp_path):
    write_atomically(tmp_path / "deep" / "x.json", "ä")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["x.json"]
    assert (tmp_path / "deep" / "x.json").read_text(encoding="utf-8") == "ä"
