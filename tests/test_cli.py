import contextlib
import io
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from instar import cli
from instar import experiment as experiments
from instar.cli import compare, train, why
from instar.cli.words import parse
from instar.errors import Again, ConfigError, RunError
from instar.machine import Machine
from instar.run import Run
from tests.fakes.images import folder_of_images

HERE = Path(__file__).parent.parent


def instar(*arguments, cwd=HERE, **environment):
    return subprocess.run(
        [sys.executable, "-m", "instar", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(HERE), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def runs(tmp_path):
    """A folder with a run that is done and one that failed on rank 1."""
    folder = tmp_path / "my runs"
    for name in ("flowers-mossy-lynx", "flowers-tawny-owl"):
        run = Run(folder / name)
        run.path.mkdir(parents=True)
        run.experiment_file.write_text(f"data: {{root: {tmp_path}}}\n")
        run.plan_file.write_text(json.dumps({"total_samples": 1000, "epoch_samples": 100}))
        run.log_event("started", rank=0, samples=0)
        run.log_event("saved", rank=0, samples=100, checkpoint="s100")
    Run(folder / "flowers-mossy-lynx").log_event("evaluated", rank=0, samples=1000)
    failed = Run(folder / "flowers-tawny-owl")
    failed.log_event(
        "failed", rank=1, step=20, samples=200, reason="RuntimeError: a cable fell out", traceback="Trace\nback"
    )
    failed.log_event("failed", rank=0, step=20, samples=200, reason="rank 1 is gone")
    return folder


# --- words ----


def test_words_are_sorted_by_what_they_are():
    words = parse(
        "train", ["a b/c=d", "x=1", "+y.z=2", "~w", "./k=v", "--dry", "--", "--odd"], flags=("dry",), things=(0, 9)
    )
    assert words.things == ("a b/c=d", "./k=v", "--odd")
    assert words.changes == ("x=1", "+y.z=2", "~w")
    assert "dry" in words and "json" not in words


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--dyr"], "did you mean --dry"),
        (["--epochs", "3"], "unknown flag"),
        (["--epochs=3"], "settings are written without dashes: epochs=3"),
        (["-x"], "unknown flag"),
        (["a", "b", "c"], r"instar train: 'a b c' is too much\. Write: instar train FOLDER   or see"),
    ],
)
def test_words_that_are_not_understood(arguments, message):
    with pytest.raises(ConfigError, match=message):
        parse("train", arguments, flags=("dry",), things=(0, 2), page="Learn\n\n  instar train FOLDER    learn\n")


# --- the outside ----


def test_help_lists_every_verb(capsys):
    assert cli.main([]) == 0
    text = capsys.readouterr().out
    assert all(f"  {verb} " in text for verb in cli.VERBS)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_a_page(verb, capsys):
    assert cli.main([verb, "--help"]) == 0
    first, blank, *rest = capsys.readouterr().out.splitlines()
    assert len(first) < 100 and not blank and f"instar {verb}" in rest[0]


def test_a_verb_that_is_told_too_little_says_what_to_write(capsys):
    for words, said in (
        (["why"], "instar why: of what? Write: instar why RUN   or see"),
        (["compare", "a"], "instar compare: 'a' is too little. Write: instar compare RUN RUN…   or see"),
    ):
        assert cli.main(words) == 65
        assert said in capsys.readouterr().err


def test_a_verb_that_is_none_names_the_near_miss(capsys):
    assert cli.main(["trian"]) == 65
    assert capsys.readouterr().err == "instar: there is no verb 'trian'. Did you mean 'instar train'?\n"


def test_all_mistakes_are_one_block_and_exit_65(tmp_path):
    (tmp_path / "it's.yaml").write_text(f"data: {{root: {tmp_path}}}\nsede: 1\ntask: clasification\n")
    done = instar(
        "train", "it's.yaml", "workrs=2", "devices=x", "optim.lr=fast", "on_change=bend", "epochs=x", cwd=tmp_path
    )
    assert done.returncode == 65 and done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines[0] == "instar: 7 mistakes"
    assert "  it's.yaml:2: unknown key 'sede': did you mean 'seed'?" in lines
    assert "  command line: unknown key 'workrs': did you mean 'workers'?" in lines
    assert "  command line: train.epochs is 'x', but must be a number" in lines


