"""One writer per run folder: a lease with a heartbeat, and a takeover that only one of many can win.

`lease.json` names the holder. Whoever succeeds a dead holder first creates `.lease.json.after-TOKEN`, where TOKEN is
the dead holder's: creating a file that must not exist yet is atomic on local disks, NFS and Lustre alike, so of any
number of starters exactly one succeeds it. That file is the new lease; only then does it also become `lease.json`.
A reader follows the chain from `lease.json` to its end, so it finds the holder whatever moment a kill left behind.

No clocks are compared between machines: a holder on another machine counts as dead when its heartbeat did not change
while we watched. Standard library only.
"""

import contextlib
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any

from instar.engine.ranks import process
from instar.errors import RunError

BEAT_SECONDS = 3.0
PATIENCE_SECONDS = 30.0

# The two fields that change are written in place, so they come first and never change their width.
_HEAD = '{{"beat": "{beat:010d}", "state": "{state}", '
_HELD, _FREE = "held", "free"


class Lease:
    """The right to write into one run folder. Made by `acquire`; a context manager that gives it back."""

    def __init__(self, path: Path, facts: Mapping[str, Any], descriptor: int):
        self.path = path
        self.token = str(facts["token"])
        self.lost = False
        """Set, within one heartbeat, when another process took the lease over; free to read at every step."""
        self._descriptor = descriptor
        self._beats = 0
        self._ended = threading.Event()
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def held(self) -> bool:
        """Whether the lease is still ours, read from disk: ask right before anything that a reader will rely on.

        Raises OSError where the folder cannot be read.
        """
        holder = _holder(self.path)
        return holder is not None and holder.token == self.token

    def release(self) -> None:
        """Give the lease back, so that the next starter need not wait. Does nothing the second time."""
        if self._ended.is_set() or os.getpid() != self._pid:
            return
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            self._write(_FREE)
        os.close(self._descriptor)

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _renew(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            self._beats += 1
            # A full or vanished disk is not ours to report: whoever writes a checkpoint next will.
            with contextlib.suppress(OSError):
                self._write(_HELD)
                self.lost = not self.held()

    def _write(self, state: str) -> None:
        # Through the open file, not its name: were it no longer ours, this would touch nobody else's.
        os.pwrite(self._descriptor, _HEAD.format(beat=self._beats, state=state).encode(), 0)
        # Closing any descriptor of a file is what makes NFS send it; fsync would wait for a whole checkpoint on ext4.
        os.close(os.dup(self._descriptor))


def acquire(
    path: Path,
    *,
    holder: Mapping[str, Any] | None = None,
    patience: float = PATIENCE_SECONDS,
    environ: Mapping[str, str] = os.environ,
    watching: Callable[[str], None] = lambda sentence: None,
) -> Lease:
    """Take the lease at `path`, at once where nobody holds it or its holder is known to be dead.

    holder     more about us, kept in the file for people to read
    patience   seconds a heartbeat on another machine must stand still before its holder counts as dead
    watching   told, in one sentence, that such a holder is being watched

    Raises RunError naming the holder where it is alive, or where the file cannot be written.
    """
    facts = _facts(holder or {}, environ)
    try:
        while True:
            found = _holder(path)
            if found is None:
                descriptor = _create(path, path, facts)
            elif found.is_dead(facts) or _is_silent(path, found, facts, patience, watching):
                descriptor = _succeed(path, found, facts)
            elif _has_changed(path, found):
                continue
            else:
                raise RunError(found.describe(path))
            if descriptor is not None:
                return Lease(path, facts, descriptor)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror or error}. Nothing was started.") from error


held = acquire  # reads better after `with`


def nobody() -> AbstractContextManager[None]:
    """What stands in for a lease on the ranks that do not write."""
    return contextlib.nullcontext()


def read(path: Path) -> dict[str, Any]:
    """What the current or last holder wrote about itself; empty where there was none."""
    found = _holder(path)
    return dict(found.facts) if found is not None else {}


