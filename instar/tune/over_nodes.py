"""A search over all nodes of one job, by Ray: it starts a worker on each, sees them end, and takes itself down.

What is searched, and who runs which trial, is decided as everywhere by the journal and the claims; Ray only knows the
nodes. So a study may go on with it or without it. The only door to Ray.

Ray listens to the network: it is bound to the address that the other nodes reach, asks for a token that only this user
can read, and has no dashboard and no usage statistics.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from instar.engine import deadline
from instar.engine.loading.cores import usable_cpus
from instar.engine.ranks import addresses, exits, launch
from instar.engine.ranks.place import Place
from instar.errors import AGAIN, DONE, Again, RunError
from instar.study import Study

_JOINING_SECONDS = 180.0
_TURN_SECONDS = 0.5
_STORE_BYTES = 100_000_000  # nothing is kept in it; by default it takes a third of the memory


def lead(study: Study, line: Sequence[str], *, place: Place, device: str, clock: deadline.Clock) -> None:
    """Start Ray over as many nodes as there are processes of this launch, and a worker on each; wait for all to end.

    line   words of the command of a worker
    Raises Again where the search was told to stop and every worker has saved, RunError where nodes do not join or a
    worker fails.
    """
    token = secrets.token_hex(32)
    study.path.mkdir(parents=True, exist_ok=True)
    meeting, halt = _meeting(study), study.path / f".halt-{secrets.token_hex(8)}"
    meeting.unlink(missing_ok=True)
    with _surroundings(token), tempfile.TemporaryDirectory(prefix="ray-") as folder:
        import ray

        with _unheard():
            started = ray.init(
                num_cpus=usable_cpus(),
                num_gpus=_gpus(device),
                include_dashboard=False,
                log_to_driver=False,
                configure_logging=False,
                object_store_memory=_STORE_BYTES,
                _node_ip_address=_address(alone=place.world == 1),
                _temp_dir=folder,
            )
        try:
            address = str(started.address_info["gcs_address"])  # type: ignore[attr-defined]
            _publish(meeting, {"address": address, "token": token})
            _await_nodes(place.world)
            # A worker leaves when it is told to; a node that is lost is no reason to run its work a second time.
            worker = ray.remote(max_retries=0)(_work)
            nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
            waiting = [
                worker.options(
                    num_cpus=0,
                    scheduling_strategy=ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False),
                ).remote([*line, f"halt={halt}"], str(study.path / "workers" / f"ray-{number}.txt"), os.environ["PATH"])
                for number, node in enumerate(nodes)
            ]
            codes, why = [], ""
            while waiting:
                ended, waiting = ray.wait(waiting, timeout=_TURN_SECONDS)
                codes += [_code(one) for one in ended]
                if not why and (why := deadline.reason(clock) or ""):
                    halt.touch()
        finally:
            meeting.unlink(missing_ok=True)
            halt.unlink(missing_ok=True)
            ray.shutdown()
    if why or AGAIN in codes:
        raise Again(why or "a worker was told to stop")
    if failed := [code for code in codes if code != DONE]:
        raise RunError(f"{len(failed)} of {len(codes)} workers ended with {failed[0]}; see {study.path}/workers")


def join(study: Study, *, device: str) -> None:
    """Be a node of the Ray that the first process of this launch starts, until that ends it."""
    begun = time.monotonic()
    while (found := _read(_meeting(study))) is None:
        if time.monotonic() - begun > _JOINING_SECONDS or deadline.received():
            raise Again("the first node did not come up")
        time.sleep(_TURN_SECONDS)
    with (
        _surroundings(found["token"]),
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


def _code(ended: object) -> int:
    """How a worker left; of one whose node was lost nothing is known, and the others take over its trials."""
    import ray

    try:
        return int(ray.get(ended))  # type: ignore[call-overload]
    except ray.exceptions.RayError:
        return DONE


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
def _surroundings(token: str) -> Iterator[None]:
    """What Ray reads from the environment when it starts; put back afterwards."""
    wanted = {
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
