"""What `lfs quota` and `quota` print on real systems, and what they print when all goes wrong."""

import pytest

from instar import quota

LUSTRE = """Disk quotas for usr me (uid 1000):
     Filesystem    used   quota   limit   grace   files   quota   limit   grace
      /scratch/   1.2T      0k     10T       -  123456       0 1000000       -
uid 1000 is using default block quota setting
"""
OVER = """Disk quotas for usr me (uid 1000):
     Filesystem    used   quota   limit   grace   files   quota   limit   grace
 /leonardo_work  [11.5T*]     10T     12T 6d23h59m 999999*  900000 1000000  expired
"""
LINUX = """Disk quotas for user me (uid 1000):
     Filesystem   space   quota   limit   grace   files   quota   limit   grace
/dev/mapper/vg0-home-with-a-long-name
                  10G*    10G     12G 1700000000   123k    200k    300k       0
 nas:/home/me       0K      0K      0K       0       1       0       0       0
"""
PLAIN = """Disk quotas for user me (uid 1000):
     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace
      /dev/sda1    2048    4096    8192              10     100     200
"""
T, G = 1024**4, 1024**3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (LUSTRE, [("/scratch/", int(1.2 * T), 10 * T, 123456, 1_000_000)]),
        (OVER, [("/leonardo_work", int(11.5 * T), 10 * T, 999999, 900000)]),
        (
            LINUX,
            [
                ("/dev/mapper/vg0-home-with-a-long-name", 10 * G, 10 * G, 123000, 200000),
                ("nas:/home/me", 0, None, 1, None),
            ],
        ),
        (PLAIN, [("/dev/sda1", 2 << 20, 4 << 20, 10, 100)]),
        ("Disk quotas for user root (uid 0): none\n", []),
        ("Permission denied.\n\0\xff 1 2 3 4 5\n/only/a/path\n1 2 3\n", []),
    ],
)
def test_quotas_are_read_from_what_is_printed(text, expected):
    found = [tuple(vars(row).values()) for row in quota.parse(text)]
    assert found == expected


def test_what_is_left_is_never_less_than_nothing():
    (row,) = quota.parse(OVER)
    assert (row.bytes_left, row.files_left) == (0, 0)
    assert next(quota.parse(LUSTRE)).files_left == 1_000_000 - 123456


def put(folder, name, script, monkeypatch):
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_lustre_is_asked_about_the_folder_itself(tmp_path, monkeypatch):
    script = f'echo "$@" > {tmp_path}/asked; cat <<END\n{LUSTRE}END'
    put(tmp_path / "bin", "lfs", script, monkeypatch)
    home = tmp_path / "it's $(mine)"
    home.mkdir()
    assert quota.of(home / "not there yet").bytes_limit == 10 * T
    assert (tmp_path / "asked").read_text().strip().endswith(str(home))


PROJECT = (
    LUSTRE.replace("usr me (uid 1000)", "prj 4711 (pid 4711)").replace("10T", "1.3T").replace("1000000", "9000000")
)


def test_of_user_and_project_what_leaves_least_is_what_holds(tmp_path, monkeypatch):
    told = f'case "$*" in *-p\\ 4711*) cat <<END\n{PROJECT}END\n;; *-u*) cat <<END\n{LUSTRE}END\n;; project*) echo " 4711 P x";; *) exit 1;; esac'
    put(tmp_path / "bin", "lfs", told, monkeypatch)
    found = quota.of(tmp_path)
    assert found.bytes_limit == int(1.3 * T)
    assert found.files_limit == 1_000_000


@pytest.mark.parametrize("script", ["sleep 60", "echo rubbish; exit 0", "exit 1", r"printf '\377\0'"])
def test_nobody_knows_is_an_answer(script, tmp_path, monkeypatch):
    put(tmp_path / "bin", "lfs", script, monkeypatch)
    put(tmp_path / "bin", "quota", script, monkeypatch)
    assert quota.of(tmp_path, seconds=0.3) is None


def test_of_many_file_systems_that_of_the_folder_counts(tmp_path, monkeypatch):
    device = quota._device_of(tmp_path)
    assert device
    script = f"cat <<END\n{LINUX}\n{device} 1G 2G 3G 0 5 6 7 0\nEND"
    put(tmp_path / "bin", "quota", script, monkeypatch)
    assert quota.of(tmp_path).bytes_limit == 2 * G
