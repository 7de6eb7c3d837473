"""A LightningModule somebody brought: trained as it is, killed, carried on to the same bits, and blamed by its lines."""

import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from instar import brought as brought_ones
from instar import fit as stage
from instar import prepare
from instar.brought import Brought
from instar.cli import why
from instar.engine import deadline, faults
from instar.engine.lightning import pace
from instar.errors import Again, ConfigError, LearningError, RunError
from instar.machine import Machine
from instar.run import Run
from tests.fakes.images import folder_of_images
from tests.fakes.training import Notes

# Torch's and Lightning's own, about what the module's author may do better.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
]


def recipe(definition: str = "Small", *, args: dict[str, Any] | None = None, **more: Any) -> Brought:
    """A recipe of a module in tests/fakes/own; `more` are changes by dotted name, two underscores for a dot."""
    document = {
        "task": {
            "kind": "lightning_module",
            "module": "tests.fakes.own.baseline",
            "definition": definition,
            "args": args or {},
        },
        "trainer": {"max_epochs": 3, "log_every_n_steps": 2},
        "train": {"monitor": "val_acc", "monitor_mode": "max", "every": "3 steps"},
    }
    return brought_ones.load(document, [f"{key.replace('__', '.')}={json.dumps(value)}" for key, value in more.items()])


def fit(folder: Path, brought: Brought, *, run: str = "run", fault: str = "", **options: Any) -> stage.Outcome:
    deadline.install()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("INSTAR_FAULT", fault)
            return stage.fit(
                brought, machine=Machine(device="cpu", workers=0), run_name=run, runs_folder=folder, **options
            )
    finally:
        faults.arm("")
        deadline.restore()


def weights(run: Run) -> dict[str, torch.Tensor]:
    newest = run.checkpoints / (run.checkpoints / "latest").read_text().strip()
    return torch.load(newest / "lightning.ckpt", weights_only=True)["state_dict"]


def told(run: Run) -> list[dict[str, Any]]:
    """The metrics without times."""
    return [{k: v for k, v in line.items() if k not in ("time", "images_per_second")} for line in run.metrics()]


def same(one: Run, other: Run) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("undisturbed"), recipe())


def test_an_unchanged_module_is_trained_validated_and_tested(undisturbed):
    run = undisturbed.run
    assert undisturbed.state == "finished"
    kinds = [line["kind"] for line in run.metrics()]
    assert (kinds.count("val"), kinds.count("train")) == (3, 12)
    best = max(line["val_acc"] for line in run.metrics() if line["kind"] == "val")
    assert undisturbed.best["value"] == pytest.approx(best)
    assert 0 <= run.scores("test")["test_acc"] <= 1
    assert run.status()["state"] == "done"
    assert run.status()["share"] == 1
    assert "tests.fakes.own.baseline.Small" in run.report.read_text(encoding="utf-8")


@pytest.mark.parametrize("fault", ["step.end:5:term", "step.end:8:usr1", "step.end:13:term", "step.end:23:term"])
def test_a_stopped_run_carries_on_to_the_same_bits_with_ordinary_loaders(tmp_path, undisturbed, fault):
    """Shuffled, randomly flipped, with dropout, in the middle of an epoch, and right before an evaluation."""
    with pytest.raises(Again):
        fit(tmp_path, recipe(), fault=fault)
    stopped = Run(tmp_path / "run")
    assert stopped.status()["state"] == "stopped"
    notes = Notes()
    outcome = fit(tmp_path, recipe(), view=notes)
    assert any("resumed at epoch" in note for note in notes.all)
    assert same(outcome.run, undisturbed.run)
    assert told(outcome.run) == told(undisturbed.run)
    assert outcome.scores == undisturbed.scores


def test_a_run_that_died_carries_on_to_the_same_bits(tmp_path, undisturbed):
    with pytest.raises(RuntimeError):
        fit(tmp_path, recipe(), fault="step.end:11:raise")
    outcome = fit(tmp_path, recipe())
    assert same(outcome.run, undisturbed.run)
    assert told(outcome.run) == told(undisturbed.run)


def test_it_carries_on_to_the_same_bits_with_worker_processes(tmp_path):
    brought = recipe(args={"num_workers": 2})
    whole = fit(tmp_path, brought, run="whole")
    with pytest.raises(Again):
        fit(tmp_path, brought, fault="step.end:13:term")
    assert same(fit(tmp_path, brought).run, whole.run)


def test_it_carries_on_to_the_same_bits_with_gradients_of_several_batches(tmp_path):
    brought = recipe(trainer__accumulate_grad_batches=3)
    whole = fit(tmp_path, brought, run="whole")
    with pytest.raises(Again):
        fit(tmp_path, brought, fault="step.end:13:term")
    assert same(fit(tmp_path, brought).run, whole.run)


