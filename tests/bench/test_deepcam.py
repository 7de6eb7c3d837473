"""`instar bench deepcam`: fields, recipe, training and check by one command."""

import json
from pathlib import Path

import pytest

from instar import cli
from instar.bench import deepcam
from instar.bench.check import check, not_comparable
from instar.experiment import load
from instar.run import Run

README = Path("recipes/deepcam/README.md")
TINY = [
    "data=synthetic",
    "samples=20",
    "size=16x24",
    "model=tests.fakes.tiny_fcn",
    "train.epochs=1",
    "workers=0",
    "device=cpu",
]


@pytest.fixture(scope="module")
def benched(tmp_path_factory):
    """A tiny run that misses the target, in a folder that shells dislike."""
    folder = tmp_path_factory.mktemp("bench") / "it's $(a) place"
    return folder, cli.main(["bench", "deepcam", *TINY, f"folder={folder}", "--quiet"])


def test_a_target_that_was_missed_is_an_exit_code_of_its_own_and_said(benched, capsys):
    folder, code = benched
    assert code == 65
    assert cli.main(["bench", "deepcam", "--check", str(folder / "runs" / "deepcam")]) == 65
    told = capsys.readouterr().out
    assert "FAILED" in told and "the target was missed" in told


def test_it_says_why_its_time_may_not_stand_beside_published_ones(benched):
    found = " | ".join(not_comparable(Run(benched[0] / "runs" / "deepcam")))
    for reason in (
        "the fields are synthetic",
        "training samples: 16, not 121,266",
        "fields: 16x24, not 768x1152",
        "network",
    ):
        assert reason in found


def test_the_same_command_again_checks_and_trains_nothing(benched, capsys):
    folder, _ = benched
    log = folder / "runs" / "deepcam" / "mlperf.log"
    before = log.read_bytes()
    assert cli.main(["bench", "deepcam", *TINY, f"folder={folder}", "--json"]) == 65
    assert log.read_bytes() == before
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert facts["division"] == "open" and not facts["passed"] and facts["differences"]


def test_a_log_that_claims_the_benchmarks_sizes_is_flagged(benched):
    folder, _ = benched
    log = folder / "runs" / "deepcam" / "mlperf.log"
    honest = log.read_text()
    try:
        faked = honest.replace('"key": "train_samples", "value": 16', '"key": "train_samples", "value": 121266')
        assert faked != honest
        log.write_text(faked)
        assert "not valid: the log says train_samples 121266, but this run had 16" in check(log.parent).complaints
    finally:
        log.write_text(honest)


def test_the_small_recipe_is_the_benchmark_but_for_size_network_and_second_loss(tmp_path):
    made = deepcam.prepare(tmp_path / "a place", samples=20, height=16, width=24)
    small, whole = load(made.recipe), load("recipes/deepcam/recipe.yaml")
    assert small.task.also == "dice" and small.task.model_copy(update={"also": "none"}) == whole.task
    assert small.augment == whole.augment
    assert (small.train.target, small.train.metric, small.train.average_bn) == (0.82, "sample_iou", True)
    assert small.data.reader.names == whole.data.reader.names and small.data.reader.classes == whole.data.reader.classes


@pytest.mark.parametrize(
    ("name", "batch", "lr", "warmup", "milestones", "groups"),
    [
        ("64x8x2", 1024, 4.0e-3, 200, (1100, 4096), False),
        ("256x8x1", 2048, 5.5e-3, 400, (800,), 2),
        ("weak", 128, 1.0e-3, 0, (8192, 16384), False),
    ],
)
def test_the_published_configurations_are_as_published(name, batch, lr, warmup, milestones, groups):
    recipe = load(f"recipes/deepcam/{name}.yaml")
    assert (recipe.train.batch, recipe.optim.lr, recipe.train.sync_bn) == (batch, lr, groups)
    assert (recipe.schedule.lr_warmup_steps, recipe.schedule.milestones, recipe.schedule.decay_rate) == (
        warmup,
        milestones,
        0.1,
    )
    assert (recipe.optim.kind, recipe.optim.weight_decay, recipe.optim.eps, recipe.optim.decay_all) == (
        "lamb",
        0.01,
        1e-6,
        True,
    )
    assert recipe.model.kind == "deeplab_xception"


