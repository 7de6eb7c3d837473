"""Launchers of an MPI, which are the same under every scheduler. Standard library only."""

from typing import TYPE_CHECKING

from instar.job import Job

if TYPE_CHECKING:
    from instar.site import Site

# What the script tells the processes; Open MPI's daemons on other nodes take along only what is named.
_TOLD = ("INSTAR_EXIT", "INSTAR_JOB", "INSTAR_ATTEMPT")


def launch(job: Job, site: "Site") -> tuple[str, ...]:
    """What starts one process a device: Open MPI's mpirun, the mpiexec of MPICH, Intel and PALS, or nothing."""
    if site.launcher == "mpirun":
        told = (*_TOLD, *(("INSTAR_JOB_END",) if job.seconds else ()), "PATH", *site.environment)
        named = [word for name in told for word in ("-x", name)]
        place = ("--map-by", f"ppr:{job.tasks_per_node}:node", "--bind-to", "none")
        return ("mpirun", "-np", str(job.tasks), *place, *named, *site.launch)
    if site.launcher == "mpiexec":
        return ("mpiexec", "-n", str(job.tasks), "--ppn", str(job.tasks_per_node), *site.launch)
    return ()