def standing(path: Path, environ: Mapping[str, str] = os.environ) -> tuple[str, str]:
    """How a lease stands, at once and without taking it, and its text, which changes with every heartbeat.

    free (nobody's, or given back), dead (its holder certainly is), alive (its holder certainly is), or unknown: on
    another machine, where only watching the text tells.
    """
    found = _holder(path)
    if found is None:
        return "free", ""
    ours = _facts({}, environ)
    if found.facts.get("state") == _FREE:
        return "free", found.text
    if found.is_dead(ours):
        return "dead", found.text
    return ("alive" if found.is_certain_to_live(ours) else "unknown"), found.text


class _Holder:
    """Somebody's lease, as read from disk."""

    def __init__(self, file: Path, text: str, inode: int):
        try:
            value = json.loads(text)
        except ValueError:
            value = {}
        self.file = file
        self.facts: dict[str, Any] = value if isinstance(value, dict) else {}
        self.text = text
        # A file without a token (cut short by a crash, or written by hand) is named by its place on the disk.
        token = str(self.facts.get("token", ""))
        self.token = token if token.isalnum() else f"i{inode:x}"

    def is_dead(self, ours: Mapping[str, Any]) -> bool:
        """Whether it is certain, without watching, that this holder will not write again."""
        if self.facts.get("state") == _FREE:
            return True
        if self._starts_after(ours) < 0:
            return True  # requeued by the scheduler, which had ended the earlier start
        return self._process_state() == "gone"

    def is_certain_to_live(self, ours: Mapping[str, Any]) -> bool:
        """Whether watching it would be a waste of time: it is seen to live, or it is what succeeded us."""
        return self._process_state() in ("alive", "stopped") or self._starts_after(ours) > 0

    def describe(self, path: Path) -> str:
        facts = self.facts
        if "pid" not in facts:
            return f"{path} changes, although it names no holder. Another version may be writing into {path.parent}."
        host, job = facts.get("host", "an unnamed host"), f" (job {facts['job']})" if facts.get("job") else ""
        stop = f"scancel {facts['job']}" if facts.get("scheduler") == "slurm" else f"kill {facts['pid']}"
        return (
            f"{path.parent} is in use by process {facts['pid']} on {host}{job}, "
            f"since {facts.get('since', 'an unknown time')}. Wait until it ends, stop it there ({stop}), or "
            f"choose another run=NAME."
        )

    def _starts_after(self, ours: Mapping[str, Any]) -> int:
        """How many starts of our own scheduler job lie between us and this holder; 0 where it is another job's."""
        restart = self.facts.get("restart")
        same = bool(ours["job"]) and self.facts.get("job") == ours["job"] and isinstance(restart, int)
        return restart - ours["restart"] if same else 0

    def _process_state(self) -> str:
        meant = process.named_in(self.facts)
        return meant.state() if meant is not None else "unknown"


def _holder(path: Path) -> _Holder | None:
    """The end of the chain that begins at `path`."""
    found, following = None, _read(path)
    while following is not None:
        found = following
        following = _read(_after(path, found.token))
    return found


def _read(file: Path) -> _Holder | None:
    try:
        with open(file, encoding="utf-8", errors="replace") as opened:
            return _Holder(file, opened.read(), os.fstat(opened.fileno()).st_ino)
    except FileNotFoundError:
        return None


def _is_silent(
    path: Path, found: _Holder, ours: Mapping[str, Any], patience: float, watching: Callable[[str], None]
) -> bool:
    """Watch the heartbeat; True when it did not change for `patience` seconds of our own, waking time."""
    if found.is_certain_to_live(ours):
        return False
    host, pid = found.facts.get("host", "a host it does not name"), found.facts.get("pid", "that it does not name")
    watching(f"{path.parent} was held by process {pid} on {host}: watching its heartbeat for up to {patience:g} s")
    clock = process.AwakeClock(most=1.0)
    while clock.tick() < patience:
        time.sleep(min(0.2, patience / 10))
        now = _holder(path)
        if now is None or now.text != found.text:
            return False
    return True


