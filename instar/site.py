"""Site: a cluster, or this machine, as a place to send jobs to. One YAML file each; never part of what is learnt."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from instar import plugins
from instar.documents import read
from instar.errors import ConfigError
from instar.settings import Settings, Span, Time
from instar.validation import validate

Count = Annotated[int, Field(ge=1)]
# What stands in a directive must be one plain word; a line break there would be a second directive.
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.,:=+@%/\[\]()*&|!-]+$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
# Words of a launcher's command line, quoted where they stand in the script.
Words = tuple[str, ...]

SHIPPED = Path(__file__).parent / "sites"
OWN = Path("~/.config/instar/sites")


class Gpus(Settings):
    """The GPUs of a node, and how this site wants to be asked for them."""

    per_node: Annotated[int, Field(ge=0)] = 0
    """GPUs that one node has; 0 for a site without."""
    type: Word | None = None
    """Its name for them, such as v100; null where it wants none."""
    ask: Literal["gpus-per-node", "gres", "gpus-per-task", "none"] = "gpus-per-node"
    """Slurm's option that asks for them, and anything but none is ngpus of PBS; none where a node comes with them."""


class Container(Settings):
    """An image that the command runs in. The batch script stays outside, where the scheduler's commands are."""

    runtime: Literal["apptainer", "singularity", "pyxis"] = "apptainer"
    """What starts it; pyxis is an option of srun, over enroot."""
    image: str
    """File of the image, or its name in a registry."""
    binds: Words = ()
    """Folders that it sees, as `/outside:/inside`."""
    options: Words = ()
    """Further options of the runtime, such as --nv or --rocm."""


class Part(Settings):
    """How a job of another kind asks, where that differs; null is as for whole nodes with all their GPUs."""

    account: Word | None = None
    """Whom the hours are counted to."""
    partition: Word | None = None
    """The partition, or the queue of PBS."""
    qos: Word | None = None
    """The quality of service."""
    constraint: Word | None = None
    """Features that nodes must have."""
    cores: Count | None = None
    """Cores of a node that a job may use."""
    memory: Word | None = None
    """Memory of a node to ask for; null for the site's default."""
    longest: Time | None = None
    """The longest that one job may take."""
    nodes: Count | None = None
    """The most nodes that one job may have."""
    options: tuple[Word, ...] | None = None
    """Further options of the scheduler."""


class Site(Settings):
    """Where jobs go: the scheduler and how it wants to be asked, what a node has, what has to be set up there."""

    about: str = ""
    """One line about it, for `instar site`."""
    scheduler: str = "slurm"
    """A kind of instar/clusters: slurm, pbs or local."""
    account: Word | None = None
    """Whom the hours are counted to."""
    partition: Word | None = None
    """The partition, or the queue of PBS."""
    qos: Word | None = None
    """The quality of service, where it has to be named."""
    constraint: Word | None = None
    """Features that nodes must have."""
    gpus: Gpus = Gpus()
    """The GPUs of a node."""
    cores: Count | None = None
    """Cores of a node that a job may use."""
    memory: Word | None = None
    """Memory of a node to ask for, such as 480G; null for the site's default."""
    memory_per_gpu: Word | None = None
    """Memory to ask for with each GPU instead."""
    longest: Time = Span(24, "h")
    """The longest that one job may take."""
    nodes: Count | None = None
    """The most nodes that one job may have; null where no limit is known."""
    again: Literal["requeue", "chain", "none"] = "chain"
    """How a job that ran out of time goes on: it is queued again, or the next one of a chain begins.

    PBS has no way to queue again; local starts again by itself, which is requeue.
    """
    lead: Time = Span(3, "min")
    """How long before its limit a job is warned."""
    array: Count = 1000
    """The most elements that one array may have."""
    options: tuple[Word, ...] = ()
    """Further options of the scheduler, such as --hint=nomultithread."""
    launcher: Literal["srun", "mpirun", "mpiexec", "none"] | None = None
    """What starts one process a device on all nodes; none where the one process starts the others itself.

    Null for the scheduler's own: srun with slurm, mpiexec with pbs, none with local.
    """
    launch: Words = ()
    """Further options of the launcher."""
    bind: tuple[Annotated[str, Field(pattern="^(0x)?[0-9a-fA-F]+$")], ...] = ()
    """Masks of the cores that each process on a whole node is bound to, in hexadecimal, in the order of its GPUs.

    Only srun binds by them.
    """
    setup: tuple[str, ...] = ()
    """Lines of the job script before the command: modules, an environment."""
    environment: dict[Name, str] = Field(default_factory=dict)
    """Variables of the job; $NAME in a value is the variable of that name on the node."""
    container: Container | None = None
    """An image to run in."""
    python: Words = ()
    """What starts Instar there, such as [python3, -m, instar]; empty for what runs here now."""
    local: str | None = None
    """A folder of the node's own, for data and caches; $NAME is filled in there."""
    caches: str | None = None
    """A folder that all nodes see, for weights and caches, where home is too small."""
    offline: bool = True
    """Whether nodes have no way to the internet."""
    mail: str | None = Field(default=None, pattern=r"^[^@\s,;'\"`$\\]+@[^@\s,;'\"`$\\]+$")
    """Who is told when a job ends or fails."""
    hourly: Literal["gpu", "core", "node"] = "core"
    """What its hours are counted in."""
    shared: Part | None = None
    """How a job with fewer GPUs than a node has asks, where nodes can be shared; memory is not asked for but here."""
    cpu: Part | None = None
    """How a job without GPUs asks; memory is not asked for but here."""

    def suited(self, gpus: int) -> "Site":
        """The site as a job with so many GPUs on a node asks for it."""
        if gpus >= self.gpus.per_node:
            return self
        part = (self.shared if gpus else self.cpu) or Part()
        differs = {name: value for name in Part.model_fields if (value := getattr(part, name)) is not None}
        # Masks are those of a whole node, and so is its memory.
        return self.model_copy(update={"bind": (), "memory": None, **differs})


