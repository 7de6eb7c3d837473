"""Study: the folder of one search, and the only code that knows its file names.

    study.yaml        the recipe, the space and how it is searched, exactly as validated
    manifest.parquet  the rows of every trial, with their splits
    journal.log       Optuna's journal: settings, evaluations and ends of all trials; the truth
    trials/0007       one trial: an ordinary run, with its recipe `trial.yaml` and whose it is, `claim.json`
    summary.json      the same for people and `instar runs`, made anew after every trial
    best.yaml         the best settings, as a recipe
    report.html       the study page
    events.jsonl      what happened, one line an event
    jobs/ workers/    one folder a job; one folder each worker of an array

Nothing heavy: `instar runs` lists studies, too.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instar import experiment as experiments
from instar import space as spaces
from instar.documents import dump, read
from instar.errors import RunError
from instar.experiment import Experiment
from instar.run import Run, name_for, write_atomically
from instar.search import Search
from instar.space import Space
from instar.validation import validate

_HEARD_SECONDS = 60.0


@dataclass(frozen=True)
class Definition:
    """What a study is: everything that decides its results.

    document     the recipe as it was said, which trials change: another kind may have other settings
    known        settings that are tried first: one mapping a trial
    """

    document: dict[str, Any]
    experiment: Experiment
    space: Space
    search: Search
    known: tuple[dict[str, Any], ...] = ()

    def spelled_out(self) -> dict[str, Any]:
        """As it stands in study.yaml."""
        return {
            "recipe": self.document,
            "space": self.space.texts(),
            "search": self.search.model_dump(mode="json"),
            **({"known": list(self.known)} if self.known else {}),
        }


@dataclass(frozen=True)
class Study:
    """One study folder. Making a Study touches nothing on disk."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def definition_file(self) -> Path:
        return self.path / "study.yaml"

    @property
    def manifest_file(self) -> Path:
        return self.path / "manifest.parquet"

    @property
    def journal_file(self) -> Path:
        return self.path / "journal.log"

    @property
    def lease_file(self) -> Path:
        """Held while the study is made, and never during a trial."""
        return self.path / "lease.json"

    @property
    def summary_file(self) -> Path:
        return self.path / "summary.json"

    @property
    def best_file(self) -> Path:
        return self.path / "best.yaml"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def trials(self) -> Path:
        return self.path / "trials"

    def trial(self, number: int) -> Run:
        return Run(self.trials / f"{number:04}")

    def trial_recipe(self, number: int) -> Path:
        return self.trial(number).path / "trial.yaml"

    def trial_log(self, number: int) -> Path:
        return self.trial(number).path / "log.txt"

    def claim_file(self, number: int) -> Path:
        return self.trial(number).path / "claim.json"

    def exists(self) -> bool:
        return self.definition_file.exists()

    def log_event(self, event: str, **facts: Any) -> None:
        Run(self.path).log_event(event, **facts)

    def summary(self) -> dict[str, Any]:
        """What is known of all trials, as of the last that ended; empty before the first."""
        try:
            found = json.loads(self.summary_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def status(self) -> dict[str, Any]:
        """What one line of `instar runs` shows: that of a run, with the trials."""
        state, summary = Run(self.path).status(), self.summary()
        counts = summary.get("counts") or {}
        ended = sum(counts.get(name, 0) for name in ("finished", "pruned", "failed"))
        wanted = int(summary.get("samples") or 0)
        best = summary.get("best") or {}
        known = {"metric": summary.get("metric"), "value": best["value"]} if best else {}
        changed = max((_changed(file) for file in (self.summary_file, Run(self.path).events_file)), default=0.0)
        return {
            **state,
            "state": self._state(state, done=bool(wanted) and ended >= wanted),
            "share": ended / wanted if wanted else 0.0,
            "best": known,
            "changed": changed,
            "trials": {"ended": ended, "wanted": wanted, **counts},
        }

    def _state(self, of_run: dict[str, Any], *, done: bool) -> str:
        told = str(of_run["state"])
        if done:
            return "done"
        if told == "queued" or (told == "running" and of_run["job"]):
            return told
        claims = self.trials.glob("*/claim.json")
        alive = any(time.time() - _changed(claim) < _HEARD_SECONDS and _is_held(claim) for claim in claims)
        return "running" if alive else "failed" if told == "failed" else "stopped"


def is_study(path: Path) -> bool:
    return Study(path).exists()


def name_of(definition: Definition) -> str:
    """A name a person can say, the same for the same study: `flowers-tune-mossy-lynx`."""
    import hashlib  # opens OpenSSL

    document = {**definition.spelled_out(), "recipe": experiments.signature(definition.experiment)}
    decisive = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    experiment = definition.experiment
    return name_for(f"{experiment.name or Path(experiment.data.root).name}-tune", decisive)


def write(study: Study, definition: Definition) -> None:
    write_atomically(study.definition_file, dump(definition.spelled_out()))


def load(study: Study) -> Definition:
    """What a study is; raises RunError or ConfigError where its file is missing or was damaged."""
    if not study.exists():
        raise RunError(f"{study.path} holds no study: study.yaml is missing. Start one with: instar tune RECIPE")
    document = read(study.definition_file)
    recipe = dict(document.get("recipe") or {})
    return Definition(
        document=recipe,
        experiment=experiments.load(recipe),
        space=spaces.of(document.get("space") or {}, str(study.definition_file)),
        search=validate(Search, dict(document.get("search") or {})),
        known=tuple(document.get("known") or ()),
    )


def differences(before: Definition, after: Definition) -> list[str]:
    """What decides the results and differs: `space.optim.lr: … -> …`, one line a setting."""
    found = experiments.differences(before.experiment, after.experiment)
    pairs = (
        ("space", before.space.texts(), after.space.texts()),
        ("search", before.search.model_dump(mode="json"), after.search.model_dump(mode="json")),
        ("start", dict(enumerate(before.known)), dict(enumerate(after.known))),
    )
    for group, old, new in pairs:
        for name in dict.fromkeys([*old, *new]):
            if old.get(name, ...) != new.get(name, ...):
                words = [str(side[name]) if name in side else "not there" for side in (old, new)]
                found.append(f"{group}.{name}: {words[0]} -> {words[1]}")
    return found


def _is_held(claim: Path) -> bool:
    try:
        return json.loads(claim.read_text(encoding="utf-8")).get("state") == "held"
    except (OSError, ValueError, AttributeError):
        return False


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
