"""What is tried, and what is stopped early: Optuna's samplers and pruners, so that a search killed goes on the same."""

import hashlib
import math
import warnings
from typing import Any

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from instar.search import Search
from instar.study import Definition


def sampler_of(definition: Definition, place: int, *, together: int) -> BaseSampler:
    """The sampler of one place, which knows nothing of others but what the journal tells."""
    digest = hashlib.sha256(f"{definition.experiment.seed} {place}".encode()).digest()
    seed = int.from_bytes(digest[:4], "big")
    if definition.search.sampler != "tpe":
        return RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(
            seed=seed, n_startup_trials=definition.search.startup, constant_liar=together > 1, multivariate=False
        )


def pruner_of(search: Search, *, mode: str, evaluations: float) -> BasePruner:
    if search.pruner == "asha":
        return Asha(grace=search.grace, reduction=search.reduction, mode=mode)
    if search.pruner == "median":
        return MedianPruner(n_startup_trials=4, n_warmup_steps=search.grace)
    if search.pruner == "hyperband":
        most: Any = max(search.grace, math.floor(evaluations)) if math.isfinite(evaluations) else "auto"
        return HyperbandPruner(min_resource=search.grace, max_resource=most, reduction_factor=search.reduction)
    return NopPruner()


class Asha(BasePruner):
    """Asynchronous successive halving: at evaluation grace * reduction^k the best one in `reduction` goes on.

    What Optuna's SuccessiveHalvingPruner decides, from the evaluations alone: that one notes in the trial how far it
    came, so that a search killed in between decides otherwise the second time.
    Li et al. 2020, https://arxiv.org/abs/1810.05934.
    """

    def __init__(self, *, grace: int, reduction: int, mode: str):
        self._grace, self._reduction, self._sign = grace, reduction, 1.0 if mode == "max" else -1.0

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        step = trial.last_step
        if step is None or not self._is_rung(step):
            return False
        own = trial.intermediate_values[step] * self._sign
        if math.isnan(own):
            return True
        curves = [one.intermediate_values for one in study.get_trials(deepcopy=False) if one.number != trial.number]
        others = [curve[step] * self._sign for curve in curves if step in curve and not math.isnan(curve[step])]
        values = sorted([own, *others], reverse=True)
        return own < values[max(1, len(values) // self._reduction) - 1]

    def _is_rung(self, step: int) -> bool:
        rung = self._grace
        while rung < step:
            rung *= self._reduction
        return rung == step
