"""Adopt: a configuration of the DL & HPC starter pack (dlhpcstarter) as a recipe, a site and what a job asks for.

Every key is honoured, or named with the reason why not. Keys that are not the starter pack's own are the module's, as
there: it was made with all of them, so what its `__init__` takes becomes `task.args`.
"""

import ast
import difflib
import json
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from instar import brought
from instar.documents import Document
from instar.errors import ConfigError
from instar.experiment import read_document
from instar.overrides import PLACE, override, overruled

Keys = tuple[str, ...]


@dataclass
class Adopted:
    """What a starter pack's file becomes.

    recipe    for `instar train`
    site      for `--on`, where it says anything of a cluster
    request   for `instar submit`: nodes, gpus, time
    start     for either: run, runs
    dropped   keys that have no place here, each with the reason
    overruled what the command line said against the file, a sentence each
    """

    recipe: Document
    site: dict[str, Any] = field(default_factory=dict)
    request: dict[str, str] = field(default_factory=dict)
    start: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    overruled: list[str] = field(default_factory=list)


def is_one(document: dict[str, Any]) -> bool:
    """Whether a document is of the starter pack: it names a module and a definition at its top."""
    return all(isinstance(document.get(name), str) for name in ("module", "definition"))


def of_file(path: Path, changes: Sequence[str] = ()) -> tuple[Adopted, list[str]] | None:
    """What a starter pack's file stands for, and the changes left over; None where the file is of anything else.

    changes   `key=value`, in the starter pack's words or the recipe's; the latter are left over
    """
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        return None
    document, rest = read_document(path, changes)
    if not is_one(document):
        return None
    theirs = [change for change in rest if _is_theirs(change, document)]
    changed = override(document, theirs)
    for keys, place in getattr(document, "places", {}).items():
        if len(keys) == 1 and changed.places.get(keys) == PLACE:
            changed.places[keys] = f"{PLACE} ({place} said {json.dumps(document[keys[0]], ensure_ascii=False)})"
    made = adopt(changed, name=path.stem)
    made.overruled = overruled(document, theirs)
    return made, [change for change in rest if change not in theirs]


def _is_theirs(change: str, document: dict[str, Any]) -> bool:
    key = change.lstrip("+~").partition("=")[0].partition(".")[0]
    ours = ("task", "trainer", "train", "data", "augment", "name", "seed", "track")
    return (key in document and key not in ours) or (key in (*_PLACES, *_HANDLED, *brought.TRAINER) and key not in ours)


def adopt(document: dict[str, Any], *, name: str) -> Adopted:
    """The recipe of a starter pack's document; raises ConfigError with every value that cannot be read.

    name   of its file, which a recipe without a name of its own is called by
    """
    made = Adopted(Document({"name": name, "task": {"kind": brought.OWN}}))
    mistakes: list[str] = []
    named, takes_all = _parameters(document)
    args: dict[str, Any] = {}
    for key, value in document.items():
        place = document.place((key,)) if isinstance(document, Document) else key
        try:
            _take(made, key, value, document, place)
        except (ConfigError, ValueError) as error:
            mistakes.append(f"{place}: {key} is {value!r}: {error}")
        known = key in (*_PLACES, *_HANDLED, *_DROPPED, *brought.TRAINER) or key.startswith("neptune")
        if key in named or (takes_all and not known):
            args[key] = value
            made.recipe.places["task", "args", key] = place
            made.dropped.pop(key, None)
        elif not known:
            near = difflib.get_close_matches(key, (*_PLACES, *_HANDLED, *brought.TRAINER, *named), n=1)
            hint = f": did you mean {near[0]!r}?" if near else ""
            made.dropped[key] = f"{document['definition']}.__init__ takes no {key}{hint}"
    if args:
        made.recipe["task"]["args"] = args
    if mistakes:
        raise ConfigError(mistakes)
    if document.get("early_stopping") is False:
        made.recipe.get("train", {}).pop("stop_early", None)
    made.recipe.setdefault("track", ["tensorboard"])  # there it was always on
    return made


def _take(made: Adopted, key: str, value: Any, document: dict[str, Any], place: str) -> None:
    """Put one of the starter pack's own keys where it belongs, or say why it has no place."""
    if key in brought.TRAINER:
        _put(made, ("trainer", key), value, place)
    elif key in _PLACES:
        _put(made, _PLACES[key], value, place)
    elif key in _HANDLED:
        _HANDLED[key](made, value, document)
    elif key.startswith("neptune"):
        made.dropped[key] = _NEPTUNE
    elif key in _DROPPED:
        made.dropped[key] = _DROPPED[key]


