"""Lanes: this machine divided among trials that run at the same time, each with GPUs, or a share of one, and cores."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from instar.engine.loading.cores import usable_cpus
from instar.engine.ranks import launch
from instar.errors import ConfigError


@dataclass(frozen=True)
class Lane:
    """What one trial at a time may use.

    gpus      their names in CUDA_VISIBLE_DEVICES; empty on a machine without
    cores     numbers of the cores; empty for all that this process may use
    threads   how many processors that are, by affinity and control group
    openmp    threads that compute in each of its processes
    """

    number: int
    gpus: tuple[str, ...]
    cores: tuple[int, ...]
    threads: int
    openmp: int

    def environ(self) -> dict[str, str]:
        """What the trial's processes are told about it."""
        told = {"OMP_NUM_THREADS": str(self.openmp)}
        # Alone, whoever started the search among others.
        told |= dict.fromkeys(("INSTAR_RANK", "INSTAR_LOCAL_RANK"), "0")
        told |= dict.fromkeys(("INSTAR_WORLD", "INSTAR_LOCAL_WORLD"), "1")
        return told | ({"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)} if self.gpus else {})


def lanes(
    parallel: int | Literal["auto"],
    *,
    devices: int,
    share: int,
    device: str,
    environ: Mapping[str, str] = os.environ,
    cpus: int | None = None,
) -> list[Lane]:
    """As many lanes as are asked for; raises ConfigError where the machine has no room for them.

    devices   processes of one trial, each with a GPU of its own where there are GPUs
    share     trials on one GPU
    cpus      processors there are, by default those this process may use
    """
    gpus = _gpus(device, environ)
    if share > 1 and devices > 1:
        raise ConfigError(f"share={share} goes with devices=1: processes of one trial do not share a GPU")
    if devices > 1 and any(name.startswith("MIG-") for name in gpus):
        raise ConfigError(f"devices={devices}: CUDA shows a process one part of a divided GPU (MIG) only; leave it out")
    room = len(gpus) // devices * share if gpus else None
    if room == 0:
        raise ConfigError(f"devices={devices} is more than the {len(gpus)} GPUs here")
    number = (room or 1) if parallel == "auto" else parallel
    if room is not None and number > room:
        raise ConfigError(
            f"parallel={number}: {len(gpus)} GPUs with {devices} for a trial have room for {room}. "
            f"Let trials share a GPU with share=2, or leave parallel out."
        )
    cpus = usable_cpus() if cpus is None else cpus
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    each = len(cores) // number
    # Fewer than there would be room for, if that is what was said: other numbers of threads make other sums.
    said = environ.get("OMP_NUM_THREADS", "")
    wanted = int(said) if said.isdecimal() and int(said) > 0 else cpus
    return [
        Lane(
            number=lane,
            gpus=tuple(gpus[lane // share * devices : lane // share * devices + devices]) if gpus else (),
            cores=tuple(cores[lane * each : (lane + 1) * each]) if number > 1 and each else (),
            threads=max(1, cpus // number),
            openmp=min(wanted, max(1, cpus // number // devices)),
        )
        for lane in range(number)
    ]


def _gpus(device: str, environ: Mapping[str, str]) -> list[str]:
    """Names of the GPUs that this process may use; none where there are none, or none are wanted."""
    if device == "cpu":
        return []
    shown = environ.get("CUDA_VISIBLE_DEVICES")
    if shown is None:
        found = launch.count_devices(device, environ=environ)
        return [str(number) for number in range(found)] if found > 1 or Path("/dev/nvidia0").exists() else []
    names = [part.strip() for part in shown.split(",") if part.strip()]
    # As CUDA does: what follows an invalid entry does not count.
    return names[: names.index("-1")] if "-1" in names else names
