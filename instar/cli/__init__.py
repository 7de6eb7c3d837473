"""The command line: one file a verb, imported when it is asked for.

Its docstring is its help page. A verb has FLAGS and THINGS (how few and how many things it takes), and
`run(words) -> exit code`; it imports its stage inside, so help, lists and mistakes never wait for torch.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from instar import __version__, terminal
from instar.cli.words import Words, parse
from instar.engine import deadline
from instar.errors import AGAIN, DONE, Again, ConfigError, InstarError

GROUPS = {
    "data": ("check", "prepare", "pack", "convert"),
    "learning": ("train", "tune", "evaluate", "compare", "report"),
    "looking, and taking away": ("embed", "explain", "predict", "export", "serve"),
    "runs and jobs": ("runs", "watch", "logs", "why", "submit", "resume", "stop", "track"),
    "around it": ("fetch", "doctor", "site", "show", "config", "adopt", "schema", "bench", "demo"),
}
VERBS = tuple(name for names in GROUPS.values() for name in names)
COMMON_FLAGS = ("json", "quiet")
CRASHED = 70  # EX_SOFTWARE of sysexits.h: our mistake
INTERRUPTED = 130
NOBODY_READS = 141

HEAD = f"""instar {__version__}: scientific images to a trained, evaluated, explained and exported model

    instar train FOLDER              learn from a folder of images, one folder a class
    instar train RECIPE key=value    learn what a recipe says, with changes
    instar demo                      see it work, in minutes"""
TAIL = """
The same keys in recipes and on the command line: instar show lists them. Every verb has --help and --json."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out a command line; returns the exit code, except to a rank among others, which leaves with it.

    arguments   None for this process's own, which ends with them: then no signal that comes late changes the code
    """
    terminal.prepare()
    # OpenMP's threads spin while they wait for each other. Where readers, or other people, want the same cores, a step
    # took ten times as long (42 ms asleep, 578 spinning, two threads on two busy cores). Read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    code = _guarded(list(sys.argv[1:] if arguments is None else arguments))
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        _leave(code)
    if arguments is None and deadline.installed():
        _leave(code)
    deadline.restore()
    return code


def _leave(code: int) -> NoReturn:
    """End this process without Python's own way out, during which a second SIGTERM would end it with another code."""
    from instar.engine.ranks.exits import leave

    deadline.ignore()
    leave(code)


def _guarded(arguments: list[str]) -> int:
    try:
        return _carry_out(arguments)
    except InstarError as error:
        return _report(error, as_json="--json" in arguments)
    except KeyboardInterrupt:
        terminal.say("instar: interrupted", error=True)
        return INTERRUPTED
    except BrokenPipeError:
        # Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return NOBODY_READS
    except Exception as error:
        return _crash(error)


def _carry_out(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        terminal.say(_overview())
        return DONE
    if arguments[0] in ("-V", "--version", "version"):
        terminal.say(f"instar {__version__}")
        return DONE
    name, *rest = arguments
    module = verb(name)
    words = parse(name, rest, flags=(*COMMON_FLAGS, *module.FLAGS), things=module.THINGS, page=module.__doc__ or "")
    if "help" in words:
        terminal.say((module.__doc__ or "").strip())
        return DONE
    return module.run(words)


def verb(name: str) -> ModuleType:
    """The file behind a verb; raises ConfigError naming the near miss."""
    if name not in VERBS:
        import difflib

        near = difflib.get_close_matches(name, VERBS, n=1)
        hint = f"Did you mean 'instar {near[0]}'?" if near else f"Verbs: {', '.join(VERBS)}."
        raise ConfigError(f"there is no verb {name!r}. {hint}")
    return importlib.import_module(f"instar.cli.{name}")


def _overview() -> str:
    longest, lines = max(map(len, VERBS)), [HEAD]
    for title, names in GROUPS.items():
        pairs = [(f"{name:<{longest}}", (verb(name).__doc__ or "").strip().partition("\n")[0]) for name in names]
        lines += ["", title, *terminal.columns_of(pairs)]
    return "\n".join([*lines, TAIL])


def _report(error: InstarError, *, as_json: bool) -> int:
    """Say what went wrong, all of it in one block, and once however many ranks there are."""
    if not _speaks(error):
        return error.exit_code
    mistakes = getattr(error, "mistakes", [str(error)])
    if as_json:
        import json

        terminal.say(json.dumps({"error": type(error).__name__, "mistakes": mistakes, "exit": error.exit_code}))
    if error.exit_code == AGAIN:
        again = "" if "carries on" in mistakes[0] else "; all is saved, and the same command carries on"
        block = f"stopped  {mistakes[0]}{again}"
    elif len(mistakes) == 1:
        block = f"instar: {mistakes[0]}"
    else:
        block = "\n".join([f"instar: {len(mistakes)} mistakes", *(f"  {mistake}" for mistake in mistakes)])
    terminal.say(block, error=True)
    return error.exit_code


def _crash(error: Exception) -> int:
    """Our mistake: the traceback is what mends it."""
    import traceback

    if _speaks(error):
        traceback.print_exception(error)
        terminal.say("instar: this is a mistake in Instar, not yours. Please report the lines above.", error=True)
    return CRASHED


def _speaks(error: Exception) -> bool:
    """Whether this process is the one to print an error: alone, or the rank that has something of its own to say."""
    from instar.engine.ranks import place, reports

    try:
        here = place.here()
    except ConfigError:
        return True
    if here.world == 1:
        return True
    if reports.tell(reports.of(error, here.rank)):
        return False
    # Every rank reads the same recipe and hears the same signal.
    return here.rank == 0 or not isinstance(error, ConfigError | Again)


__all__ = ["Words", "main"]
