import json
import pickle
from pathlib import Path

import pytest

from instar import plugins
from instar.errors import ConfigError
from instar.experiment import Experiment, differences, load, schema, signature
from instar.settings import dump, parse

RECIPE = """\
name: butterflies
seed: 42
data:     {root: ROOT, reader: image_label, min_per_class: 50, split: {test: 0.1, val: 0.2, stratify: true}}
model:    {kind: torchvision, name: maxvit_t, pretrained: true}
task:     {kind: classification, balance: oversample, label_smoothing: 0.1}
augment:  {kind: butterflies, size: 224}
optim:    {kind: adamw, lr: 1.0e-3, weight_decay: 1.0e-5, clip: 1.0}
schedule: {kind: cosine, warmup: 5 %}
train:    {epochs: 40, batch: 256, precision: bf16, every: 10 min}
"""


@pytest.fixture
def recipe(tmp_path):
    file = tmp_path / "a recipe's folder" / "recipe.yaml"
    file.parent.mkdir()
    file.write_text(RECIPE.replace("ROOT", str(tmp_path)), encoding="utf-8")
    return file


def mistakes_of(source, *overrides):
    with pytest.raises(ConfigError) as caught:
        load(source, overrides)
    return caught.value.mistakes


def test_the_recipe_of_the_design_is_an_experiment(recipe):
    experiment = load(recipe, ["optim.lr=0.1", "train.epochs=3"])
    assert (experiment.name, experiment.optim.lr, experiment.train.epochs) == ("butterflies", 0.1, 3)
    assert (experiment.model.kind, experiment.model.name) == ("torchvision", "maxvit_t")


def test_a_folder_of_images_is_an_experiment(tmp_path):
    experiment = load(tmp_path, ["model=resnet50"])
    assert (experiment.data.root, experiment.model.name) == (tmp_path, "resnet50")


def test_what_is_saved_is_loaded_equal(recipe, tmp_path):
    experiment = load(recipe)
    run = tmp_path / "runs" / "x"
    run.mkdir(parents=True)
    (run / "experiment.yaml").write_text(dump(experiment), encoding="utf-8")
    assert load(run) == load(run / "experiment.yaml") == experiment
    assert signature(load(run)) == signature(experiment)
    assert dump(load(run)) == dump(experiment)


@pytest.mark.parametrize("shelf, group", [("models", "model"), ("tasks", "task"), ("optimizers", "optim"),
                                          ("schedules", "schedule"), ("readers", "data.reader")])  # fmt: skip
def test_every_kind_survives_saving(shelf, group, tmp_path):
    for kind in plugins.kinds(shelf):
        changes = [f"{group}={kind}"] + (["train.stop_early=null"] if kind == "plateau" else [])
        experiment = load(tmp_path, changes)
        assert load(parse(dump(experiment), name="saved")) == experiment


def test_an_experiment_can_be_pickled(recipe):
    experiment = load(recipe)
    assert pickle.loads(pickle.dumps(experiment)) == experiment


def test_an_experiment_cannot_be_changed(recipe):
    with pytest.raises(ValueError, match="frozen"):
        load(recipe).seed = 1


def test_relative_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    experiment = load({"data": {"root": "images", "index": {"train": "a.npy"}}}, ["schedule=constant"])
    assert experiment.data.root == tmp_path / "images"
    assert experiment.data.index.train == tmp_path / "a.npy"


def test_signature_is_of_what_decides_the_result(recipe):
    same = ["name=other", "train.every=1 min", "train.keep=5", "train.log=7"]
    assert signature(load(recipe, same)) == signature(load(recipe))
    for change in ("seed=1", "optim.lr=1e-4", "train.epochs=41", "model.name=vit_b_16", "augment.hflip=0.1"):
        assert signature(load(recipe, [change])) != signature(load(recipe)), change


def test_differences_name_the_setting_and_both_values(recipe):
    before, after = load(recipe), load(recipe, ["optim.lr=0.01", "task.balance=none", "name=x"])
    assert differences(before, before) == []
    assert differences(before, after) == ['task.balance: "oversample" -> "none"', "optim.lr: 0.001 -> 0.01"]


