"""The classifier's losses, counts and predictions, against scikit-learn, PyTorch and formulas in float64."""

import timeit
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from instar import plugins
from instar.errors import ConfigError
from instar.networks import Encoder
from instar.plan import Progress
from instar.tasks import _losses, _mix

classification = plugins.load("tasks", "classification")
K = 5


def settings_of(**given):
    return classification.Settings.model_validate({"kind": "classification", **given})


def network(classes=K):
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(144, classes)
    )


def learner_of(*, weights=None, classes=K, batch=8, seed=3, **given):
    plan = SimpleNamespace(
        classes=tuple(f"class {number}" for number in range(classes)),
        class_weights_K=weights,
        channels_last=False,
        batch=batch,
        seed=seed,
    )
    return classification.learner(settings_of(**given), Encoder(network(classes), 144, (0.5,) * 3, (0.25,) * 3), plan)


def batch_of(rows=8, classes=K):
    draws = torch.Generator().manual_seed(1)
    return {
        "image": torch.randint(0, 256, (rows, 8, 8, 3), dtype=torch.uint8, generator=draws),
        "label": torch.randint(0, classes, (rows,), generator=draws),
    }


def at(samples=0):
    return Progress(samples=samples, epoch_samples=64, total=640, batch=8)


def logits_and_labels(rows=16, scale=3.0):
    draws = torch.Generator().manual_seed(2)
    return scale * torch.randn(rows, K, generator=draws), torch.randint(0, K, (rows,), generator=draws)


# --- losses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [_losses.cross_entropy, partial(_losses.focal, gamma=2.0)])
def test_a_loss_has_the_precision_of_its_logits_and_single_precision_at_least(loss):
    logits_BK, label_B = logits_and_labels(scale=30.0)
    weight_K = torch.tensor(WEIGHTS)
    exact_B = loss(logits_BK.double(), label_B, weight_K=weight_K, smoothing=0.1)
    assert exact_B.dtype == torch.float64
    single_B = loss(logits_BK, label_B, weight_K=weight_K, smoothing=0.1)
    assert (single_B.double() - exact_B).abs().max() > 1e-8  # what single precision loses
    assert loss(logits_BK.bfloat16(), label_B, weight_K=weight_K, smoothing=0.1).dtype == torch.float32


WEIGHTS = (0.5, 1.0, 2.0, 0.7, 0.8)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_focal_loss_is_the_formula_in_float64(smoothing, gamma, weights):
    logits_BK, label_B = logits_and_labels()
    weight_K = None if weights is None else torch.tensor(weights)
    ours_B = _losses.focal(logits_BK, label_B, weight_K=weight_K, smoothing=smoothing, gamma=gamma)
    p_BK = logits_BK.double().softmax(1).numpy()
    target_BK = np.eye(K)[label_B] * (1 - smoothing) + smoothing / K
    theirs_B = -(target_BK * np.array(weights or (1.0,) * K) * (1 - p_BK) ** gamma * np.log(p_BK)).sum(1)
    assert ours_B.numpy() == pytest.approx(theirs_B, rel=1e-4, abs=1e-6)