def _parameters(document: dict[str, Any]) -> tuple[set[str], bool]:
    """The parameters of the module's `__init__`, and whether it takes any others; nothing is imported for it."""
    try:
        found = brought.class_of(brought.Definition(module=document["module"], definition=document["definition"]))
    except ValueError:
        found = None
    if found is None:
        return set(), True  # training will say what is wrong with it
    node = next((one for one in found.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"), None)
    if node is None:
        return set(), bool(found.bases)
    named = {one.arg for one in (*node.args.args[1:], *node.args.kwonlyargs)}
    return named, node.args.kwarg is not None


def _put(made: Adopted, keys: Keys, value: Any, place: str = "") -> None:
    here: Any = made.recipe
    for key in keys[:-1]:
        here = here.setdefault(key, {})
    here[keys[-1]] = value
    if place:
        made.recipe.places[keys] = place


# --- one key each ------------------------------------------------------------------------------------------------


def _devices(made: Adopted, value: Any, document: dict[str, Any]) -> None:
    count = len(value) if isinstance(value, list) else int(value)
    made.request["gpus"] = str(count)
    made.site.setdefault("gpus", {})["per_node"] = max(1, count)


def _nodes(made: Adopted, value: Any, document: dict[str, Any]) -> None:
    made.request["nodes"] = str(int(value))


def _time(made: Adopted, value: Any, document: dict[str, Any]) -> None:
    seconds = seconds_of(value)
    made.request["time"] = f"{seconds // 60} min" if seconds % 3600 else f"{seconds // 3600} h"
    made.site["longest"] = made.request["time"]


def seconds_of(value: Any) -> int:
    """Seconds of a Slurm time: minutes, min:s, h:min:s, days-h, days-h:min, days-h:min:s.

    Raises ValueError saying what is allowed.
    """
    text = str(value).strip()
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if not found:
        raise ValueError("must be a time as Slurm writes it: 48:00:00 or 2-00:00:00")
    days, first, second, third = (int(part) if part else 0 for part in found.groups())
    if found[1] is not None:  # days-hours:minutes:seconds
        return days * 86400 + first * 3600 + second * 60 + third
    if found[4] is not None:
        return first * 3600 + second * 60 + third
    return first * 60 + second


def _memory(made: Adopted, value: Any, document: dict[str, Any]) -> None:
    made.site["memory"] = re.sub(r"(?i)([kmgt])b$", lambda unit: unit[1].upper(), str(value).replace(" ", ""))


def _site(name: str) -> Callable[[Adopted, Any, dict[str, Any]], None]:
    def put(made: Adopted, value: Any, document: dict[str, Any]) -> None:
        made.site[name] = value

    return put


def _begin(made: Adopted, value: Any, document: dict[str, Any]) -> None:
    made.site.setdefault("options", []).append(f"--begin={value}")


def _options(made: Adopted, value: Any, document: dict[str, Any]) -> None:
    for pair in value or ():
        name, *rest = [str(part) for part in (pair if isinstance(pair, list) else [pair])]
        made.site.setdefault("options", []).append(f"--{name.lstrip('-')}{'=' + rest[0] if rest else ''}")


def _venv(made: Adopted, value: Any, document: dict[str, Any]) -> None:
    folder = Path(str(value).removesuffix("/bin/activate"))
    made.site.setdefault("setup", []).append(f"source {shlex.quote(str(folder / 'bin' / 'activate'))}")
    made.site["python"] = ["python", "-m", "instar"]


def _commands(made: Adopted, value: Any, document: dict[str, Any]) -> None:
    lines = value if isinstance(value, list) else [value]
    made.site.setdefault("setup", []).extend(str(line) for line in lines)


def _srun(made: Adopted, value: Any, document: dict[str, Any]) -> None:
    made.site["launch"] = shlex.split(value) if isinstance(value, str) else [str(word) for word in value]


def _workers(made: Adopted, value: Any, document: dict[str, Any]) -> None:
    if int(value) > 1:
        made.request["cores"] = str(int(value))


def _early(made: Adopted, value: Any, document: dict[str, Any]) -> None:
    if value:
        made.recipe.setdefault("train", {}).setdefault("stop_early", {})


def _accumulated(made: Adopted, value: Any, document: dict[str, Any]) -> None:
    size = document.get("mbatch_size")
    if size is None:
        raise ValueError("needs mbatch_size, too")
    devices = document.get("devices", document.get("num_gpus", 1))
    ranks = (len(devices) if isinstance(devices, list) else int(devices)) * int(document.get("num_nodes", 1))
    steps, rest = divmod(int(value), int(size) * ranks)
    if rest or steps < 1:
        raise ValueError(f"is no multiple of mbatch_size x devices x num_nodes = {int(size) * ranks}")
    _put(made, ("trainer", "accumulate_grad_batches"), steps)


def _exp_dir(made: Adopted, value: Any, document: dict[str, Any]) -> None:
    task = document.get("task")
    made.start["runs"] = str(Path(str(value)) / task) if isinstance(task, str) else str(value)


def _test(made: Adopted, value: Any, document: dict[str, Any]) -> None:
    if value is False:
        _put(made, ("train", "test"), "none")


def _test_bare(made: Adopted, value: Any, document: dict[str, Any]) -> None:
    made.dropped["test_without_ckpt"] = "what is tested is a checkpoint of the run; use train.warm_start for others"


def _mlflow(made: Adopted, value: Any, document: dict[str, Any]) -> None:
    if value:
        made.recipe["track"] = ["tensorboard", "mlflow"]


def _train(made: Adopted, value: Any, document: dict[str, Any]) -> None:
    if value is False:
        made.dropped["train"] = "the stages are verbs: instar train, instar evaluate RUN"


_PLACES: dict[str, Keys] = {
    "module": ("task", "module"),
    "definition": ("task", "definition"),
    "trial": ("seed",),
    "monitor": ("train", "monitor"),
    "monitor_mode": ("train", "monitor_mode"),
    "patience": ("train", "stop_early", "patience"),
    "min_delta": ("train", "stop_early", "min_delta"),
    "divergence_threshold": ("train", "stop_early", "divergence_threshold"),
    "warm_start_ckpt_path": ("train", "warm_start"),
    "warm_start_other_exp_trial_dir": ("train", "warm_start"),
    "warm_start_ckpt_path_strict": ("train", "warm_start_strict"),
    "resume_ckpt_path": ("train", "resume"),
    "test_ckpt_path": ("train", "test"),
    "validate": ("train", "validate_after"),
    "compile": ("train", "compile"),
    "float32_matmul_precision": ("train", "matmul"),
}
_HANDLED: dict[str, Callable[[Adopted, Any, dict[str, Any]], None]] = {
    "devices": _devices,
    "num_gpus": _devices,
    "num_nodes": _nodes,
    "time_limit": _time,
    "memory": _memory,
    "qos": _site("qos"),
    "email": _site("mail"),
    "begin": _begin,
    "cluster_manager_options": _options,
    "cluster_manager_script_commands": _commands,
    "venv_path": _venv,
    "srun_options": _srun,
    "num_workers": _workers,
    "early_stopping": _early,
    "accumulated_mbatch_size": _accumulated,
    "exp_dir": _exp_dir,
    "test": _test,
    "train": _train,
    "test_without_ckpt": _test_bare,
    "mlflow_logger": _mlflow,
}
_NEPTUNE = (
    "Neptune's service was shut down in March 2026, and Lightning removed its logger. Nearest: track=[wandb] (offline, "
    "then synced) or track=[mlflow] (a file of your own, or your server); metrics.jsonl has everything in any case"
)
_ALWAYS = "always so: the same command carries on, and a job is queued again until it is done"
_RESUBMIT = "a job is warned by a signal and by the clock, and saves in the middle of an epoch"
_DROPPED = {
    "task": "the folder of runs is named after it; the recipe has its own name",
    "config": "the file itself",
    "submit": "a job is a verb: instar submit train RECIPE --on SITE",
    "resumable": _ALWAYS,
    "resume_last": _ALWAYS,
    "auto_resubmit_method": _RESUBMIT,
    "one_epoch_only": f"not needed: {_RESUBMIT}",
    "every_n_epochs": "the state is saved by time, train.every, and the best weights at every evaluation",
    "save_top_k": "the best weights and the newest train.keep states are kept",
    "resume_epoch": "of which run? train.resume=RUN train.resume_epoch=N begins a new run from there",
    "test_epoch": "train.test=best, latest, or a file: checkpoints of old epochs are not kept",
    "test_ckpt_name": "train.test takes the file",
    "other_exp_dir": "train.test takes the file",
    "exp_dir_trial": "run=FOLDER on the command line",
    "ckpt_zoo_dir": "instar fetch gets weights and locks them by sha256",
    "work_dir": "commands are started in the folder they are to run in",
    "dataset_dir": "the module has no such parameter",
    "mbatch_size": "the module has no such parameter",
    "logger": "metrics go to metrics.jsonl, and from there to any tracker: see track",
    "callbacks": "return them from the module's own configure_callbacks",
    "accelerator": "device=cpu or device=cuda on the command line",
    "default_root_dir": "runs=FOLDER on the command line",
    "enable_checkpointing": "checkpoints are what a run is kept by",
    "plugins": "strategy and precision go by name",
    "deepspeed_config": "strategy: deepspeed_stage_2 goes by name; a file of settings is not read",
    "stages_module": "task.stages=MODULE.FUNCTION names a function of one argument, a session: see the how-to",
    "stages_definition": "see stages_module",
    "search_space": "instar submit train RECIPE key=1,2,3 --sweep makes one array of all combinations",
    "search_space_ignore_keys": "see search_space",
    "manager_script_path": "the script lies in RUN/jobs",
    "python_cmd": "a site's python says what starts Instar",
    "entrypoint": "a site's python says what starts Instar",
    "cluster_manager_script_clean_up_commands": "nothing runs after the supervisor, which may end with the job's limit",
    "no_cpus_per_task": "a site says how it wants to be asked: gpus.ask, cores",
    "no_gpus_per_node": "a site says how it wants to be asked: gpus.ask",
    "no_ntasks_per_node": "a site says how it wants to be asked",
    "cuda_visible_devices": "CUDA_VISIBLE_DEVICES in the environment is respected",
    "debug": "a failure is kept with its traceback: instar why RUN",
}
