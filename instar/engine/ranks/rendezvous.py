"""How ranks find each other: a store that rank 0 serves on a free port, published in a file next to the run.

No port is fixed, so none can be taken. A file that an earlier launch left behind is never believed: its name belongs to
another launch, and where it does not, the store it names must know the word that the file says.
"""

import contextlib
import hashlib
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from instar.engine.ranks import addresses, process
from instar.engine.ranks.place import Place
from instar.errors import AGAIN, InstarError, RunError
from instar.run import write_atomically

Store = dist.Store

_CONNECT_SECONDS = 5.0


class RankLost(InstarError):
    """Another rank did not come, or went away; the same command carries on from the last save."""

    exit_code = AGAIN


def open_store(place: Place, *, folder: Path, timeout: float) -> Store:
    """A store that all ranks of this launch share, served by rank 0 (or by torchrun's agent).

    folder    where rank 0 publishes its address; every rank must see it
    timeout   seconds to wait for rank 0

    Raises RankLost naming who was awaited, where, and how long.
    """
    if place.agreed_address:
        return _agreed(timeout)
    file = folder / f".rendezvous-{hashlib.sha256(place.launch.encode()).hexdigest()[:12]}.json"
    return _serve(place, file, timeout) if place.rank == 0 else _look_up(place, file, timeout)


def withdraw(place: Place, *, folder: Path) -> None:
    """Remove the published address, once everybody has come."""
    if place.rank == 0:
        for file in folder.glob(".rendezvous-*.json"):
            with contextlib.suppress(OSError):
                if json.loads(file.read_text(encoding="utf-8"))["launch"] == place.launch:
                    file.unlink()


def _agreed(timeout: float) -> Store:
    """The store at MASTER_ADDR and MASTER_PORT, which torchrun's agent serves already."""
    try:
        store, _, _ = next(iter(dist.rendezvous("env://", timeout=timedelta(seconds=timeout))))
    except (dist.DistError, RuntimeError, ValueError) as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise RankLost(f"no store at MASTER_ADDR:MASTER_PORT = {where} within {timeout:g} s: {error}") from error
    return store


def _serve(place: Place, file: Path, timeout: float) -> Store:
    listening = addresses.listen(only_here=place.local_world == place.world)
    host, port = addresses.own(listening), listening.getsockname()[1]
    hosts = [host] if place.local_world == place.world else [*addresses.candidates(), host]
    _check_loopback(host, port)
    # The store owns the socket from here on, so no other process can have taken the port in between.
    store = dist.TCPStore(
        host,
        port,
        is_master=True,
        timeout=timedelta(seconds=timeout),
        wait_for_workers=False,
        master_listen_fd=listening.detach(),
    )
    word = secrets.token_hex(8)
    store.set("word", word)
    write_atomically(file, json.dumps({"launch": place.launch, "word": word, "hosts": hosts, "port": port}))
    return store


def _check_loopback(host: str, port: int) -> None:
    """Say it here where a container has no network at all; the store would say so on three screens."""
    try:
        socket.create_connection((host, port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise RunError(
            f"this machine does not reach itself at {host} ({error.strerror or error}), so its ranks cannot meet. "
            f"Bring up its loopback interface (ip link set lo up), or train with devices=1."
        ) from error


def _look_up(place: Place, file: Path, timeout: float) -> Store:
    me = f"rank {place.rank} of {place.world} on {socket.gethostname()}"
    problem = f"{file} did not appear. Is rank 0 running, and does it see the same folder?"
    for _ in _tries(timeout):
        published = _published(file, place)
        if published is None:
            continue
        for host in published["hosts"]:
            store = _connect(host, published["port"], published["word"], timeout)
            if store is not None:
                return store
        tried = ", ".join(published["hosts"])
        problem = f"it answered at none of {tried}, port {published['port']}. Does a firewall stand between the nodes?"
    raise RankLost(f"{me} waited {timeout:g} s for rank 0: {problem}")


def _published(file: Path, place: Place) -> dict[str, Any] | None:
    # Listing the folder first makes NFS ask the server again; else it may remember for a minute that no file was there.
    try:
        next(file.parent.iterdir(), None)
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("launch") == place.launch else None


def _connect(host: str, port: int, word: str, timeout: float) -> Store | None:
    """A client of the store at this address, or None where there is none or a foreign one."""
    try:
        # Asked once by hand: the store's own client would ask an address that is not there until its time is up.
        with socket.create_connection((host, port), timeout=_CONNECT_SECONDS) as probe:
            address = str(probe.getpeername()[0])
        store = dist.TCPStore(address, port, is_master=False, timeout=timedelta(seconds=_CONNECT_SECONDS))
        if store.get("word") != word.encode():
            return None
        store.set_timeout(timedelta(seconds=timeout))
    except (OSError, dist.DistError):
        return None
    return store


def _tries(timeout: float) -> Iterator[None]:
    """Turns of a waiting loop, soon at first and then twice a second, until `timeout` seconds are over."""
    end, pause = time.monotonic() + timeout, 0.01
    while True:
        yield
        if time.monotonic() >= end:
            return
        time.sleep(min(pause, max(0.0, end - time.monotonic())))
        pause = min(pause * 1.5, 0.5)


def gather(store: Store, place: Place, mine: dict[str, Any], *, timeout: float) -> list[dict[str, Any]]:
    """What every rank says about itself, in order of rank.

    Raises RankLost naming the ranks that did not come within `timeout` seconds.
    """
    store.set(f"here/{place.rank}", json.dumps(mine))
    missing = list(range(place.world))
    here: dict[int, dict[str, Any]] = {}
    for _ in _tries(timeout):
        try:
            for rank in missing:
                if store.check([f"here/{rank}"]):
                    here[rank] = json.loads(store.get(f"here/{rank}"))
        except dist.DistError as error:
            raise RankLost(
                f"rank 0 went away while rank {place.rank} of {place.world} waited for the others"
            ) from error
        missing = [rank for rank in missing if rank not in here]
        if not missing:
            return [here[rank] for rank in range(place.world)]
        _refuse_the_dead(here, place)
    names = ", ".join(map(str, missing[:8])) + (", …" if len(missing) > 8 else "")
    raise RankLost(
        f"rank {names} of {place.world} did not come within {timeout:g} s (started by {place.source}). "
        f"Look at its output for the reason."
    )


def _refuse_the_dead(here: dict[int, dict[str, Any]], place: Place) -> None:
    """Do not wait for the last rank where an early one has died meanwhile, as far as it can be seen from here."""
    for rank, facts in here.items():
        meant = process.named_in(facts)
        if meant is not None and meant.state() == "gone":
            raise RankLost(
                f"rank {rank} of {place.world} on {meant.host} (process {meant.pid}) ended before all had come"
            )