def load(name: str, changes: tuple[str, ...] = ()) -> Site:
    """The site called `name`, or described by a YAML file of that path, after `key=value` changes.

    A file of one's own in ~/.config/instar/sites goes before a shipped one. Raises ConfigError with every mistake.
    """
    file = find(name)
    site = validate(Site, read(file), list(changes))
    if site.scheduler not in plugins.kinds("clusters"):
        unknown = plugins.unknown(site.scheduler, plugins.kinds("clusters"), what="scheduler")
        raise ConfigError(f"{file}: {unknown}")
    cluster = plugins.load("clusters", site.scheduler)
    launcher = site.launcher or cluster.LAUNCHER
    wrong = []
    if site.again not in cluster.AGAIN:
        wrong.append(
            f"{file}: again is {site.again}, but {site.scheduler} knows {' and '.join(cluster.AGAIN)}. "
            f"Write again: {cluster.AGAIN[0]}."
        )
    if launcher == "srun" and site.scheduler != "slurm":
        wrong.append(f"{file}: launcher is srun, which only slurm has. Write launcher: {cluster.LAUNCHER}.")
    if site.bind and launcher != "srun":
        wrong.append(f"{file}: bind needs srun. Say how {launcher} is to bind in launch, such as [--cpu-bind, depth].")
    wrong += [
        f"{file}: {name} is {getattr(site, name)}, but {site.scheduler} cannot ask for it. Write {name}: null."
        for name in cluster.CANNOT
        if getattr(site, name) is not None
    ]
    if wrong:
        raise ConfigError(wrong)
    return _said_last(site.model_copy(update={"launcher": launcher}), changes)


def _said_last(site: Site, changes: tuple[str, ...]) -> Site:
    """The site without those settings of its parts that a change sets for all jobs."""
    said = {change.lstrip("+~").partition("=")[0] for change in changes}
    gone = dict.fromkeys(said & set(Part.model_fields))
    parts = {name: part.model_copy(update=gone) for name in ("shared", "cpu") if (part := getattr(site, name))}
    return site.model_copy(update=parts)


def find(name: str) -> Path:
    """The file of a site; raises ConfigError naming the near miss."""
    own = OWN.expanduser()
    if "/" in name or name.endswith((".yaml", ".yml")):
        if Path(name).is_file():
            return Path(name)
        raise ConfigError(f"{name} is not there. Name a site ({', '.join(names())}) or its YAML file.")
    for folder in (own, SHIPPED):
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    unknown = plugins.unknown(name, names(), what="site")
    raise ConfigError(f"{unknown}{'' if unknown.endswith('?') else '.'} Your own go into {own}/NAME.yaml.")


def names() -> list[str]:
    """Every site there is, shipped or one's own."""
    return sorted({file.stem for folder in (SHIPPED, OWN.expanduser()) for file in folder.glob("*.yaml")})
