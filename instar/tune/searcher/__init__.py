"""What to try next, what to stop early, and what mattered: Optuna over a journal file.

A trial has a place of its own, 0 to samples - 1. Its settings are a function of the recipe's seed, its place and the
trials that have ended, and they go into the journal in one line; so a search that was killed asks again and hears the
same. Whose trial it is, is decided elsewhere (`claims`): only the holder of a place writes about it.
"""

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import RandomSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from instar.errors import ConfigError
from instar.study import Definition
from instar.tune.searcher.choosing import pruner_of, sampler_of
from instar.tune.searcher.journal import Mending
from instar.tune.searcher.terms import distribution_of, param_of, value_of

optuna.logging.set_verbosity(optuna.logging.ERROR)

# Everywhere the same: what Optuna derives from it must not depend on the folder.
_NAME = "instar"
_PLACE, _SETTINGS, _ABOUT, _REASON = "place", "settings", "about", "reason"
State = Literal["running", "finished", "pruned", "failed"]
_STATES: dict[TrialState, State] = {
    TrialState.RUNNING: "running",
    TrialState.WAITING: "running",
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


@dataclass(frozen=True)
class Trial:
    """One trial, as the journal tells it.

    place      its number; None for a result of another study
    settings   dotted name -> value, as in a recipe
    curve      evaluation -> value of the metric
    value      its best; None where it has none
    about      seconds, devices, cores, samples, epoch, ... of its training so far
    """

    place: int | None
    state: State
    settings: dict[str, Any]
    curve: dict[int, float]
    value: float | None
    reason: str
    about: dict[str, Any]


class Searcher:
    """One study's journal, and what follows from it. Any number of processes may have one at the same time."""

    def __init__(self, journal: Path, definition: Definition, *, mode: str, evaluations: float, together: int = 1):
        """evaluations   how many a whole training has; together   trials that run at the same time."""
        self._definition, self._together = definition, together
        journal = journal.absolute()
        lock = Mending(journal)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study = optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(journal), lock_obj=lock)),
                study_name=_NAME,
                direction="maximize" if mode == "max" else "minimize",
                load_if_exists=True,
                pruner=pruner_of(definition.search, mode=mode, evaluations=evaluations),
                sampler=RandomSampler(seed=0),
            )

    # --- what there is ---------------------------------------------------------------------------------------------

    def trials(self) -> list[Trial]:
        """Every trial, those of another study first, then by place."""
        found = [_told(one) for one in self._study.get_trials(deepcopy=False)]
        return sorted(found, key=lambda one: -1 if one.place is None else one.place)

    def places(self) -> dict[int, State]:
        """How each place that was ever given out stands."""
        return {place: _STATES[one.state] for place, one in self._frozen().items()}

    def _frozen(self) -> dict[int, FrozenTrial]:
        trials = self._study.get_trials(deepcopy=False)
        return {one.user_attrs[_PLACE]: one for one in trials if _PLACE in one.user_attrs}

    def _id(self, place: int) -> int:
        return self._frozen()[place]._trial_id  # the storage knows trials by this only

    # --- what to try -----------------------------------------------------------------------------------------------

    def settings(self, place: int) -> dict[str, Any]:
        """The settings of a place, chosen now unless they were before. Only the holder of the place may ask."""
        frozen = self._frozen().get(place)
        if frozen is None:
            params, distributions, values = self._chosen(place)
            self._study.add_trial(
                optuna.trial.create_trial(
                    state=TrialState.RUNNING,
                    params=params,
                    distributions=distributions,
                    user_attrs={_PLACE: place, _SETTINGS: values},
                )
            )
            return values
        return dict(frozen.user_attrs[_SETTINGS])

    def _chosen(self, place: int) -> tuple[dict[str, Any], dict[str, BaseDistribution], dict[str, Any]]:
        """What Optuna knows the settings of a place as, and what they are in a recipe."""
        fixed = self._fixed(place)
        sampler = sampler_of(self._definition, place, together=self._together)
        asking = optuna.trial.create_trial(state=TrialState.RUNNING)
        asking.number = place
        study = optuna.pruners._filter_study(self._study, asking)  # hyperband compares within a bracket
        sampler.before_trial(study, asking)
        params: dict[str, Any] = {}
        distributions: dict[str, BaseDistribution] = {}
        values: dict[str, Any] = {}
        for one in self._definition.space.dimensions:
            if not one.is_drawn(values):
                continue
            distribution = distribution_of(one)
            if one.name in fixed:
                param = param_of(one, fixed[one.name])
            else:
                param = sampler.sample_independent(study, asking, one.name, distribution)
            params[one.name], distributions[one.name] = param, distribution
            values[one.name] = value_of(one, param)
            asking.params, asking.distributions = dict(params), dict(distributions)
        return params, distributions, values

    def _fixed(self, place: int) -> dict[str, Any]:
        """Settings of a place that are not searched for: those known to be good, or its point of the grid."""
        known = self._definition.known
        if place < len(known):
            return dict(known[place])
        if self._definition.search.sampler != "grid":
            return {}
        for number, point in enumerate(self._definition.space.grid(), start=len(known)):
            if number == place:
                return point
        raise AssertionError(f"place {place} is beyond the grid")

    def learn(self, trials: Sequence[Trial]) -> int:
        """Take over results of another study where they are of this space; returns how many."""
        taken = 0
        for one in trials:
            names = [dimension for dimension in self._definition.space.dimensions if dimension.is_drawn(one.settings)]
            if one.state != "finished" or any(dimension.name not in one.settings for dimension in names):
                continue
            try:
                params = {dimension.name: param_of(dimension, one.settings[dimension.name]) for dimension in names}
                self._study.add_trial(
                    optuna.trial.create_trial(
                        value=one.value,
                        params=params,
                        distributions={dimension.name: distribution_of(dimension) for dimension in names},
                        user_attrs={_SETTINGS: one.settings},
                    )
                )
            except (ValueError, ConfigError):  # outside of this space
                continue
            taken += 1
        return taken

    # --- what came of it -------------------------------------------------------------------------------------------

    def goes_on(self, place: int, evaluation: int, value: float) -> bool:
        """Note an evaluation, and say whether the trial is to go on; one that is not has ended with this."""
        frozen = self._frozen()[place]
        if frozen.state is TrialState.PRUNED:
            return evaluation < (frozen.last_step or 0)
        if frozen.state.is_finished() or evaluation < (frozen.last_step or 0):
            return True
        if evaluation not in frozen.intermediate_values:
            self._study._storage.set_trial_intermediate_value(frozen._trial_id, evaluation, value)
        frozen = self._study._storage.get_trial(frozen._trial_id)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not self._study.pruner.prune(self._study, frozen):
                return True
        self._study.tell(frozen.number, state=TrialState.PRUNED)
        return False

    def curve(self, place: int, values: Sequence[float]) -> None:
        """Note the evaluations of a trial that were not asked about, from its own record."""
        frozen = self._frozen()[place]
        for evaluation, value in enumerate(values, start=1):
            if evaluation not in frozen.intermediate_values and not frozen.state.is_finished():
                self._study._storage.set_trial_intermediate_value(frozen._trial_id, evaluation, value)

    def note(self, place: int, about: Mapping[str, Any]) -> None:
        """Keep facts about a trial that has not ended yet."""
        if not self._frozen()[place].state.is_finished():
            self._study._storage.set_trial_user_attr(self._id(place), _ABOUT, dict(about))

    def end(self, place: int, state: State, *, value: float | None = None, reason: str = "") -> None:
        """Count a trial; the second time does nothing."""
        frozen = self._frozen()[place]
        if frozen.state.is_finished():
            return
        if reason:
            self._study._storage.set_trial_user_attr(frozen._trial_id, _REASON, reason)
        wanted = {"finished": TrialState.COMPLETE, "failed": TrialState.FAIL}[state]
        self._study.tell(frozen.number, value if state == "finished" else None, state=wanted, skip_if_finished=True)

    def importance(self) -> dict[str, float]:
        """How much of the differences between finished trials each setting explains; empty where that is not known."""
        finished = [one for one in self._study.get_trials(deepcopy=False) if one.state is TrialState.COMPLETE]
        common = set.intersection(*(set(one.params) for one in finished)) if finished else set()
        varied = sorted(name for name in common if len({one.params[name] for one in finished}) > 1)
        if len(finished) < 4 or not varied or len({one.value for one in finished}) < 2:
            return {}
        with warnings.catch_warnings(), suppress(ValueError, RuntimeError):
            warnings.simplefilter("ignore")
            evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
            return optuna.importance.get_param_importances(self._study, evaluator=evaluator, params=varied)
        return {}


def _told(one: FrozenTrial) -> Trial:
    curve = {step: value for step, value in one.intermediate_values.items()}
    value = one.value if one.state in (TrialState.COMPLETE, TrialState.PRUNED) else None
    return Trial(
        place=one.user_attrs.get(_PLACE),
        state=_STATES[one.state],
        settings=dict(one.user_attrs.get(_SETTINGS, {})),
        curve=curve,
        value=value,
        reason=str(one.user_attrs.get(_REASON, "")),
        about=dict(one.user_attrs.get(_ABOUT, {})),
    )
