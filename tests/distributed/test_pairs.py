"""Losses over the rows of all ranks are those of one process with all rows, however unevenly these are spread."""

import pytest
import torch
import torch.distributed as dist

from instar import plugins
from instar.engine.optimise import Optimise
from instar.engine.ranks.parallel import parallel
from instar.engine.ranks.syncnorm import convert
from instar.engine.ranks.world import World
from instar.engine.step import Forward, Stepper
from instar.networks import Encoder
from instar.plan import Plan
from instar.tasks import _dino, _gather, _vicreg

BATCH = 7  # of which two ranks have 3 and 4 rows
ONE = World(0, 1, 0, torch.device("cpu"))


def rows(world):
    return slice(*_gather.rows_of(world.rank, batch=BATCH, world=world.size))


def vicreg_gradient(world: World, width: int):
    """The loss, and its gradient for a linear layer in float64, as a step of several ranks would add it up."""
    generator = torch.Generator().manual_seed(1)
    image, other, weight = (
        torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((BATCH, 5), (BATCH, 5), (5, width))
    )
    weight.requires_grad_()
    own = [(one[rows(world)] @ weight).tanh() for one in (image, other)]
    terms = _vicreg.terms(*(_gather.everybody(one, batch=BATCH) for one in own))
    total = 25 * terms["invariance"] + 25 * terms["variance"] + terms["covariance"]
    (total * len(own[0]) * world.size / BATCH).backward()
    gradient = weight.grad / world.size
    if world.size > 1:
        dist.all_reduce(gradient)
    return total.item(), gradient.tolist()


@pytest.mark.parametrize("width", [3, 40])
def test_the_loss_of_vicreg_and_its_gradient_are_those_of_one_process(together, width):
    total, gradient = vicreg_gradient(ONE, width)
    for found, slope in together(2, vicreg_gradient, width):
        assert found == pytest.approx(total, rel=1e-9)
        assert torch.allclose(torch.tensor(slope), torch.tensor(gradient), rtol=1e-6, atol=1e-9)


def trained(world: World, kind: str, steps: int):
    """The weights after some steps on this rank's rows of each batch, and a learner's own state."""
    torch.manual_seed(3)
    task = plugins.load("tasks", kind)
    plan = _plan(world)
    given = {"projector": [6, 10]} if kind == "vicreg" else {
        "prototypes": 9, "hidden": 8, "bottleneck": 4, "local": {"count": 0}, "strategy": "image_teaches", "momentum": 0.6,
        "freeze_last": "0 epochs",
    }  # fmt: skip
    settings = task.Settings.model_validate({"kind": kind, **given})
    learner = task.learner(settings, {name: _encoder(kind) for name in task.networks(settings, None)}, plan)
    if not learner.cuts:
        convert(learner.module, world)
    optim = plugins.load("optimizers", "sgd").Settings(kind="sgd", lr=0.05)
    forward = parallel(Forward(learner), world)
    stepper = Stepper(learner, forward, Optimise(learner.module, optim), plan=plan, rank=world.rank)
    learner.module.train()
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        shape = (BATCH, 6, 6, 3) if kind == "vicreg" else (BATCH, 2, 6, 6, 3)
        batch = {name: torch.randn(*shape, generator=generator)[rows(world)] for name in ("image", "other")}
        stepper.take({**batch, "row": torch.arange(BATCH)[rows(world)]}, plan.progress(step * BATCH))
    return {name: one.flatten().tolist() for name, one in learner.module.state_dict().items()}


def _encoder(kind):
    norm = [torch.nn.BatchNorm2d(4)] if kind == "vicreg" else []
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), *norm, torch.nn.Tanh(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )
    return Encoder(network, num_features=4, mean=(0.0,) * 3, std=(1.0,) * 3)


def _plan(world):
    return Plan(
        classes=("a",), channels=3, size=6, train_rows=28, val_rows=0, test_rows=0, class_counts_K=(28,), quotas_K=(28,),
        class_weights_K=None, epoch_samples=28, total_samples=28, batch=BATCH, micro=BATCH, devices=world.size, workers=0,
        device="cpu", precision="fp32", channels_last=False, manifest_hash="", seed=0, other_channels=3, other_size=6,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["vicreg", "dino"])
def test_two_ranks_train_to_the_weights_of_one_process(together, kind):
    alone = trained(ONE, kind, 3)
    first, second = together(2, trained, kind, 3)
    for name, values in alone.items():
        if "num_batches" not in name:
            assert first[name] == pytest.approx(second[name], rel=1e-5, abs=1e-6), name
            assert first[name] == pytest.approx(values, rel=1e-3, abs=2e-6), name
    if kind == "dino":
        assert sum(abs(one) for one in alone["centre"]) > 0
        assert alone["encoders.teacher.0.weight"] != alone["encoders.student.0.weight"]


def dino_loss(world: World):
    """The loss of all rows, from each rank's mean over its own."""
    generator = torch.Generator().manual_seed(2)
    views = [torch.randn(BATCH, 6, generator=generator, dtype=torch.float64)[rows(world)] for _ in range(4)]
    loss = _dino.cross_entropy(views, views[:2], torch.zeros(1, 6), warmth=0.1, teacher_warmth=0.05)
    whole = loss * len(views[0]) / BATCH
    if world.size > 1:
        dist.all_reduce(whole)
    return whole.item()


def test_the_loss_of_dino_is_that_of_one_process(together):
    alone = dino_loss(ONE)
    assert all(found == pytest.approx(alone, rel=1e-6) for found in together(2, dino_loss))