def test_the_first_save_of_a_process_does_not_hold_back_those_before_evaluations(monkeypatch):
    """It takes ten times as long as the next one; by its length the next would come when a short job is over."""
    now = 100.0
    monkeypatch.setattr(pace.time, "monotonic", lambda: now)
    monkeypatch.setattr(pace.deadline, "reason", lambda clock: None)
    train = SimpleNamespace(every=SimpleNamespace(is_time=True, seconds=3600.0))
    clock = SimpleNamespace(saved=lambda seconds: None)
    asked = pace.Pace(SimpleNamespace(world=SimpleNamespace(size=1), brought=SimpleNamespace(train=train), clock=clock))
    asked.begin(epoch_batches=8, total_batches=80, rows=4)
    trainer = SimpleNamespace(
        val_check_batch=4, enable_validation=True, check_val_every_n_epoch=1, num_training_batches=8
    )
    trainer.accumulate_grad_batches = 1
    asked.look_ahead(trainer, 0)

    def saves(seconds, at):
        nonlocal now
        now += seconds
        return asked.asked(at)[1]

    assert not saves(2.0, at=2) and saves(0.0, at=3)
    asked.saved(0.8)
    assert saves(1.5, at=3)
    asked.saved(0.08)
    assert not saves(3.9, at=3) and saves(0.2, at=3)


def test_a_signal_within_an_evaluation_costs_the_last_step_before_it(tmp_path, monkeypatch):
    """The second evaluation of an epoch, with gradients of three batches; no save is due by time."""
    monkeypatch.setattr(pace, "_WORTH", 0)
    monkeypatch.setattr(pace, "_WORTH_SECONDS", 0.0)
    brought = recipe(
        train__every="1 h",
        args={"mbatch_size": 8},
        trainer__accumulate_grad_batches=3,
        trainer__val_check_interval=7,
        trainer__num_sanity_val_steps=0,
    )
    whole = fit(tmp_path, brought, run="whole")
    assert [line["step"] for line in whole.run.metrics() if line["kind"] == "val"] == [7, 14, 22, 29, 37, 44]
    with pytest.raises(Again):
        fit(tmp_path, brought, fault="evaluate.batch:8:term")
    stopped = Run(tmp_path / "run")
    assert [line["step"] for line in stopped.metrics() if line["kind"] == "val"] == [7]
    notes = Notes()
    outcome = fit(tmp_path, brought, view=notes)
    assert "resumed at epoch 0.8 from samples-000000000096" in notes.all  # after 12 of 14 batches: four steps of three
    assert same(outcome.run, whole.run)
    assert told(outcome.run) == told(whole.run)


def test_the_last_step_before_an_evaluation_is_found():
    """By trying every batch of two epochs, by Lightning's own rules."""
    for epoch, every, accumulate in itertools.product((5, 12), (1, 3, 5, math.inf), (1, 2, 5)):
        for earlier, over_all in ((0, False), (epoch, True), (2 * epoch, True)):
            before = earlier if over_all else 0
            ends = [b for b in range(1, epoch + 1) if b == epoch or (before + b) % every == 0]
            for batch in range(epoch):
                following = next(end for end in ends if end > batch)
                expected = max((b for b in range(following) if b % accumulate == 0), default=0)
                found = pace.last_before_an_evaluation(
                    batch, epoch=epoch, every=every, accumulate=accumulate, earlier=before
                )
                assert found == expected
    assert pace.last_before_an_evaluation(3, epoch=math.inf, every=math.inf, accumulate=1) == 0


def test_a_save_that_falls_on_the_end_of_an_epoch_is_made_at_the_next_step(tmp_path, monkeypatch):
    monkeypatch.setattr(pace, "_WORTH_SECONDS", math.inf)  # on a busy machine one before an evaluation is worth it
    run = fit(tmp_path, recipe(train__every="1 epochs", train__keep=9)).run
    saved = [event["samples"] for event in run.events() if event["event"] == "saved"]
    assert saved == [144, 272, 384]  # epochs of eight batches of 16, and the end


def test_epochs_of_one_step_are_saved_at_their_end(tmp_path):
    brought = recipe(args={"mbatch_size": 120})
    whole = fit(tmp_path, brought, run="whole")
    with pytest.raises(Again):
        fit(tmp_path, brought, fault="step.end:2:term")
    outcome = fit(tmp_path, brought)
    assert same(outcome.run, whole.run)
    assert told(outcome.run) == told(whole.run)


def test_nothing_is_left_to_do_for_a_run_that_is_done_and_more_epochs_go_on(tmp_path):
    assert fit(tmp_path, recipe(trainer__max_epochs=1)).state == "finished"
    assert fit(tmp_path, recipe(trainer__max_epochs=1)).state == "already"
    longer = fit(tmp_path, recipe(trainer__max_epochs=2))
    assert longer.run.metrics()[-1]["epoch"] == 2


