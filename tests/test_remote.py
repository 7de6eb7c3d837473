"""Packed data elsewhere: fetched once, checked, within a limit, from real servers on this machine."""

import contextlib
import functools
import http.server
import importlib.util
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from instar import experiment as experiments
from instar import pack, packed, prepare, remote
from instar.engine import staging
from instar.errors import DataError
from instar.experiment import Data
from instar.machine import Machine
from instar.remote import Wanted
from instar.settings import dump
from tests.fakes.images import folder_of_images
from tests.fakes.training import fingerprint, train

for needed in ("fsspec", "s3fs", "aiohttp", "moto"):
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed", allow_module_level=True)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("INSTAR_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache" / "packed"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("remote")
    source = folder_of_images(folder / "images", size=20)
    pack.pack(pack.found_at(source), folder / "packed", pack.Options(shard=70_000, processes=1))
    return folder / "packed"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    asked: list[str] = []  # noqa: RUF012 - one server a test

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        self.asked.append(self.path.rpartition("/")[2])
        super().do_GET()


@pytest.fixture
def site(data):
    """The folder above the packed data, over http; and what was asked for."""
    _Quiet.asked = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(data.parent)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", _Quiet.asked
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def bucket(data):
    """The packed data in a bucket of a real S3 server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    there = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            with contextlib.suppress(OSError), urllib.request.urlopen(there, timeout=1):
                break
            time.sleep(0.1)
        put(f"{there}/bucket", b"")
        for file in data.iterdir():
            put(f"{there}/bucket/some/packed/{file.name}", file.read_bytes())
        yield there
    finally:
        process.terminate()
        process.wait()


def put(url: str, content: bytes) -> None:
    head = {
        "Content-Type": "application/octet-stream",
        "Authorization": "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request",
    }
    with urllib.request.urlopen(urllib.request.Request(url, content, head, method="PUT"), timeout=10):
        pass


def test_a_training_from_a_bucket_is_the_training_from_the_folder(data, bucket, tmp_path, monkeypatch):
    for name, value in {"ENDPOINT_URL": bucket, "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    near = train(tmp_path, run="near", root=data, train__epochs=1)
    far = train(tmp_path, run="far", root="s3://bucket/some/packed", train__epochs=1)
    assert fingerprint(near.run) == fingerprint(far.run)
    assert "root: s3://bucket/some/packed" in far.run.experiment_file.read_text()
    again = train(tmp_path, run="far", root="s3://bucket/some/packed", train__epochs=1)
    assert again.state == "already"


def test_shards_are_fetched_when_they_are_wanted_and_once(data, site, cache):
    there, asked = site
    folder = remote.here(f"{there}/packed", packed.INDEX)
    assert sorted(path.name for path in folder.iterdir()) == ["index.parquet", "origin.json"]
    pack_ = packed.read(folder)
    assert pack_.checked(0) == packed.read(data).stored(0)
    pack_.checked(1)
    assert set(asked) == {"index.parquet", "shard-000000.tar"}
    assert len(list(folder.glob("*.tar"))) == 1
    asked.clear()
    assert packed.read(folder).checked(2) == packed.read(data).stored(2)
    assert asked == []


def test_a_fork_can_fetch(data, site):
    pack_ = packed.read(remote.here(f"{site[0]}/packed", packed.INDEX))
    ours, theirs = os.pipe()
    if os.fork() == 0:
        os.write(theirs, bytes([pack_.checked(59) == packed.read(data).stored(59)]))
        os._exit(0)
    assert os.read(ours, 1) == b"\x01"
    os.wait()


def test_the_least_used_make_room_and_what_never_fits_is_an_error(data, site):
    size = max(shard.size for shard in packed.read(data).about.shards)
    folder = remote.here(f"{site[0]}/packed", packed.INDEX, most=2 * size)
    pack_ = packed.read(folder)
    wanted = [Wanted(shard.name, shard.size, shard.xxh3) for shard in pack_.about.shards]
    for number, one in enumerate(wanted[:3]):
        remote.fetch(folder, [one])
        os.utime(folder / one.name, (number + 1, number + 1))
    assert sorted(path.name for path in folder.glob("*.tar")) == ["shard-000001.tar", "shard-000002.tar"]
    with pytest.raises(DataError, match=r"more bytes are wanted at once, but all may take .* Allow more: cache=SIZE"):
        remote.fetch(folder, wanted)


def test_what_a_killed_fetch_left_is_removed_once_nobody_can_be_writing_it(data, site):
    folder = remote.here(f"{site[0]}/packed", packed.INDEX)
    old, new = folder / ".shard-000009.tar.17-ab.part", folder / ".shard-000008.tar.17-cd.part"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    packed.read(folder).stored(0)
    assert (old.exists(), new.exists()) == (False, True)


def test_a_cache_that_is_too_small_is_said_and_works(data, site, tmp_path):
    told: list[str] = []
    size = max(shard.size for shard in packed.read(data).about.shards)
    root = Path(f"{site[0]}/packed")
    folder = staging.near(root, Machine(cache=size), told=told.append)
    assert "fetched again and again" in told[0]
    pack_ = packed.read(folder)
    assert [pack_.checked(row) == packed.read(data).stored(row) for row in (0, 30, 59, 1)] == [True] * 4


def test_what_arrives_changed_is_refused_and_leaves_nothing(data, site, tmp_path):
    with open(data / "shard-000000.tar", "r+b") as file:
        file.seek(700)
        before = file.read(1)
        file.seek(700)
        file.write(b"\0" if before != b"\0" else b"\1")
    try:
        pack_ = packed.read(remote.here(f"{site[0]}/packed", packed.INDEX))
        with pytest.raises(DataError, match=r"shard-000000\.tar is not what was packed: its xxh3 differs"):
            pack_.stored(0)
        assert not [path for path in pack_.folder.iterdir() if "tar" in path.name]
    finally:
        with open(data / "shard-000000.tar", "r+b") as file:
            file.seek(700)
            file.write(before)


def test_an_address_where_nothing_is_says_so(site):
    with pytest.raises(DataError, match=r"/nowhere: cannot be fetched: .*Is the address right"):
        remote.here(f"{site[0]}/nowhere", packed.INDEX)


def test_an_index_that_names_files_elsewhere_cannot_write_there(data, site, tmp_path):
    folder = remote.here(f"{site[0]}/packed", packed.INDEX)
    with pytest.raises(DataError, match="is no name of a shard"):
        remote.fetch(folder, [Wanted("../../../evil.tar")])


@pytest.mark.parametrize(("place", "missing"), [("s3://bucket/x", "s3fs"), ("https://host/x", "aiohttp")])
def test_a_missing_extra_is_named_with_what_to_install(monkeypatch, place, missing):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else found(name))
    with pytest.raises(DataError, match=rf"needs {missing}, which is not installed here\. .*instar\[remote\]"):
        remote.here(place, packed.INDEX)


def test_an_address_is_kept_as_it_was_typed():
    recipe = experiments.load("https://host:8080/a/packed", ["train.epochs=1"])
    assert "root: https://host:8080/a/packed" in dump(recipe)
    assert experiments.load({"data": {"root": "s3://b/c"}}).data.root == Path("s3://b/c")


def test_rows_of_packed_data_elsewhere_are_those_of_the_folder(data, site):
    there = prepare.manifest(Data.model_validate({"root": f"{site[0]}/packed"}), 0)
    here = prepare.manifest(Data.model_validate({"root": data}), 0)
    assert there.hash == here.hash and there.table.equals(here.table)