def _has_changed(path: Path, found: _Holder) -> bool:
    """Whether the lease has passed on, or was given back, since it was read."""
    now = _holder(path)
    return now is None or now.token != found.token or now.facts.get("state") != found.facts.get("state")


def _succeed(path: Path, dead: _Holder, facts: Mapping[str, Any]) -> int | None:
    """Become the successor of a dead holder; None where somebody else was faster."""
    successor = _after(path, dead.token)
    descriptor = _create(path, successor, facts)
    if descriptor is None:
        return None
    now = _holder(path)
    if now is None or now.token != facts["token"]:
        # We looked long ago: the chain has moved on, so what we created hangs on nothing.
        os.close(descriptor)
        successor.unlink(missing_ok=True)
        return None
    temporary = _temporary(path, facts)
    try:
        os.link(successor, temporary)
        temporary.replace(path)
        _sweep(path, keep=successor)
    except FileNotFoundError:
        pass  # swept by a successor of ours; `held` will say so
    except OSError:
        successor.replace(path)  # no hard links here
    return descriptor


def _create(path: Path, target: Path, facts: Mapping[str, Any]) -> int | None:
    """Create `target` with our facts in one atomic step; returns it open, or None where it exists already."""
    content = (_HEAD.format(beat=0, state=_HELD) + json.dumps(facts)[1:] + "\n").encode()
    temporary = _temporary(path, facts)
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        os.write(descriptor, content)
        os.fsync(descriptor)
        made = _link(temporary, target)
    except BaseException:
        os.close(descriptor)
        temporary.unlink(missing_ok=True)
        raise
    temporary.unlink(missing_ok=True)
    if made:
        return descriptor
    os.close(descriptor)
    return _create_without_links(target, content) if made is None else None


def _link(temporary: Path, target: Path) -> bool | None:
    """Whether the link was made by us; None where this file system has no hard links."""
    try:
        os.link(temporary, target)
    except (FileExistsError, FileNotFoundError):
        # Over NFS a repeated request finds its own success: then our file has two names. FileNotFoundError: the new
        # holder swept our temporary file away, so somebody else was faster.
        with contextlib.suppress(OSError):
            return temporary.stat().st_nlink == 2
        return False
    except OSError:
        return None
    return True


def _create_without_links(target: Path, content: bytes) -> int | None:
    try:
        descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return None
    os.write(descriptor, content)
    os.fsync(descriptor)
    return descriptor


def _sweep(path: Path, *, keep: Path) -> None:
    """Remove what earlier successions and killed starters left."""
    for left in _leftovers(path):
        if left != keep:
            left.unlink(missing_ok=True)


def _leftovers(path: Path) -> Iterator[Path]:
    for file in path.parent.iterdir():
        if file.name.startswith((f".{path.name}.after-", f".{path.name}.new-")):
            yield file


def _after(path: Path, token: str) -> Path:
    return path.with_name(f".{path.name}.after-{token}")


def _temporary(path: Path, facts: Mapping[str, Any]) -> Path:
    return path.with_name(f".{path.name}.new-{facts['token']}")


def _facts(holder: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """What we write about ourselves. `restart` counts the starts of one scheduler job."""
    slurm = environ.get("SLURM_JOB_ID", "")
    restart = environ.get("SLURM_RESTART_COUNT", "0") if slurm else "0"
    return {
        **holder,
        "token": secrets.token_hex(8),
        **process.me().facts(),
        "scheduler": "slurm" if slurm else "pbs" if environ.get("PBS_JOBID") else "",
        "job": slurm or environ.get("PBS_JOBID", ""),
        "restart": int(restart) if restart.isdigit() else 0,
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
