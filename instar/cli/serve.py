"""A page on this machine to drop an image on and see what a model says

    instar serve RUN                   also where in the image it looked
    instar serve RUN/exports/onnx      an exported file, without PyTorch

    port=8000      instead of one that is free
    checkpoint=latest   of a run, instead of the best
    device=cpu threads=4
    trust=true     also read a .pt2, which could execute what is in it: only for files you made
    runs=FOLDER    where runs are, instead of runs/

Open the address it prints; only whoever has it can use it, and nobody from another machine. On a remote machine:
ssh -L 8000:127.0.0.1:8000 there, and port=8000.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from instar import caches, terminal
from instar.cli.words import Words, one_of, whole
from instar.errors import DONE, ExportError

FLAGS = ()
THINGS = (1, 1)


def run(words: Words) -> int:
    import importlib.util

    from instar import exported, predict
    from instar import run as runs

    caches.refuse_network()
    given = words.only("port", "checkpoint", "device", "threads", "trust", "runs")
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(f"{' and '.join(missing)} is not installed. Write: pip install 'instar[serve]'")
    thing, trust = words.things[0], one_of("trust", given.get("trust", "false"), ("true", "false")) == "true"
    checkpoint = one_of("checkpoint", given.get("checkpoint", "best"), ("best", "latest"))
    device = one_of("device", given.get("device", "cpu"), ("cpu", "cuda"))
    threads = whole("threads", given["threads"]) if "threads" in given else None
    look: Callable[[Any], Any] | None = None
    if exported.is_exported(Path(thing)):
        with terminal.without_chatter():
            model = exported.load(thing, threads=threads, trust=trust)
    else:
        found = runs.find(thing, Path(given.get("runs", "runs")))

        from instar.engine import looking, trained

        learnt = trained.load(found, checkpoint=checkpoint, device=device)
        model, look = predict.of_trained(learnt), partial(looking.maps, learnt)

    from instar import serve

    def told(address: str) -> None:
        terminal.say(f"serve    {address}\n         Ctrl-C ends it")

    serve.serve(model, look=look, port=whole("port", given["port"], most=65535) if "port" in given else 0, told=told)
    return DONE
