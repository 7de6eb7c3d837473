"""What the metrics of a broken epoch had gathered: no part of the weights, so Lightning forgets it."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torchmetrics import Metric


def metric_states(module: LightningModule) -> dict[str, Any]:
    """The states of the torchmetrics in a module, which are no part of its weights."""
    found = {}
    for name, part in module.named_modules():
        if isinstance(part, Metric) and part.update_count:
            states = {one: _detached(getattr(part, one)) for one in part._defaults}
            found[name] = {"count": part.update_count, "states": states}
    return found


def restore_metrics(module: LightningModule, found: dict[str, Any]) -> None:
    parts = dict(module.named_modules())
    for name, kept in found.items():
        part = parts.get(name)
        if isinstance(part, Metric):
            for one, value in kept["states"].items():
                setattr(part, one, _moved(value, part.device))
            part._update_count, part._computed = kept["count"], None


def result_states(results: Any) -> dict[str, Any]:
    """What `self.log(…, on_epoch=True)` has added up."""
    return {
        key: {"value": _detached(one.value), "rows": _detached(getattr(one, "cumulated_batch_size", None))}
        for key, one in results.items()
        if one.is_tensor and one.meta.on_epoch and not one.has_reset
    }


def merge_results(results: Any, found: dict[str, Any]) -> None:
    """Add what was gathered before, once the first step after it has logged."""
    for key, kept in found.items():
        one = results.get(key)
        if one is None or not one.is_tensor:
            continue
        before = kept["value"].to(one.value.device)
        if one.meta.is_mean_reduction:
            one.value = before + one.value
            one.cumulated_batch_size = one.cumulated_batch_size + kept["rows"].to(one.value.device)
        elif one.meta.is_sum_reduction:
            one.value = before + one.value
        elif one.meta.is_max_reduction or one.meta.is_min_reduction:
            one.value = one.meta.reduce_fx(before, one.value)
        one._computed = None


def _detached(value: Any) -> Any:
    if isinstance(value, list):
        return [_detached(one) for one in value]
    return value.detach().cpu().clone() if isinstance(value, torch.Tensor) else value


def _moved(value: Any, device: torch.device) -> Any:
    return [one.to(device) for one in value] if isinstance(value, list) else value.to(device)
