"""DINO: its loss against algorithm 1 of the paper and lightly, its schedules, strategies, and trainings that are killed."""

import math
import warnings

import pytest
import torch

from instar import evaluate, plugins
from instar.errors import Again, ConfigError, RunError
from instar.tasks import _dino
from tests.fakes.sky import folder_of_pairs
from tests.fakes.training import fingerprint, train

VIT = {"kind": "vit", "name": "tiny", "depth": 1, "patch": 8}
READER = {"kind": "image_pair", "image": {"part": "left"}, "other": {"bounds": [-10, 0]}}
TASK = {"kind": "dino", "prototypes": 12, "hidden": 16, "bottleneck": 8, "local": {"count": 2, "size": 8}}
SMALL = {"model": VIT, "augment": {"kind": "imagenet", "size": 16}, "train__epochs": 2, "train__batch": 8}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("INSTAR_CACHE", str(tmp_path / "cache"))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    return folder_of_pairs(tmp_path_factory.mktemp("it's $(a) sky"), num=40)


def training(tmp_path, sky, **changes):
    task = TASK | changes.pop("task", {})
    return train(tmp_path, root=sky, data__reader=READER, **(SMALL | {"task": task} | changes))


def test_the_loss_is_that_of_the_paper():
    """Algorithm 1: t = softmax((t - C) / tpt), s = log_softmax(s / tps), -(t * s).sum(1).mean(), over other views."""
    torch.manual_seed(0)
    student = [torch.randn(5, 7, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    teacher, centre = [torch.randn(5, 7, dtype=torch.float64) for _ in range(2)], torch.randn(1, 7, dtype=torch.float64)
    terms = []
    for at, answer in enumerate(teacher):
        for view, guess in enumerate(student):
            if at != view:
                t, s = ((answer - centre) / 0.04).exp(), (guess / 0.1).exp()
                t, s = t / t.sum(1, keepdim=True), s / s.sum(1, keepdim=True)
                terms.append(-(t * s.log()).sum(1).mean())
    theirs = sum(terms) / len(terms)
    ours = _dino.cross_entropy(student, teacher, centre, warmth=0.1, teacher_warmth=0.04)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    for one, other in zip(torch.autograd.grad(ours, student), torch.autograd.grad(theirs, student), strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-7)


def test_loss_and_centre_are_those_of_lightly_over_several_steps():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other libraries that it imports
        theirs_of = pytest.importorskip("lightly.loss").DINOLoss
        theirs = theirs_of(output_dim=64, warmup_teacher_temp=0.04, warmup_teacher_temp_epochs=1, teacher_temp=0.04)
    generator, centre_1P = torch.Generator().manual_seed(0), torch.zeros(1, 64)
    for _ in range(5):
        views = [torch.randn(16, 64, generator=generator) for _ in range(8)]
        teacher, student = views[:2], views[2:]
        ours = _dino.cross_entropy(student, teacher, centre_1P, warmth=0.1, teacher_warmth=0.04)
        torch.testing.assert_close(ours, theirs(teacher, student, epoch=5), rtol=1e-6, atol=0)
        centre_1P.lerp_(torch.cat(teacher).mean(0, keepdim=True), 0.1)
        torch.testing.assert_close(centre_1P, theirs.center.reshape(1, -1), rtol=0, atol=1e-7)


def test_prototypes_have_length_one_and_stand_still_while_frozen():
    torch.manual_seed(0)
    head = _dino.Head(6, 9, hidden=8, bottleneck=4, layers=3, unit=True)
    feature = torch.randn(3, 6)
    theirs = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(4, 9, bias=False))
    theirs.parametrizations.weight.original0.data.fill_(1)
    theirs.parametrizations.weight.original1.data.copy_(head.direction.data)
    unit = torch.nn.functional.normalize(head.layers(feature), dim=-1)
    assert torch.allclose(head(feature), theirs(unit), atol=1e-6)
    for frozen, moved in ((True, False), (False, True)):
        head.zero_grad()
        head(feature, frozen=frozen).square().sum().backward()
        assert bool(head.direction.grad.abs().sum() > 0) is moved
        assert head.layers[0].weight.grad.abs().sum() > 0


def test_momentum_rises_along_half_a_cosine_and_temperature_in_a_line():
    assert [_dino.rising(0.996, 1.0, share) for share in (0, 0.5, 1)] == pytest.approx([0.996, 0.998, 1.0])
    assert [_dino.warmed(0.04, 0.07, done, 30) for done in (0, 10, 30, 99)] == pytest.approx([0.04, 0.05, 0.07, 0.07])


def test_the_teacher_is_the_running_average_and_the_centre_that_of_its_answers(tmp_path, sky):
    outcome = training(tmp_path, sky, train__epochs=0.25, train__evaluate="1 epochs", train__every="8 samples", train__keep=50,
                       optim__lr=0.05, task={"momentum": 0.5, "freeze_last": "0 epochs"})  # fmt: skip
    first, last = (_tensors(outcome.run.checkpoints / name) for name in _names(outcome.run)[:2])
    total, key = outcome.plan.total_samples, "patch_embed.proj.weight"
    keep = 1.0 + 0.5 * (0.5 - 1.0) * (1 + math.cos(0.0))
    expected = keep * first[f"encoders.teacher.{key}"] + (1 - keep) * last[f"encoders.student.{key}"]
    assert torch.allclose(last[f"encoders.teacher.{key}"], expected, atol=1e-6) and total >= 8
    assert not torch.equal(first["centre"], last["centre"]) and first["centre"].abs().sum() == 0


def _names(run):
    return sorted(path.name for path in run.checkpoints.glob("samples-*"))


def _tensors(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("strategy", ["image", "other", "alternate", "image_teaches", "other_teaches"])
def test_every_strategy_shows_its_sensors_to_teacher_and_student(tmp_path, sky, strategy):
    outcome = training(tmp_path, sky, task={"strategy": strategy}, train__epochs=1)
    learner = _learner(outcome)
    seen = []
    learner._logits = lambda who, view, frozen=False: (
        seen.append((who, float(view.flatten()[0]))) or torch.zeros(2, 12, requires_grad=True)
    )  # type: ignore[method-assign]
    branches = plugins.load("tasks", "dino").crops(learner._settings).branches
    number = {"image": 1.0, "other": 2.0}
    batch = {name: torch.full((2, 2, 16, 16, 3), number[name]) for name in branches}
    batch |= {f"{name}_local": torch.full((2, 2, 8, 8, 3), number[name]) for name in branches}
    told = []
    for step in range(2):
        seen.clear()
        learner.losses(batch, outcome.plan.progress(step * 8))
        told.append({who: sorted({one for name, one in seen if name == who}) for who in ("teacher", "student")})
    expected = {
        "image": [([1.0], [1.0])] * 2,
        "other": [([2.0], [2.0])] * 2,
        "alternate": [([1.0], [1.0]), ([2.0], [2.0])],
        "image_teaches": [([1.0], [2.0])] * 2,
        "other_teaches": [([2.0], [1.0])] * 2,
    }
    assert [(one["teacher"], one["student"]) for one in told] == expected[strategy]
    assert "retrieval" in evaluate.evaluate(outcome.run)


def _learner(outcome):
    from instar import experiment as experiments
    from instar.engine import build

    return build.learner(experiments.load(outcome.run.path), outcome.plan)


def test_stopped_and_resumed_equals_never_stopped(tmp_path, sky):
    rising = {"schedule": {"kind": "cosine", "decay_to": 0.4}, "optim__weight_decay": 0.04, "train__log": 1}
    whole = training(tmp_path, sky, run="whole", **rising)
    for fault in ("step.end:3:term", "loop.evaluate:1:term"):
        with pytest.raises(Again, match="SIG"):
            training(tmp_path, sky, run="stopped", fault=fault, **rising)
    assert fingerprint(training(tmp_path, sky, run="stopped", **rising).run) == fingerprint(whole.run)
    logged = [line["weight_decay"] for line in whole.run.metrics() if line["kind"] == "train"]
    assert logged[0] == pytest.approx(0.04) and logged == sorted(set(logged)) and 0.3 < logged[-1] < 0.4


def test_another_length_asks_what_the_weight_decay_is_to_do(tmp_path, sky):
    rising = {"schedule": {"kind": "cosine", "decay_to": 0.4}, "optim__weight_decay": 0.04}
    with pytest.raises(Again):
        training(tmp_path, sky, fault="step.end:3:term", **rising)
    with pytest.raises(
        RunError, match=r"The weight decay was 0\.\d+; it becomes stretch 0\.\d+, tail .*on_change=tail"
    ):
        training(tmp_path, sky, train__epochs=4, **rising)
    outcome = training(tmp_path, sky, train__epochs=4, options={"on_change": "tail"}, **rising)
    assert outcome.run.metrics()[-1]["weight_decay"] == pytest.approx(0.4)


def test_micro_batches_change_nothing_but_rounding(tmp_path, sky):
    whole, parts = (training(tmp_path, sky, run=f"m{micro}", train__micro=micro) for micro in (8, 3))
    for one, other in zip(whole.run.metrics(), parts.run.metrics(), strict=True):
        if one["kind"] == "train":
            assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data__reader": {"kind": "image_pair"}}, "the second 1 of 16.*bounds"),
        ({"task": TASK | {"local": {"count": 1, "size": 12}}}, "does not take crops of 12x12"),
        ({"task": TASK | {"teacher_temperature": 0.2}}, "teacher_temperature: must be below temperature"),
        ({"schedule__decay_to": 0.4, "optim__weight_decay": 0.0}, r"schedule\.decay_to: moves the weight decay, but"),
        ({"data__reader": "image_label"}, "image_label does not give views of image and other"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, sky, changes, said):
    with pytest.raises(ConfigError, match=said):
        train(tmp_path, root=sky, **(SMALL | {"task": TASK, "data__reader": READER} | changes))
