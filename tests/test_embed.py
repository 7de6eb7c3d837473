import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from instar import embed, embeddings, manifest, plugins
from instar.embed import Look
from instar.engine import trained
from instar.errors import ConfigError, DataError, RunError
from instar.machine import Machine
from instar.networks import features
from tests.fakes.images import folder_of_images
from tests.fakes.training import train
from tests.report import made_map

HERE = Machine(workers=0, device="cpu", devices=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("it's a run"), train__epochs=1).run


# --- every row, once ------------------------------------------------------------------------------------------------


def test_every_row_is_embedded_once_as_the_classifier_reads_it(run):
    scores = embed.embed(run, Look(split="all", projection="pca"), machine=HERE)
    found, rows = embeddings.read(run.embeddings("all")), manifest.read(run.manifest_file)
    assert found.ids == list(rows.ids) and len(set(found.ids)) == len(rows) == scores["rows"]
    assert found.splits == rows.table["split"].to_pylist() and found.others == [""] * len(rows)
    np.testing.assert_array_equal(found.label_N, rows.targets)
    # What the embeddings are, computed by hand: the logits are the classifier's weights times the features.
    asked = trained.with_rows(run, checkpoint="best", machine=HERE, devices=1)
    linear = asked.learner.module.get_submodule("9")
    image = torch.from_numpy(np.stack([asked.reader.read(row, None)["image"] for row in range(8)]))
    asked.learner.module.eval()
    with torch.no_grad():
        expected = asked.learner.predict({"image": image, "label": torch.zeros(8, dtype=torch.int64)})["probability"]
        mine = linear(torch.tensor(found.feature["image"][:8]).double()).softmax(1)
    np.testing.assert_allclose(mine.numpy(), expected.numpy(), atol=1e-5)


def test_the_files_hold_the_map_and_what_it_is_of(run):
    embed.embed(run, Look(split="test", projection="pca"), machine=HERE)
    table, rows = pq.read_table(run.map_file("test")), manifest.read(run.manifest_file)
    names = [rows.ids[row] for row in rows.rows("test").tolist()]
    assert table["id"].to_pylist() == names and set(table["branch"].to_pylist()) == {"image"}
    assert all(
        set(near) <= set(names) - {name} for name, near in zip(names, table["neighbours"].to_pylist(), strict=True)
    )
    scores = json.loads(run.map_scores("test").read_text())
    assert scores["points"] == len(names) and scores["about"]["checkpoint"].startswith("samples-")
    assert run.events()[-1]["event"] == "embedded"
    page = run.map_page("test").read_text(encoding="utf-8")
    assert "data:image/png;base64" in page and "What each cluster is made of" in page


def test_the_same_command_writes_the_same_embeddings_and_the_same_map(run):
    written = []
    for _ in range(2):
        embed.embed(run, Look(split="val"), machine=HERE)
        written.append((run.embeddings("val").read_bytes(), run.map_file("val").read_bytes()))
    assert written[0] == written[1]


def test_a_row_that_cannot_be_read_is_named_and_not_on_the_map(tmp_path):
    root = folder_of_images(tmp_path / "images")
    run = train(tmp_path, root=root, train__epochs=1).run
    rows = manifest.read(run.manifest_file)
    torn = rows.ids[int(rows.rows("test")[1])]
    (root / torn).write_bytes(b"no image")
    scores = embed.embed(run, Look(projection="pca"), machine=HERE)
    found = embeddings.read(run.embeddings("test"))
    assert found.meta["unreadable"] == [torn] and scores["unreadable"] == 1
    assert np.isnan(found.feature["image"][1]).all() and np.isfinite(found.feature["image"][[0, 2]]).all()
    assert torn not in pq.read_table(run.map_file("test"))["id"].to_pylist()
    assert "could not be read" in run.map_page("test").read_text(encoding="utf-8")


def test_a_split_without_rows_and_a_state_without_name_are_refused(tmp_path):
    run = train(tmp_path, data__split={"test": 0.0, "val": 0.2}, train__epochs=1).run
    with pytest.raises(DataError, match=r"has no test rows\. Embed split=train or split=val"):
        embed.embed(run, machine=HERE)
    with pytest.raises(RunError, match="no embeddings yet"):
        embeddings.read(run.embeddings("test"))


