"""A page on this machine to drop an image on and see what a model says

    instar serve RUN
    instar serve RUN/exports/onnx      an exported file, without PyTorch

    port=8000      instead of one that is free
    checkpoint=latest   of a run, instead of the best
    device=cpu threads=4
    trust=true     also read a .pt2, which could execute what is in it: only for files you made
    runs=FOLDER    where runs are, instead of runs/

Open the address it prints; only whoever has it can use it, and nobody from another machine. On a remote machine:
ssh -L 8000:127.0.0.1:8000 there, and port=8000.
"""

from pathlib import Path

from instar import caches, terminal
from instar.cli.words import Words, one_of, whole
from instar.errors import DONE, ExportError

FLAGS = ()
THINGS = (1, 1)


def run(words: Words) -> int:
    import importlib.util

    from instar import predict

    caches.refuse_network()
    given = words.only("port", "checkpoint", "device", "threads", "trust", "runs")
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(f"{' and '.join(missing)} is not installed. Write: pip install 'instar[serve]'")
    model = predict.opened(
        words.things[0],
        runs_folder=Path(given.get("runs", "runs")),
        checkpoint=one_of("checkpoint", given.get("checkpoint", "best"), ("best", "latest")),
        device=one_of("device", given.get("device", "cpu"), ("cpu", "cuda")),
        threads=whole("threads", given["threads"], most=256) if "threads" in given else None,
        trust=one_of("trust", given.get("trust", "false"), ("true", "false")) == "true",
    )

    from instar import serve

    def told(address: str) -> None:
        terminal.say(f"serve    {address}\n         Ctrl-C ends it")

    serve.serve(model, port=whole("port", given["port"], most=65535) if "port" in given else 0, told=told)
    return DONE
