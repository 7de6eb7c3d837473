"""Where a result comes from, and the sentence that says so in a paper."""

from collections.abc import Mapping
from typing import Any

from instar.report.blocks import Facts

Document = Mapping[str, Any]


def data_facts(plan: Document, root: str, skipped: int) -> Facts:
    """What was learnt from."""
    rows = {split: int(plan.get(f"{split}_rows") or 0) for split in ("train", "val", "test")}
    pairs: list[tuple[str, Any]] = [
        ("folder", root),
        ("images", sum(rows.values())),
        ("train / validation / test", " / ".join(f"{count:,}".replace(",", " ") for count in rows.values())),
        ("classes", len(plan.get("classes") or ())),
    ]
    if skipped:
        pairs += [("files left out", skipped)]
    pairs += [("hash", plan.get("manifest_hash", "unknown"))]
    return Facts(tuple(pairs), "Data")


def code_facts(start: Document) -> Facts:
    """Versions and the state of the code at the last start."""
    git = start.get("git") or {}
    state = (
        f"{git['commit'][:12]}{', with changes' if git.get('changed') else ''}"
        if git.get("commit")
        else "no git checkout"
    )
    pairs = [("command", start.get("command", "")), ("git", state), ("instar", start.get("instar", ""))]
    pairs += [("Python", start.get("python", "")), *(start.get("packages") or {}).items()]
    return Facts(tuple((name, value) for name, value in pairs if value not in ("", "not installed")), "Code")


def machine_facts(start: Document, plan: Document) -> Facts:
    """What it ran on."""
    gpus = start.get("gpus") or ()
    pairs = [
        ("host", start.get("host", "")),
        ("system", start.get("system", "")),
        ("processor", start.get("processor", "")),
        ("cores", start.get("cpus", "")),
        ("GPUs", ", ".join(f"{gpus.count(name)} x {name}" for name in dict.fromkeys(gpus))),
        ("processes", plan.get("devices", "")),
        ("precision", plan.get("precision", "")),
        *(start.get("job") or {}).items(),
    ]
    return Facts(tuple((name, value) for name, value in pairs if value not in ("", None)), "Machine")


def plan_facts(plan: Document) -> Facts:
    """What followed from the configuration and the data."""
    names = {
        "epoch_samples": "images an epoch",
        "total_samples": "images in all",
        "batch": "batch, all devices",
        "micro": "images a device takes at once",
        "size": "image size",
        "channels": "channels",
        "workers": "loader workers",
        "precision": "precision",
        "channels_last": "channels last",
        "seed": "seed",
        "parameters": "parameters",
    }
    pairs = [(title, plan[name]) for name, title in names.items() if plan.get(name) is not None]
    return Facts(
        tuple((title, {True: "yes", False: "no"}[v] if isinstance(v, bool) else v) for title, v in pairs), "Plan"
    )


def methods(experiment: Document, plan: Document, start: Document, result: str) -> str:
    """A paragraph for a paper: data, network, training, choice of checkpoint, result, versions."""
    model, optim, schedule, task = (experiment.get(group) or {} for group in ("model", "optim", "schedule", "task"))
    train = experiment.get("train") or {}
    whole = sum(int(plan.get(f"{split}_rows") or 0) for split in ("train", "val", "test"))
    parts = [
        f"We trained {_network(model)} to tell {len(plan.get('classes') or ())} classes apart, on "
        f"{plan.get('train_rows') or 0:,} of {whole:,} images ({plan.get('val_rows') or 0:,} for validation, "
        f"{plan.get('test_rows') or 0:,} for the test{_split(experiment)}) of {plan.get('size')} by "
        f"{plan.get('size')} pixels",
        f", for {train.get('epochs', 0):g} epochs with {_optimizer(optim)}, {_schedule(schedule)} and batches of "
        f"{plan.get('batch')} images ({_loss(task)}{_balance(task)}; {plan.get('precision')} arithmetic; "
        f"seed {plan.get('seed')}). ",
        result,
        f"Software: Instar {start.get('instar', '')}, PyTorch {(start.get('packages') or {}).get('torch', '')}.",
    ]
    return "".join(parts)


def _network(model: Document) -> str:
    name = model.get("name") or model.get("kind", "a network")
    source = {"timm": " (timm)", "torchvision": " (torchvision)"}.get(str(model.get("kind")), "")
    if model.get("weights"):
        origin = ", starting from given weights,"
    elif model.get("pretrained"):
        origin = ", starting from pretrained weights,"
    else:
        origin = " from scratch"
    return f"{name}{source}{origin}"


def _split(experiment: Document) -> str:
    data = experiment.get("data") or {}
    if data.get("index"):
        return ", a given division"
    return ", stratified" if (data.get("split") or {}).get("stratify") else ""


def _optimizer(optim: Document) -> str:
    names = {"adamw": "AdamW", "adam": "Adam", "sgd": "SGD", "rmsprop": "RMSprop", "lamb": "LAMB", "lars": "LARS"}
    kind = str(optim.get("kind", "an optimiser"))
    details = [f"learning rate {optim['lr']:g}"] if isinstance(optim.get("lr"), int | float) else []
    details += [f"momentum {optim['momentum']:g}"] if isinstance(optim.get("momentum"), int | float) else []
    details += [f"weight decay {optim['weight_decay']:g}"] if optim.get("weight_decay") else []
    details += [f"gradients clipped at {optim['clip']:g}"] if optim.get("clip") else []
    return f"{names.get(kind, kind)} ({', '.join(details)})" if details else names.get(kind, kind)


def _schedule(schedule: Document) -> str:
    kind = str(schedule.get("kind", "constant"))
    text = {"constant": "a constant rate", "cosine": "a cosine schedule"}.get(kind, f"a {kind} schedule")
    warmup = str(schedule.get("warmup") or "")
    text = f"{text} after a warm-up of {warmup}" if warmup and not warmup.startswith("0 ") else text
    return f"{text}, the weight decay going to {schedule['decay_to']:g}" if schedule.get("decay_to") else text


def _loss(task: Document) -> str:
    text = {"cross_entropy": "cross-entropy", "focal": "focal loss"}.get(
        str(task.get("loss")), str(task.get("loss") or "loss")
    )
    return f"{text}, label smoothing {task['label_smoothing']:g}" if task.get("label_smoothing") else text


def _balance(task: Document) -> str:
    texts = {
        "weights": "weighted by class",
        "oversample": "classes drawn equally often",
        "sqrt": "rare classes drawn more often",
    }
    text = texts.get(str(task.get("balance")))
    return f", {text}" if text else ""
