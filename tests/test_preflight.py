import os

import pytest

from instar import experiment as experiments
from instar import preflight, quota
from instar.job import Finding
from instar.run import Run


@pytest.fixture(autouse=True)
def no_quota(monkeypatch):
    monkeypatch.setattr(quota, "of", lambda folder: None)


def levels(findings):
    return [one.level for one in findings]


def test_a_folder_with_room_is_well_before_it_is_there(tmp_path):
    found = preflight.folder(tmp_path / "it's $(new)" / "runs", bytes_needed=1000)
    assert levels(found) == ["ok", "ok"] and not (tmp_path / "it's $(new)").exists()
    assert "free" in found[1].found


def test_too_little_room_is_an_error_before_the_job_waits(tmp_path):
    (_, disk) = preflight.folder(tmp_path, bytes_needed=10**18)
    assert disk.level == "error" and "1000000 TB" in disk.found and "runs=FOLDER" in disk.do


def test_a_quota_counts_where_it_is_nearer_than_the_disk(tmp_path, monkeypatch):
    mine = quota.Quota("/scratch", 96 * 10**9, 100 * 10**9, 999_900, 1_000_000)
    monkeypatch.setattr(quota, "of", lambda folder: mine)
    *_, told = preflight.folder(tmp_path, bytes_needed=10**9)
    assert (told.level, told.found) == ("error", "4.0 GB free, 100 files, but 1.0 GB and 200 files are needed")
    *_, told = preflight.folder(tmp_path, bytes_needed=10**9, files_needed=50)
    assert told.level == "warning" and "before it is full" in told.do


def test_a_folder_that_cannot_be_written_says_so_alone(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    (told,) = preflight.folder(tmp_path / "file" / "runs")
    assert told.level == "error" and "cannot be written: Not a directory" in told.found


def test_data_that_are_not_there_are_named_with_their_setting(tmp_path):
    (tmp_path / "images").mkdir()
    wanted = experiments.load(
        {"data": {"root": str(tmp_path / "images"), "table": str(tmp_path / "gone" / "t.csv")}, "model": "resnet9"}
    )
    root, table = preflight.experiment(wanted, tmp_path / "r.yaml", fetch="F")
    assert root == Finding("ok", "data.root", str(tmp_path / "images"))
    assert table.level == "error" and f"t.csv does not exist (but {tmp_path} does)" in table.found
    assert preflight.worst([root, table]) == "error"


def test_data_at_an_address_are_not_looked_for_here():
    (root,) = preflight.data(experiments.load({"data": {"root": "s3://bucket/packed"}}))
    assert root.level == "warning" and root.found.startswith("s3://bucket/packed lies elsewhere")


def test_missing_weights_are_an_error_with_the_command(tmp_path):
    wanted = experiments.load({"data": {"root": str(tmp_path)}, "model": {"name": "resnet18", "pretrained": True}})
    _, told = preflight.experiment(wanted, tmp_path / "r.yaml", fetch="instar fetch r.yaml")
    assert told.level == "error" and "r.lock.yaml is not there to say" in told.found
    assert told.do == "Where there is network: instar fetch r.yaml"
    (tmp_path / "r.lock.yaml").write_text("wights: []\n")
    _, told = preflight.experiment(wanted, tmp_path / "r.yaml", fetch="instar fetch r.yaml")
    assert "unknown key 'wights'" in told.found and "r.lock.yaml" in told.do


@pytest.mark.parametrize(
    ("seconds", "lead", "level"),
    [([], 10, None), ([2.0, 40.0], 180, "ok"), ([40.0, 2.0], 60, "warning"), ([70], 60, "error")],
)
def test_the_warning_before_the_limit_must_leave_time_for_the_longest_save(seconds, lead, level, tmp_path):
    run = Run(tmp_path)
    for one in seconds:
        run.log_event("saved", rank=0, samples=1, seconds=one)
    found = preflight.saves(run, lead)
    assert levels(found) == ([level] if level else [])
    if level == "error":
        assert found[0].found == "the longest save took 70.0 s, the warning comes 1:00 before the end"
        assert found[0].do == "set lead to 5 min or more"


def test_unreadable_data_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    wanted = experiments.load({"data": {"root": str(tmp_path)}, "model": "resnet9"})
    assert preflight.data(wanted)[0].level == "error"


def test_a_disk_that_does_not_count_files_is_not_full(tmp_path, monkeypatch):
    told = os.statvfs(tmp_path)
    values = {name: getattr(told, name) for name in dir(told) if name.startswith("f_")} | {"f_files": 0, "f_favail": 0}
    monkeypatch.setattr(os, "statvfs", lambda path: type("Told", (), values))
    assert levels(preflight.space(tmp_path)) == ["ok"]
