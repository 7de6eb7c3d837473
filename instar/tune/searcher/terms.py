"""A setting in Optuna's terms, and back in a recipe's."""

import json
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from instar.errors import ConfigError
from instar.space import Dimension, Space


def distribution_of(one: Dimension) -> BaseDistribution:
    if one.kind == "choice":
        return CategoricalDistribution([_label(value) for value in one.choices])
    if one.kind == "normal":  # drawn as the share of it that lies below
        return FloatDistribution(*_tails())
    if one.is_whole:
        return IntDistribution(int(one.low), int(one.high), log=one.is_log, step=int(one.step or 1))
    # Optuna has no steps on a logarithmic scale: drawn without, and rounded.
    return FloatDistribution(one.low, one.high, log=one.is_log, step=None if one.is_log else one.step)


def value_of(one: Dimension, param: Any) -> Any:
    """What Optuna's value is in a recipe."""
    if one.kind == "choice":
        return next(choice for choice in one.choices if _label(choice) == param)
    if one.kind == "normal":
        return NormalDist(*one.numbers).inv_cdf(param)
    if one.kind == "qloguniform" and one.step is not None:
        return min(max(round(param / one.step) * one.step, one.low), one.high)
    return param


def param_of(one: Dimension, value: Any) -> Any:
    """What a recipe's value is to Optuna; raises ConfigError where it lies outside."""
    param = _label(value) if one.kind == "choice" else value
    if one.kind == "normal":
        param = min(max(NormalDist(*one.numbers).cdf(value), _tails()[0]), _tails()[1])
    distribution = distribution_of(one)
    try:
        inside = distribution._contains(distribution.to_internal_repr(param))
    except ValueError:
        inside = False
    if not inside:
        raise ConfigError(f"{one.name} = {value!r} is outside {one.text}")
    return param


def _label(value: Any) -> Any:
    """A choice as Optuna keeps it: plain values as they are, groups and lists as JSON."""
    return json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else value


def _tails() -> tuple[float, float]:
    return NormalDist().cdf(-3.0), NormalDist().cdf(3.0)


def inside(space: Space, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those settings that the space varies; raises ConfigError where one of them lies outside."""
    mistakes: list[str] = []
    found: dict[str, Any] = {}
    for one in space.dimensions:
        if one.is_drawn(found) and one.name in settings:
            try:
                param_of(one, settings[one.name])
                found[one.name] = settings[one.name]
            except ConfigError as error:
                mistakes += error.mistakes
    if mistakes:
        raise ConfigError(mistakes)
    return found
