"""Where a result comes from: data, code, machine, and what followed from them."""

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
