"""A search over all nodes of one job, by Ray: it starts a worker on each, sees them end, and takes itself down.

What is searched, and who runs which trial, is decided as everywhere by the journal and the claims; Ray only knows the
nodes. So a study may go on with it or without it. The only door to Ray.

On one machine Ray listens to 127.0.0.1 only. Over several, Ray 2.60 listens at every address of each, whatever it is
told; so it asks for a token that only this user can read. It has no dashboard and no usage statistics.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from instar.engine import deadline
from instar.engine.loading.cores import usable_cpus
from instar.engine.ranks import addresses, exits, launch
from instar.engine.ranks.place import Place
from instar.errors import AGAIN, Again, RunError
from instar.study import Study

_JOINING_SECONDS = 180.0
_TURN_SECONDS = 0.5
_STORE_BYTES = 100_000_000  # nothing is kept in it; by default it takes a third of the memory


def lead(
    study: Study,
    line: Sequence[str],
    *,
    place: Place,
    device: str,
    clock: deadline.Clock,
    told: Callable[[str], None] = lambda text: None,
) -> None:
    """Start Ray over as many nodes as there are processes of this launch, and a worker on each; wait for all to end.

    line   words of the command of a worker
    told   told when all nodes have joined, and where their workers write
    Raises Again where the search was told to stop and every worker has saved, or one was lost with a trial of it,
    RunError where nodes do not join or a worker fails.
    """
    study.path.mkdir(parents=True, exist_ok=True)
    halt = study.path / f".halt-{secrets.token_hex(8)}"
    with _cluster(study, place=place, device=device):
        waiting = _workers(study, [*line, f"halt={halt}"])
        told(f"{len(waiting)} node{'s' if len(waiting) > 1 else ''} joined; see {study.path / 'workers'}/ray-*.txt")
        try:
            codes, why = _waited_for(waiting, clock=clock, halt=halt)
        finally:
            halt.unlink(missing_ok=True)
    if why or AGAIN in codes:
        raise Again(why or "a worker was told to stop")
    if None in codes and study.status()["state"] != "done":
        raise Again("a worker was lost, and its trial with it")
    if failed := [code for code in codes if code]:
        raise RunError(f"{len(failed)} of {len(codes)} workers ended with {failed[0]}; see {study.path}/workers")


@contextmanager
def _cluster(study: Study, *, place: Place, device: str) -> Iterator[None]:
    """Inside, Ray is up on this node, and all others of this launch have joined."""
    token, meeting, alone = secrets.token_hex(32), _meeting(study), place.world == 1
    meeting.unlink(missing_ok=True)
    with _surroundings(token, alone=alone), tempfile.TemporaryDirectory(prefix="ray-") as folder:
        import ray

        with _unheard():
            started = ray.init(
                num_cpus=usable_cpus(),
                num_gpus=_gpus(device),
                include_dashboard=False,
                log_to_driver=False,
                configure_logging=False,
                object_store_memory=_STORE_BYTES,
                _node_ip_address=_address(alone=alone),
                _temp_dir=folder,
            )
        try:
            if not alone:
                address = str(started.address_info["gcs_address"])  # type: ignore[attr-defined]
                _publish(meeting, {"address": address, "token": token})
            _await_nodes(place.world)
            yield
        finally:
            meeting.unlink(missing_ok=True)
            ray.shutdown()


def _workers(study: Study, line: Sequence[str]) -> list[Any]:
    """Begin one worker on each node; returns what Ray knows them by."""
    import ray

    # A worker leaves when it is told to; a node that is lost is no reason to run its work a second time.
    worker = ray.remote(max_retries=0)(_work)
    there = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    return [
        worker.options(num_cpus=0, scheduling_strategy=there(node, soft=False)).remote(
            list(line), str(study.path / "workers" / f"ray-{number}.txt"), os.environ["PATH"]
        )
        for number, node in enumerate(nodes)
    ]


def _waited_for(waiting: list[Any], *, clock: deadline.Clock, halt: Path) -> tuple[list[int | None], str]:
    """How all workers left, and why they were told to stop; empty where they were not."""
    import ray

    codes: list[int | None] = []
    why = ""
    while waiting:
        ended, waiting = ray.wait(waiting, timeout=_TURN_SECONDS)
        codes += [_code(one) for one in ended]
        if not why and (why := deadline.reason(clock) or ""):
            halt.touch()
    return codes, why


def join(study: Study, *, device: str) -> None:
    """Be a node of the Ray that the first process of this launch starts, until that ends it."""
    begun = time.monotonic()
    while (found := _read(_meeting(study))) is None:
        if time.monotonic() - begun > _JOINING_SECONDS or deadline.received():
            raise Again("the first node did not come up")
        time.sleep(_TURN_SECONDS)
    with (
        _surroundings(found["token"], alone=False),
        tempfile.TemporaryDirectory(prefix="ray-") as folder,
        _unheard(),
        exits.nothing_left(),  # Ray's agents outlive their node by minutes
    ):
        words = ["--address", found["address"], "--num-cpus", str(usable_cpus()), "--num-gpus", str(_gpus(device))]
        words += ["--node-ip-address", _address(alone=False), "--object-store-memory", str(_STORE_BYTES), "--block"]
        with open(os.path.join(folder, "log"), "wb") as log:  # noqa: PTH118
            node = subprocess.Popen(
                [sys.executable, "-m", "ray.scripts.scripts", "start", *words], stdout=log, stderr=log
            )
            node.wait()


def _work(line: list[str], log: str, path: str) -> int:
    """One worker, on its node: the same command as without Ray."""
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    own = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}  # Ray sets it to 1
    own |= {"PATH": path, "INSTAR_RANK": "0", "INSTAR_WORLD": "1"}
    with open(log, "ab") as file:
        return subprocess.run(
            [sys.executable, "-m", "instar", *line], stdout=file, stderr=subprocess.STDOUT, env=own, check=False
        ).returncode


def _code(ended: object) -> int | None:
    """How a worker left; None where it or its node was lost, and the others may have taken over its trials."""
    import ray

    try:
        code = int(ray.get(ended))  # type: ignore[call-overload]
    except ray.exceptions.RayError:
        return None
    return None if code < 0 else code  # killed


def _await_nodes(number: int) -> None:
    import ray

    begun = time.monotonic()
    while (there := sum(node["Alive"] for node in ray.nodes())) < number:
        if deadline.received():
            raise Again(f"signal {deadline.received()} before all nodes had joined")
        if time.monotonic() - begun > _JOINING_SECONDS:
            raise RunError(f"only {there} of {number} nodes joined within {_JOINING_SECONDS:g} s")
        time.sleep(_TURN_SECONDS)


def _address(*, alone: bool) -> str:
    return "127.0.0.1" if alone else addresses.first() or "127.0.0.1"


def _gpus(device: str) -> int:
    shown = os.environ.get("CUDA_VISIBLE_DEVICES", "").strip() or Path("/dev/nvidia0").exists()
    return launch.count_devices(device) if shown and device != "cpu" else 0


# --- meeting -------------------------------------------------------------------------------------------------------


def _meeting(study: Study) -> Path:
    """Where the nodes of one launch meet: another start of the same job meets elsewhere."""
    parts = [os.environ.get(name, "0") for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_STEP_ID")]
    return study.path / f".ray-{'-'.join(parts)}.json"


def _publish(file: Path, facts: dict[str, str]) -> None:
    temporary = file.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)  # there is a token in it
    with open(descriptor, "w", encoding="utf-8") as opened:
        opened.write(json.dumps(facts))
    temporary.replace(file)


def _read(file: Path) -> dict[str, str] | None:
    with suppress(OSError, ValueError):
        return dict(json.loads(file.read_text(encoding="utf-8")))
    return None


@contextmanager
def _surroundings(token: str, *, alone: bool) -> Iterator[None]:
    """What Ray reads from the environment when it starts; put back afterwards."""
    wanted = {
        # Its way to say 127.0.0.1: the address itself, if that is given, it takes for one that others can reach.
        **({"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"} if alone else {}),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_DISABLE_IMPORT_WARNING": "1",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_gcs_rpc_server_reconnect_timeout_s": "5",  # a node leaves soon after the first one
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


@contextmanager
def _unheard() -> Iterator[None]:
    """What is started inside does not hear the warning before a limit, which Slurm sends to every process of a step."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGUSR1, signal.SIGUSR2)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
