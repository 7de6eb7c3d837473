"""Terminal: what a person sees. A live line in a terminal, one line an epoch elsewhere, never a traceback for either.

Plain text without a library: printing must cost the training nothing, and help must not wait for an import.
"""

import math
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from instar import formats
from instar.formats import clock, count, one_line, rate, score

_ASCII = str.maketrans({"…": "...", "→": "->", "×": "x", "·": "-", "–": "-", "≤": "<=", "█": "#", "░": ".", "▌": "#"})
_ROOM_FOR_BAR = 60  # columns
_NAMED = 5  # files that are named one by one
_CHATTER = b"INFO: Created TensorFlow Lite XNNPACK delegate"
_REFRESH = 0.2  # seconds between two drawings of the live line


def prepare() -> None:
    """Make the output streams accept any text, whatever LANG and the encoding are."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def say(text: str = "", *, error: bool = False) -> None:
    """Print lines. Raises BrokenPipeError where the reader has gone; says nothing where there is no stream at all."""
    stream = sys.stderr if error else sys.stdout
    if stream is not None:
        print(fitting(text, stream), file=stream, flush=True)


def fitting(text: str, stream: TextIO) -> str:
    """The text in letters that the stream can show."""
    try:
        text.encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return text.translate(_ASCII)
    return text


def is_live(stream: TextIO | None) -> bool:
    """Whether a line on this stream can be drawn again and again."""
    return stream is not None and stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


class Terminal:
    """Watches a training (see engine/view.py) and shows it on standard output.

    metric       the task's own score, to show for the validation split
    watched      the score that chooses the best checkpoint; by default the same
    experiment   what is learnt, for the first lines
    level        silent: nothing · quiet: what should be known · full: everything
    """

    def __init__(
        self,
        *,
        metric: str,
        watched: str | None = None,
        experiment: Any = None,
        level: str = "full",
        stream: TextIO | None = None,
    ):
        self._metric = metric
        self._watched = watched or metric
        self._experiment = experiment
        self._level = level
        self._stream = stream if stream is not None else sys.stdout
        live = level == "full" and is_live(self._stream)
        self._begun = time.monotonic()
        self._due = 0.0 if live else math.inf
        self._first: tuple[float, int] | None = None
        self._total = self._epoch_samples = self._batch = 0
        self._losses: list[float] = []
        self._tail = ""
        self._drawn = False

    # --- before ------------------------------------------------------------------------------------------------

    def announce(self, run: Any, plan: Any, manifest: Any) -> None:
        """The data, the split, the plan and the folder, before anything takes long."""
        lines = announcement(run, plan, manifest, self._experiment) if self._level == "full" else []
        self.expect(plan.total_samples, plan.epoch_samples, plan.batch, lines)

    def expect(self, total: int, epoch_samples: int, batch: int, lines: Sequence[str]) -> None:
        """How long it will be, in samples, and the lines that say what it is."""
        self._total, self._epoch_samples, self._batch = total, epoch_samples, batch
        for line in lines if self._level == "full" else ():
            self._line(line)

    def preparing(self, done: int, total: int) -> None:
        """So many of the files were looked at."""
        self._draw_now_and_then("data     looking at the files", done, total)

    # --- during: engine/view.py ----------------------------------------------------------------------------------

    def step(self, samples: int) -> None:
        now = time.monotonic()
        if now < self._due:  # the only cost of most steps
            return
        self._due = now + _REFRESH
        if self._first is None:
            self._first = (now, samples)
        self._draw(self._progress(samples, now))

    def losses(self, line: dict[str, Any]) -> None:
        self._losses.append(float(line.get("loss", float("nan"))))
        self._tail = _speed(line)

    def evaluating(self, done: int, rows: int) -> None:
        self._draw_now_and_then("evaluating", done, rows)

    def epoch(self, line: dict[str, Any], *, best: bool) -> None:
        if self._level != "full":
            return
        parts = [self._epochs(float(line.get("epoch", 0.0)))]
        if self._losses:
            parts.append(f"loss {formats.loss(sum(self._losses) / len(self._losses))}")
        for name in dict.fromkeys([self._metric, self._watched]):
            if name in line:
                shown = "val" if name == self._metric else f"val {name}"
                star = ("*" if best else " ") if name == self._watched else ""
                parts.append(f"{shown} {score(name, float(line[name]))}{star}")
        parts += [part for part in (_speed(line), clock(time.monotonic() - self._begun)) if part]
        self._losses.clear()
        self._first = None
        self._line("  ".join(parts))

    def note(self, text: str) -> None:
        if self._level != "silent":
            self._line(f"note     {one_line(text)}")

    # --- drawing -------------------------------------------------------------------------------------------------

    def clear(self) -> None:
        """Take the live line away."""
        if self._drawn:
            self._write("\r\x1b[K")
            self._drawn = False

    def _draw_now_and_then(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now >= self._due:
            self._due = now + _REFRESH
            self._draw(f"{what}  {bar(done / max(1, total))}  {count(done)} of {count(total)}")

    def _progress(self, samples: int, now: float) -> str:
        parts = [self._epochs(samples / max(1, self._epoch_samples))]
        if shutil.get_terminal_size().columns >= _ROOM_FOR_BAR:
            parts.append(bar(samples / max(1, self._total)))
        if self._losses:
            parts.append(f"loss {formats.loss(self._losses[-1])}")
        since, before = self._first or (now, samples)
        pace = (samples - before) / (now - since) if now > since else 0.0
        if pace > 0:
            parts += [f"{clock((self._total - samples) / pace)} left", self._tail or f"{rate(pace)} img/s"]
        return "  ".join(parts)

    def _epochs(self, epoch: float) -> str:
        length = max(1, self._epoch_samples)
        whole = formats.epoch(self._total / length, step=self._batch / length)
        return f"{formats.epoch(epoch, step=self._batch / length):>{max(2, len(whole))}}/{whole}"

    def _draw(self, text: str) -> None:
        columns = shutil.get_terminal_size().columns
        self._write(f"\r{formats.cut(text, columns - 1)}\x1b[K")
        self._drawn = True

    def _line(self, text: str) -> None:
        self.clear()
        self._write(text + "\n")

    def _write(self, text: str) -> None:
        """Write at once. A reader that has gone, as in `| head`, must not end a training: from then on be silent."""
        if self._stream is None or self._level == "silent":
            return
        try:
            self._stream.write(fitting(text, self._stream))
            self._stream.flush()
        except (OSError, ValueError):
            self._level, self._due = "silent", math.inf


class Line:
    """One line that is drawn again and again while something is counted; nothing where nobody can see it.

    live   whether it may be drawn at all
    """

    def __init__(self, *, live: bool = True, stream: TextIO | None = None):
        self._stream = stream if stream is not None else sys.stdout
        self._due = 0.0 if live and is_live(self._stream) else math.inf
        self._drawn = False

    def draw(self, what: str, done: int, total: int) -> None:
        """So many of so many are done."""
        now = time.monotonic()
        if now >= self._due:
            self._due = now + _REFRESH
            self.say(f"{what}{bar(done / max(1, total))}  {count(done)} of {count(total)}")

    def say(self, text: str) -> None:
        """What happens now, in place of what was said before."""
        if math.isfinite(self._due):
            shown = fitting(formats.cut(text, shutil.get_terminal_size().columns - 1), self._stream)
            self._stream.write(f"\r{shown}\x1b[K")
            self._stream.flush()
            self._drawn = True

    def clear(self) -> None:
        """Take the line away."""
        if self._drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._drawn = False


@contextmanager
def without_chatter() -> Iterator[None]:
    """Inside, what libraries write to standard error by themselves is held back; afterwards all but chatter is told."""
    import tempfile

    try:
        kept, held = os.dup(2), tempfile.TemporaryFile()  # noqa: SIM115  (closed below, whatever happens)
    except OSError:  # nobody listens, or there is no room
        yield
        return
    try:
        os.dup2(held.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        held.seek(0)
        told = b"".join(line for line in held if not line.startswith(_CHATTER))
        held.close()
        if told:
            os.write(kept, told)
        os.close(kept)


def announcement(run: Any, plan: Any, manifest: Any, experiment: Any = None) -> list[str]:
    """What `instar train` prints first: data, split, plan and run, and what was left out."""
    facts = manifest.statistics
    what = "images with masks" if facts.get("pixels") else "pairs" if facts.get("halves") else "images"
    several, alone = len(plan.classes) > 1, "without labels" if facts.get("halves") else "1 class"
    images = f"{count(len(manifest))} {what}, {f'{count(len(plan.classes))} classes' if several else alone}"
    if facts.get("median_width"):
        images += f", median {facts['median_width']:.0f}x{facts['median_height']:.0f}"
    remarks = [f"{count(len(manifest.skipped))} skipped (below)"] if manifest.skipped else []
    if several and facts.get("imbalance"):
        remarks.append(f"imbalance {facts['imbalance']:.1f}x")
    decoded, notes = _decoded(facts)
    model = [f"model  {one_line(getattr(experiment.model, 'name', experiment.model.kind))}"] if experiment else []
    return [
        two("data", images, *remarks, *decoded),
        two("split", _split(plan, facts), *model),
        two("plan", _work(plan), f"run    {one_line(str(run.path))}"),
        *(f"note     {one_line(text)}" for text in (*facts.get("notes", ()), *notes, *_left_out(manifest))),
    ]


def _decoded(facts: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Which library decodes the JPEGs, where there are any; and what would be faster."""
    if not facts.get("jpegs"):
        return [], []
    from instar.readers import _jpeg

    library = _jpeg.decoder().partition(" ")[0]  # its version is in provenance.json
    slower = ["JPEGs are decoded by Pillow; pip install 'instar[fast]' halves that time"]
    return [f"decoder {library}"], slower if library == "Pillow" else []


