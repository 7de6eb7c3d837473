"""The search itself: what is tried, what is stopped, what is counted; without any training."""

import json
import math
import random
import subprocess
import sys
import time
import warnings

import optuna
import pytest

from instar import experiment as experiments
from instar import space as spaces
from instar import tune
from instar.cli import tune as command
from instar.cli.words import parse
from instar.engine.ranks import lease
from instar.errors import ConfigError, RunError, WeightsError
from instar.search import Budget, Effort, Search
from instar.study import Study
from instar.tune import claims, forks, lanes, searcher, summary, trial
from instar.tune.searcher import Searcher, journal
from instar.tune.searcher.choosing import Asha
from instar.tune.searcher.terms import inside
from tests.fakes import lane as fake_lane

TEXTS = {
    "optim.kind": "choice(sgd, adamw)",
    "optim.lr": "loguniform(1e-5, 1e-1)",
    "optim.momentum": "uniform(0.5, 0.99) if optim.kind=sgd",
    "task.label_smoothing": "quniform(0, 0.3, 0.1)",
    "train.batch": "int(8, 64, 8)",
}


def defined(texts=TEXTS, *, known=(), **search):
    document = {"seed": 3, "data": {"root": "/images"}}
    return tune.define(document, spaces.of(texts), Search(**search), known=known)


def searching(folder, definition=None, *, mode="max", together=1):
    return Searcher(folder / "journal.log", definition or defined(), mode=mode, evaluations=9.0, together=together)


def score(settings):
    """Something to search the best of: a learning rate of 1e-3."""
    return 1 - abs(math.log10(settings["optim.lr"]) + 3) / 5


def gone_through(folder, places, *, definition=None, restart=True):
    """Settings of each place, where the searcher is made anew for every trial, or is the same for all."""
    found = searching(folder, definition)
    told = []
    for place in places:
        found = searching(folder, definition) if restart else found
        settings = found.settings(place)
        found.end(place, "finished", value=score(settings))
        told.append(settings)
    return told


# --- what is tried -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_search_that_is_started_anew_for_every_trial_tries_the_same(tmp_path, sampler):
    definition = defined(sampler=sampler, startup=4)
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    whole = gone_through(tmp_path / "whole", range(12), definition=definition, restart=False)
    assert gone_through(tmp_path / "cut", range(12), definition=definition) == whole
    assert len({json.dumps(settings) for settings in whole}) == 12


def test_settings_that_were_chosen_are_told_again_and_not_chosen_anew(tmp_path):
    first = searching(tmp_path).settings(0)
    again = searching(tmp_path)
    assert again.settings(0) == first and again.places() == {0: "running"}


def test_values_are_drawn_inside_their_ranges_and_only_where_a_choice_asks_for_them(tmp_path):
    for settings in gone_through(tmp_path, range(20), definition=defined(sampler="random"), restart=False):
        assert 1e-5 <= settings["optim.lr"] <= 1e-1 and settings["train.batch"] in range(8, 65, 8)
        assert math.isclose(settings["task.label_smoothing"] * 10, round(settings["task.label_smoothing"] * 10))
        assert ("optim.momentum" in settings) == (settings["optim.kind"] == "sgd")


def test_the_search_finds_what_is_good(tmp_path):
    texts = {"optim.lr": "loguniform(1e-6, 1)"}
    told = gone_through(tmp_path, range(40), definition=defined(texts, startup=10), restart=False)
    assert max(map(score, told)) > 0.97
    late, early = (sum(map(score, some)) / len(some) for some in (told[20:], told[:10]))
    assert late > early + 0.1, "later trials go by earlier ones"


def test_the_same_search_written_with_optuna_alone_draws_from_the_same_distributions(tmp_path):
    """Every dimension is the Optuna distribution that its name says, in a recipe's own unit."""
    searching(tmp_path).settings(0)
    stored = optuna.load_study(
        study_name="instar",
        storage=optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(str(tmp_path / "journal.log"))
        ),
    ).trials[0]
    assert stored.distributions["optim.lr"] == optuna.distributions.FloatDistribution(1e-5, 1e-1, log=True)
    assert stored.distributions["train.batch"] == optuna.distributions.IntDistribution(8, 64, step=8)
    assert stored.distributions["optim.kind"] == optuna.distributions.CategoricalDistribution(("sgd", "adamw"))