def test_mistakes_as_json(tmp_path):
    done = instar("train", tmp_path, "optim.lr=fast", "--json")
    told = json.loads(done.stdout)
    assert told["exit"] == done.returncode == 65
    assert told["mistakes"] == ["command line: optim.lr is 'fast', but must be a number"]


def test_nothing_is_executed_from_a_recipe(tmp_path):
    canary = tmp_path / "canary"
    (tmp_path / "r.yaml").write_text(f"data: !!python/object/apply:os.mkdir ['{canary}']\n")
    assert instar("train", tmp_path / "r.yaml").returncode == 65
    assert not canary.exists()


def test_an_ending_with_75_says_that_it_stopped(monkeypatch, capsys):
    def stop(arguments):
        raise Again("saved at step 7; the same command carries on")

    monkeypatch.setattr(cli, "_carry_out", stop)
    assert cli.main(["train"]) == 75
    assert capsys.readouterr().err == "stopped  saved at step 7; the same command carries on\n"


def test_our_own_mistake_keeps_its_traceback(monkeypatch, capsys):
    monkeypatch.setattr(cli, "_carry_out", lambda arguments: 1 / 0)
    assert cli.main(["runs"]) == 70
    told = capsys.readouterr().err
    assert "ZeroDivisionError" in told and "a mistake in Instar" in told