def test_another_training_does_not_write_into_the_folder(tmp_path, undisturbed):
    with pytest.raises(RunError, match=r"task.args.lr: \"not there\"|task.args.lr: not there -> 0.5"):
        fit(undisturbed.run.path.parent, recipe(args={"lr": 0.5}))


def test_a_folder_in_which_nothing_was_learnt_takes_other_settings(tmp_path):
    with pytest.raises(ConfigError):
        fit(tmp_path, recipe("RaisesAtOnce"))
    assert fit(tmp_path, recipe(trainer__max_epochs=1)).state == "finished"


def test_images_that_instar_reads_are_taken_up_at_the_same_batch(tmp_path):
    root = folder_of_images(tmp_path / "some 'images'", classes=10)

    def brought() -> Brought:
        return recipe(data={"root": str(root)}, augment={"kind": "standard", "size": 16}, train__batch=8)

    def run(name: str, fault: str = "") -> stage.Outcome:
        made = brought()
        return fit(tmp_path, made, run=name, fault=fault, manifest=lambda: prepare.manifest(made.data, made.seed))

    whole = run("whole")
    with pytest.raises(Again):
        run("cut", fault="step.end:7:term")
    assert same(run("cut").run, whole.run)


def test_early_stopping_ends_it(tmp_path):
    outcome = fit(tmp_path, recipe(train__stop_early={"patience": 0, "stopping_threshold": 0.0}))
    assert outcome.state == "early"
    assert len([line for line in outcome.run.metrics() if line["kind"] == "val"]) == 1


def test_the_best_is_chosen_by_number(tmp_path, monkeypatch):
    """Compared as text, 9.5 would be more than 10.2."""
    from tests.fakes.own import baseline

    values = iter([9.5, 10.2, 8.0])
    monkeypatch.setattr(baseline.Small, "validation_step", lambda self, batch, batch_idx: None)
    monkeypatch.setattr(
        baseline.Small, "on_validation_epoch_end", lambda self: self.log("bleu", next(values)), raising=False
    )
    outcome = fit(tmp_path, recipe(train__monitor="bleu", trainer__num_sanity_val_steps=0))
    assert outcome.best["value"] == pytest.approx(10.2)
    assert outcome.best["epoch"] == 2


def test_weights_of_another_run_are_begun_with(tmp_path, undisturbed):
    one_step = recipe(train__warm_start=str(undisturbed.run.path), trainer__max_steps=1, args={"lr": 0.0})
    begun = weights(fit(tmp_path, one_step).run)
    best = torch.load(
        undisturbed.run.checkpoints / (undisturbed.run.checkpoints / "best").read_text().strip() / "lightning.ckpt",
        weights_only=True,
    )["state_dict"]
    assert torch.equal(begun["network.5.weight"], best["network.5.weight"])


def test_a_new_run_takes_up_an_epoch_of_another(tmp_path, undisturbed):
    kept = recipe(train__keep=20)
    whole = fit(tmp_path, kept, run="whole")
    again = recipe(train__resume=str(whole.run.path), train__resume_epoch=0)
    notes = Notes()
    outcome = fit(tmp_path, again, run="again", view=notes)
    assert any("samples-000000000096" in note for note in notes.all)
    assert same(outcome.run, whole.run)


def stages(session):
    """As a user would write them: train, score the newest, test the best."""
    session.fit()
    session.validate("latest")
    scores = session.test("best")
    (session.run.path / "mine.txt").write_text(f"{scores['test_acc']:.6f} of {session.checkpoint('best').parent.name}")


def stages_that_fail(session):
    session.validate("no such file")


def test_stages_of_ones_own_are_gone_through_and_resumed(tmp_path, undisturbed):
    brought = recipe(task__stages="tests.test_fit.stages")
    with pytest.raises(Again):
        fit(tmp_path, brought, fault="step.end:13:term")
    outcome = fit(tmp_path, brought)
    assert outcome.state == "finished"
    assert same(outcome.run, undisturbed.run)
    assert outcome.scores["test"] == undisturbed.scores["test"]
    assert outcome.run.scores("val").keys() >= {"val_acc", "val_loss"}
    best = (outcome.run.checkpoints / "best").read_text().strip()
    assert (outcome.run.path / "mine.txt").read_text() == f"{outcome.scores['test']['test_acc']:.6f} of {best}"


def test_stages_of_ones_own_that_ask_for_nothing_there_are_told_so(tmp_path):
    with pytest.raises(ConfigError, match="there is no checkpoint no such file"):
        fit(tmp_path, recipe(task__stages="tests.test_fit.stages_that_fail"))


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ("deepspeed_stage_2", r"trainer: Lightning refuses this: .*pip install -U deepspeed"),
        ("fsdp", r"trainer: Lightning refuses this: The strategy `fsdp` requires a GPU accelerator"),
        ("dpp", r"trainer: Lightning refuses this: .*dpp"),
    ],
)
def test_a_strategy_that_cannot_be_here_is_refused_in_one_line(tmp_path, strategy, message):
    with pytest.raises(ConfigError, match=message) as refused:
        fit(tmp_path, recipe(trainer__strategy=strategy))
    assert len(str(refused.value).splitlines()) == 1


