"""Which rank of how many this process is, read from what started it: our own launcher, torchrun, MPI or Slurm.

Only environment variables are read. Asking mpi4py instead would initialise MPI, which aborts a job whose MPI was
started without process management. Standard library only, and no torch: the command line asks before it imports it.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from instar.errors import ConfigError

Environ = Mapping[str, str]

# The batch script, the external and the interactive step of Slurm carry numbers from here on: no srun started those.
_FIRST_SPECIAL_STEP = 0xFFFFFFF0


@dataclass(frozen=True)
class Place:
    """Where this process stands among those that train together.

    local_rank, local_world   among those on the same machine; None where the launcher does not say
    source                    alone, instar, torchrun, openmpi, mvapich, pmi or slurm
    launch                    the same text on all ranks of one launch, and another one at the next launch
    agreed_address            whether MASTER_ADDR and MASTER_PORT say where to meet
    """

    rank: int = 0
    world: int = 1
    local_rank: int | None = 0
    local_world: int | None = 1
    source: str = "alone"
    launch: str = ""
    agreed_address: bool = False


def here() -> Place:
    """The place of this process."""
    return find(os.environ, terminal=_has_terminal())


def find(environ: Environ, *, terminal: bool = False) -> Place:
    """The place that these variables describe.

    terminal   whether this process has a controlling terminal, which tells a shell inside `srun --pty` from a rank

    Raises ConfigError where a variable is not a number, or where two launchers contradict each other.
    """
    readers: tuple[Callable[[Environ], Place | None], ...] = (_instar, _torchrun, _openmpi, _mvapich, _pmi)
    # Innermost first: our launcher runs under anything, torchrun under srun, and mpirun starts its daemons with srun.
    found = [place for place in (read(environ) for read in readers) if place is not None]
    slurm = None if terminal and "SLURM_PTY_PORT" in environ else _slurm(environ)
    found += [slurm] if slurm is not None else []
    if not found:
        _refuse_pmix(environ)
        return Place()
    inner, outer = found[0], [place for place in found[1:] if place.world > 1]
    if outer and inner.source != "instar" and _contradict(inner, outer[0], environ):
        raise ConfigError(_contradiction(inner, outer[0]))
    return inner if inner.world > 1 else Place(source=inner.source, launch=inner.launch)


def _contradict(inner: Place, outer: Place, environ: Environ) -> bool:
    if (inner.rank, inner.world) == (outer.rank, outer.world):
        return False
    by_hand = inner.source == "torchrun" and "TORCHELASTIC_RUN_ID" not in environ
    # One launcher inside another is normal, if the inner one started several processes.
    return by_hand or inner.world == 1


def _contradiction(inner: Place, outer: Place) -> str:
    return (
        f"two launchers contradict each other: {_VARIABLES[inner.source]} say rank {inner.rank} of {inner.world}, "
        f"{_VARIABLES[outer.source]} say rank {outer.rank} of {outer.world}. Unset those that are left over from "
        f"elsewhere, or set INSTAR_RANK=0 INSTAR_WORLD=1 for a process that is to train alone."
    )


_VARIABLES = {
    "torchrun": "RANK and WORLD_SIZE",
    "openmpi": "OMPI_COMM_WORLD_RANK and _SIZE",
    "mvapich": "MV2_COMM_WORLD_RANK and _SIZE",
    "pmi": "PMI_RANK and PMI_SIZE",
    "slurm": "SLURM_PROCID and SLURM_STEP_NUM_TASKS",
}


def _instar(environ: Environ) -> Place | None:
    return _place(
        environ,
        "instar",
        ("INSTAR_RANK", "INSTAR_WORLD"),
        local=("INSTAR_LOCAL_RANK", "INSTAR_LOCAL_WORLD"),
        launch=("INSTAR_LAUNCH",),
    )


def _torchrun(environ: Environ) -> Place | None:
    """torchrun, `accelerate launch`, and ranks that somebody exports by hand."""
    return _place(
        environ,
        "torchrun",
        ("RANK", "WORLD_SIZE"),
        local=("LOCAL_RANK", "LOCAL_WORLD_SIZE"),
        launch=("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"),
        agreed_address="MASTER_ADDR" in environ and "MASTER_PORT" in environ,
    )


def _openmpi(environ: Environ) -> Place | None:
    return _place(
        environ,
        "openmpi",
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
        local=("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
        launch=("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"),
    )


def _mvapich(environ: Environ) -> Place | None:
    return _place(
        environ,
        "mvapich",
        ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
        local=("MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"),
        launch=("PMI_JOBID",),
    )


def _pmi(environ: Environ) -> Place | None:
    """MPICH's Hydra, Intel MPI, and PALS on Cray machines that run PBS."""
    rank, size = next(
        (
            pair
            for pair in (
                ("MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
                ("PALS_LOCAL_RANKID", "PALS_LOCAL_SIZE"),
                ("PMI_LOCAL_RANK", "PMI_LOCAL_SIZE"),
            )
            if pair[0] in environ
        ),
        ("", ""),
    )
    return _place(environ, "pmi", ("PMI_RANK", "PMI_SIZE"), local=(rank, size), launch=("PALS_APID", "PMI_JOBID"))


def _slurm(environ: Environ) -> Place | None:
    """A task of srun. A batch script and the shell of salloc carry some of its variables too, and are no ranks."""
    step = environ.get("SLURM_STEP_ID", "")
    if not step.isdigit() or int(step) >= _FIRST_SPECIAL_STEP:
        return None
    # Inside a step SLURM_NTASKS may still be the job's; the step's own number is the one that counts.
    tasks = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else "SLURM_NTASKS"
    place = _place(
        environ,
        "slurm",
        ("SLURM_PROCID", tasks),
        local=("SLURM_LOCALID", ""),
        launch=("SLURM_STEP_ID",),
    )
    if place is None:
        return None
    return Place(place.rank, place.world, place.local_rank, _slurm_local_world(environ), "slurm", place.launch)


def _slurm_local_world(environ: Environ) -> int | None:
    """Tasks of this step on this node, out of a text like `4(x2),1`."""
    counts: list[int] = []
    for part in environ.get("SLURM_STEP_TASKS_PER_NODE", "").split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if match is None:
            return None
        counts += [int(match[1])] * int(match[2] or 1)
    node = environ.get("SLURM_NODEID", "")
    return counts[int(node)] if node.isdigit() and int(node) < len(counts) else None


def _place(
    environ: Environ,
    source: str,
    names: tuple[str, str],
    *,
    local: tuple[str, str],
    launch: tuple[str, ...],
    agreed_address: bool = False,
) -> Place | None:
    """A place out of two variables that must both be there, and others that may."""
    if any(name not in environ for name in names):
        return None
    rank, world = (_number(environ, name) for name in names)
    if world < 1 or rank >= world:
        raise ConfigError(
            f"{names[0]}={rank} and {names[1]}={world} do not fit: a rank is a number from 0 to {world - 1}."
        )
    local_rank, local_world = (_number(environ, name) if name in environ else None for name in local)
    return Place(rank, world, local_rank, local_world, source, _launch(environ, source, launch), agreed_address)


def _launch(environ: Environ, source: str, names: tuple[str, ...]) -> str:
    """A text that this launch shares with nobody else, as far as the variables tell."""
    # A requeued job keeps its number, and a scheduler's next job may get the same numbers within it.
    names = (*names, "SLURM_JOB_ID", "SLURM_RESTART_COUNT", "PBS_JOBID") if source != "instar" else names
    return " ".join([source, *(f"{name}={environ[name]}" for name in names if name in environ)])


def _number(environ: Environ, name: str) -> int:
    text = environ[name].strip()
    if not (text.isascii() and text.isdigit()):
        raise ConfigError(
            f"{name} is {environ[name]!r}, but must be a whole number. Unset it, or use a launcher that sets it."
        )
    return int(text)


def _refuse_pmix(environ: Environ) -> None:
    """PMIx says which rank this is but not of how many; going on would start as many trainings as ranks."""
    if "PMIX_RANK" in environ:
        raise ConfigError(
            f"PMIX_RANK={environ['PMIX_RANK']} says that this is one of several processes, but nothing says of "
            f"how many. Start it with srun, mpirun or torchrun, or set INSTAR_RANK and INSTAR_WORLD."
        )


def _has_terminal() -> bool:
    try:
        fields = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return os.isatty(0)
    return int(fields[4]) != 0
