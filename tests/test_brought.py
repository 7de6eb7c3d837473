"""Recipes of LightningModules somebody brought: what can be known of their code without running it."""

import inspect
import json

import pytest

from instar import brought, documents
from instar import experiment as experiments
from instar.cli import main
from instar.errors import ConfigError

MODULE = """
from lightning.pytorch import LightningModule as L

class Baseline(L):
    def __init__(self, width, depth=3):
        raise SystemExit("this must never be run")

def stages(session): ...
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "my" / "models").mkdir(parents=True)
    (tmp_path / "my" / "models" / "baseline.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def document(**task):
    text = json.dumps({"task": {"kind": "lightning_module", **task}}, indent=1)
    return documents.parse(text, name="recipe.yaml")


def wrong(**task):
    recipe = document(**task)
    with pytest.raises(ConfigError) as caught:
        brought.look(brought.load(recipe), recipe)
    return caught.value.mistakes


def test_a_definition_is_found_without_importing_it(folder):
    recipe = document(module="my.models.baseline", definition="Baseline", args={"width": 3})
    assert str(brought.look(brought.load(recipe))) == f"{folder}/my/models/baseline.py:4"


def test_every_wrong_name_is_told_with_its_line_and_the_near_miss(folder):
    assert wrong(module="my.models.basline", definition="Baseline") == [
        f"recipe.yaml:4: task.module: there is no module 'my.models.basline', from {folder}. "
        "Did you mean 'my.models.baseline'?"
    ]
    assert wrong(module="my.models.baseline", definition="Basline") == [
        f"recipe.yaml:5: task.definition: {folder}/my/models/baseline.py has unknown definition 'Basline': "
        "did you mean 'Baseline'?"
    ]
    assert wrong(
        module="my.models.baseline", definition="Baseline", args={"widht": 1}, stages="my.models.nothing.x"
    ) == [
        f"recipe.yaml:6: task.args: Baseline.__init__ ({folder}/my/models/baseline.py:5) has unknown argument 'widht': "
        "did you mean 'width'?",
        f"recipe.yaml:6: task.args: Baseline.__init__ ({folder}/my/models/baseline.py:5) needs width",
        f"recipe.yaml:9: task.stages.module: there is no module 'my.models.nothing', from {folder}. "
        "Start the command where 'my' lies.",
    ]


def test_code_that_is_no_python_is_told_with_its_line(folder):
    (folder / "my" / "models" / "baseline.py").write_text("class Baseline:\n    def f(:\n", encoding="utf-8")
    assert wrong(module="my.models.baseline", definition="Baseline")[0].startswith(
        f"{folder}/my/models/baseline.py:2: "
    )


def test_every_argument_of_lightnings_trainer_is_known():
    from lightning.pytorch import Trainer

    theirs = set(inspect.signature(Trainer.__init__).parameters) - {"self"}
    assert theirs == {*brought.TRAINER, *brought.OURS}


def test_trainer_arguments_that_are_not_the_users_say_where_to_say_it():
    recipe = document(module="a", definition="B")
    with pytest.raises(ConfigError) as caught:
        brought.load(recipe, ["trainer.devices=4", "trainer.max_epoch=3", "train.monitor=loss", "optim.lr=3"])
    assert caught.value.mistakes == [
        "recipe.yaml:1: unknown key 'optim': known here: name, seed, task, data, augment, trainer, paths, train, track",
        "command line: trainer.devices: is Instar's to set: how many is not part of a recipe: devices=2 on the command "
        "line, gpus=4 of instar submit",
        "command line: trainer.max_epoch: Lightning's Trainer has none such: unknown key 'max_epoch': did you mean "
        "'max_epochs'?",
        "command line: train.monitor: say which is better: train.monitor_mode=max or =min",
    ]


def test_what_is_saved_reads_back_the_same(tmp_path):
    from instar.settings import dump

    recipe = brought.load(document(module="a", definition="B", args={"x": [1, {"y": None}], "z": "yes"}))
    (tmp_path / "experiment.yaml").write_text(dump(recipe), encoding="utf-8")
    assert brought.load(tmp_path) == recipe


def test_other_verbs_say_that_it_is_not_for_them():
    with pytest.raises(ConfigError, match="a LightningModule of your own"):
        experiments.load(document(module="a", definition="B"))
    with pytest.raises(ConfigError, match="did you mean 'lightning_module'"):
        experiments.load({"task": {"kind": "lightening_module"}})


def test_a_class_named_by_a_target_is_the_same_recipe(folder):
    plain = document(module="my.models.baseline", definition="Baseline", args={"width": 3})
    hydras = document(_target_="my.models.baseline.Baseline", width=3, trust=False)
    assert brought.load(hydras) == brought.load(plain)
    assert wrong(_target_="my.models.baseline.Basline", width=3)[0].startswith("recipe.yaml:4: task._target_: ")


@pytest.mark.parametrize("target", ["os.system", "builtins.eval", "subprocess.run"])
def test_pythons_own_is_never_made_for_an_argument(folder, target):
    with pytest.raises(ConfigError, match=rf"makes {target}, which is Python's own and no part of a model"):
        brought.load(document(_target_="my.models.baseline.Baseline", width=[{"deep": {"_target_": target}}]))


def test_arguments_are_made_as_hydra_makes_them():
    from torch import nn

    from instar.engine import definition

    layer = brought.Definition.model_validate(
        {
            "_target_": "torch.nn.TransformerEncoderLayer",
            **{"d_model": 8, "nhead": 2, "activation": {"_target_": "torch.nn.GELU", "approximate": "tanh"}},
        }
    )
    made = definition.make(layer, nn.Module, "task")
    assert isinstance(made.activation, nn.GELU) and made.activation.approximate == "tanh"
    wrong = layer.model_copy(
        update={"args": {**layer.args, "activation": {"_target_": "torch.nn.GELU", "aproximate": 1}}}
    )
    with pytest.raises(ConfigError, match=r"task\.activation cannot be made: TypeError: .*'aproximate'"):
        definition.make(wrong, nn.Module, "task")


def test_a_composed_recipe_takes_a_projects_model_and_data_as_they_are(folder, capsys):
    for name, text in {
        "model/small": "_target_: my.models.baseline.Baseline\nwidth: 3\n",
        "model/large": "_target_: my.models.baseline.Baseline\nwidth: 99\n",
        "paths/default": "data_dir: /data/it's $(here)\n",
        "data/images": "_target_: my.models.baseline.Baseline\nwidth: ${paths.data_dir}\n",
        "instar": "defaults: [model@task: small, data@task.datamodule: images, paths: default, _self_]\n"
        "task: {kind: lightning_module}\n",
    }.items():
        (folder / f"{name}.yaml").parent.mkdir(exist_ok=True)
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    loaded = brought.load("instar.yaml", ["model@task=large"])
    assert loaded.task.args == {"width": 99}
    assert loaded.task.datamodule.args == {"width": "/data/it's $(here)"}
    assert main(["config", "show", "instar.yaml", "task.width=4", "--json"]) == 0
    shown = {row["setting"]: row["from"] for row in json.loads(capsys.readouterr().out)}
    assert shown["task.definition"] == "model/small.yaml:1"
    assert shown["task.args.width"] == "command line (model/small.yaml:2 said 3)"
    assert main(["config", "show", "instar.yaml", "model@task=huge"]) == 65
    assert "there is no model/huge.yaml. There are: large, small." in capsys.readouterr().err