def test_of_many_ranks_one_tells_what_all_know(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(["trian"]) == 65
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("RANK", "0")
    assert cli.main(["trian"]) == 65
    assert "no verb" in capsys.readouterr().err


def test_ctrl_c_is_one_line(monkeypatch, capsys):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_carry_out", interrupted)
    assert cli.main(["runs"]) == 130
    assert capsys.readouterr().err == "instar: interrupted\n"


def test_a_reader_that_goes_away_is_no_traceback():
    command = f"{sys.executable} -m instar schema | head -c 10"
    done = subprocess.run(["/bin/sh", "-c", command], cwd=HERE, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == "" and len(done.stdout) == 10


def test_a_closed_output_is_no_traceback():
    command = f"{sys.executable} -m instar runs >&-"
    done = subprocess.run(["/bin/sh", "-c", command], cwd=HERE, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == "" and done.returncode == 0


def test_any_locale_and_width_will_do(runs):
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "COLUMNS": "40"}
    for arguments in (["show"], ["why", "flowers-tawny-owl", f"runs={runs}"], ["runs", runs], ["train", "/no/Käfer"]):
        done = instar(*arguments, **plain)
        assert done.returncode in (0, 65) and "Traceback" not in done.stderr
        assert done.stdout.isascii() and done.stderr.isascii()


# --- the promise that torch is not waited for ----

HEAVY = ("torch", "numpy", "pyarrow", "timm", "torchvision", "sklearn", "matplotlib", "PIL", "rich", "hydra")
COMMANDS = (
    ["--help"],
    ["train", "--help"],
    ["fetch", "--help"],
    ["fetch", "RUNS"],
    ["doctor", "--help"],
    ["doctor", "--quick"],
    ["runs"],
    ["runs", "RUNS", "--json"],
    ["why", "flowers-tawny-owl", "runs=RUNS"],
    ["show"],
    ["show", "train"],
    ["show", "model.timm"],
    ["schema"],
    ["train", "RUNS", "optim.lr=fast"],
    ["train", "RUNS", "optim.lr=fast", "--dry"],
    ["train", "RUNS", "devices=x"],
    ["evaluate", "nobody", "runs=RUNS"],
    ["compare", "nobody", "noone", "runs=RUNS"],
)


def test_these_commands_never_import_torch(runs):
    """All in one process, so that the test is quick: what the first imports, the last still has."""
    program = (
        "import sys, json, contextlib, io\n"
        "from instar.cli import main\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):\n"
        "        code = main(words)\n"
        "    assert code in (0, 65), (code, words)\n"
        f"    found = sorted(set({HEAVY!r}) & set(sys.modules))\n"
        "    assert not found, (words, found)\n"
    )
    commands = [[word.replace("RUNS", str(runs)) for word in words] for words in COMMANDS]
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(commands)],
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_help_does_not_even_import_pydantic_or_yaml():
    program = (
        "import sys; from instar.cli import main; main(['--help']); print({'pydantic', 'yaml'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=HERE, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "set()"


# --- verbs ----


def test_runs_lists_state_and_progress(runs, capsys):
    assert cli.main(["runs", str(runs)]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "state", "done", "epoch", "val", "test", "left", "when"]
    assert any(row.split()[:4] == ["flowers-tawny-owl", "failed", "20", "%"] for row in rows)
    assert cli.main(["runs", f"runs={runs}", "--json"]) == 0
    assert {one["state"] for one in json.loads(capsys.readouterr().out)} == {"failed", "done"}


def test_no_runs_say_how_to_make_one(tmp_path, capsys):
    assert cli.main(["runs", str(tmp_path)]) == 0
    assert "instar train FOLDER" in capsys.readouterr().out


def test_a_thousand_runs_are_listed_at_once(tmp_path, capsys):
    for number in range(1000):
        run = Run(tmp_path / f"r{number}")
        run.path.mkdir()
        run.experiment_file.write_text("data: {root: x}\n")
        run.plan_file.write_text('{"total_samples": 1000, "epoch_samples": 100}')
        run.events_file.write_text('{"time": 1, "event": "finished", "samples": 1000}\n' * 20)
        run.metrics_file.write_text('{"kind": "val", "samples": 1000, "accuracy": 0.9}\n' * 20)
    assert cli.main(["runs", str(tmp_path)]) == 0  # benchmarks/startup.py says how fast
    assert len(capsys.readouterr().out.splitlines()) == 1001


def test_why_names_the_rank_that_failed_first_and_what_to_do(runs, capsys):
    assert cli.main(["why", "tawny-owl", f"runs={runs}"]) == 0
    text = capsys.readouterr().out
    assert "a cable fell out" in text and "rank 1" in text and "step 20" in text and "sample 200" in text
    assert "Trace" in text and "s100" in text
    assert text.splitlines()[-1].startswith("do ") and "instar train" in text.splitlines()[-1]


@pytest.mark.parametrize(
    "state, event, advice",
    [
        ("stopped", {"event": "stopped", "reason": "signal SIGTERM"}, "carries on from the last save"),
        ("silent", {"event": "started"}, "nothing before it is lost"),
        ("failed", {"event": "failed", "reason": "the loss was not a finite number"}, "lower optim.lr"),
        ("failed", {"event": "failed", "reason": "CUDA out of memory"}, "train.micro=SMALLER"),
        ("failed", {"event": "save_failed", "reason": "[Errno 28]"}, "make room"),
        ("failed", {"event": "failed", "reason": "5 images cannot be read"}, "accept=true"),
        ("failed", {"event": "failed", "reason": "odd", "traceback": "T"}, "a mistake in Instar"),
        ("done", {"event": "evaluated"}, "instar report x"),
        ("new", {}, "it has not begun"),
    ],
)
def test_why_says_what_to_do(state, event, advice):
    status = {"name": "x", "path": "runs/x", "state": state, "share": 0.5, "samples": 5}
    story = why.explain(status, [{"event": "started"}, event] if event else [])
    assert advice in story["do"]
    assert why.told(story, now=0.0)[-1] == f"do       {story['do']}"


def test_why_survives_lines_it_does_not_know():
    status = {"name": "x", "path": "x", "state": "failed", "share": 0.0, "samples": 0}
    events = [{"no": "event"}, {"event": "from the future", "what": {"ever": [1]}, "time": 5}]
    assert "from the future" in "\n".join(why.told(why.explain(status, events), now=10.0))


def test_a_run_that_is_none_names_the_near_miss(runs, capsys):
    assert cli.main(["why", "flowers-mosy-lynx", f"runs={runs}"]) == 65
    assert "did you mean 'flowers-mossy-lynx'" in capsys.readouterr().err


def test_show_finds_groups_kinds_and_words(capsys):
    for name, text in {
        "train": "epochs",
        "optim.sgd": "momentum",
        "sgd": "nesterov",
        "data.split": "stratify",
        "optim": "adamw",
        "recipe": "seed",
        "machine": "walltime",
        "timm": "pretrained",
        "lightning_module": "args",
        "task.lightning_module": "datamodule",
        "lightning_module.train": "monitor_mode",
        "lightning_module.trainer": "accumulate_grad_batches",
    }.items():
        assert cli.main(["show", name]) == 0
        assert text in capsys.readouterr().out
    assert cli.main(["show", "tran"]) == 65
    assert "did you mean 'train'" in capsys.readouterr().err


def test_the_examples_of_show_are_right(tmp_path, capsys):
    from instar import brought
    from instar.cli.show import find, page
    from instar.experiment import load
    from instar.settings import parse

    for name in (
        "train",
        "augment",
        "data",
        "data.split",
        "recipe",
        "optim.sgd",
        "schedule.plateau",
        "model.resnet9",
        "data.reader.image_label",
        "task.classification",
    ):
        lines = page(*find(name))
        example = "\n".join(line.removeprefix("    ") for line in lines[lines.index("example") + 1 :])
        load(parse(example, name="example"), [f"data.root={tmp_path}"])
    for name in ("lightning_module", "lightning_module.train", "lightning_module.task.datamodule"):
        lines = page(*find(name))
        example = parse("\n".join(line.removeprefix("    ") for line in lines[lines.index("example") + 1 :]), name=name)
        task = {"kind": "lightning_module", "module": "my.model", "definition": "Mine"}
        brought.load({**example, "task": task | example.get("task", {})})


def test_show_as_json_is_a_schema(capsys):
    assert cli.main(["show", "data.split", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["properties"]["stratify"]["default"] is True
    assert cli.main(["show", "--json"]) == 0
    assert "timm" in json.loads(capsys.readouterr().out)["kinds"]["model"]


def test_schema_is_json(capsys):
    assert cli.main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["type"] == "object"


def test_train_sorts_its_words(tmp_path):
    words = parse(
        "train",
        [str(tmp_path), "lr=0.5", "devices=2", "walltime=30min", "run=x", "accept=true", "balance=sqrt"],
        flags=(),
        things=(0, 1),
    )
    experiment, machine, start = train.settings(words)
    assert (experiment.optim.lr, experiment.task.balance) == (0.5, "sqrt")
    assert (machine.devices, machine.walltime.seconds) == (2, 1800)
    assert (start.run, start.accept) == ("x", True)


def test_a_run_folder_carries_on_in_itself(runs, monkeypatch):
    for folder, thing in ((".", runs / "flowers-mossy-lynx"), (runs, "flowers-mossy-lynx")):
        monkeypatch.chdir(folder)
        experiment, _, start = train.settings(parse("train", [str(thing)], flags=(), things=(0, 1)))
        assert experiments.locate(experiment, start.run, runs=Path("runs")).path == Path(thing)


@pytest.mark.parametrize(("given", "used"), [(None, "ERROR"), ("INFO", "INFO")])
def test_ranks_of_any_launcher_keep_the_sockets_quiet_unless_told_otherwise(monkeypatch, given, used):
    monkeypatch.setenv("TORCH_CPP_LOG_LEVEL", "")  # so that it is put back
    monkeypatch.delenv("TORCH_CPP_LOG_LEVEL") if given is None else monkeypatch.setenv("TORCH_CPP_LOG_LEVEL", given)
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("INSTAR_RANK", None), ("INSTAR_WORLD", None)):
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    assert train.ranks_to_start(Machine(devices=8)) == 1
    assert os.environ["TORCH_CPP_LOG_LEVEL"] == used


def test_nothing_to_learn_from_says_so(capsys):
    assert cli.main(["train", "lr=3"]) == 65
    assert "name a folder of images or a recipe" in capsys.readouterr().err


def test_comparing_tells_what_may_be_chance():
    row = {
        "name": "a",
        "metric": "accuracy",
        "value": 0.9,
        "interval": (0.87, 0.93),
        "ahead": None,
        "parameters": 11_000_000,
        "seconds": 61.0,
        "epochs": 12.0,
        "differences": (),
    }
    other = {**row, "name": "b", "value": 0.89, "ahead": (-0.01, -0.03, 0.01), "differences": ("optim.lr: 1 -> 2",)}
    lines = compare.lines([row, other], "test")
    assert "90.0 %" in lines[1] and "+1.0 [-1.0, +3.0], may be chance" in lines[1] and "11 000 000" in lines[1]
    assert lines[-2:] == ["a -> b", "  optim.lr: 1 -> 2"]
    assert "  equal  " in compare.lines([row, {**other, "ahead": (0.0, 0.0, -0.0)}], "test")[1]


def test_a_run_is_not_compared_with_itself(runs, capsys):
    name = "flowers-mossy-lynx"
    assert cli.main(["compare", name, str(runs / name), f"runs={runs}"]) == RunError.exit_code
    assert "the same run is there twice" in capsys.readouterr().err


# --- a whole life, in this process ---


@pytest.fixture(scope="module")
def life(tmp_path_factory):
    """Words that train something tiny, and the folder its run is in."""
    home = tmp_path_factory.mktemp("it's home")
    images = folder_of_images(home / "my images", classes=2, each=12)
    words = [str(images), "model={kind: resnet9, width: 4}", "size=8", "augment.kind=none", "epochs=2", "batch=8"]
    return [*words, "workers=0", "device=cpu", f"runs={home / 'runs'}", "run=first"], home / "runs" / "first"


@pytest.fixture(scope="module")
def lived(life):
    """The same, after the training, and what it said."""
    words, folder = life
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert cli.main(["train", *words]) == 0
    return words, folder, said.getvalue()


def test_a_run_is_trained_scored_and_shown(lived):
    _, folder, out = lived
    assert out.startswith("data     24 images, 2 classes, median 8x8")
    assert "\n 2/2  " in out and "best     val " in out and "test " in out
    assert f"look     {folder / 'report.html'}" in out
    assert (folder / "report.html").stat().st_size > 1000


def test_the_same_command_again_repeats_nothing(lived, capsys):
    words, folder, _ = lived
    before = (folder / "metrics.jsonl").read_bytes()
    assert cli.main(["train", *words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["state"] == "already" and 0 <= told["scores"]["accuracy"] <= 1
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_another_configuration_in_the_same_folder_lists_what_differs(lived, capsys):
    words, *_ = lived
    assert cli.main(["train", *words, "lr=0.5", "seed=7"]) == 65
    told = capsys.readouterr().err
    assert "optim.lr: 0.001 -> 0.5" in told and "seed: 0 -> 7" in told


def test_a_dry_run_changes_nothing(life, capsys):
    words, folder = life
    line = ["train", *words[:-1], "run=never", "train.every=10 min", "--dry"]
    assert cli.main(line) == 0
    out = capsys.readouterr().out
    assert "plan     cpu" in out
    typed = shlex.split(out.splitlines()[-1].removeprefix("next     instar "))
    assert typed == [word for word in line if word != "--dry"]  # also where a word has a space
    assert not (folder.parent / "never").exists()


def test_a_run_is_evaluated_reported_and_explained(lived, capsys):
    _, folder, _ = lived
    assert cli.main(["evaluate", str(folder), "split=val", "device=cpu", "workers=0"]) == 0
    assert "accuracy" in capsys.readouterr().out
    assert cli.main(["report", str(folder)]) == 0
    assert cli.main(["why", str(folder)]) == 0
    assert "state    done" in capsys.readouterr().out
    assert cli.main(["evaluate", str(folder), "split=nothing"]) == 65


def test_no_traceback_where_there_are_no_images(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert cli.main(["train", str(tmp_path / "empty"), f"runs={tmp_path}", "device=cpu"]) == 65
    told = capsys.readouterr().err
    assert told.startswith("instar: ") and "Traceback" not in told
