"""An order in which each node or rank keeps to a part of the rows: a function of the position all the same."""

from types import SimpleNamespace

import numpy as np
import pytest

from instar import pack, packed, plugins, prepare
from instar.augment import Augment
from instar.engine import build, staging
from instar.engine.loading.sharded import Sharded
from instar.errors import ConfigError
from instar.experiment import Data, Train
from tests.fakes.masks import folder_of_fields
from tests.fakes.training import fingerprint, train

ROWS = np.arange(100, 160)
NODES = [0, 0, 1, 1, 2, 2]


def rows_of_ranks(order, ranks, batch, steps):
    """The rows each rank gets in so many steps."""
    rows = order.draw(np.arange(steps * batch)).row_N.reshape(steps, batch)
    return [rows[:, batch * rank // ranks : batch * (rank + 1) // ranks].ravel() for rank in range(ranks)]


@pytest.mark.parametrize("oversampling", [1, 2])
@pytest.mark.parametrize("batch", [6, 13])
def test_a_holder_sees_its_own_rows_and_each_once_a_pass(batch, oversampling):
    order = Sharded(ROWS, NODES, batch=batch, seed=3, oversampling=oversampling)
    seen = rows_of_ranks(order, 6, batch, 120)
    for node in range(3):
        mine = set(order.rows_of(node).tolist())
        assert len(mine) == 20 * oversampling
        turns = order.draw(np.arange(120 * batch))
        of_node = turns.row_N[turns.repeat_N == node]
        assert (
            set(of_node.tolist()) == mine == {row for rank in (2 * node, 2 * node + 1) for row in seen[rank].tolist()}
        )
        for start in range(0, len(of_node) - len(mine), len(mine)):
            assert set(of_node[start : start + len(mine)].tolist()) == mine
    held = np.concatenate([order.rows_of(node) for node in range(3)])
    assert np.bincount(held - 100).tolist() == [oversampling] * 60


def test_any_position_is_found_by_itself_and_passes_differ():
    order = Sharded(ROWS, NODES, batch=12, seed=3)
    whole = order.draw(np.arange(600))
    for position in (0, 17, 599):
        one = order.draw(np.array([position]))
        assert (one.row_N[0], one.epoch_N[0]) == (whole.row_N[position], whole.epoch_N[position])
    mine = whole.row_N[whole.repeat_N == 0]
    assert mine[:20].tolist() != mine[20:40].tolist() and sorted(mine[:20]) == sorted(mine[20:40])
    showings = list(zip(whole.row_N.tolist(), whole.epoch_N.tolist(), whole.repeat_N.tolist(), strict=True))
    assert len(set(showings)) == len(showings)  # so no two of them are varied alike
    assert Sharded(ROWS, NODES, batch=12, seed=4).draw(np.arange(60)).row_N.tolist() != whole.row_N[:60].tolist()


def test_who_takes_the_place_of_a_bad_row_is_held_beside_it():
    order = Sharded(ROWS, NODES, batch=12, seed=3, oversampling=2)
    for row in (100, 119, 120, 159):
        beside = set(order.companions(row).tolist())
        assert row in beside and order.anyone(row, 0.7) in beside
        holders = [node for node in range(3) if row in order.rows_of(node)]
        assert len(holders) == 2 and all(beside <= set(order.rows_of(node).tolist()) for node in holders)


def test_modes_follow_from_where_the_ranks_are(tmp_path, monkeypatch):
    monkeypatch.setenv("INSTAR_CACHE", str(tmp_path / "cache"))
    rows = prepare.manifest(Data.model_validate({"root": folder_of_fields(tmp_path / "f"), "reader": "field"}), 0)
    processes = [SimpleNamespace(host=host) for host in ("n1", "n1", "n2", "n2")]
    world = SimpleNamespace(size=4, rank=2, processes=processes)
    plan = SimpleNamespace(batch=8, seed=0)
    for mode, holders in (("node", 2), ("gpu", 4)):
        order = build.order(rows, plan, Train(shuffle=mode), world)
        assert order.holders == holders
        mine = build.rows_of_node(order, rows, world)
        train_rows = set(rows.rows("train").tolist())
        second_half = set(rows.rows("train")[len(train_rows) // 2 :].tolist())
        assert second_half <= set(mine.tolist()) and len(set(mine.tolist()) & train_rows) <= len(train_rows) // 2 + 1
        assert set(rows.rows("val").tolist()) <= set(mine.tolist())


def test_a_node_copies_only_the_shards_it_reads(tmp_path, monkeypatch):
    monkeypatch.setenv("INSTAR_CACHE", str(tmp_path / "cache"))
    root = folder_of_fields(tmp_path / "it's f")
    data = Data.model_validate({"root": root, "reader": "field"})
    rows, reader = prepare.manifest(data, 0), plugins.load("readers", "field")
    found = pack.of_masks(
        rows,
        lambda file, mask: reader.members(data.reader, file, mask),
        form="field",
        beside=reader.beside(data.reader, root),
        divided=True,
    )
    folder = tmp_path / "packed"
    pack.pack(found, folder, pack.Options(shard=100_000, processes=1))
    told: list[str] = []
    files = rows.table["file"].take(np.arange(5))
    copy = staging.staged(folder, tmp_path / "disk", files=files, told=told.append)
    shards = sorted(one.name for one in copy.glob("*.tar"))
    assert 1 <= len(shards) < len(list(folder.glob("*.tar"))) and "files) to " in told[0]
    there = {name for name in shards} | {str(folder / one.name) for one in folder.glob("*.tar")} - {
        str(folder / name) for name in shards
    }
    assert {shard.name for shard in packed.read(copy).about.shards} == there
    assert staging.staged(folder, tmp_path / "disk", files=files) == copy
    from dataclasses import replace

    near, far = (reader.open(data.reader, replace(rows, root=place), Augment(kind="field")) for place in (copy, folder))
    for row in range(len(rows)):
        np.testing.assert_array_equal(near.read(row, None)["image"], far.read(row, None)["image"])


def test_a_training_by_parts_is_resumed_to_the_same_bits(tmp_path):
    whole = train(tmp_path, run="whole", train__shuffle="gpu")
    with pytest.raises(RuntimeError, match="on purpose"):
        train(tmp_path, run="broken", train__shuffle="gpu", fault="step.end:7:raise")
    assert fingerprint(train(tmp_path, run="broken", train__shuffle="gpu").run) == fingerprint(whole.run)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"train__oversampling": 2}, "says nothing where all draw among all rows"),
        ({"train__shuffle": "node", "task": {"kind": "classification", "balance": "oversample"}}, "divides the rows"),
        ({"train__compile": "graphs"}, "train.compile=graphs is for CUDA, but this trains on cpu"),
    ],
)
def test_what_cannot_be_meant_is_said(changes, told, tmp_path):
    from tests.fakes.images import folder_of_images

    uneven = folder_of_images(tmp_path / "images")
    for file in sorted(uneven.glob("*0*/*.png"))[:10]:
        file.unlink()
    with pytest.raises(ConfigError, match=told):
        train(tmp_path, root=uneven, **changes)
