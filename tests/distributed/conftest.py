"""Runs a function on several real processes that form a world, and brings back what each of them returned.

The processes are forked from a server that has imported torch once; each run has a hard time limit.
"""

import multiprocessing
import os
import time
import traceback
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Outcome:
    """What became of one rank: its exit code, and what its function returned or how it failed."""

    code: int | None
    value: Any = None
    failure: str = ""


@pytest.fixture(scope="session")
def forks() -> Iterator[Any]:
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    # Optimisers import torch._dynamo when they are made, which takes seconds.
    context.set_forkserver_preload(
        ["instar.engine.ranks.watchdog", "instar.engine.ranks.syncnorm", "torch._dynamo", "torch.distributed.fsdp"]
    )
    yield context


@pytest.fixture
def start(forks: Any, tmp_path: Path) -> Iterator[Callable[..., "Ranks"]]:
    """start(n, function, *arguments): `function(world, *arguments)` on n ranks."""
    started: list[Ranks] = []

    def begin(n: int, function: Callable[..., Any], *arguments: Any, environ: dict[str, str] | None = None) -> Ranks:
        started.append(Ranks(forks, n, function, arguments, tmp_path / "run 'of' all", environ or {}))
        return started[-1]

    yield begin
    for ranks in started:
        ranks.kill()


@pytest.fixture
def together(start: Callable[..., "Ranks"]) -> Callable[..., list[Any]]:
    """together(n, function, *arguments): what `function(world, *arguments)` returned on each of n ranks."""

    def run(n: int, function: Callable[..., Any], *arguments: Any, **options: Any) -> list[Any]:
        outcomes = start(n, function, *arguments, **options).wait()
        for rank, outcome in enumerate(outcomes):
            assert outcome.code == 0, f"rank {rank} left with {outcome.code}\n{outcome.failure}"
        return [outcome.value for outcome in outcomes]

    return run


class Ranks:
    """Processes that form a world."""

    def __init__(self, context: Any, n: int, function: Any, arguments: Any, folder: Path, environ: dict[str, str]):
        self._folder = folder
        self._pipes: list[Connection] = []
        self._processes = []
        launch = uuid.uuid4().hex
        for rank in range(n):
            ours, theirs = context.Pipe(duplex=False)
            place = {"INSTAR_RANK": rank, "INSTAR_WORLD": n, "INSTAR_LOCAL_RANK": rank, "INSTAR_LOCAL_WORLD": n}
            whole = {**{name: str(value) for name, value in place.items()}, "INSTAR_LAUNCH": launch, **environ}
            process = context.Process(target=_rank, args=(whole, folder, function, arguments, theirs), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def pid(self, rank: int) -> int:
        return int(self._processes[rank].pid)

    def has_ended(self, rank: int) -> bool:
        return self._processes[rank].exitcode is not None

    def file(self, name: str) -> str:
        return (self._folder / name).read_text()

    def printed(self) -> list[str]:
        """What each rank wrote to standard error."""
        return [(self._folder / f"stderr.{rank}").read_text() for rank in range(len(self._processes))]

    def wait_for(self, name: str, seconds: float = 120.0) -> None:
        """Wait until every rank has made the file `name.RANK` in the run folder."""
        end = time.monotonic() + seconds
        while not all((self._folder / f"{name}.{rank}").exists() for rank in range(len(self._processes))):
            assert time.monotonic() < end, f"not every rank got to {name!r} within {seconds} s"
            time.sleep(0.01)

    def wait(self, seconds: float = 120.0) -> list[Outcome]:
        """The outcomes of all ranks; fails the test where one is still there after `seconds`."""
        end = time.monotonic() + seconds
        outcomes = []
        for rank, (process, pipe) in enumerate(zip(self._processes, self._pipes, strict=True)):
            said = []
            while pipe.poll(max(0.0, end - time.monotonic())):
                try:
                    said.append(pipe.recv())
                except EOFError:
                    break
            process.join(max(0.1, end - time.monotonic()))
            assert process.exitcode is not None, f"rank {rank} still hangs after {seconds} s"
            last = said[-1] if said else Outcome(None)
            last = last if isinstance(last, Outcome) else Outcome(None, last)
            outcomes.append(Outcome(process.exitcode, last.value, last.failure))
        return outcomes

    def kill(self) -> None:
        for process in self._processes:
            process.kill()
            process.join(5)


def _rank(environ: dict[str, str], folder: Path, function: Any, arguments: Any, pipe: Connection) -> None:
    os.environ.update(environ, FOLDER=str(folder))
    folder.mkdir(exist_ok=True)
    os.dup2(os.open(folder / f"stderr.{environ['INSTAR_RANK']}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    import torch

    from instar.engine.ranks import world as worlds

    torch.set_num_threads(1)
    warnings.simplefilter("error")
    try:
        world = worlds.join(worlds.find(os.environ), folder=folder, timeout=100)
        pipe.send(Outcome(0, function(world, *arguments)))
    except BaseException as error:
        pipe.send(Outcome(None, None, f"{type(error).__name__}: {error}\n{traceback.format_exc()}"))
        os._exit(getattr(error, "exit_code", 1))
    world.leave(0)