def two(name: str, left: str, *right: str) -> str:
    """A line of two columns; the left one may be longer than its place."""
    return f"{name:<9}{left:<64}   {'   '.join(right)}".rstrip()


def _split(plan: Any, facts: dict[str, Any]) -> str:
    rows = (plan.train_rows, plan.val_rows, plan.test_rows)
    shares = "/".join(f"{100 * part / max(1, sum(rows)):.0f}" for part in rows)
    twice = facts.get("duplicates")
    across = {None: "", 0: ", no duplicates across"}.get(twice, f", {count(twice or 0)} duplicates across splits")
    made = "as given" if facts.get("divided") else f"seed {plan.seed}"
    return f"{shares} = {' + '.join(map(count, rows))}, {made}{across}"


def _work(plan: Any) -> str:
    device = f"{plan.devices} x {plan.device}" if plan.devices > 1 else plan.device
    epochs = formats.epoch(plan.total_samples / plan.epoch_samples, step=plan.batch / plan.epoch_samples)
    return f"{device} {plan.precision}, batch {plan.batch}, {epochs} epochs = {count(plan.steps)} steps"


def _left_out(manifest: Any) -> list[str]:
    told = [f"skipped {file}: {reason}" for file, reason in manifest.skipped[:_NAMED]]
    more = len(manifest.skipped) - len(told)
    rare = manifest.statistics.get("left_out") or {}
    if rare:
        told.append(f"{len(rare)} classes have fewer than data.min_per_class images and are left out")
    return [*told, *([f"and {count(more)} more, listed on the run page"] if more > 0 else [])]


def bar(share: float, columns: int = 16) -> str:
    """A bar that is full at 1."""
    full = round(min(max(share, 0.0), 1.0) * columns)
    return "█" * full + "░" * (columns - full)


def columns_of(pairs: Sequence[tuple[str, str]], *, indent: str = "  ") -> list[str]:
    """Two columns: names, and what they mean, which goes on below itself where the terminal is narrow."""
    first = max((formats.width(name) for name, _ in pairs), default=0)
    room = max(20, shutil.get_terminal_size().columns - first - len(indent) - 2)
    lines = []
    for name, text in pairs:
        wrapped = _wrapped(text, room) or [""]
        lines.append(f"{indent}{name}{' ' * (first - formats.width(name))}  {wrapped[0]}".rstrip())
        lines += [f"{indent}{' ' * first}  {more}" for more in wrapped[1:]]
    return lines


def _wrapped(text: str, columns: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, columns, break_on_hyphens=False)


def _speed(line: dict[str, Any]) -> str:
    if not line.get("images_per_second"):
        return ""
    ceiling = f" (loader ceiling {rate(line['loader_ceiling'])})" if line.get("loader_ceiling") else ""
    return f"{rate(line['images_per_second'])} img/s{ceiling}"