def test_a_strategy_of_many_is_left_out_by_one_process_which_says_so(tmp_path, undisturbed):
    """As a recipe of a cluster is tried on a laptop."""
    notes = Notes()
    outcome = fit(tmp_path, recipe(trainer__strategy="ddp"), view=notes)
    assert any("trainer.strategy=ddp is for several processes" in note for note in notes.all)
    assert same(outcome.run, undisturbed.run)
    assert outcome.scores == undisturbed.scores


def test_a_strategy_that_starts_processes_is_refused_with_the_one_to_write():
    with pytest.raises(ConfigError, match=r"is ddp_spawn_find_unused_parameters_true, but .*: write ddp_find_unused"):
        recipe(trainer__strategy="ddp_spawn_find_unused_parameters_true")


def test_every_strategy_that_lightning_names_is_known_to_go_or_to_be_refused():
    """A new one of these should be looked at: does it start processes itself?"""
    from lightning.pytorch.strategies import StrategyRegistry

    families = {name.split("_")[0] for name in StrategyRegistry.available_strategies()}
    assert families - {"divided"} == {"ddp", "deepspeed", "fsdp", "single", "xla"}


def test_a_folder_of_parts_is_no_file_to_begin_with(tmp_path):
    brought = recipe(train__warm_start=str(tmp_path / "x"))
    (tmp_path / "x" / "checkpoints" / "best-1" / "lightning.ckpt").mkdir(parents=True)
    (tmp_path / "x" / "checkpoints" / "best").write_text("best-1")
    with pytest.raises(
        ConfigError, match=r"is a folder of the parts of several ranks. Make one file of it: python -m "
    ):
        fit(tmp_path, brought)


def test_what_is_not_plain_needs_trust(tmp_path):
    with pytest.raises(Again):
        fit(tmp_path, recipe("KeepsAnObject"), fault="step.end:5:term")
    with pytest.raises(ConfigError, match=r"holds more than tensors.*task\.trust=true"):
        fit(tmp_path, recipe("KeepsAnObject"))
    assert fit(tmp_path, recipe("KeepsAnObject", task__trust=True)).state == "finished"


@pytest.mark.parametrize(
    ("definition", "error", "message"),
    [
        ("RaisesAtOnce", ConfigError, r"baseline.py:\d+, in __init__: RuntimeError: no such data set here"),
        ("RaisesInAStep", LearningError, r"baseline.py:\d+, in training_step: KeyError: 'images'"),
        ("WithoutAStep", ConfigError, r"baseline.py:\d+, WithoutAStep: Lightning refuses this: No `training_step"),
        ("WithoutLoader", ConfigError, r"baseline.py:\d+, WithoutLoader: Lightning refuses this: An invalid dataload"),
        ("Endless", ConfigError, r"baseline.py:\d+: train_dataloader gives a loader without a length"),
    ],
)
def test_what_the_module_does_wrong_is_said_with_its_line(tmp_path, definition, error, message):
    with pytest.raises(error, match=message):
        fit(tmp_path, recipe(definition))
    event = Run(tmp_path / "run").events()[-1]
    assert event["event"] == "failed" and event["kind"] == error.__name__
    if definition.startswith("Raises"):  # its own lines, and nobody else's
        told = "\n".join(why.told(why.explain(Run(tmp_path / "run").status(), [event]), now=0.0))
        assert told.count('  File "') == 1 and "baseline.py" in told
        assert "mistake in Instar" not in told


def test_a_name_that_is_never_logged_is_said_with_the_near_miss(tmp_path):
    with pytest.raises(ConfigError, match=r"baseline.py:\d+: the module never logged it: .* did you mean 'val_acc'"):
        fit(tmp_path, recipe(train__monitor="val_akk"), view=(notes := Notes()))
    # after the first step, not after the first epoch
    assert any("train.monitor=val_akk is not logged yet" in note and "'val_acc'" in note for note in notes.all)


def test_what_is_logged_while_training_is_watched_without_a_word(tmp_path):
    notes = Notes()
    watched = recipe(train__monitor="train_loss", train__monitor_mode="min", trainer__max_epochs=2)
    outcome = fit(tmp_path, watched, view=notes)
    told = [line["train_loss"] for line in outcome.run.metrics() if line["kind"] == "epoch"]
    assert len(told) == 2 and outcome.best["value"] == min(told)
    assert not any("not logged" in note for note in notes.all)
