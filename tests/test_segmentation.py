"""The segmenter: counts, tiles, images of any size, and whole trainings that are killed and resumed."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from instar import evaluate, masks, plugins
from instar import manifest as manifests
from instar.engine import build, predict
from instar.engine.loading import loaders
from instar.errors import Again, ConfigError, RunError
from instar.machine import Machine
from instar.masks import IGNORE
from instar.metrics import pixels
from instar.networks import Encoder
from instar.plan import Progress
from instar.tasks import _tiles
from tests.distributed.conftest import forks, start, together  # noqa: F401 - fixtures
from tests.fakes.masks import folder_of_fields, folder_of_masks
from tests.fakes.training import fingerprint, train

segmentation = plugins.load("tasks", "segmentation")
HERE = Machine(workers=0, device="cpu", devices=1)
K = 3
OF_MASKS = {
    "data__reader": "image_mask",
    "data__split": {"test": 0.2, "val": 0.2},
    "model": {"kind": "tests.fakes.tiny_fcn"},
    "task": {"kind": "segmentation"},
    "augment": {"size": 16, "resize": 16, "hflip": 0.5, "rotation": 10.0},
    "train__epochs": 3,
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny networks on a busy machine: threads wait for each other longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def network(stride=4, seed=0):
    """Sees a few pixels beyond each one, at a stride."""
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, stride, stride=stride),
        torch.nn.Tanh(),
        torch.nn.Conv2d(6, 6, 3, padding=1),
        torch.nn.Tanh(),
        torch.nn.ConvTranspose2d(6, K, stride, stride=stride),
    ).eval()


def learner_of(stride=4, weights=None, **given):
    plan = SimpleNamespace(classes=("a", "b", "c"), class_weights_K=weights, channels_last=False, batch=4, seed=0)
    encoder = Encoder(network(max(1, stride)), 0, (0.5,) * 3, (0.25,) * 3, stride=stride)
    return segmentation.learner(segmentation.Settings(**given), encoder, plan)


def batch_of(rows=4, height=12, width=20, seed=1):
    draws = torch.Generator().manual_seed(seed)
    return {
        "image": torch.randint(0, 256, (rows, height, width, 3), dtype=torch.uint8, generator=draws),
        "mask": torch.randint(0, K, (rows, height, width), dtype=torch.uint8, generator=draws),
        "label": torch.zeros(rows, dtype=torch.int64),
        "row": torch.arange(rows),
    }


AT = Progress(samples=0, epoch_samples=64, total=640, batch=8)

# --- one batch ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given", [{}, {"loss": "focal"}, {"loss": "dice"}, {"also": "lovasz"}, {"loss": "lovasz", "also": "dice"}]
)
def test_losses_of_parts_of_a_batch_average_to_those_of_the_whole(given):
    learner, batch = learner_of(**given), batch_of()
    batch["mask"][0, :3] = IGNORE
    whole = learner.losses(batch, AT)
    halves = [learner.losses({name: value[at : at + 2] for name, value in batch.items()}, AT) for at in (0, 2)]
    for name in whole:
        assert whole[name].item() == pytest.approx(sum(half[name].item() for half in halves) / 2, rel=1e-5)
    assert whole["total"].requires_grad


def test_the_counts_of_training_are_those_of_its_predictions():
    learner, batch = learner_of(), batch_of()
    batch["mask"][:, :2] = IGNORE
    learner.losses(batch, AT)
    found = learner.predict(batch)
    assert torch.equal(learner.counts["confusion"], found["confusion"].sum(0))
    assert int(found["confusion"].sum()) == int((batch["mask"] != IGNORE).sum())
    expected = pixels.summary(pixels.counts_of(found["confusion"].sum(0).numpy()[None]))
    assert learner.summary(learner.counts)["mean_iou"] == pytest.approx(expected["mean_iou"])


def test_an_image_of_any_size_goes_through_and_is_cut_back():
    learner = learner_of(stride=4)
    batch = batch_of(height=13, width=18)
    answer = learner.predict(batch)["predicted"]
    image = batch["image"].permute(0, 3, 1, 2).float().div(255).sub(0.5).div(0.25)
    whole = learner.module(torch.nn.functional.pad(image, (0, 2, 0, 3)))
    assert torch.equal(answer, whole[..., :13, :18].argmax(1).to(torch.uint8))


def test_rows_of_different_sizes_in_one_batch_are_answered_as_if_alone():
    learner, batch = learner_of(), batch_of(height=24, width=32)
    sizes = [(24, 32), (12, 20), (13, 7), (24, 32)]
    for at, name in enumerate(("height", "width")):
        batch[name] = torch.tensor([size[at] for size in sizes])
        batch[f"image_{name}"] = batch[name]
    batch["label"][3] = -1  # could not be read
    found_together = learner.predict(batch)
    for row, (height, width) in enumerate(sizes[:3]):
        alone = {
            "image": batch["image"][row : row + 1, :height, :width],
            "mask": batch["mask"][row : row + 1, :height, :width],
        }
        found = learner.predict({**alone, "label": torch.zeros(1, dtype=torch.int64)})
        assert torch.equal(found_together["predicted"][row, :height, :width], found["predicted"][0])
        assert torch.equal(found_together["confusion"][row], found["confusion"][0])
    unread = {name: found_together[name][3] for name in ("confusion", "height", "loss")}
    assert unread["confusion"].sum() == 0 and unread["height"] == 0 and unread["loss"].isnan()


def test_what_a_smaller_image_answers_is_brought_to_the_size_of_its_mask():
    learner, batch = learner_of(), batch_of(height=24, width=32)
    batch |= {"image": batch["image"][:, :12, :16], "height": torch.full((4,), 24), "width": torch.full((4,), 32)}
    batch |= {"image_height": torch.full((4,), 12), "image_width": torch.full((4,), 16)}
    found = learner.predict(batch)["predicted"]
    logits = learner.module(batch["image"].permute(0, 3, 1, 2).float().div(255).sub(0.5).div(0.25))
    large = torch.nn.functional.interpolate(logits, (24, 32), mode="bilinear", align_corners=False)
    assert torch.equal(found, large.argmax(1).to(torch.uint8))


@pytest.mark.parametrize("size", [(96, 128), (101, 67), (64, 300)])
def test_tiles_give_what_the_whole_image_gives(size):
    module, stride = network(), 4
    image_BCHW = torch.randn(2, 3, *size)
    mask_BHW = torch.randint(0, K, (2, *size), dtype=torch.uint8)
    with torch.no_grad():
        logits = _tiles.padded(module, image_BCHW, stride=stride)
        # One 3 x 3 convolution at stride 4 sees 4 pixels beyond its own.
        answer, loss_B = _tiles.in_tiles(module, image_BCHW, mask_BHW, stride=stride, largest=40 * 40, overlap=4)
        narrow, _ = _tiles.in_tiles(module, image_BCHW, mask_BHW, stride=stride, largest=40 * 40, overlap=0)
    assert torch.equal(answer, logits.argmax(1).to(torch.uint8))
    whole_B = torch.nn.functional.cross_entropy(logits, mask_BHW.long(), reduction="none").mean((1, 2))
    assert loss_B.tolist() == pytest.approx(whole_B.tolist(), rel=1e-5)
    assert not torch.equal(narrow, answer)  # so the overlap is what makes them equal


def test_tiles_answer_for_each_pixel_once_and_see_no_more_than_is_allowed():
    largest, overlap = 64 * 64, 9
    for height, width in ((63, 200), (64, 64), (1, 500)):
        answered = np.zeros((height, width), int)
        for rows, columns, seen_rows, seen_columns in _tiles.tiles(
            height, width, stride=8, largest=largest, overlap=overlap
        ):
            answered[rows, columns] += 1
            assert (seen_rows.stop - seen_rows.start) * (seen_columns.stop - seen_columns.start) <= largest
            assert seen_rows.start % 8 == seen_columns.start % 8 == 0
        assert (answered == 1).all()


def test_an_image_larger_than_allowed_is_predicted_in_tiles():
    batch = batch_of(rows=1, height=96, width=128)
    whole = learner_of().predict(batch)
    tiled = learner_of(largest=4096, overlap=8).predict(batch)
    assert torch.equal(whole["predicted"], tiled["predicted"]) and torch.equal(whole["confusion"], tiled["confusion"])


# --- what does not go together --------------------------------------------------------------------------------------


def test_a_model_that_answers_once_an_image_is_refused():
    with pytest.raises(ConfigError, match="answers once an image"):
        learner_of(stride=0)


def test_weights_follow_from_frequencies_given_or_counted():
    rows = SimpleNamespace(classes=("a", "b"), statistics={"pixels": [900, 100]})
    weights = segmentation.class_weights
    assert weights(segmentation.Settings(), rows) is None
    assert weights(segmentation.Settings(weight_power=0.5), rows) == pytest.approx([0.9**-0.5, 0.1**-0.5])
    given = segmentation.Settings(weight_power=0.125, frequencies=(0.986267818390377, 0.0004578708870701058))
    assert weights(given, rows) == pytest.approx([1.0017298, 2.6146112], rel=1e-6)
    with pytest.raises(ConfigError, match=r"2 numbers, but there are 3 classes \(a, b, c\)"):
        weights(given, SimpleNamespace(classes=("a", "b", "c"), statistics={}))


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"gamma": 1.0}, "gamma"),
        ({"loss": "dice", "also": "dice"}, "also"),
        ({"loss": "lovasz", "weight_power": 0.5}, "weight_power"),
        ({"frequencies": (0.5, 0.5)}, "frequencies"),
        ({"overlap": 1000}, "overlap"),
    ],
)
def test_settings_that_say_nothing_are_refused(given, word):
    with pytest.raises(ValueError, match=word):
        segmentation.Settings(**given)


# --- whole trainings ------------------------------------------------------------------------------------------------


def segment(folder, *, run="run", root=None, **more):
    root = root or folder_of_masks(folder / "some 'masks'")
    return train(folder, run=run, root=root, **{**OF_MASKS, **more})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("it's a run")
    outcome = segment(folder)
    evaluate.evaluate(outcome.run, split="test", machine=HERE)
    return outcome.run


def test_a_killed_and_resumed_training_ends_with_the_same_bits(tmp_path):
    more = {"task": {"kind": "segmentation", "also": "dice", "weight_power": 0.5}, "train__epochs": 2}
    whole = segment(tmp_path, run="whole", **more)
    for fault in ("step.end:2:term", "loop.evaluate:1:term"):
        with pytest.raises(Again, match="SIG"):
            segment(tmp_path, run="stopped", fault=fault, **more)
    stopped = segment(tmp_path, run="stopped", **more)
    assert fingerprint(stopped.run) == fingerprint(whole.run)


def test_workers_change_nothing(tmp_path):
    alone = segment(tmp_path, run="alone", train__epochs=2)
    helped = segment(tmp_path, run="helped", train__epochs=2, machine={"workers": 2})
    assert fingerprint(alone.run) == fingerprint(helped.run)


def test_it_learns(trained):
    values = [line["mean_iou"] for line in trained.metrics() if line["kind"] == "val"]
    assert {"loss", "mean_iou", "sample_iou", "pixel_accuracy", "train_mean_iou"} <= set(
        next(line for line in trained.metrics() if line["kind"] == "val")
    )
    assert values[-1] > 0.25 and max(values) > values[0]


def test_every_row_has_its_mask_at_the_size_of_the_file_and_the_scores_are_those_of_the_masks(trained):
    found, rows = masks.read(trained.predictions("test")), manifests.read(trained.manifest_file)
    test = rows.rows("test")
    assert list(found.ids) == [rows.ids[row] for row in test] and len(found) == len(test) > 0
    reader = plugins.load("readers", "image_mask").open(
        plugins.load("readers", "image_mask").Settings(), rows, SimpleNamespace(size=16, fill=0, crop="area", resize=16)
    )
    confusion = np.zeros((K, K), np.int64)
    for at, row in enumerate(test.tolist()):
        truth = reader.read(row, None)["mask"]
        predicted = found.predicted(at)
        assert predicted.shape == truth.shape == (24, 32)
        np.add.at(confusion, (truth.ravel(), predicted.ravel()), 1)
    np.testing.assert_array_equal(confusion, found.confusion_KK)
    scores = trained.scores("test")
    assert {name: value for name, value in scores.items() if name != "about"} == json.loads(
        json.dumps(pixels.scores(found))
    )
    assert scores["mean_iou"] == pytest.approx(pixels.mean_iou(found.counts_N3K.sum(0)))


def test_the_best_checkpoint_gives_the_score_that_made_it_best(trained):
    scores = evaluate.evaluate(trained, split="val", machine=HERE)
    best = max((line for line in trained.metrics() if line["kind"] == "val"), key=lambda line: line["mean_iou"])
    for name in ("mean_iou", "sample_iou", "pixel_accuracy"):
        assert scores[name] == pytest.approx(best[name])


def test_the_page_shows_panels_and_opens_without_the_images(trained):
    evaluate.report(trained)
    page = trained.report.read_text(encoding="utf-8")
    assert "mean IoU" in page and "Worst images" in page and "boundary F1" in page and "data:image/jpeg;base64" in page
    assert "it&#39;s $(a) place/" in page
    assert "reached" in page and "mean IoU" in page


def test_a_row_that_is_torn_by_now_is_named_and_not_scored(tmp_path):
    run = segment(tmp_path, train__epochs=1).run
    rows = manifests.read(run.manifest_file)
    row = int(rows.rows("test")[1])
    (rows.root / rows.table["other"][row].as_py()).write_bytes(b"no mask any more")
    before = len(run.events())
    scores = evaluate.evaluate(run, split="test", machine=HERE)
    assert scores["unlabelled"] == 1 and scores["rows"] == len(rows.rows("test")) - 1
    bad = [event for event in run.events()[before:] if event["event"] == "bad_sample"]
    assert [event["path"] for event in bad] == [rows.ids[row]] and "mask" in bad[0]["reason"]
    found = masks.read(run.predictions("test"))
    assert found.known_N.tolist().count(False) == 1 and found.mask[1] == b""
    assert "1 images could not be read" in run.report.read_text(encoding="utf-8")


def test_runs_are_compared_by_mean_iou_on_the_same_masks_only(tmp_path):
    root = folder_of_masks(tmp_path / "masks")
    runs = [segment(tmp_path, run=f"run{seed}", root=root, train__epochs=1, optim={"kind": "adamw", "lr": lr}).run
            for seed, lr in enumerate((0.01, 0.0001))]  # fmt: skip
    for run in runs:
        evaluate.evaluate(run, split="test", machine=HERE)
    rows = evaluate.compare(runs)
    assert rows[0]["metric"] == "mean_iou" and rows[0]["value"] >= rows[1]["value"]
    ahead, low, high = rows[1]["ahead"]
    assert ahead == pytest.approx(rows[1]["value"] - rows[0]["value"]) and low <= ahead <= high
    manifest = manifests.read(runs[1].manifest_file)
    mask = manifest.root / manifest.table["other"][int(manifest.rows("test")[0])].as_py()
    from PIL import Image

    Image.fromarray(np.zeros((24, 32), np.uint8)).save(mask)
    evaluate.evaluate(runs[1], split="test", machine=HERE)
    with pytest.raises(RunError, match="scored on different test rows"):
        evaluate.compare(runs)


def test_fields_of_many_channels_are_learnt_as_they_are(tmp_path):
    root = folder_of_fields(tmp_path / "it's climate")
    more = {"data__reader": {"kind": "field", "channels": [0, 1, 3]}, "augment": {"kind": "field"}}
    more |= {"train__evaluate": "40 epochs", "train__every": "10 min", "optim": {"kind": "adamw", "lr": 0.05}}
    more |= {"schedule": {"kind": "constant"}}
    outcome = segment(tmp_path, root=root, train__epochs=40, **more)
    assert outcome.plan.channels == 3
    scores = evaluate.evaluate(outcome.run, split="test", machine=HERE)
    assert scores["rows"] > 0 and scores["mean_iou"] > 0.35
    assert masks.read(outcome.run.predictions("test")).predicted(0).shape == (24, 36)


# --- two processes --------------------------------------------------------------------------------------------------


def predicted_together(world, run_path, whole, num=13):
    from instar import experiment as experiments
    from instar.engine import planning
    from instar.run import Run

    torch.set_num_threads(1)
    run = Run(run_path)
    experiment, rows = experiments.load(run.path), manifests.read(run.manifest_file)
    plan = planning.plan(experiment, rows, HERE, devices=world.size)
    learner = build.learner(experiment, plan)
    reader = build.reader(experiment, rows, HERE)
    columns = predict.split(
        learner,
        lambda shard: loaders.eval_stream(reader, shard, batch=3),
        rows.rows("train")[:num],
        precision="fp32",
        world=world,
        keep=build.keep(experiment, whole=whole),
    )
    return {name: column.tolist() for name, column in columns.items()}


@pytest.mark.parametrize("whole", [False, True])
def test_two_ranks_keep_what_one_keeps_to_the_last_byte(trained, together, whole):  # noqa: F811
    from instar.engine.ranks import world as worlds

    with worlds.join(worlds.Place(), folder=trained.path, device="cpu") as alone:
        one = predicted_together(alone, trained.path, whole)
    two, rest = together(2, predicted_together, trained.path, whole)
    assert rest == {} and two.keys() == one.keys()
    for name in set(one) - {"loss"}:
        assert two[name] == one[name], name
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-6)
    if not whole:
        assert segmentation.measure({name: np.array(column) for name, column in two.items()}) == pytest.approx(
            segmentation.measure({name: np.array(column) for name, column in one.items()})
        )


def test_a_rank_without_a_row_takes_part(trained, together):  # noqa: F811
    two, rest = together(2, predicted_together, trained.path, True, 1)
    assert rest == {} and len(two["mask"]) == len(two["row"]) == 1 and two["mask"][0].startswith(b"\x89PNG")


def step_together(world, run_path):
    from instar import experiment as experiments
    from instar.engine import planning
    from instar.engine.ranks.parallel import parallel
    from instar.engine.step import Forward
    from instar.run import Run

    torch.set_num_threads(1)
    run = Run(run_path)
    experiment, rows = experiments.load(run.path), manifests.read(run.manifest_file)
    plan = planning.plan(experiment, rows, HERE, devices=world.size)
    learner = build.learner(experiment, plan)
    learner.module.eval()  # normalisation over the batch is each rank's own
    forward = parallel(Forward(learner), world, kind="ddp")
    batch = next(loaders.train_stream(build.reader(experiment, rows, HERE), build.order(rows, plan, experiment.train, world), start=0, total=8, batch=8,
                                      rank=world.rank, world=world.size, seed=1))  # fmt: skip
    losses = forward(batch, plan.progress(0))
    losses["total"].backward()
    confusion = world.sum(learner.counts["confusion"])
    gradient = torch.cat([weight.grad.flatten() for weight in learner.module.parameters()])
    return confusion.tolist(), gradient.tolist(), losses["total"].item()


def test_two_ranks_have_the_counts_and_the_gradient_of_one(trained, together):  # noqa: F811
    from instar.engine.ranks import world as worlds

    with worlds.join(worlds.Place(), folder=trained.path, device="cpu") as alone:
        confusion, gradient, loss = step_together(alone, trained.path)
    found = together(2, step_together, trained.path)
    assert found[0][0] == found[1][0] == confusion
    assert found[0][1] == pytest.approx(gradient, rel=1e-4, abs=1e-6)
    assert (found[0][2] + found[1][2]) / 2 == pytest.approx(loss, rel=1e-5)