# --- what a classifier reads, of every kind of network ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "size"),
    [
        ("resnet9", "", 16),
        ("timm", "resnet18", 32),
        ("timm", "vit_tiny_patch16_224", 32),
        ("timm", "convnext_atto", 32),
        ("timm", "mobilenetv3_small_050", 32),
        ("torchvision", "resnet18", 32),
        ("torchvision", "mobilenet_v3_small", 32),
        ("torchvision", "squeezenet1_1", 64),
    ],
)
def test_features_are_as_wide_as_the_classifier_reads(kind, name, size):
    shelf = plugins.load("models", kind)
    settings = shelf.Settings(kind=kind, **({"name": name} if name else {"width": 8}))
    encoder = shelf.build(settings, channels=3, classes=5, size=size)
    encoder.network.eval()
    with torch.no_grad():
        found = features(encoder.network, encoder.head, torch.randn(2, 3, size, size))
    assert found.shape == (2, encoder.num_features) and found.dtype == torch.float32 and found.std() > 0
    assert not encoder.network.get_submodule(encoder.head)._forward_pre_hooks


def test_a_classifier_that_reads_no_single_row_is_refused():
    network = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    with pytest.raises(ConfigError, match="no single row of features"):
        features(network, "1", torch.zeros(2, 3, 4))


# --- the file, and hostile data --------------------------------------------------------------------------------------


def test_what_is_written_is_read_whatever_the_names(tmp_path):
    made = made_map.embeddings(branches=2)
    embeddings.write(made, tmp_path / "it's $(x)" / "a.parquet")
    found = embeddings.read(tmp_path / "it's $(x)" / "a.parquet")
    assert (found.ids, found.groups, found.classes, found.meta) == (made.ids, made.groups, made.classes, made.meta)
    for branch in ("image", "other"):
        np.testing.assert_array_equal(found.feature[branch], made.feature[branch])


def test_half_a_file_is_not_taken_for_a_whole_one(tmp_path):
    file = tmp_path / "a.parquet"
    embeddings.write(made_map.embeddings(), file)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(RunError, match="is not a whole file of embeddings"):
        embeddings.read(file)


def test_embeddings_that_are_no_numbers_are_named_and_left_out(tmp_path):
    made = made_map.embeddings()
    made.feature["image"][7, 3] = np.nan
    made.feature["image"][9, 0] = np.inf
    run = made_map.run(tmp_path, made, projection="pca")
    scores = json.loads(run.map_scores("test").read_text())
    assert scores["not_numbers"] == [made.ids[7], made.ids[9]] and scores["points"] == 58
    assert "2 embeddings are not made of numbers" in run.map_page("test").read_text(encoding="utf-8")
    made.feature["image"][:] = np.nan
    with pytest.raises(DataError, match="none of the 60 embeddings is made of numbers"):
        made_map.run(tmp_path / "second", made)


def test_a_run_without_labels_has_a_map_without_classes(tmp_path):
    run = made_map.run(tmp_path, made_map.embeddings(classes=(), branches=2), projection="pca")
    scores = json.loads(run.map_scores("test").read_text())
    assert scores["points"] == 120 and scores["pair_retrieval_at_1"] > 0.9 and "purity" not in scores
    assert "adjusted Rand" not in run.map_page("test").read_text(encoding="utf-8")


@pytest.mark.parametrize("rows", [1, 2])
def test_one_row_has_a_map(tmp_path, rows):
    run = made_map.run(tmp_path, made_map.embeddings(rows=rows))
    assert json.loads(run.map_scores("test").read_text())["points"] == rows
    assert pq.read_table(run.map_file("test")).num_rows == rows


def test_rows_that_are_all_equal_are_said_to_be(tmp_path):
    made = made_map.embeddings()
    made.feature["image"][:] = 1.5
    run = made_map.run(tmp_path, made)
    assert "It collapsed" in run.map_page("test").read_text(encoding="utf-8")


def test_branches_of_different_width_have_a_map_each(tmp_path):
    made = made_map.embeddings(branches=2)
    made.feature["other"] = made.feature["other"][:, :5]
    run = made_map.run(tmp_path, made, projection="pca")
    for name, branch, other in (("test", "image", "test.other.html"), ("test.other", "other", "test.html")):
        assert json.loads(run.map_scores(name).read_text())["points"] == 60
        assert set(pq.read_table(run.map_file(name))["branch"].to_pylist()) == {branch}
        page = run.map_page(name).read_text(encoding="utf-8")
        assert "have 8 and 5 features, which share no space" in page and f"beside this file lies {other}" in page


def test_of_many_rows_as_many_are_drawn_as_a_map_holds(run):
    scores = embed.embed(run, Look(split="train", points=12, projection="pca"), machine=HERE)
    assert scores["points"] == 12 and scores["rows"] == len(embeddings.read(run.embeddings("train"))) > 12
    assert "drawn at random" in run.map_page("train").read_text(encoding="utf-8")
