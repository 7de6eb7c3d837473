"""A whole training with divided parameters: the numbers of one process, and its own bits after every interruption."""

import math
import os
from pathlib import Path
from typing import Any

import pytest

from instar import plugins
from instar import train as stage
from instar.engine import faults
from instar.engine.ranks import parallel as parallels
from instar.engine.ranks.world import World
from instar.errors import Again, ConfigError
from instar.run import Run
from tests.fakes import processes, training
from tests.fakes.images import folder_of_images
from tests.fakes.processes import losses
from tests.fakes.training import fingerprint

# Nothing is drawn by rank, and micro-batches of one: two ranks then score an odd number of rows in unequal numbers.
WHOLE = {"train__epochs": 3, "train__ema": 0.9, "train__micro": 1, "model__dropout": 0.0}
# Told to stop before, in and after evaluations: one start then scores before it has taken a step.
FAULTS = ("step.end:5:term", "loop.evaluate:1:term", "step.end:4:usr1")
SHORT = {"train__epochs": 1, "train__log": 1, "model__dropout": 0.0}


def divided(
    world: World, folder: str, run: str, stops: tuple[str, ...], settings: dict[str, Any], last: str = ""
) -> Run:
    """Train with divided parameters, stopped by each fault and resumed by the same command; `last` does not stop it."""

    def join(*_: Any, **__: Any) -> World:  # these ranks have met already
        faults.arm(os.environ["INSTAR_FAULT"], world.rank)
        return world

    stage.worlds.join = join
    parallels._BLOCK_PARAMETERS = 20  # so that the blocks of the small network are divided one by one
    root = Path(folder) / "images"
    for fault in stops:
        with pytest.raises(Again):
            training.train(Path(folder), run=run, root=root, fault=fault, train__parallel="fsdp", **settings)
    return training.train(Path(folder), run=run, root=root, fault=last, train__parallel="fsdp", **settings).run


def test_a_divided_training_has_the_numbers_of_one_process_and_loses_nothing(together, tmp_path: Path) -> None:
    alone = training.train(tmp_path, run="alone", root=folder_of_images(tmp_path / "images"), **WHOLE).run
    whole, _ = together(2, divided, str(tmp_path), "whole", (), WHOLE)
    stopped, _ = together(2, divided, str(tmp_path), "stopped", FAULTS, WHOLE)
    assert fingerprint(stopped) == fingerprint(whole)
    assert [event["event"] for event in stopped.events()].count("resumed") == len(FAULTS)
    for one, other in zip(alone.metrics(), whole.metrics(), strict=True):  # every row is scored, or this would differ
        assert (one["kind"], one["samples"]) == (other["kind"], other["samples"])
        assert [one["loss"], one["accuracy"]] == pytest.approx([other["loss"], other["accuracy"]], rel=1e-6)


def _by_kind(world: World, folder: str, kinds: dict[str, dict[str, Any]]) -> dict[str, list[float]]:
    return {kind: losses(divided(world, folder, kind, ("step.end:3:term",), kinds[kind])) for kind in kinds}


QUICK = ("sgd", "bf16")
THE_OTHERS = tuple(kind for kind in (*plugins.kinds("optimizers"), "fp16") if kind not in QUICK)


@pytest.mark.parametrize("names", [QUICK, pytest.param(THE_OTHERS, marks=pytest.mark.scenario)], ids="-".join)
def test_every_optimizer_and_precision_takes_divided_parameters(together, tmp_path: Path, names) -> None:
    root = folder_of_images(tmp_path / "images")
    kinds = {kind: {**SHORT, "optim": {"kind": kind, "lr": 0.01, "clip": 1.0}} for kind in names}
    kinds |= {kind: {**SHORT, "train__precision": kind} for kind in names if kind in ("bf16", "fp16")}
    found, _ = together(2, _by_kind, str(tmp_path), kinds)
    for kind, settings in kinds.items():
        alone = training.train(tmp_path, run=f"{kind} alone", root=root, **settings).run
        assert found[kind] == pytest.approx(losses(alone), rel=1e-6), kind


def test_a_divided_training_rolls_back_where_numbers_are_none(together, tmp_path: Path) -> None:
    folder_of_images(tmp_path / "images")
    run, _ = together(2, divided, str(tmp_path), "run", (), SHORT, "step.loss@1:5:nan")
    assert [event["event"] for event in run.events()].count("rollback") == 2  # told by each rank
    assert all(math.isfinite(line["loss"]) for line in run.metrics())


def test_weights_that_cannot_be_divided_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="channels-last cannot be divided"):
        training.recipe(tmp_path, train__parallel="fsdp", train__channels_last=True)


@pytest.mark.scenario  # three starts of two processes
def test_a_killed_divided_training_carries_on_to_the_same_bits(tmp_path: Path) -> None:
    settings = {"ranks": 2, "train__parallel": "fsdp", "train__ema": 0.9}
    with processes.command(tmp_path, run="whole", **settings) as whole:
        assert whole.go().code == 0
        with processes.command(tmp_path, run="killed", **settings) as killed:
            assert killed.go(fault="step.end@1:7:kill").code == 75
            assert killed.go(fault="writer.bytes:2:kill").code == 75  # rank 0 goes with its writer
            ended = killed.go()
            assert ended.code == 0, ended.output
            assert fingerprint(killed.run) == fingerprint(whole.run)
            assert killed.run.scores("test")["rows"] == 6