def test_the_search_space_of_hyperopt_maps_onto_ours(tmp_path):
    """The butterflies' own: loguniform learning rate and weight decay, choices of optimiser and schedule."""
    texts, place, _ = spaces.load("recipes/butterflies/tune.yaml")
    document = experiments.document("recipes/butterflies/recipe.yaml")
    definition = tune.define(document, spaces.of(texts, place), Search())
    kinds = {one.name: (one.kind, one.numbers or one.choices) for one in definition.space.dimensions}
    assert kinds["optim.lr"] == ("loguniform", (1e-6, 1e-5))
    assert kinds["optim.weight_decay"] == ("loguniform", (1e-7, 1e-3))
    assert kinds["optim.kind"] == ("choice", ("rmsprop", "adam", "adamw", "asgd"))
    assert [choice["kind"] for choice in kinds["schedule"][1]] == ["step", "plateau", "cosine"]
    drawn = Searcher(tmp_path / "journal.log", definition, mode="max", evaluations=4).settings(0)
    assert 1e-6 <= drawn["optim.lr"] <= 1e-5 and drawn["schedule"]["kind"] in ("step", "plateau", "cosine")


def test_the_array_over_45_networks_is_one_grid():
    texts, place, said = spaces.load("recipes/butterflies/models.yaml")
    document = experiments.document("recipes/butterflies/recipe.yaml")
    definition = tune.define(document, spaces.of(texts, place), Search(**said), seeds=2)
    points = list(definition.space.grid())
    assert len(points) == 90 and len({point["model"]["name"] for point in points}) == 45
    kinds = [point["model"]["kind"] for point in points]
    assert (kinds.count("torchvision"), kinds.count("timm")) == (82, 8)


@pytest.mark.scenario
def test_each_of_the_45_networks_is_known_to_its_library():
    import timm
    import torchvision

    texts, _, _ = spaces.load("recipes/butterflies/models.yaml")
    for choice in spaces.of(texts).dimensions[0].choices:
        if choice["kind"] == "timm":
            assert timm.is_model(choice["name"]), choice
        else:
            assert choice["name"] in torchvision.models.list_models(module=torchvision.models), choice