def test_focal_loss_of_two_classes_is_that_of_torchvision():
    logit_B, label_B = 3 * torch.randn(20, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2
    theirs_B = sigmoid_focal_loss(logit_B, label_B.float(), alpha=-1, gamma=2.0)
    two_BK = torch.stack([torch.zeros(20), logit_B], dim=1)
    ours_B = _losses.focal(two_BK, label_B, weight_K=None, smoothing=0.0, gamma=2.0)
    assert torch.allclose(ours_B, theirs_B, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_loss_of_a_certain_row_has_a_finite_gradient(gamma):
    logits_BK = torch.tensor([[200.0, -200.0, -200.0]], requires_grad=True)
    _losses.focal(logits_BK, torch.tensor([0]), weight_K=None, smoothing=0.0, gamma=gamma).sum().backward()
    assert torch.isfinite(logits_BK.grad).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_and_focal_loss_without_focus_are_pytorchs_rows(smoothing, weights):
    logits_BK, label_B = logits_and_labels()
    weight_K = None if weights is None else torch.tensor(weights)
    theirs_B = functional.cross_entropy(logits_BK, label_B, weight_K, label_smoothing=smoothing, reduction="none")
    for ours_B in (
        _losses.cross_entropy(logits_BK, label_B, weight_K=weight_K, smoothing=smoothing),
        _losses.focal(logits_BK, label_B, weight_K=weight_K, smoothing=smoothing, gamma=0.0),
    ):
        assert torch.allclose(ours_B, theirs_B, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "given",
    [{}, {"loss": "focal"}, {"label_smoothing": 0.1, "mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.3, "cutmix": 1.0}],
)
def test_gradients_of_ranks_and_micro_batches_add_up_to_that_of_the_batch(given):
    whole, parts = learner_of(weights=WEIGHTS, **given), learner_of(weights=WEIGHTS, **given)
    batch = batch_of(8)
    whole.losses(batch, at(64))["total"].backward()
    for part in (slice(0, 2), slice(2, 8)):
        piece = {name: value[part] for name, value in batch.items()}
        (parts.losses(piece, at(64))["total"] * (len(piece["label"]) / 8)).backward()
    for one, other in zip(whole.module.parameters(), parts.module.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, rtol=1e-4, atol=1e-7)
    assert torch.equal(whole.counts["confusion"], parts.counts["confusion"])


def test_a_classifier_learns():
    learner, batch = learner_of(), batch_of(16)
    optimizer = torch.optim.AdamW(learner.module.parameters(), lr=1e-2)
    first = learner.losses(batch, at())["total"].item()
    for _ in range(60):
        optimizer.zero_grad()
        learner.losses(batch, at())["total"].backward()
        optimizer.step()
    last = learner.losses(batch, at())
    assert last["total"].item() < first / 10
    assert last["accuracy"].all()


# --- counts --------------------------------------------------------------------------------------------------------


def test_counts_are_the_confusion_matrix_of_everything_seen():
    learner, batches = learner_of(), [batch_of(8), batch_of(5)]
    labels, predictions, accuracies = [], [], []
    for batch in batches:
        accuracies.append(float(learner.losses(batch, at())["accuracy"].float().mean()))
        labels.append(batch["label"])
        predictions.append(learner.predict(batch)["probability"].argmax(1))
    theirs = confusion_matrix(torch.cat(labels), torch.cat(predictions), labels=range(K))
    assert np.array_equal(learner.counts["confusion"], theirs)
    assert learner.counts["confusion"].dtype == torch.int64
    found = learner.summary(learner.counts)
    assert found["accuracy"] == pytest.approx(accuracy_score(torch.cat(labels), torch.cat(predictions)))
    assert (8 * accuracies[0] + 5 * accuracies[1]) / 13 == pytest.approx(found["accuracy"])


def test_counting_costs_microseconds():
    learner = learner_of(classes=163)
    logits_BK, label_B = torch.randn(64, 163), torch.arange(64)
    seconds = min(timeit.repeat(lambda: learner._count(logits_BK, label_B), number=20, repeat=20)) / 20
    assert seconds < 200e-6  # measured: about 30 us; the rest is for a busy machine


# --- predictions ---------------------------------------------------------------------------------------------------


def test_predictions_are_probabilities_and_plain_cross_entropy():
    learner, batch = learner_of(weights=WEIGHTS, loss="focal", label_smoothing=0.2, mixup=1.0), batch_of(8)
    batch["label"][3] = -1
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = learner.predict(batch)
    assert found["probability"].dtype == found["loss"].dtype == torch.float32
    assert torch.allclose(found["probability"].sum(1), torch.ones(8), atol=1e-6)
    own_B = found["probability"].gather(1, batch["label"].clamp_min(0)[:, None])[:, 0]
    known_B = batch["label"] >= 0
    assert torch.allclose(found["loss"][known_B], -own_B[known_B].log(), atol=1e-5)
    assert torch.isnan(found["loss"][~known_B]).all()
    assert learner.counts["confusion"].sum() == 0


# --- mixing --------------------------------------------------------------------------------------------------------


def test_a_mix_is_a_function_of_seed_and_position_only():
    draws = [_mix.draw(7, samples, mixup=0.4, cutmix=1.0) for samples in range(0, 640, 64)]
    assert draws == [_mix.draw(7, samples, mixup=0.4, cutmix=1.0) for samples in range(0, 640, 64)]
    assert len({mix.own for mix in draws}) == len(draws)
    assert draws != [_mix.draw(8, samples, mixup=0.4, cutmix=1.0) for samples in range(0, 640, 64)]


def test_shares_follow_the_beta_distribution_and_both_kinds_take_turns():
    draws = [_mix.draw(0, samples, mixup=0.4, cutmix=1.0) for samples in range(2000)]
    blends, boxes = ([mix.own for mix in draws if (mix.centre is None) is blend] for blend in (True, False))
    assert len(boxes) == pytest.approx(1000, abs=100)
    # The variance of Beta(a, a) is 1 / (4 (2 a + 1)).
    assert np.var(blends) == pytest.approx(1 / (4 * 1.8), rel=0.1)
    assert np.var(boxes) == pytest.approx(1 / (4 * 3.0), rel=0.1)


@pytest.mark.parametrize("rows", [1, 2, 7, 8])
def test_partners_are_neighbours_and_the_odd_one_stays_alone(rows):
    index = _mix.partners(rows, torch.device("cpu")).tolist()
    assert [index[other] for other in index] == list(range(rows))
    assert sum(index[row] == row for row in range(rows)) == rows % 2


def test_a_blend_is_the_weighted_mean():
    image = torch.rand(4, 3, 6, 6)
    mixed, own = _mix.apply(image.clone(), _mix.partners(4, image.device), _mix.Mix(0.7))
    assert torch.allclose(mixed[0], 0.7 * image[0] + 0.3 * image[1], atol=1e-6)
    assert own == 0.7


@pytest.mark.parametrize("own", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("centre", [(0.5, 0.5), (0.0, 0.99), (0.3, 0.05)])
def test_a_cut_box_is_the_partners_and_the_share_is_what_is_left_of_ones_own(own, centre):
    image = torch.stack([torch.zeros(1, 20, 30), torch.ones(1, 20, 30)])
    mixed, share = _mix.apply(image.clone(), _mix.partners(2, image.device), _mix.Mix(own, centre))
    assert share == pytest.approx(1 - float(mixed[0].mean()), abs=1e-6)
    assert torch.allclose(mixed[0], 1 - mixed[1])
    assert share >= own - 0.1


def test_the_loss_of_a_mix_is_that_of_soft_labels():
    learner, batch = learner_of(mixup=0.4, label_smoothing=0.1), batch_of(8)
    mix = _mix.draw(3, 64, mixup=0.4, cutmix=0.0)
    image_BCHW = (batch["image"].permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    index_B = torch.tensor([1, 0, 3, 2, 5, 4, 7, 6])
    logits_BK = learner.module(image_BCHW * mix.own + image_BCHW[index_B] * (1 - mix.own))
    one_BK = functional.one_hot(batch["label"], K).float()
    theirs = functional.cross_entropy(
        logits_BK, mix.own * one_BK + (1 - mix.own) * one_BK[index_B], label_smoothing=0.1
    )
    assert learner.losses(batch, at(64))["total"].item() == pytest.approx(theirs.item(), rel=1e-5)


# --- settings ------------------------------------------------------------------------------------------------------


def test_recipes_that_cannot_be_meant_are_refused():
    with pytest.raises(ConfigError, match=r"mixup.*one class"):
        learner_of(mixup=0.2, classes=1)
    with pytest.raises(ConfigError, match=r"cutmix.*train\.batch is 1"):
        learner_of(cutmix=1.0, batch=1)
    with pytest.raises(ValueError, match="gamma"):
        settings_of(gamma=3.0)
    with pytest.raises(ValueError, match="none or oversample or sqrt or weights"):
        settings_of(balance="oversmaple")


def test_settings_are_saved_and_read_back_equal():
    settings = settings_of(loss="focal", gamma=3.0, balance="sqrt", mixup=0.2)
    assert type(settings).model_validate_json(settings.model_dump_json(), strict=True) == settings


@pytest.mark.parametrize("kind", plugins.kinds("tasks"))
def test_every_task_says_what_it_needs_and_what_is_best(kind):
    module = plugins.load("tasks", kind)
    assert module.needs
    assert isinstance(module.METRIC, str)
    assert module.MODE in ("max", "min")
