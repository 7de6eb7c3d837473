"""A file of the starter pack becomes a recipe, a site and a request, and no key is lost in silence."""

import json

import pytest

from instar import adopt, brought, documents
from instar.cli import main
from instar.errors import ConfigError

MODULE = """
class Baseline:
    def __init__(self, lr, mbatch_size, dataset_dir, num_workers=1):
        ...
class Open:
    def __init__(self, **kwargs):
        ...
"""
CLUSTER = """# @package _global_
num_nodes: 2
devices: 4
memory: 16GB
time_limit: '2-00:00:00'
qos: gold
email: me@example.org
"""
FILE = """defaults:
  - cluster: big
  - _self_
module: my.baseline
definition: Baseline
exp_dir: experiments
monitor: val_acc
monitor_mode: max
early_stopping: true
patience: 4
mbatch_size: 8
accumulated_mbatch_size: 128
dataset_dir: "/data/it's $(here)"
lr: 1e-3
max_epochs: 2
num_workers: 5
submit: true
resumable: true
begin: 2026-12-01T08:00
venv_path: "/opt/my 'venv"
neptune_api_key: very-secret
trial: 7
qos: silver
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    (tmp_path / "my").mkdir()
    (tmp_path / "my" / "baseline.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / "config" / "cluster").mkdir(parents=True)
    (tmp_path / "config" / "cluster" / "big.yaml").write_text(CLUSTER, encoding="utf-8")
    (tmp_path / "config" / "small.yaml").write_text(FILE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "config" / "small.yaml"


def adopted(file, *changes):
    found = adopt.of_file(file, changes)
    assert found is not None
    return found[0]


def test_every_key_is_honoured_or_named(file):
    made = adopted(file)
    assert made.recipe == {
        "name": "small",
        "task": {
            "kind": "lightning_module",
            "module": "my.baseline",
            "definition": "Baseline",
            "args": {"mbatch_size": 8, "dataset_dir": "/data/it's $(here)", "lr": 0.001, "num_workers": 5},
        },
        "train": {"monitor": "val_acc", "monitor_mode": "max", "stop_early": {"patience": 4}},
        "trainer": {"accumulate_grad_batches": 2, "max_epochs": 2},
        "seed": 7,
        "track": ["tensorboard"],
    }
    assert made.request == {"nodes": "2", "gpus": "4", "time": "48 h", "cores": "5"}
    assert made.start == {"runs": "experiments"}
    assert made.site["setup"] == ["source '/opt/my '\"'\"'venv/bin/activate'"]
    assert (made.site["qos"], made.site["memory"], made.site["options"]) == (
        "silver",
        "16G",
        ["--begin=2026-12-01T08:00"],
    )
    assert sorted(made.dropped) == ["neptune_api_key", "resumable", "submit"]
    assert "very-secret" not in str(made)
    brought.load(made.recipe)


def test_a_key_that_nobody_knows_is_the_modules_or_is_named(file):
    file.write_text(FILE.replace("lr: 1e-3", "lr: 1e-3\nfrobnicate: 3"), encoding="utf-8")
    assert adopted(file).dropped["frobnicate"] == "Baseline.__init__ takes no frobnicate"
    file.write_text(file.read_text() + "monitr: x\n", encoding="utf-8")
    assert adopted(file).dropped["monitr"] == "Baseline.__init__ takes no monitr: did you mean 'monitor'?"
    file.write_text(file.read_text().replace("definition: Baseline", "definition: Open"), encoding="utf-8")
    assert adopted(file).recipe["task"]["args"]["frobnicate"] == 3


def test_the_command_line_wins_in_the_words_of_either(file):
    assert adopted(file, "max_epochs=9").recipe["trainer"]["max_epochs"] == 9
    made, left = adopt.of_file(file, ["trainer.max_epochs=9"])
    assert left == ["trainer.max_epochs=9"]
    assert brought.load(made.recipe, left).trainer["max_epochs"] == 9


def test_both_values_are_named_where_the_command_line_wins_in_the_words_of_the_file(file, capsys):
    made, _ = adopt.of_file(file, ["lr=0.1", "max_epochs=2", "patience=9"])
    assert made.overruled == [
        f"lr: 0.1 of the command line goes before 0.001 of {file}:14",
        f"patience: 9 of the command line goes before 4 of {file}:10",
    ]
    assert main(["config", "show", str(file), "lr=0.1", "--json"]) == 0
    shown = {row["setting"]: row["from"] for row in json.loads(capsys.readouterr().out)}
    assert shown["task.args.lr"] == f"command line ({file}:14 said 0.001)"


def test_a_file_that_is_not_there_is_named_with_those_that_are(file, capsys):
    assert main(["config", "show", str(file), "cluster=none"]) == 65
    assert f"there is no {file.parent}/cluster/none.yaml. There are: big." in capsys.readouterr().err
    file.write_text(FILE.replace("cluster: big", "clustr: big"), encoding="utf-8")
    assert main(["config", "show", str(file)]) == 65
    assert f"there is no {file.parent}/clustr/big.yaml. Did you mean 'cluster/big'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("48:00:00", 172800), ("30", 1800), ("02:30", 150), ("2-12", 216000), ("1-00:30", 88200), ("24:00:00", 86400)],
)
def test_times_are_read_as_slurm_reads_them(text, seconds):
    assert adopt.seconds_of(text) == seconds


def test_what_cannot_be_read_is_told_with_its_line(file):
    file.write_text(FILE.replace("mbatch_size: 8", "mbatch_size: 7"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"small.yaml:12: accumulated_mbatch_size is 128: is no multiple of .* = 56"):
        adopted(file)


def test_the_verb_writes_a_recipe_and_a_site_that_submit_takes(file, capsys):
    assert main(["adopt", str(file), "to=my out"]) == 0
    told = capsys.readouterr().out
    assert "Neptune's service was shut down in March 2026" in told
    assert "instar submit train 'my out/small.recipe.yaml' --on 'my out/small.site.yaml' nodes=2 gpus=4" in told
    assert main(
        ["submit", "train", "my out/small.recipe.yaml", "--on", "my out/small.site.yaml", "nodes=2", "--dry"]
    ) in (0, 65)
    script = capsys.readouterr().out
    assert "#SBATCH --qos=silver" in script and "#SBATCH --begin=2026-12-01T08:00" in script
    assert main(["adopt", str(file), "to=my out"]) == 65
    assert "is there already" in capsys.readouterr().err


def test_show_says_where_each_value_is_from(file, capsys):
    assert main(["config", "show", str(file), "trainer.max_epochs=5", "--json"]) == 0
    shown = {row["setting"]: row for row in json.loads(capsys.readouterr().out)}
    assert shown["train.monitor"]["from"] == f"{file}:7"
    assert shown["trainer.max_epochs"]["value"] == "5"
    assert shown["trainer.max_epochs"]["from"] == f"command line ({file}:15 said 2)"
    assert shown["train.keep"]["from"] == "default"


def test_diff_says_what_differs_and_where_it_was_written(tmp_path, capsys):
    for name, rate in (("a", "0.1"), ("b", "0.2")):
        (tmp_path / f"{name}.yaml").write_text(f"data: {{root: {tmp_path}}}\noptim: {{kind: sgd, lr: {rate}}}\n")
    assert main(["config", "diff", str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")]) == 0
    head, told = capsys.readouterr().out.splitlines()
    assert head.split() == ["setting", f"{tmp_path}/a.yaml", f"{tmp_path}/b.yaml"]
    assert told.split() == ["optim.lr", "0.1", f"({tmp_path}/a.yaml:2)", "0.2", f"({tmp_path}/b.yaml:2)"]


def test_places_in_a_composed_file_are_those_of_the_file_that_won(file):
    from instar.experiment import read_document

    document, _ = read_document(file, ())
    assert isinstance(document, documents.Document)
    assert document.place(("num_nodes",)).endswith("big.yaml:2")
    assert document["qos"] == "silver" and document.place(("qos",)).endswith("small.yaml:23")


def test_a_file_that_inherits_another_has_the_places_of_both(tmp_path):
    (tmp_path / "a group").mkdir()
    (tmp_path / "a group" / "slow.yaml").write_text("# @package _global_\nlr: 0.5\nmax_epochs: 9\nmax_time: x\n")
    (tmp_path / "base.yaml").write_text(
        "defaults:\n  - a group/slow\n  - _self_\nmodule: my.module\ndefinition: Mine\nlr: 0.1\nmax_epochs: 3\n"
    )
    file = tmp_path / "it's.yaml"
    file.write_text("defaults:\n  - base\n  - _self_\nmax_epochs: 5\n")
    found, _ = adopt.of_file(file)
    places = {key: found.recipe.place(key) for key in (("task", "args", "lr"), ("trainer", "max_epochs"))}
    assert places == {
        ("task", "args", "lr"): f"{tmp_path / 'base.yaml'}:6",
        ("trainer", "max_epochs"): f"{file}:4",
    }
    assert found.recipe.place(("trainer", "max_time")) == f"{tmp_path / 'a group' / 'slow.yaml'}:4"


def test_a_word_that_yaml_misreads_is_named_in_a_file_that_is_inherited(tmp_path):
    (tmp_path / "base.yaml").write_text("module: my.module\ndefinition: Mine\nanswer: no\n")
    (tmp_path / "mine.yaml").write_text("defaults:\n  - base\n  - _self_\n")
    with pytest.raises(ConfigError, match=r"base.yaml:3: answer is no, but must be true or false, or stand in quotes"):
        adopt.of_file(tmp_path / "mine.yaml")