# Each row of the README's table that sets something, as one would type it, and where it must arrive.
ROWS = {
    "--optimizer Adam": (["optim.kind=adam", "optim.eps=1.0e-6"], {"optim.eps": 1e-6, "optim.decay_all": True}),
    "`AdamW`": (["optim.kind=adamw", "optim.eps=1.0e-6"], {"optim.kind": "adamw", "optim.eps": 1e-6}),
    "LAMB: bias": (["optim.bias_correction=false", "optim.grad_averaging=false", "optim.max_grad_norm=2.0"],
                   {"optim.bias_correction": False, "optim.grad_averaging": False, "optim.max_grad_norm": 2.0}),
    "--start_lr": (["optim.lr=2.0e-3", "optim.betas=[0.9, 0.99]", "optim.weight_decay=1.0e-6"],
                   {"optim.lr": 2e-3, "optim.betas": (0.9, 0.99), "optim.weight_decay": 1e-6}),
    "type=multistep": (["schedule={kind: deepcam, type: multistep, milestones: [2048, 4096], decay_rate: 0.1}"],
                       {"schedule.milestones": (2048, 4096), "schedule.decay_rate": 0.1}),
    "type=cosine_annealing": (["schedule={kind: deepcam, type: cosine_annealing, t_max: 9000, eta_min: 0.1}"],
                              {"schedule.t_max": 9000, "schedule.eta_min": 0.1}),
    "--lr_warmup_steps": (["schedule.lr_warmup_steps=100", "schedule.lr_warmup_factor=2.0"],
                          {"schedule.lr_warmup_steps": 100, "schedule.lr_warmup_factor": 2.0}),
    "--batchnorm_group_size": (["train.sync_bn=2"], {"train.sync_bn": 2}),
    "before validation": (["train.average_bn=true"], {"train.average_bn": True}),
    "--local_batch_size` x": (["train.batch=256"], {"train.batch": 256}),
    "--gradient_accumulation_frequency": (["train.micro=1"], {"train.micro": 1}),
    "--max_epochs": (["seed=7", "train.epochs=5", "train.target=0.8"], {"seed": 7, "train.target": 0.8}),
    "--precision_mode": (["train.precision=fp16"], {"train.precision": "fp16"}),
    "--enable_nhwc": (["train.channels_last=true", "train.compile=graphs"], {"train.compile": "graphs"}),
    "--channels": (["data.reader.channels=[TMQ, U850, V850, PRECT]"], {"data.reader.channels": ("TMQ", "U850", "V850", "PRECT")}),
    "--shuffle_mode": (["train.shuffle=node"], {"train.shuffle": "node"}),
    "--data_oversampling_factor": (["train.shuffle=gpu", "train.oversampling=2"], {"train.oversampling": 2}),
    "--disable_validation": (["train.evaluate=30 epochs"], {}),
    "--data_augmentations": (["augment.roll=false", "augment.vflip=0"], {"augment.roll": False, "augment.vflip": 0.0}),
    "--save_frequency": (["train.every=10 min"], {}),
    "drop_caches": (["mlperf.cache_cleared=true"], {"mlperf.cache_cleared": True}),
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
def test_each_hyperparameter_of_the_benchmark_is_set_by_its_row_of_the_table(row):
    words, arrives = ROWS[row]
    line = next(line for line in README.read_text().splitlines() if line.startswith("| ") and row in line.split("|")[1])
    for key in {word.partition("=")[0] for word in words} - {"schedule"}:
        assert key.rpartition(".")[2] in line, f"{key} is not in the row"
    recipe = load("recipes/deepcam/recipe.yaml", words)
    for path, value in arrives.items():
        found = recipe
        for part in path.split("."):
            found = getattr(found, part)
        assert found == value


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["deepcan"], "there is no benchmark 'deepcan'"),
        (["deepcam"], "say on what: data=synthetic"),
        (["deepcam", "data=/data/deepcam"], "data.root=/data/deepcam"),
        (["deepcam", "data=synthetic", "samples=3", "size=8by8"], "samples=3: write a number of at least 10"),
        (["deepcam", "data=synthetic", "samples=20", "size=8by8"], "size=8by8: write height x width"),
        (["deepcam", "recipes/deepcam/recipe.yaml", "samples=20"], "goes with data=synthetic"),
    ],
)
def test_what_cannot_be_meant_is_said(words, told, capsys, tmp_path, monkeypatch):
    assert cli.main(["bench", *words]) == 65
    assert told in capsys.readouterr().err


@pytest.mark.scenario
def test_the_demo_reaches_the_target_and_success(tmp_path, capsys):
    """Slow: two minutes of processor time."""
    assert cli.main(["demo", "deepcam", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "checker  SUCCESS" in told and "synthetic" in told and "not comparable" in told
    assert (tmp_path / "deepcam" / "runs" / "deepcam" / "report.html").is_file()
