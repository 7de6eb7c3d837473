"""What ranks do together, on real processes."""

import json
import os
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from instar.engine.ranks import process, rendezvous
from instar.engine.ranks import world as worlds
from instar.engine.ranks.place import Place
from instar.errors import ConfigError


def _collectives(world: worlds.World) -> dict:
    rows = np.arange(world.rank * 3, dtype=np.int64)  # rank 0 has none
    columns = {"row": rows, "score": np.full((len(rows), 2), world.rank, np.float32), "flag": rows % 2 == 0}
    early = world.ask([float(world.rank == 1)])
    return {
        "agree": world.agree([float(world.rank), -float(world.rank), float("-inf")]),
        "ask": early.result(),
        "sum": world.sum(torch.tensor([[1, 2], [3, 4]]) * (world.rank + 1)).tolist(),
        "max": world.max(torch.tensor([world.rank, -world.rank])).tolist(),
        "share": world.share({"newest": "café", "n": [1, None]} if world.rank == 0 else None),
        "rows": {name: column.tolist() for name, column in world.gather_rows(columns if len(rows) else {}).items()},
        "types": [str(column.dtype) for column in world.gather_rows(columns).values()],
        "empty": {n: c.shape for n, c in world.gather_rows({k: c[:0] for k, c in columns.items()}).items()},
        "barrier": world.barrier(10),
        "left behind": [file.name for file in Path(os.environ["FOLDER"]).glob(".*")],
    }


def test_ranks_agree_sum_share_and_gather(together) -> None:
    first, *others = together(3, _collectives)
    expected = [0, 1, 2, *range(6)]
    assert first["rows"]["row"] == expected
    assert first["rows"]["score"] == [[1.0, 1.0]] * 3 + [[2.0, 2.0]] * 6
    assert first["rows"]["flag"] == [row % 2 == 0 for row in expected]
    assert first["types"] == ["int64", "float32", "bool"]
    assert first["empty"] == {"row": (0,), "score": (0, 2), "flag": (0,)}
    for one in (first, *others):
        assert one["agree"] == [2.0, 0.0, float("-inf")] and one["ask"] == [1.0]
        assert one["sum"] == [[6, 12], [18, 24]] and one["max"] == [2, 0]
        assert one["share"] == {"newest": "café", "n": [1, None]}
        assert one["left behind"] == []
    assert all(one["rows"] == {} for one in others)


def test_a_world_of_one_needs_no_group_and_copies_nothing(tmp_path: Path) -> None:
    with worlds.join(Place(), folder=tmp_path / "never made") as world:
        tensor, column = torch.ones(2), np.ones(2)
        assert world.sum(tensor) is tensor and world.max(tensor) is tensor
        assert world.gather_rows({"a": column})["a"] is column
        assert world.agree([0.5, -1.0]) == [0.5, -1.0] and world.share({"a": 1}) == {"a": 1}
        assert world.leave(75) == 75 and world.barrier() is None
    assert not torch.distributed.is_initialized() and not (tmp_path / "never made").exists()


def _barrier_alone(world: worlds.World) -> None:
    if world.rank == 0:
        world.barrier(0.5, what="the end")
    time.sleep(2)


def test_a_barrier_names_the_rank_that_did_not_come(start) -> None:
    first, second = start(2, _barrier_alone).wait()
    assert (first.code, second.code) == (75, 0)
    assert "not every rank reached the end within 0.5 s" in first.failure and "1" in first.failure


def _neighbours(world: worlds.World) -> tuple[float, str]:
    group = world.neighbours(2)
    total = torch.tensor([float(world.rank)])
    torch.distributed.all_reduce(total, group=group)
    try:
        world.neighbours(3)
    except ConfigError as error:
        return float(total), str(error)
    return float(total), ""


def test_consecutive_ranks_form_groups(together) -> None:
    values = together(4, _neighbours)
    assert [total for total, _ in values] == [1.0, 1.0, 5.0, 5.0]
    assert values[0][1] == "4 ranks cannot be divided into groups of 3: write a divisor of 4."


# --- finding each other ---------------------------------------------------------------------------------------------


def test_a_rank_that_never_comes_is_named(tmp_path: Path) -> None:
    place = Place(0, 3, 0, 3, "instar", "one")
    store = rendezvous.open_store(place, folder=tmp_path, timeout=5)
    with pytest.raises(worlds.RankLost, match=r"rank 1, 2 of 3 did not come within 0.2 s \(started by instar\)"):
        rendezvous.gather(store, place, {}, timeout=0.2)


def test_a_rank_that_died_while_others_were_awaited_ends_the_waiting(tmp_path: Path) -> None:
    place = Place(0, 3, 0, 3, "instar", "one")
    store = rendezvous.open_store(place, folder=tmp_path, timeout=5)
    child = subprocess.Popen(["sleep", "0"])
    here = process.me()
    child.wait()
    store.set("here/1", json.dumps(process.Process(here.host, here.boot, here.space, child.pid, 1).facts()))
    with pytest.raises(worlds.RankLost, match=rf"rank 1 of 3 on .* \(process {child.pid}\) ended before all had come"):
        rendezvous.gather(store, place, here.facts(), timeout=20)


def test_rank_0_that_never_comes_is_awaited_by_name(tmp_path: Path) -> None:
    place = Place(1, 2, 1, 2, "instar", "one")
    with pytest.raises(worlds.RankLost, match=r"rank 1 of 2 on .* waited 0.2 s for rank 0: .*did not appear"):
        rendezvous.open_store(place, folder=tmp_path, timeout=0.2)


def _published(folder: Path) -> dict:
    (file,) = folder.glob(".rendezvous-*.json")
    return json.loads(file.read_text())


def test_what_an_earlier_launch_left_is_not_believed(tmp_path: Path) -> None:
    """Neither another launch's address, nor our own launch's where another store answers there by now."""
    earlier = rendezvous.open_store(Place(0, 2, 0, 2, "instar", "one"), folder=tmp_path, timeout=5)
    left = _published(tmp_path)
    second = Place(1, 2, 1, 2, "instar", "two")
    with pytest.raises(worlds.RankLost, match="did not appear"):
        rendezvous.open_store(second, folder=tmp_path, timeout=0.2)
    earlier.set("word", "another")
    with pytest.raises(worlds.RankLost, match=f"at none of 127.0.0.1, port {left['port']}"):
        rendezvous.open_store(Place(1, 2, 1, 2, "instar", "one"), folder=tmp_path, timeout=0.2)


def test_a_stranger_at_the_first_address_is_passed_over(tmp_path: Path) -> None:
    place = Place(0, 2, 0, 2, "slurm", "one")
    store = rendezvous.open_store(place, folder=tmp_path, timeout=5)
    (file,) = tmp_path.glob(".rendezvous-*.json")
    file.write_text(json.dumps({**_published(tmp_path), "hosts": ["no such host.invalid", "::1", "127.0.0.1"]}))
    found = rendezvous.open_store(Place(1, 2, 1, 2, "slurm", "one"), folder=tmp_path, timeout=5)
    found.set("from", "one")
    assert store.get("from") == b"one"
    rendezvous.withdraw(place, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
