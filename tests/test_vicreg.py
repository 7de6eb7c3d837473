"""VICReg: its loss against the paper's formulas, and trainings that are killed, cut, or cannot be meant."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from instar import evaluate, plugins, vectors
from instar.errors import Again, ConfigError, LearningError, RunError
from instar.report.blocks import Alarm
from instar.tasks import _vicreg
from tests.fakes.sky import folder_of_pairs
from tests.fakes.training import Notes, fingerprint, train

READER = {"kind": "image_pair", "image": {"part": "left"}, "other": {"size": 12}}
SMALL = {
    "model": {"kind": "resnet9", "width": 4},
    "task": {"kind": "vicreg", "projector": [16, 24]},
    "augment": {"kind": "imagenet", "size": 16, "scale": [0.5, 1.0]},
    "train__epochs": 2,
    "train__batch": 8,
}


def of_the_paper(left, right, *, by=torch.float64):
    """Eq. 1 to 6 word for word, one covariance matrix a branch."""
    left, right = left.to(by), right.to(by)
    N, D = left.shape
    invariance = sum(((left[row] - right[row]) ** 2).sum() for row in range(N)) / N / D
    variance = covariance = 0
    for Z in (left, right):
        S = torch.sqrt(((Z - Z.mean(0)) ** 2).sum(0) / (N - 1) + 1e-4)
        variance = variance + torch.clamp(1 - S, min=0).sum() / D / 2
        C = sum(torch.outer(row, row) for row in Z - Z.mean(0)) / (N - 1)
        covariance = covariance + (C[~torch.eye(D, dtype=bool)] ** 2).sum() / D
    return {"invariance": invariance, "variance": variance, "covariance": covariance}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("INSTAR_CACHE", str(tmp_path / "cache"))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    return folder_of_pairs(tmp_path_factory.mktemp("it's $(a) sky"), num=60)


def training(tmp_path, sky, **changes):
    return train(tmp_path, root=sky, data__reader=READER, **(SMALL | changes))


@pytest.mark.parametrize(("N", "D"), [(6, 31), (31, 6), (2, 9), (12, 12)])
def test_the_loss_is_that_of_the_paper_with_its_gradient(N, D):
    torch.manual_seed(N)
    both = torch.randn(2, N, D, dtype=torch.float64) * torch.linspace(0.1, 1.6, D) + torch.linspace(-3, 3, D)
    grads = []
    for terms in (_vicreg.terms, of_the_paper):
        left, right = (one.clone().requires_grad_() for one in both)
        found = terms(left, right)
        (25 * found["invariance"] + 25 * found["variance"] + found["covariance"]).backward()
        grads.append((found, torch.cat([left.grad, right.grad])))
    for name, value in grads[0][0].items():
        assert value.item() == pytest.approx(grads[1][0][name].item(), rel=1e-6, abs=1e-9)
    assert torch.allclose(grads[0][1], grads[1][1], rtol=1e-6, atol=1e-9)


def test_the_loss_in_single_precision_is_near_enough_for_wide_projectors():
    torch.manual_seed(0)
    left, right = torch.randn(2, 64, 2048)
    for name, value in _vicreg.terms(left, right).items():
        assert value.item() == pytest.approx(of_the_paper(left, right)[name].item(), rel=1e-5)


def test_pairs_are_learnt_from_and_scored_without_labels(tmp_path, sky):
    outcome = training(tmp_path, sky)
    last = outcome.run.metrics()[-1]
    assert {"retrieval", "retrieval_5", "std", "effective_rank", "cosine", "knn"} <= last.keys()
    train_line = next(line for line in outcome.run.metrics() if line["kind"] == "train")
    assert train_line["loss"] == pytest.approx(
        25 * train_line["invariance"] + 25 * train_line["variance"] + train_line["covariance"], rel=1e-5
    )
    assert outcome.best["metric"] == "retrieval"
    scores = evaluate.evaluate(outcome.run)
    assert 0 <= scores["intervals"]["retrieval"][0] <= scores["retrieval"] <= scores["intervals"]["retrieval"][1] <= 1
    assert "retrieval" in outcome.run.report.read_text()
    again = training(tmp_path, sky, run="again", seed=8)
    with pytest.raises(RunError, match="different test rows"):
        evaluate.evaluate(again.run)
        evaluate.compare([outcome.run, again.run])
    more = training(tmp_path, sky, run="more", optim__lr=0.02)
    evaluate.evaluate(more.run)
    first, second = evaluate.compare([outcome.run, more.run])
    assert first["value"] >= second["value"] and second["ahead"][0] <= 0


def test_rows_of_one_class_are_learnt_from_too(tmp_path, sky):
    for number, path in enumerate(sorted(sky.glob("*/*/*.txt"))):
        one = tmp_path / "one" / "pairs" / "W1" / f"{number}.txt"
        one.parent.mkdir(parents=True, exist_ok=True)
        one.write_text(path.read_text())
    for folder in ("rgb", "thermal"):
        (tmp_path / "one" / folder).symlink_to(sky / folder)
    outcome = training(tmp_path, tmp_path / "one", train__epochs=1)
    assert "knn" not in outcome.run.metrics()[-1]
    assert "retrieval" in evaluate.evaluate(outcome.run)


def test_the_page_shows_a_row_its_partner_and_what_was_taken_for_it_as_the_network_saw_them(tmp_path, sky):
    outcome = training(tmp_path, sky, train__epochs=1)
    evaluate.evaluate(outcome.run)
    found = vectors.read(outcome.run.predictions("test"))
    assert {name: len(one) for name, one in found.preview.items()} == {"image": len(found), "other": len(found)}
    with Image.open(io.BytesIO(found.preview["image"][0])) as seen:
        assert seen.size == (outcome.plan.size, outcome.plan.size)  # the half that counts, and not all of the file
    task = plugins.load("tasks", "vicreg")
    swapped = replace(found, vector_ND={**found.vector_ND, "other": found.vector_ND["other"][::-1]})
    wrong = next(one for one in task.sections(swapped, task.scores(swapped)) if one.title == "Mistakes").blocks[0]
    for one in wrong.sets:
        assert [tile.note.split(",")[0] for tile in one.tiles] == ["asked", "its partner", "taken for it"]
        assert all(tile.source.startswith("data:image/jpeg") for tile in one.tiles)
        assert one.tiles[1].name == one.tiles[0].name != one.tiles[2].name
    order = task.worst(swapped).tolist()  # so that `instar explain RUN worst:8` has rows
    assert sorted(order) == list(range(len(found))) and found.ids[order[0]] in {one.title for one in wrong.sets}
    bare = replace(swapped, preview={})  # as files from before have it
    assert task.sections(bare, task.scores(bare))


@pytest.mark.parametrize("branches", ["both", "image", "other"])
def test_stopped_and_resumed_equals_never_stopped(tmp_path, sky, branches):
    task = {"kind": "vicreg", "projector": [16, 24], "branches": branches}
    whole = training(tmp_path, sky, run="whole", task=task)
    for fault in ("step.end:3:term", "loop.evaluate:1:term"):
        with pytest.raises(Again, match="SIG"):
            training(tmp_path, sky, run="stopped", task=task, fault=fault)
    stopped = training(tmp_path, sky, run="stopped", task=task)
    assert fingerprint(stopped.run) == fingerprint(whole.run)


def test_views_of_single_images_need_no_second_sensor(tmp_path):
    task = {"kind": "vicreg", "projector": [16], "branches": "image"}
    outcome = train(tmp_path, data__reader="image_label", **(SMALL | {"task": task, "train__epochs": 1}))
    assert {"retrieval", "knn"} <= outcome.run.metrics()[-1].keys()
    with pytest.raises(ConfigError, match=r"image_label does not give views of image and other.*image_pair"):
        train(tmp_path, run="two", **(SMALL | {"data__reader": "image_label"}))


def test_another_length_asks_what_the_rate_is_to_do(tmp_path, sky):
    with pytest.raises(Again):
        training(tmp_path, sky, fault="step.end:3:term")
    with pytest.raises(RunError, match="on_change=stretch"):
        training(tmp_path, sky, train__epochs=4)
    assert training(tmp_path, sky, train__epochs=4, options={"on_change": "stretch"}).state == "finished"


def test_a_batch_is_never_cut(tmp_path, sky):
    with pytest.raises(ConfigError, match=r"train\.micro is 4, but task vicreg compares all rows of a batch"):
        training(tmp_path, sky, train__micro=4)
    with pytest.raises(LearningError, match=r"out of memory on rank 0 with 8 rows .*smaller train\.batch"):
        training(tmp_path, sky, fault="step.forward:2:oom")
    with pytest.raises(ConfigError, match="variance takes two rows"):
        training(tmp_path, sky, run="one", train__batch=1)


def test_two_encoders_of_their_own_sizes_and_patches(tmp_path, sky):
    vit = {"kind": "vit", "name": "tiny", "depth": 1}
    reader = {"kind": "image_pair", "image": {"part": "left"}, "other": {"size": 16}}
    changes = SMALL | {"model": {**vit, "patch": 8}, "augment": {"kind": "imagenet", "size": 32}, "train__epochs": 0.5}
    task = {"kind": "vicreg", "projector": [16], "other": {**vit, "patch": 4}}
    outcome = train(tmp_path, root=sky, data__reader=reader, **(changes | {"task": task}))
    assert (outcome.plan.size, outcome.plan.other_size, outcome.plan.other_channels) == (32, 16, 1)
    with pytest.raises(ConfigError, match=r"model\.patch is 5, which does not divide images of 16x16.* 15 or 20"):
        train(
            tmp_path,
            root=sky,
            run="p",
            data__reader=reader,
            **(changes | {"task": {**task, "other": {**vit, "patch": 5}}}),
        )


def test_a_classifier_starts_from_either_encoder_and_may_freeze_it(tmp_path, sky):
    vit = {"kind": "vit", "name": "tiny", "depth": 1, "patch": 8}
    reader = {"kind": "image_pair", "image": {"part": "left"}, "other": {"size": 16, "bounds": [-10, 0]}}
    changes = SMALL | {"model": vit, "augment": {"kind": "imagenet", "size": 16}, "train__epochs": 1}
    first = train(
        tmp_path,
        root=sky,
        data__reader=reader,
        run="pre",
        **(changes | {"task": {"kind": "vicreg", "projector": [16]}}),
    )
    saved = plugins.load("models", "vit")
    from instar.models import _weights

    for branch in ("image", "other"):
        tensors = _weights.read(first.run.path, branch=branch)
        network = saved.build(
            saved.Settings(name="tiny", depth=1, patch=8, weights=first.run.path, branch=branch),
            channels=3,
            classes=4,
            size=16,
        )
        assert torch.equal(network.network.patch_embed.proj.weight, tensors["patch_embed.proj.weight"])
        assert {line.partition(":")[0] for line in network.unmatched} == {"head.weight", "head.bias"}
    probe = {**vit, "weights": str(first.run.path), "train_only": ["head"]}
    outcome = train(
        tmp_path,
        root=sky,
        data__reader=reader,
        run="probe",
        **(changes | {"model": probe, "task": {"kind": "classification"}}),
    )
    from instar.engine.checkpoint import store

    tensors = store.load(outcome.run.checkpoints).files["model"]
    kept = _weights.read(first.run.path)["patch_embed.proj.weight"]
    assert torch.equal(tensors["patch_embed.proj.weight"], kept)


def test_collapse_and_twins_are_told_at_once(tmp_path, sky, monkeypatch):
    task = plugins.load("tasks", "vicreg")
    flat = {"image": np.ones((20, 8)), "other": np.ones((20, 8)), "label": np.zeros(20), "row": np.arange(20)}
    (said,) = task.alarms(task.measure(flat))
    assert "collapsed: all rows have nearly the same vector" in said
    assert task.alarms({"std": 0.9, "spread": 0.8, "cosine": 0.1, "effective_rank": 7.0}) == []
    (twins,) = task.alarms({"std": 0.9, "cosine": 0.1, "effective_rank": 7.0, "train_encoders_apart": 1e-5})
    assert "the two encoders have the same weights" in twins
    notes = Notes()
    monkeypatch.setattr(task, "measure", lambda columns: {"retrieval": 0.1, "std": 0.0, "cosine": 1.0})
    outcome = training(tmp_path, sky, view=notes, train__epochs=1)
    assert any("collapsed" in note for note in notes.all)
    assert any(event["event"] == "alarm" for event in outcome.run.events())
    found = vectors.of(flat, ["a"] * 20, ["b"] * 20, ("c",), {})
    (opening, *_) = task.sections(found, task.scores(found))
    assert isinstance(opening.blocks[0], Alarm) and "Collapsed" in opening.blocks[0].text
