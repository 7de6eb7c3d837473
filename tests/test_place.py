"""Which rank a process is, told from the variables its launcher really sets."""

import subprocess
import sys

import pytest

from instar.engine.ranks.place import Place, find
from instar.errors import ConfigError

# As seen inside `srun -N2 -n4` of a batch job, and in the batch script around it.
SRUN = {
    "SLURM_JOB_ID": "17",
    "SLURM_STEP_ID": "3",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_RESTART_COUNT": "1",
}
BATCH = {"SLURM_JOB_ID": "17", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NTASKS": "4"}
TORCHRUN = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "a",
    "MASTER_PORT": "1",
    "TORCHELASTIC_RUN_ID": "none",
}
OPENMPI = {
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "PMIX_NAMESPACE": "2893348865",
    "PMIX_RANK": "3",
}


def standing(environ: dict[str, str], **options: bool) -> tuple:
    place = find(environ, **options)
    return (place.rank, place.world, place.local_rank, place.local_world, place.source)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, (0, 1, 0, 1, "alone")),
        ({"INSTAR_RANK": "1", "INSTAR_WORLD": "2", "INSTAR_LOCAL_RANK": "1"}, (1, 2, 1, None, "instar")),
        (TORCHRUN, (1, 2, 1, 2, "torchrun")),
        (SRUN, (2, 4, 0, 2, "slurm")),
        (OPENMPI, (3, 8, 1, 2, "openmpi")),
        ({"MV2_COMM_WORLD_RANK": "1", "MV2_COMM_WORLD_SIZE": "2"}, (1, 2, None, None, "mvapich")),
        (
            {"PMI_RANK": "1", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"},
            (1, 4, 1, 2, "pmi"),
        ),
        ({"PMI_RANK": "5", "PMI_SIZE": "8", "PALS_LOCAL_RANKID": "1"}, (5, 8, 1, None, "pmi")),
    ],
    ids=["nothing", "instar", "torchrun", "srun", "openmpi", "mvapich", "hydra", "pals"],
)
def test_each_launcher_is_understood(environ: dict[str, str], expected: tuple) -> None:
    assert standing(environ) == expected


@pytest.mark.parametrize(
    "environ",
    [
        BATCH,
        {**BATCH, "SLURM_STEP_ID": str(0xFFFFFFFB)},
        {**SRUN, "SLURM_STEP_ID": str(0xFFFFFFFA)},
        {**SRUN, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
        {"SLURM_JOB_ID": "17", "SLURM_NTASKS": "4"},
    ],
    ids=["batch script", "batch step", "salloc's shell", "srun -n1 in a job of four", "shell on the login node"],
)
def test_a_slurm_process_that_srun_did_not_multiply_is_alone(environ: dict[str, str]) -> None:
    assert find(environ).world == 1


def test_a_shell_inside_srun_pty_is_alone_and_a_rank_started_from_it_is_not() -> None:
    shell = {**SRUN, "SLURM_PTY_PORT": "40000"}
    assert standing(shell, terminal=True)[:2] == (0, 1)
    assert standing(shell, terminal=False)[:2] == (2, 4)


@pytest.mark.parametrize(
    ("environ", "source"),
    [
        ({**SRUN, **TORCHRUN}, "torchrun"),
        ({**SRUN, **OPENMPI}, "openmpi"),
        ({**SRUN, **TORCHRUN, "INSTAR_RANK": "0", "INSTAR_WORLD": "3"}, "instar"),
        ({**SRUN, "RANK": "2", "WORLD_SIZE": "4", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "torchrun"),
        ({**SRUN, "PMI_RANK": "2", "PMI_SIZE": "4", "PMIX_RANK": "2"}, "pmi"),
    ],
    ids=["torchrun in srun", "mpirun in srun", "instar in both", "exported by hand and equal", "srun --mpi=pmi2"],
)
def test_the_inner_launcher_counts(environ: dict[str, str], source: str) -> None:
    assert find(environ).source == source


@pytest.mark.parametrize(
    ("environ", "text"),
    [
        ({**SRUN, "RANK": "0", "WORLD_SIZE": "1"}, r"RANK and WORLD_SIZE say rank 0 of 1, SLURM_PROCID .* rank 2 of 4"),
        ({**SRUN, "RANK": "0", "WORLD_SIZE": "4"}, r"rank 0 of 4, .* rank 2 of 4"),
        ({**SRUN, "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}, r"OMPI_COMM_WORLD_RANK .* rank 0 of 1"),
        ({"RANK": "x", "WORLD_SIZE": "4"}, r"RANK is 'x', but must be a whole number"),
        ({"RANK": "4", "WORLD_SIZE": "4"}, r"RANK=4 and WORLD_SIZE=4 do not fit: .* from 0 to 3"),
        ({"PMIX_RANK": "0"}, r"PMIX_RANK=0 .* nothing says of how many"),
    ],
)
def test_what_does_not_fit_together_is_named(environ: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        find(environ)


def test_a_process_alone_is_alone_whatever_else_is_set() -> None:
    assert find({**SRUN, "INSTAR_RANK": "0", "INSTAR_WORLD": "1"}) == Place(source="instar", launch="instar")


def test_a_requeued_job_is_another_launch() -> None:
    assert find(SRUN).launch != find({**SRUN, "SLURM_RESTART_COUNT": "2"}).launch
    assert find(SRUN).launch == find({**SRUN, "SLURM_PROCID": "3", "SLURM_NODEID": "0"}).launch


def test_asking_imports_neither_torch_nor_mpi() -> None:
    code = "import sys; from instar.engine.ranks import place, lease, launch; place.here(); print([*sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"'torch'", "'numpy'", "'mpi4py'", "'pydantic'"} & set(loaded.replace(",", "").split())
