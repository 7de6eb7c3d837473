"""Losses of pixels against formulas in float64 and against segmentation-models-pytorch."""

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch

from instar.masks import IGNORE
from instar.tasks import _pixel_losses as losses

K = 3


def problem(rows=4, height=7, width=9, ignored=True):
    draws = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(rows, K, height, width, generator=draws)
    mask = torch.randint(0, K, (rows, height, width), generator=draws, dtype=torch.uint8)
    if ignored:
        mask[torch.rand(mask.shape, generator=draws) < 0.2] = IGNORE
    mask[1][mask[1] == 2] = 0  # a row without one of the classes
    return logits.requires_grad_(), mask


def in_numpy(logits, mask, *, weight=(1.0,) * K, gamma=0.0):
    """-w (1-p)^gamma log p, the mean over the known pixels of each row, in float64."""
    logits, mask = logits.detach().double().numpy(), mask.numpy()
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    probability = shifted / shifted.sum(1, keepdims=True)
    found = []
    for row in range(len(mask)):
        total = []
        for y, x in np.argwhere(mask[row] != IGNORE):
            p = probability[row, mask[row, y, x], y, x]
            total.append(-weight[mask[row, y, x]] * (1 - p) ** gamma * np.log(p))
        found.append(np.mean(total))
    return np.array(found)


DEEPCAM = [share**-0.125 for share in (0.986267818390377, 0.0004578708870701058, 0.01327431072255291)]


@pytest.mark.parametrize("weight", [None, DEEPCAM])
def test_cross_entropy_is_the_formula_and_is_not_divided_by_weights(weight):
    logits, mask = problem()
    ours = losses.cross_entropy(logits, mask, weight_K=None if weight is None else torch.tensor(weight))
    assert ours.detach().numpy() == pytest.approx(in_numpy(logits, mask, weight=weight or (1.0,) * K), rel=1e-5)


def test_where_all_pixels_are_known_the_mean_of_rows_is_the_mean_of_pixels_as_in_deepcam():
    logits, mask = problem(ignored=False)
    weight = torch.tensor(DEEPCAM)
    theirs = torch.nn.functional.cross_entropy(logits, mask.long(), weight=weight, reduction="none").mean()
    assert losses.cross_entropy(logits, mask, weight_K=weight).mean().item() == pytest.approx(theirs.item(), rel=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_is_the_formula(gamma):
    logits, mask = problem()
    ours = losses.focal(logits, mask, weight_K=torch.tensor([1.0, 2.0, 3.0]), gamma=gamma)
    assert ours.detach().numpy() == pytest.approx(in_numpy(logits, mask, weight=(1, 2, 3), gamma=gamma), rel=1e-4)


@pytest.mark.parametrize("ignored", [False, True])
def test_lovasz_is_that_of_smp_row_by_row(ignored):
    logits, mask = problem(ignored=ignored)
    theirs = smp.losses.LovaszLoss("multiclass", per_image=True, ignore_index=IGNORE)
    rows = [theirs(logits[row : row + 1], mask[row : row + 1].long()).item() for row in range(len(mask))]
    assert losses.lovasz(logits, mask).tolist() == pytest.approx(rows, rel=1e-5)


def test_dice_is_that_of_smp_row_by_row():
    logits, mask = problem(ignored=False)
    theirs = smp.losses.DiceLoss("multiclass")
    rows = []
    for row in range(len(mask)):
        present = len(mask[row].unique())
        # smp divides by all classes, and leaves absent ones at 0; ours divides by those that are there.
        rows.append(theirs(logits[row : row + 1], mask[row : row + 1].long()).item() * K / present)
    assert losses.dice(logits, mask).tolist() == pytest.approx(rows, rel=1e-5)


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "dice", "lovasz"])
def test_what_nobody_knows_changes_no_loss_and_has_no_slope(name):
    loss = {
        "cross_entropy": lambda *one: losses.cross_entropy(*one, weight_K=None),
        "focal": lambda *one: losses.focal(*one, weight_K=None, gamma=0.5),
        "dice": losses.dice,
        "lovasz": losses.lovasz,
    }[name]
    logits, mask = problem()
    loss(logits, mask).mean().backward()
    unknown = (mask == IGNORE)[:, None].expand_as(logits)
    assert logits.grad.isfinite().all() and logits.grad[~unknown].abs().sum() > 0
    assert logits.grad[unknown].abs().max() < 1e-7
    other = torch.where(unknown, 5.0, logits.detach())
    assert torch.allclose(loss(other, mask), loss(logits, mask), atol=1e-6)
    assert loss(logits, torch.full_like(mask, IGNORE)).tolist() == [0.0] * len(mask)