def test_mistakes_of_every_group_come_at_once(recipe):
    text = recipe.read_text(encoding="utf-8")
    for right, wrong in {"seed": "sede", "lr: 1.0e-3": "lr: fast", "kind: cosine": "kind: cosinus", "bf16": "bf61",
                         "label_smoothing: 0.1": "label_smoothing: 2", "val: 0.2": "val: no"}.items():  # fmt: skip
        text = text.replace(right, wrong)
    recipe.write_text(text, encoding="utf-8")
    found = mistakes_of(recipe, "train.micro=512", "workerss=3", "~nothing")
    assert len(found) == 9
    assert found[0].startswith("command line: '~nothing'")
    assert found[1] == f"{recipe}:2: unknown key 'sede': did you mean 'seed'?"
    assert all(f"{recipe}:" in mistake for mistake in found[1:7])
    assert any("train.micro: 512 is more than train.batch, 256" in mistake for mistake in found)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["train.micro=65"], "train.micro: 65 is more than train.batch, 64"),
        (["data.columns.group=animal"], "data.columns: there are columns, but no table"),
        (["data.table=t.csv", "data.index={train: a.npy}"], "data.index: index files count the class folders"),
        (["data.split.val=0", "train.stop_early={patience: 3}"], "train.stop_early: needs validation rows"),
        (["data.split.val=0", "schedule=plateau"], "schedule: plateau needs validation rows"),
    ],
)
def test_settings_that_do_not_go_together_say_so(overrides, message, tmp_path):
    found = mistakes_of(tmp_path, *overrides)
    assert len(found) == 1 and message in found[0]


def test_conflicts_come_together_with_other_mistakes(tmp_path):
    found = mistakes_of(tmp_path, "train.micro=65", "optim.lr=fast", "data.columns.group=animal")
    assert len(found) == 3


def test_a_source_that_is_not_there_names_the_near_miss(recipe):
    assert mistakes_of(recipe.with_name("recipy.yaml")) == [
        f"{recipe.with_name('recipy.yaml')} does not exist. Did you mean {str(recipe)!r}?"
    ]
    assert "Give a folder of images or a recipe" in mistakes_of(Path("/no/such/place"))[0]


def test_a_recipe_without_data_says_what_is_missing(tmp_path):
    (tmp_path / "r.yaml").write_text("seed: 1\n")
    assert mistakes_of(tmp_path / "r.yaml") == [f"{tmp_path / 'r.yaml'}:1: data is missing. What is learnt from."]


def test_the_schema_covers_every_kind():
    text = json.dumps(schema())
    for shelf in ("readers", "models", "tasks", "optimizers", "schedules"):
        for kind in plugins.kinds(shelf):
            assert f'"const": "{kind}"' in text
    assert schema()["properties"]["train"]


# --- composition by Hydra ------------------------------------------------------------------------------------------


@pytest.fixture
def composed(tmp_path):
    (tmp_path / "optim").mkdir()
    (tmp_path / "optim" / "slow.yaml").write_text("kind: sgd\nlr: 1e-4\n")
    (tmp_path / "optim" / "fast.yaml").write_text("kind: adamw\nlr: 1e-2\n")
    file = tmp_path / "main.yaml"
    file.write_text(f"defaults:\n  - optim: slow\n  - _self_\ndata: {{root: {tmp_path}}}\nseed: 3\n")
    return file


def test_a_defaults_list_is_composed(composed):
    experiment = load(composed, ["train.epochs=2"])
    assert (experiment.optim.kind, experiment.optim.lr, experiment.seed, experiment.train.epochs) == ("sgd", 1e-4, 3, 2)


def test_a_group_is_chosen_on_the_command_line(composed):
    experiment = load(composed, ["optim=fast", "optim.weight_decay=0.5"])
    assert (experiment.optim.kind, experiment.optim.lr, experiment.optim.weight_decay) == ("adamw", 1e-2, 0.5)


def test_mistakes_in_a_composed_file_name_that_file(composed):
    slow = composed.parent / "optim" / "slow.yaml"
    slow.write_text("kind: sgd\nlr: fast\n")
    assert mistakes_of(composed) == [f"{slow}:2: optim.lr is 'fast', but must be a number"]


def test_hydra_reads_no_less_strictly(composed):
    slow = composed.parent / "optim" / "slow.yaml"
    slow.write_text("kind: sgd\nlr: 0.1\nlr: 0.2\n")
    assert mistakes_of(composed) == [f"{slow}:3: 'lr' appears twice, first at {slow}:2. Keep one."]
    slow.write_text("kind: sgd\nnesterov: no\n")
    assert mistakes_of(composed) == [f"{slow}:2: optim.nesterov is no, but must be true or false, or stand in quotes"]
    composed.write_text("defaults:\n  - optim: nothing\n")
    assert "nothing" in mistakes_of(composed)[0]


def test_an_experiment_is_a_value(tmp_path):
    assert Experiment(data={"root": tmp_path}) == Experiment(data={"root": str(tmp_path)})
