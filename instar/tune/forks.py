"""What trials are forked off: one process that has imported everything, so that each of them begins in no time.

It hears no signal to stop, which launchers send to every process of a job; it ends with the search. What is forked off
hears them from the moment on in which it can save, and dies with the search, too.
"""

import ast
import importlib.util
import math
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path

from instar.engine import deadline
from instar.engine.ranks import exits
from instar.experiment import Experiment
from instar.tune.lanes import Lane

_TURN_SECONDS = 0.5
Command = Callable[[], int]
"""What `instar` does with sys.argv; it has to be found by its name in another process."""
# What a training imports only when it comes to it, which here would be in every trial anew.
_LATER = (
    "instar.cli._brought", "instar.cli.train", "instar.engine.tracking.followers", "instar.prepare", "instar.train",
    "instar.readers._masks", "instar.readers._packed", "instar.readers._patience", "encodings.utf_8_sig",
    "PIL.BmpImagePlugin", "PIL.GifImagePlugin", "PIL.JpegImagePlugin", "PIL.PngImagePlugin", "PIL.PpmImagePlugin",
    "instar_native", "pandas", "pyarrow.dataset", "pyarrow.pandas_compat", "torch._dynamo",
)  # fmt: skip


def modules(experiment: Experiment) -> list[str]:
    """What each trial imports. A name that is none is passed over."""
    kinds = {
        "readers": experiment.data.reader.kind,
        "models": experiment.model.kind,
        "tasks": experiment.task.kind,
        "optimizers": experiment.optim.kind,
        "schedules": experiment.schedule.kind,
        "balancers": getattr(experiment.task, "balance", ""),
    }
    ours = [kind if "." in kind else f"instar.{shelf}.{kind}" for shelf, kind in kinds.items() if kind]
    return [*_LATER, *ours, *(name for module in ours for name in _imported_by(module))]


def _imported_by(module: str) -> list[str]:
    """What a plug-in's file imports anywhere in it: most of that, such as timm, not before it is used.

    `from a import b` may mean the module a.b, or something in a: both are named.
    """
    try:
        found = importlib.util.find_spec(module)
    except ImportError:
        found = None
    if found is None or found.origin is None or not found.origin.endswith(".py"):
        return []
    names: list[str] = []
    for node in ast.walk(ast.parse(Path(found.origin).read_bytes())):
        if isinstance(node, ast.Import):
            names += [one.name for one in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module, *(f"{node.module}.{one.name}" for one in node.names)]
    return list(dict.fromkeys(names))


def context(preload: Sequence[str]) -> ForkServerContext:
    """The process that trials are forked off, which begins to import these modules and is not waited for."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(list(preload))
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (*deadline.STOP_SIGNALS, signal.SIGHUP)}
    try:
        forkserver.ensure_running()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return found


def live(command: Command, words: list[str], log: str, environ: Mapping[str, str], cores: tuple[int, ...]) -> None:
    """A forked process, from its first line to its exit code: the command `instar WORDS`, which prints into a file."""
    parent = os.getppid()
    os.setsid()  # Ctrl-C comes to the search, which lets us save
    exits.die_with(parent)
    written = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(written, 1)
    os.dup2(written, 2)
    os.environ.update(environ)
    # What belongs to the search's own job must not be taken for this training's last word.
    os.environ.pop("INSTAR_EXIT", None)
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(int(environ["OMP_NUM_THREADS"]))  # OpenMP was set up before it was known
    sys.argv = ["instar", *words]
    code = command()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def carried_out(
    command: Command, words: Sequence[str], *, server: ForkServerContext, log: Path, lane: Lane, patience: float = 60.0
) -> int:
    """The exit code of the command `instar WORDS` in a process of its own; told to stop, it is told so, too."""
    process = server.Process(target=live, args=(command, list(words), str(log), lane.environ(), lane.cores))
    process.start()
    end = math.inf
    while process.exitcode is None:
        process.join(_TURN_SECONDS)
        if deadline.received() and math.isinf(end):
            process.terminate()
            end = time.monotonic() + patience
        elif time.monotonic() > end:
            process.kill()
    return process.exitcode
