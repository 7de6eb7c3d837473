"""Instar from Python: five functions that do what the command line does, for notebooks and scripts.

    from instar import api

    done = api.train("flowers/", epochs=5, optim__lr=0.01)    # as: instar train flowers/ epochs=5 optim.lr=0.01
    api.evaluate(done, split="val")
    api.runs()
    api.compare(done, "flowers-mossy-lynx")
    api.command("submit", "train", "flowers.yaml", on="lumi", nodes=2, dry=True)

Settings have the names they have on the command line; two underscores stand for a dot. Mistakes are raised as
InstarError, never printed and exited with. What comes back shows itself in a notebook. Importing this loads neither
torch nor NumPy.
"""

import html
import json
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from instar import cli, formats
from instar.cli.words import Words, parse
from instar.errors import AGAIN, DONE, Again, RunError
from instar.run import Run

__all__ = ["Result", "Table", "command", "compare", "evaluate", "runs", "train"]


@dataclass(frozen=True)
class Result:
    """A run and how good it is.

    run      its folder; run.metrics() and run.events() are what was measured and what happened
    state    finished, target, early or already, after a training; evaluated, after an evaluation
    split    the rows it was scored on; None where there were none
    scores   by name; `intervals` among them holds the 95 % interval of some
    best     the best evaluation during training
    """

    run: Run
    state: str
    split: str | None
    scores: dict[str, Any] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)

    def __fspath__(self) -> str:
        return str(self.run.path)

    def __repr__(self) -> str:
        told = [f"{name} {formats.score(name, value)}" for name, value in self._single()]
        return f"{self.run.name}: {self.state}; {self.split} {', '.join(told)}"

    def _repr_html_(self) -> str:
        intervals = self.scores.get("intervals") or {}
        rows = [
            (name, formats.score(name, value), formats.interval(name, *intervals[name]) if name in intervals else "")
            for name, value in self._single()
        ]
        page = f'<p><a href="{html.escape(self.run.report.as_posix())}">run page</a></p>' if self._has_page() else ""
        title = f"<p><b>{html.escape(self.run.name)}</b>: {html.escape(self.state)}</p>"
        return f"{title}{_table((f'{self.split} rows', '', '95 %'), rows)}{page}"

    def _single(self) -> list[tuple[str, float]]:
        return [(name, value) for name, value in self.scores.items() if isinstance(value, float)]

    def _has_page(self) -> bool:
        return self.run.report.exists()


@dataclass(frozen=True)
class Table(Sequence[dict[str, Any]]):
    """Rows of facts, each a dict, that show themselves as a table.

    head, cells   what is shown of them
    """

    rows: tuple[dict[str, Any], ...]
    head: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]

    def __getitem__(self, which: Any) -> Any:
        return self.rows[which]

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return "\n".join(formats.table([self.head, *self.cells])) if self.rows else "no runs"

    def _repr_html_(self) -> str:
        return _table(self.head, self.cells) if self.rows else "<p>no runs</p>"


def train(source: "str | os.PathLike[str]", *, quiet: bool = False, **settings: Any) -> Result:
    """Learn from a folder, a recipe or a run, and score the test rows; the same call again carries on.

    source     folder of images, recipe, manifest, or the folder of a run
    quiet      print no progress
    settings   any setting of recipe, machine or this start: epochs=5, optim__lr=0.01, run="first", devices=2

    Raises Again where it was interrupted and saved, and other InstarErrors for mistakes. With several devices it trains
    in processes of its own.
    """
    from instar import experiment as experiments
    from instar.cli import _brought
    from instar.cli import train as verb

    words = _words("train", [os.fspath(source)], settings, quoted=True, flags=["quiet"] if quiet else [])
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, and for the same reason
    if _brought.document(words) is not None:
        return _of_module(command("train", source, **settings))
    with _signals():
        experiment, machine, start, ranks = verb.prepared(words)
        if ranks > 1:
            from instar.engine.ranks import launch

            _leave_well(launch.ranks(list(words.line), ranks))
            run = experiments.locate(experiment, start.run, runs=start.runs)
            split = next((name for name in ("test", "val") if run.scores(name)), None)
            best = run.status()["best"]
            return Result(run, "finished", split, run.scores(split) if split else {}, best)
        learnt = verb.learn(words, experiment, machine, start, level="silent" if quiet else "full")
    outcome = learnt.outcome
    return Result(outcome.run, outcome.state, learnt.split, dict(learnt.scores), outcome.best)


