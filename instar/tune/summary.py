"""What came of a study so far, as one JSON file: for people, for programs, and for the lists of `instar runs`."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from instar import documents
from instar.overrides import override
from instar.run import write_atomically
from instar.space import changes
from instar.study import Definition, Study
from instar.tune.searcher import Trial
from instar.tune.worker import spent

_COUNTED = ("finished", "pruned", "failed", "running")


def write(
    study: Study, definition: Definition, trials: Sequence[Trial], *, samples: int, metric: str, mode: str
) -> dict[str, Any]:
    """Make summary.json and best.yaml anew; returns the summary."""
    found = of(study, trials, samples=samples, metric=metric, mode=mode)
    write_atomically(study.summary_file, json.dumps(found, ensure_ascii=False, indent=1) + "\n")
    if found["best"]:
        text = best_recipe(definition, found["best"]["settings"])
        about = (
            f"trial {found['best']['trial']:04} of {study.name}: {metric} {found['best']['value']:.6g} on validation"
        )
        write_atomically(study.best_file, f"# The best settings found: {about}.\n{text}")
    return found


def of(study: Study, trials: Sequence[Trial], *, samples: int, metric: str, mode: str) -> dict[str, Any]:
    """Counts, cost, the best trial, and every trial."""
    own = [one for one in trials if one.place is not None]
    best = best_of(own, mode)
    hours = spent(own)
    return {
        "study": str(study.path),
        "metric": metric,
        "mode": mode,
        "samples": samples,
        "counts": {state: sum(one.state == state for one in own) for state in _COUNTED},
        "hours": {unit: round(hours[unit], 6) for unit in hours},
        "best": {"trial": best.place, "value": best.value, "settings": best.settings} if best else {},
        "trials": [
            {
                "trial": one.place,
                "state": one.state,
                "value": one.value,
                "settings": one.settings,
                "curve": list(one.curve.values()),
                **({"reason": one.reason} if one.reason else {}),
                **{name: one.about[name] for name in ("seconds", "epoch", "samples", "host") if name in one.about},
            }
            for one in own
        ],
        "learnt": len(trials) - len(own),
    }


def best_recipe(definition: Definition, settings: Mapping[str, Any]) -> str:
    """Settings as one would write them: the recipe that was given, changed."""
    return documents.dump(dict(override(definition.document, changes(settings))))


def best_of(trials: Sequence[Trial], mode: str) -> Trial | None:
    """The best of those that ended by themselves; of equals the first."""
    finished = [one for one in trials if one.state == "finished" and one.value is not None]
    sign = 1 if mode == "max" else -1
    return max(finished, key=lambda one: (sign * float(one.value or 0.0), -(one.place or 0)), default=None)