def test_weights_of_every_model_that_may_be_tried_are_looked_for_before_anything_begins(tmp_path, monkeypatch):
    for name in ("HF_HOME", "TORCH_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "no caches"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    (tmp_path / "recipe.yaml").write_text("data: {root: /images}\nmodel: resnet9\n")
    models = "choice(resnet9, {kind: torchvision, name: resnet50, pretrained: true})"
    found = asked(str(tmp_path / "recipe.yaml"), f"model={models}", "sampler=grid", f"study={tmp_path}/it")
    with pytest.raises(WeightsError, match=r"(?s)resnet50 \(torchvision\) are not here.*instar fetch .*resnet50"):
        command._weights_are_here(found)


def test_kinds_that_optuna_lacks_are_drawn_through_those_it_has(tmp_path):
    texts = {"optim.lr": "qloguniform(0.001, 1, 0.001)", "task.label_smoothing": "normal(0.1, 0.02)"}
    for settings in gone_through(tmp_path, range(15), definition=defined(texts), restart=False):
        assert round(settings["optim.lr"] * 1000, 6) == round(settings["optim.lr"] * 1000)
        assert 0.04 <= settings["task.label_smoothing"] <= 0.16


def test_a_grid_is_gone_through_in_turn_with_every_seed(tmp_path):
    document = {"seed": 5, "data": {"root": "/images"}}
    definition = tune.define(
        document, spaces.of({"task.balance": "choice(none, weights)"}), Search(sampler="grid"), seeds=3
    )
    found = Searcher(tmp_path / "journal.log", definition, mode="max", evaluations=4)
    points = [tuple(found.settings(place).values()) for place in (5, 0, 1, 2, 3, 4)]
    assert points[1:] + points[:1] == [(b, s) for b in ("none", "weights") for s in (5, 6, 7)]


def test_known_settings_are_tried_first_and_those_outside_are_refused(tmp_path):
    known = {"optim.kind": "adamw", "optim.lr": 2e-3}
    found = searching(tmp_path, defined(known=[known]))
    assert {name: found.settings(0)[name] for name in known} == known
    with pytest.raises(ConfigError, match=r"optim.lr = 3 is outside loguniform\(1e-5, 1e-1\)"):
        inside(spaces.of(TEXTS), {"optim.kind": "adamw", "optim.lr": 3})


def test_results_of_another_study_are_learnt_from_and_not_counted(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    gone_through(tmp_path / "old", range(12), restart=False)
    old, new = searching(tmp_path / "old"), searching(tmp_path / "new", defined(startup=4))
    assert new.learn(old.trials()) == 12 and new.places() == {}
    alone = gone_through(tmp_path, [0], definition=defined(startup=4))
    assert new.settings(0) != alone[0], "the first trial goes by what is known"


def test_settings_that_would_make_trials_incomparable_are_refused():
    with pytest.raises(ConfigError) as caught:
        defined({"data.min_per_class": "int(1, 5)", "train.metric": "choice(loss, accuracy)"})
    told = "\n".join(caught.value.mistakes)
    assert "data.min_per_class cannot be varied: trials on other rows" in told and "scored in another way" in told
    with pytest.raises(ConfigError, match=r"a grid needs choices, not loguniform"):
        defined({"optim.lr": "loguniform(1e-5, 1)"}, sampler="grid")


# --- what is stopped early ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", [2, 3])
def test_asha_decides_as_optunas_does(reduction):
    """On made-up curves, against SuccessiveHalvingPruner, evaluation by evaluation."""
    decided = []
    for pruner in (
        Asha(grace=1, reduction=reduction, mode="max"),
        optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=reduction),
    ):
        study = optuna.create_study(direction="maximize", pruner=pruner)
        chance, stops = random.Random(4), []
        for _ in range(30):
            one, level = study.ask(), chance.random()
            curve = [level * (1 - 0.5**step) + 0.05 * chance.random() for step in range(1, 10)]
            for step, value in enumerate(curve, start=1):
                one.report(value, step)
                if one.should_prune():
                    study.tell(one, state=optuna.trial.TrialState.PRUNED)
                    stops.append(step)
                    break
            else:
                study.tell(one, curve[-1])
                stops.append(0)
        decided.append(stops)
    assert decided[0] == decided[1] and len(set(decided[0])) > 2


@pytest.mark.parametrize("pruner", ["asha", "median", "hyperband"])
def test_a_bad_trial_is_stopped_at_an_evaluation_and_a_good_one_goes_on(tmp_path, pruner):
    found = searching(tmp_path, defined(pruner=pruner, grace=1, reduction=2))
    stopped = 0
    for place in range(12):
        found.settings(place)
        for step in range(1, 10):
            if not found.goes_on(place, step, 0.9 if place < 4 else 0.01 * step):
                stopped += 1
                break
        else:
            found.end(place, "finished", value=0.9)
    assert stopped >= 3 and list(found.places().values()).count("pruned") == stopped
    assert found.places()[0] == "finished"


def test_none_stops_nothing_and_an_answer_is_the_same_the_second_time(tmp_path):
    found = searching(tmp_path, defined(pruner="none"))
    found.settings(0)
    assert all(found.goes_on(0, step, 0.0) for step in (1, 2, 2, 1, 3))
    assert list(found.trials()[0].curve) == [1, 2, 3]


def test_a_value_that_is_none_stops_a_trial(tmp_path):
    found = searching(tmp_path)
    found.settings(0)
    assert not found.goes_on(0, 1, math.nan)


# --- what is counted, and by whom ----------------------------------------------------------------------------------------


def test_a_trial_is_counted_once(tmp_path):
    one, other = searching(tmp_path), searching(tmp_path)
    one.settings(0)
    one.end(0, "finished", value=0.5)
    other.end(0, "finished", value=0.9)
    other.end(0, "failed", reason="late")
    assert [(found.state, found.value) for found in one.trials()] == [("finished", 0.5)]


def test_half_a_line_in_the_journal_is_cut_off_before_the_next_is_written(tmp_path):
    found = searching(tmp_path)
    found.settings(0)
    whole = (tmp_path / "journal.log").read_bytes()
    with open(tmp_path / "journal.log", "ab") as file:
        file.write(b'{"op_code":4,"worker')
    again = searching(tmp_path)
    again.end(0, "finished", value=0.5)
    assert (tmp_path / "journal.log").read_bytes().startswith(whole)
    assert searching(tmp_path).places() == {0: "finished"}


def test_a_damaged_journal_is_told_apart_from_a_mistake_of_ours(tmp_path):
    (tmp_path / "journal.log").write_bytes(b"no json\nno json either\n")
    with pytest.raises(RunError, match=r"journal.log is damaged"), journal.opened(tmp_path / "journal.log"):
        searching(tmp_path)


def test_a_place_belongs_to_one_worker_until_that_is_gone(tmp_path):
    mine, theirs = (claims.Claims(lambda place: tmp_path / f"{place}" / "claim.json") for _ in range(2))
    held = mine.take(0)
    assert held is not None and theirs.take(0) is None and theirs.take(1) is not None
    held.release()
    assert theirs.take(0) is not None


def test_a_holder_on_another_machine_counts_as_dead_only_after_its_silence(tmp_path, monkeypatch):
    held = claims.Claims(lambda place: tmp_path / "claim.json").take(0)
    assert held is not None
    monkeypatch.setattr(lease._Holder, "_process_state", lambda self: "unknown")
    watching = claims.Claims(lambda place: tmp_path / "claim.json", patience=0.5)
    assert watching.take(0) is None, "just seen for the first time"
    monkeypatch.setattr(lease._Holder, "is_certain_to_live", lambda self, ours: False)
    held._ended.set()  # its heart stops
    watching.watch([0])
    assert watching._standing(0) == "dead"


def test_lanes_divide_gpus_and_cores():
    shown = {"CUDA_VISIBLE_DEVICES": "0,1,GPU-abc,3"}
    whole = lanes.lanes("auto", devices=1, share=1, device="cuda", environ=shown, cpus=8)
    assert [lane.gpus for lane in whole] == [("0",), ("1",), ("GPU-abc",), ("3",)]
    told = whole[2].environ()
    assert (told["OMP_NUM_THREADS"], told["CUDA_VISIBLE_DEVICES"], told["INSTAR_WORLD"]) == ("2", "GPU-abc", "1")
    pairs = lanes.lanes("auto", devices=2, share=1, device="cuda", environ=shown, cpus=8)
    assert [lane.gpus for lane in pairs] == [("0", "1"), ("GPU-abc", "3")]
    shared = lanes.lanes("auto", devices=1, share=2, device="cuda", environ=shown, cpus=8)
    assert [lane.gpus for lane in shared[:3]] == [("0",), ("0",), ("1",)] and len(shared) == 8
    assert [lane.threads for lane in lanes.lanes(2, devices=1, share=1, device="cpu", environ={}, cpus=5)] == [2, 2]
    for said, each in (("1", "1"), ("64", "4"), ("many", "4")):
        (one, _) = lanes.lanes(2, devices=1, share=1, device="cpu", environ={"OMP_NUM_THREADS": said}, cpus=8)
        assert one.environ()["OMP_NUM_THREADS"] == each, "what was said, if there is room for it"
    with pytest.raises(ConfigError, match=r"parallel=5: 4 GPUs with 1 for a trial have room for 4"):
        lanes.lanes(5, devices=1, share=1, device="cuda", environ=shown, cpus=8)


def test_what_a_plug_in_imports_when_it_is_used_is_imported_once_for_all_trials():
    document = {"data": {"root": "/images"}, "model": {"kind": "timm", "name": "resnet10t"}}
    found = forks.modules(experiments.load(document))
    assert {"timm", "torch", "instar.tasks._losses", "instar.tasks._mix", "instar.metrics.classification"} <= {*found}
    found = forks.modules(experiments.load({"data": {"root": "/i"}, "task": "segmentation"}))
    assert {"instar.tasks._segmenter", "instar.metrics.pixels"} <= {*found}


def test_parts_of_divided_gpus_are_lanes_by_their_names():
    parts = [f"MIG-{number}f3c1d5a-0b1e-5c7e-9a3d-2f4e6a8b0c1d" for number in range(3)]
    shown = {"CUDA_VISIBLE_DEVICES": ", ".join(parts)}
    found = lanes.lanes("auto", devices=1, share=1, device="auto", environ=shown, cpus=6)
    assert [lane.environ()["CUDA_VISIBLE_DEVICES"] for lane in found] == parts
    two = lanes.lanes(4, devices=1, share=2, device="auto", environ=shown, cpus=6)
    assert [lane.gpus for lane in two] == [(parts[0],), (parts[0],), (parts[1],), (parts[1],)]
    with pytest.raises(ConfigError, match=r"devices=2: CUDA shows a process one part of a divided GPU \(MIG\) only"):
        lanes.lanes("auto", devices=2, share=1, device="auto", environ=shown, cpus=6)


@pytest.mark.parametrize(
    ("shown", "gpus"), [("", []), ("-1", []), ("NoDevFiles,", ["NoDevFiles"]), ("2,-1,3", ["2"]), ("5, 1", ["5", "1"])]
)
def test_gpus_are_those_that_cuda_would_show(shown, gpus):
    environ = {"CUDA_VISIBLE_DEVICES": shown}
    found = lanes.lanes("auto", devices=1, share=1, device="auto", environ=environ, cpus=4)
    assert [name for lane in found for name in lane.gpus] == gpus
    assert lanes.lanes("auto", devices=1, share=1, device="cpu", environ=environ, cpus=4)[0].gpus == ()


def test_trials_of_several_gpus_have_them_to_themselves_and_those_left_over_stay_idle():
    shown = {"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b,GPU-c,GPU-d,GPU-e"}
    found = lanes.lanes("auto", devices=2, share=1, device="cuda", environ=shown, cpus=16)
    assert [lane.gpus for lane in found] == [("GPU-a", "GPU-b"), ("GPU-c", "GPU-d")]
    assert [lane.environ()["OMP_NUM_THREADS"] for lane in found] == ["4", "4"]
    with pytest.raises(ConfigError, match=r"devices=6 is more than the 5 GPUs here"):
        lanes.lanes("auto", devices=6, share=1, device="cuda", environ=shown, cpus=16)
    with pytest.raises(ConfigError, match=r"share=2 goes with devices=1"):
        lanes.lanes("auto", devices=2, share=2, device="cuda", environ=shown, cpus=16)


def test_the_process_of_a_trial_sees_its_lane_and_nothing_else(tmp_path, monkeypatch):
    """Two GPUs, one of them a part of a divided one, and two trials on each, in real processes."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,MIG-1f3c1d5a-0b1e-5c7e-9a3d-2f4e6a8b0c1d")
    monkeypatch.setenv("INSTAR_WORLD", "8")
    server, seen = forks.context([]), []
    for lane in lanes.lanes("auto", devices=1, share=2, device="auto", cpus=4):
        file = tmp_path / f"it's {lane.number}"
        started = trial.start(
            lane.number, trial.Run(tmp_path), [str(file)], lane=lane, claim=None, command=fake_lane.told,  # type: ignore[arg-type]
            log=tmp_path / "log", sockets=tmp_path, before=0.0, server=server,
        )  # fmt: skip
        started.process.join(60)
        started.listening.close()
        assert started.process.exitcode == 0, (tmp_path / "log").read_text()
        seen.append(json.loads(file.read_text()))
    assert [one["CUDA_VISIBLE_DEVICES"][:5] for one in seen] == ["7", "7", "MIG-1", "MIG-1"]
    assert {(one["OMP_NUM_THREADS"], one["INSTAR_WORLD"], one["INSTAR_RANK"]) for one in seen} == {("1", "1", "0")}


@pytest.mark.parametrize(
    ("code", "events", "told", "state"),
    [
        (0, [{"event": "finished", "best": {"value": 0.5}}], "", "finished"),
        (0, [{"event": "finished", "best": {}}], "", "failed"),
        (0, [{"event": "finished", "state": "pruned", "best": {"value": 0.5}}], "", "pruned"),
        (75, [{"event": "stopped", "reason": "signal SIGTERM"}], "signal SIGTERM", "stopped"),
        (75, [{"event": "stopped", "reason": "signal SIGTERM"}], "took longer than 2 h", "failed"),
        (75, [{"event": "stopped", "reason": "time limit"}], "", "stuck"),
        (75, [{"event": "micro_batch"}, {"event": "stopped", "reason": "memory"}], "", "again"),
        (65, [{"event": "failed", "kind": "LearningError", "reason": "not a finite number"}], "", "failed"),
        (65, [{"event": "failed", "kind": "CheckpointError", "reason": "no room"}], "", "stuck"),
        (70, [{"event": "failed", "reason": "OutOfMemoryError: CUDA"}], "", "failed"),
        (-9, [{"event": "started"}], "", "again"),
        (-9, [{"event": "trial_killed"}, {"event": "started"}], "", "failed"),
    ],
)
def test_every_way_a_trial_can_end_is_a_result_or_carries_on(tmp_path, code, events, told, state):
    class Process:
        exitcode = code

    run = trial.Run(tmp_path)
    for event in events:
        run.log_event(**event)
    running = trial.Running(0, run, None, None, Process(), None, 0.0, told=told)  # type: ignore[arg-type]
    ending = trial.ending(running, pruned=False, log=tmp_path / "log.txt")
    assert ending.state == state and (ending.reason or state in ("finished", "pruned"))


def test_a_budget_is_hours_of_gpus_or_cores():
    assert Budget.parse("64gpuh") == Budget(64.0, "gpu") and str(Budget.parse("1.5 cpuh")) == "1.5cpuh"
    for wrong in ("64", "64h", "-1gpuh", "0gpuh", "gpuh"):
        with pytest.raises(ValueError, match="hours of GPUs or cores"):
            Budget.parse(wrong)


def test_the_best_is_the_first_of_equals_and_only_of_those_that_finished(tmp_path):
    found = searching(tmp_path, mode="min")
    for place, value in enumerate((0.5, 0.2, 0.2)):
        found.settings(place)
        found.end(place, "finished", value=value)
    found.settings(3)
    found.goes_on(3, 1, 0.01)
    told = summary.of(Study(tmp_path), found.trials(), samples=8, metric="loss", mode="min")
    assert told["best"]["trial"] == 1 and told["counts"] == {"finished": 3, "pruned": 0, "failed": 0, "running": 1}


# --- the words -----------------------------------------------------------------------------------------------------


def asked(*words):
    return command.settings(parse("tune", words, flags=("dry",), things=(0, 1)))


def test_the_words_of_a_search_are_sorted(tmp_path):
    (tmp_path / "recipe.yaml").write_text("data: {root: /images}\n")
    found = asked(
        str(tmp_path / "recipe.yaml"), "lr=loguniform(1e-5,1e-1)", "epochs=3", "samples=5", "sampler=random",
        "workers=0", "metric=loss", "mode=min", "budget=2gpuh", f"study={tmp_path}/it's one",
    )  # fmt: skip
    assert found.definition is not None and found.definition.space.names == ("optim.lr",)
    assert tune.judged_by(found.definition.experiment) == ("loss", "min")
    assert (found.effort.samples, found.definition.search.sampler, found.machine.workers) == (5, "random", 0)
    assert found.definition.experiment.train.epochs == 3 and found.study.path == tmp_path / "it's one"
    assert found.effort == Effort(samples=5, budget=Budget(2.0, "gpu"))


def test_every_mistake_of_a_search_is_told_at_once(tmp_path):
    with pytest.raises(ConfigError) as caught:
        asked(
            str(tmp_path),
            "optim.lr=lguniform(1,2)",
            "task.balance=choice(weigts)",
            "sampels=3",
            "sampler=tp",
            "epochz=1",
        )
    told = caught.value.mistakes
    assert len(told) == 5 and any("did you mean 'samples'?" in mistake for mistake in told)


CARRIED = """\
data: {root: /images}
optim: sgd
space:
  optim.kind: choice(sgd, adamw)
  optim:
    momentum: uniform(0.5, 0.99) if optim.kind=sgd
  task.balance: [none, weights]
search: {samples: 5, sampler: random, budget: 2gpuh}
"""


def test_a_recipe_carries_its_own_space_and_how_it_is_searched(tmp_path):
    recipe = tmp_path / "it's $(a) recipe.yaml"
    recipe.write_text(CARRIED)
    found = asked(str(recipe))
    assert found.definition is not None
    assert found.definition.space.names == ("optim.kind", "optim.momentum", "task.balance")
    assert found.definition.space.dimensions[1].place == f"{recipe}:6"
    assert found.definition.search == Search(sampler="random")
    assert found.effort == Effort(samples=5, budget=Budget(2.0, "gpu"))
    assert not {"space", "search"} & set(found.definition.document), "a trial is the recipe without it"


def test_the_command_line_goes_before_what_a_recipe_searches(tmp_path):
    (tmp_path / "recipe.yaml").write_text(CARRIED)
    recipe = str(tmp_path / "recipe.yaml")
    found = asked(recipe, "task.balance=weights", "optim.lr=loguniform(1e-5,1)", "samples=7")
    assert found.definition is not None and found.effort.samples == 7
    assert found.definition.space.names == ("optim.kind", "optim.momentum", "optim.lr")
    assert found.definition.experiment.task.balance == "weights"
    (tmp_path / "space.yaml").write_text("space: {train.batch: [8, 16]}\n")
    other = asked(recipe, f"space={tmp_path}/space.yaml")
    assert other.definition is not None and other.definition.space.names == ("train.batch",)
    assert other.effort == Effort(), "another space is searched in its own way"
    assert found.study.name != asked(recipe).study.name


def test_training_leaves_a_recipes_space_aside_but_not_what_is_wrong_with_it(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(CARRIED)
    plain = experiments.load({"data": {"root": "/images"}, "optim": "sgd"})
    assert experiments.signature(experiments.load(recipe)) == experiments.signature(plain)
    wrong = CARRIED.replace("uniform(0.5", "unifrom(0.5").replace("samples", "sampels")
    recipe.write_text(wrong.replace("[none, weights]", "[]"))
    with pytest.raises(ConfigError) as caught:
        experiments.load(recipe)
    told = "\n".join(caught.value.mistakes)
    assert "did you mean 'uniform'?" in told and "choice() has nothing to choose from" in told
    assert f"{recipe}:8: unknown key 'search.sampels': did you mean 'search.samples'?" in told


def test_every_mistake_of_a_recipes_space_is_told_with_its_line(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(CARRIED.replace("uniform(0.5", "unifrom(0.5").replace("weights", "weihgts").replace("5,", "0,"))
    with pytest.raises(ConfigError) as caught:
        asked(str(recipe))
    told = caught.value.mistakes
    assert len(told) == 3, told
    assert any(one.startswith(f"{recipe}:6: optim.momentum: ") and "'uniform'" in one for one in told)
    assert any(one.startswith(f"{recipe}:7: task.balance is 'weihgts'") for one in told)
    assert any(one.startswith(f"{recipe}:8: search.samples is 0") for one in told)


def test_a_study_is_named_by_what_it_is(tmp_path):
    names = {asked(str(tmp_path), f"optim.lr=loguniform(1e-5,{end})").study.name for end in ("1e-1", "1e-1", "1e-2")}
    assert len(names) == 2


def test_neither_training_nor_the_command_line_imports_what_searches():
    code = (
        "import sys; from instar.cli import main; main(['--help']); main(['tune', '--help']); import instar.train, "
        "instar.cli.train, instar.cli.runs, instar.study; "
        "print([name for name in ('optuna', 'ray') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_two_hundred_trials_do_not_slow_the_search_down(tmp_path):
    """In processor time, and three times what a quiet machine takes."""
    definition = defined()
    found = searching(tmp_path, definition)
    others = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chance = random.Random(1)
        for _ in range(200):
            settings = {
                "optim.kind": "adamw",
                "optim.lr": 10 ** chance.uniform(-5, -1),
                "task.label_smoothing": 0.1,
                "train.batch": 16,
            }
            others.append(searcher.Trial(None, "finished", settings, {}, score(settings), "", {}))
    assert found.learn(others) == 200
    begun = time.process_time()
    found.settings(0)
    assert time.process_time() - begun < 0.15