def _of_module(answer: dict[str, Any]) -> Result:
    """What a LightningModule of one's own has learnt."""
    split = next((name for name in ("test", "val") if answer["scores"].get(name)), None)
    scores = answer["scores"][split] if split else {}
    return Result(Run(Path(answer["run"])), answer["state"], split, scores, answer["best"])


def evaluate(run: "str | os.PathLike[str] | Result", *, split: str = "test", **settings: Any) -> Result:
    """Score a run on the rows of a split, every row once.

    run        its folder, its name, or what `train` gave
    settings   checkpoint="latest", device="cpu", workers=4, runs=FOLDER
    """
    answer = command("evaluate", os.fspath(run), split=split, **settings)
    return Result(Run(Path(answer["run"])), "evaluated", split, answer["scores"])


def runs(folder: "str | os.PathLike[str]" = "runs") -> Table:
    """The runs of a folder, newest first: how far each is, how good, how long it still takes."""
    import time

    from instar.cli import runs as verb

    states = command("runs", os.fspath(folder))
    now = time.time()
    return Table(tuple(states), verb.HEAD, tuple(verb.row(state, now) for state in states))


def compare(*some: "str | os.PathLike[str] | Result", split: str = "test", **settings: Any) -> Table:
    """Runs side by side, the best first, with the settings in which they differ.

    Raises RunError where they were scored on different rows, which proves nothing.
    """
    answer = command("compare", *(os.fspath(one) for one in some), split=split, **settings)
    rows = answer["runs"]
    shown = [
        (
            row["name"],
            formats.score(row["metric"], row["value"]),
            formats.interval(row["metric"], *row["interval"]) if row["interval"] else "",
            formats.clock(row["seconds"]),
            "; ".join(row["differences"]),
        )
        for row in rows
    ]
    return Table(tuple(rows), ("run", rows[0]["metric"], "95 %", "time", "differs in"), tuple(shown))


def command(verb: str, *things: "str | os.PathLike[str]", **settings: Any) -> Any:
    """Any command of the command line; gives what its --json says, None where it says nothing.

    settings   key=value; True for a flag, as dry=True
    Raises InstarError where the command would end with a mistake, Again where it would end with 75.
    """
    module = cli.verb(verb)
    flags = [name for name, value in settings.items() if value is True and name in module.FLAGS]
    rest = {name: value for name, value in settings.items() if name not in flags}
    words = _words(verb, [os.fspath(thing) for thing in things], rest, quoted=False, flags=["json", *flags])
    said = StringIO()
    with _signals(), redirect_stdout(said):
        code = module.run(words)
    _leave_well(code, said.getvalue())
    return json.loads(said.getvalue()) if said.getvalue().strip() else None


def _words(verb: str, things: Sequence[str], settings: dict[str, Any], *, quoted: bool, flags: Sequence[str]) -> Words:
    module = cli.verb(verb)
    changes = [f"{name.replace('__', '.')}={_written(value, quoted=quoted)}" for name, value in settings.items()]
    line = [*changes, *(f"--{flag}" for flag in flags), "--", *things]
    return parse(verb, line, flags=(*cli.COMMON_FLAGS, *module.FLAGS), things=module.THINGS)


def _written(value: Any, *, quoted: bool) -> str:
    """A value as one writes it: in YAML, where a text that looks like a number stays a text, or plain."""
    plain = os.fspath(value) if isinstance(value, os.PathLike) else value
    return plain if isinstance(plain, str) and not quoted else json.dumps(plain)


def _leave_well(code: int, said: str = "") -> None:
    if code == AGAIN:
        raise Again("stopped and saved; the same call carries on")
    if code != DONE:
        raise RunError(f"it ended with exit code {code}. {said.strip() or 'What went wrong stands above.'}")


@contextmanager
def _signals() -> Iterator[None]:
    """Interrupting a cell saves and stops, as Ctrl-C does; afterwards signals mean what they meant before."""
    from instar.engine import deadline

    if threading.current_thread() is not threading.main_thread():  # Python lets only that one handle signals
        yield
        return
    deadline.install()
    try:
        yield
    finally:
        deadline.restore()


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"

    return f"<table><thead>{line(head, 'th')}</thead><tbody>{''.join(line(row, 'td') for row in rows)}</tbody></table>"
