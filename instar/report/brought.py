"""The page of a run of a LightningModule that somebody brought, from the files of its folder alone."""

from typing import Any

import instar
from instar.brought import Brought
from instar.report import learning, lineage, runpage, timeline
from instar.report.blocks import Facts, Note, Page, Section
from instar.run import Run


def page(run: Run, brought: Brought) -> Page:
    """The page; what a folder lacks is said to be missing, never guessed."""
    plan, start = runpage.read_json(run.plan_file), runpage.last_start(run)
    metrics, events = run.metrics(), run.events()
    turns = timeline.attempts(events, metrics)
    metric, mode = brought.train.monitor or "loss", brought.train.monitor_mode or "min"
    best = learning.best_point(metrics, metric, mode)
    lead = f"{brought.task.module}.{brought.task.definition}, seed {brought.seed}"
    if plan.get("parameters"):
        lead += f", {plan['parameters']:,} weights".replace(",", " ").replace("  ", ", ", 1)
    lead += f"; best at epoch {learning.epochs(best['epoch'])}." if best else "."
    sections = (
        Section("", _scores(run)),
        *runpage.learning_sections(metrics, turns, plan, metric, mode=mode, also=()),
        Section(
            "Cost", runpage.cost(turns, events, metrics, plan, start), "What it took, and everything that happened."
        ),
        Section("Configuration", runpage.configuration(run, plan), "What was asked for, and what followed from it."),
        Section("Lineage", (_code(brought, plan), lineage.code_facts(start), lineage.machine_facts(start, plan))),
    )
    last = timeline.clock(events[-1].get("time"))[:16] if events else "not started"
    return Page(
        title=run.name,
        lead=lead,
        sections=sections,
        kicker=f"Instar run · LightningModule · {last}",
        foot=f"Made by Instar {instar.__version__}. This file is complete in itself.",
    )


def _scores(run: Run) -> tuple[Any, ...]:
    """What the module said of itself on each split."""
    found = []
    for split, title in (("test", "Test"), ("val", "Validation")):
        scores = {name: value for name, value in run.scores(split).items() if name != "about"}
        if scores:
            found.append(Facts(tuple((name, f"{value:.4g}") for name, value in scores.items()), title))
    return tuple(found) or (Note(f"Nothing was scored yet. Do it with: instar evaluate {run.name}"),)


def _code(brought: Brought, plan: dict[str, Any]) -> Facts:
    """Whose module it is, and what a resume of it can promise."""
    pairs = [("module", brought.task.module), ("class", brought.task.definition), ("at", plan.get("definition", ""))]
    pairs += [("resume within an epoch", plan.get("promise") or "exact")] if plan else []
    return Facts(tuple((name, value) for name, value in pairs if value), "Module")
