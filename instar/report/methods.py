"""The paragraph of a paper that says what was done: data, network, training, choice of checkpoint, result, versions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from instar import formats

SPACE = "\N{NO-BREAK SPACE}"
# Why a training ended before its last epoch, by the state that its last event names.
_ENDINGS = {
    "target": "when the validation score reached its target",
    "early": "as validation no longer improved",
    "pruned": "as other trials of the search did better",
}

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Aim:
    """What a task trains a network for, in the words of a paper.

    purpose   goes on after "We trained NETWORK": "to tell 10 classes apart"
    loss      what was minimised
    """

    purpose: str
    loss: str


def methods(
    experiment: Document,
    plan: Document,
    start: Document,
    result: str,
    *,
    aim: Aim | None = None,
    events: Sequence[Document] = (),
    divided: bool = False,
) -> str:
    """The paragraph.

    result    how well it did, a sentence
    aim       what the task says of itself; None where it says nothing
    events    of the run, of which the last tells why it ended
    divided   whether the files came divided into training, validation and test
    """
    model, optim, schedule = (experiment.get(group) or {} for group in ("model", "optim", "schedule"))
    aim = aim or Aim("", str((experiment.get("task") or {}).get("loss") or "loss"))
    what = "pairs" if plan.get("other_channels") else "images"
    whole = sum(int(plan.get(f"{split}_rows") or 0) for split in ("train", "val", "test"))
    parts = [
        f"We trained {_network(model)}{' ' if aim.purpose else ''}{aim.purpose} on {plan.get('train_rows') or 0:,} of "
        f"{whole:,} {what} ({plan.get('val_rows') or 0:,} for validation, {plan.get('test_rows') or 0:,} for the "
        f"test{_split(experiment, divided)}){_size(experiment, plan)}, for {_length(experiment, plan, events)} with "
        f"{_optimizer(optim)}, {_schedule(schedule)} and batches of {plan.get('batch')} {what} ({aim.loss}; "
        f"{plan.get('precision')} arithmetic; seed {plan.get('seed')}). ",
        result,
        f"Software: Instar {start.get('instar', '')}, PyTorch {(start.get('packages') or {}).get('torch', '')}.",
    ]
    return "".join(parts)


def result_sentence(scores: Document, split: str, best_epoch: str | None, metric: str) -> str:
    """How well it did; best_epoch: of the checkpoint that was chosen, None where it is not known."""
    if not scores:
        return ""
    chosen = f"The checkpoint with the best validation {words(metric)} (epoch {best_epoch})" if best_epoch else "It"
    name = "accuracy" if "accuracy" in scores else metric
    interval = (scores.get("intervals") or {}).get(name)
    spread = (
        f" (95{SPACE}% interval {100 * interval[0]:.1f} to {100 * interval[1]:.1f}{SPACE}%, percentile bootstrap)"
        if interval
        else ""
    )
    where = {"test": "held-out test", "val": "validation"}.get(split, split)
    macro = f" and a macro F1 of {scores['macro_f1']:.3f}" if "macro_f1" in scores else ""
    value = f"{100 * scores[name]:.1f}{SPACE}%" if name in scores else "no score"
    return (
        f"{chosen} reached {value} {words(name)}{spread}{macro} on the {where} split of {scores.get('rows', 0)} rows. "
    )


def words(metric: str) -> str:
    """A score as one would say it."""
    said = {"sample_iou": "mean IoU by image", "mean_iou": "mean IoU", "retrieval": "retrieval at rank 1"}
    return said.get(metric, formats.words(metric))


def _split(experiment: Document, divided: bool) -> str:
    data = experiment.get("data") or {}
    if divided or data.get("index"):
        return ", divided beforehand"
    return ", stratified" if (data.get("split") or {}).get("stratify") else ""


def _size(experiment: Document, plan: Document) -> str:
    """What the network saw of each; nothing where it saw all of it, which may be of any size."""
    if not plan.get("size") or (experiment.get("augment") or {}).get("crop") == "whole":
        return ""
    sides = [plan["size"], *([plan["other_size"]] if plan.get("other_size") else [])]
    return " at " + " and ".join(f"{side} by {side}" for side in dict.fromkeys(sides)) + " pixels"


def _length(experiment: Document, plan: Document, events: Sequence[Document]) -> str:
    """How many epochs, and why no more."""
    asked = float((experiment.get("train") or {}).get("epochs") or 0)
    last = next((event for event in reversed(events) if event.get("event") == "finished"), {})
    done = float(last.get("samples") or 0) / float(plan.get("epoch_samples") or 1)
    if last.get("state") not in _ENDINGS or not done:
        return f"{asked:g} epochs"
    return f"{done:.3g} of {asked:g} epochs, {_ENDINGS[last['state']]},"


def _network(model: Document) -> str:
    name = model.get("name") or model.get("kind", "a network")
    name = f"{name} on {model['encoder']}" if model.get("encoder") else name
    source = {"timm": " (timm)", "torchvision": " (torchvision)", "smp": " (segmentation-models-pytorch)"}.get(
        str(model.get("kind")), ""
    )
    if model.get("weights"):
        origin = ", starting from given weights,"
    elif model.get("pretrained"):
        origin = ", starting from pretrained weights,"
    else:
        origin = " from scratch"
    return f"{name}{source}{origin}"


def _optimizer(optim: Document) -> str:
    names = {"adamw": "AdamW", "adam": "Adam", "sgd": "SGD", "rmsprop": "RMSprop", "lamb": "LAMB", "lars": "LARS"}
    kind = str(optim.get("kind", "an optimiser"))
    details = [f"learning rate {optim['lr']:g}"] if isinstance(optim.get("lr"), int | float) else []
    details += [f"momentum {optim['momentum']:g}"] if isinstance(optim.get("momentum"), int | float) else []
    details += [f"weight decay {optim['weight_decay']:g}"] if optim.get("weight_decay") else []
    details += [f"gradients clipped at {optim['clip']:g}"] if optim.get("clip") else []
    return f"{names.get(kind, kind)} ({', '.join(details)})" if details else names.get(kind, kind)


def _schedule(schedule: Document) -> str:
    kind = str(schedule.get("type") or schedule.get("kind", "constant")).replace("_", " ")
    text = {"constant": "a constant rate", "cosine": "a cosine schedule"}.get(kind, f"a {kind} schedule")
    steps = schedule.get("lr_warmup_steps")
    warmup = f"{steps} steps" if steps else str(schedule.get("warmup") or "")
    text = f"{text} after a warm-up of {warmup}" if warmup and not warmup.startswith("0 ") else text
    return f"{text}, the weight decay going to {schedule['decay_to']:g}" if schedule.get("decay_to") else text
