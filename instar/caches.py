"""Caches: where libraries keep what they download and compile, so that it need not be $HOME. Standard library only."""

import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path

# What every node may share: downloads. The same bytes for everybody, written once.
_SHARED = {
    "HF_HOME": "huggingface",
    "TORCH_HOME": "torch",
    "MPLCONFIGDIR": "matplotlib",
    "XDG_CACHE_HOME": "",
}
# What belongs to one job on one node: compiled kernels, in databases that many nodes would lock and damage.
_LOCAL = {
    "TRITON_CACHE_DIR": "triton",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "MIOPEN_USER_DB_PATH": "miopen",
    "MIOPEN_CUSTOM_CACHE_DIR": "miopen",
}
# These follow XDG_CACHE_HOME by themselves; whoever set that has said where they belong.
_FOLLOW = ("HF_HOME", "TORCH_HOME", "MPLCONFIGDIR")
_NO_NETWORK = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY")


def environment(shared: str, local: str | None = None, given: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables that put caches into these folders, name -> value, without those that are set already.

    shared   a folder that all nodes see; the text may hold a $NAME, which whoever sets the variables fills in
    local    a folder of the node's own, for this job alone; by default one in `shared`
    given    what is set already, by default this process's environment
    """
    given = os.environ if given is None else given
    local = local or _in(shared, "compiled")
    values = {name: _in(shared, folder) for name, folder in _SHARED.items()}
    values |= {name: _in(local, folder) for name, folder in _LOCAL.items()}
    taken = {name for name in values if given.get(name)}
    if "XDG_CACHE_HOME" in taken:
        taken |= set(_FOLLOW)
    return {name: value for name, value in values.items() if name not in taken}


def refuse_network(environment: MutableMapping[str, str] | None = None) -> None:
    """Let no library of this process, or of those it starts, look for a file on the network."""
    (os.environ if environment is None else environment).update(dict.fromkeys(_NO_NETWORK, "1"))


def chosen() -> dict[str, str]:
    """Those variables of this process that decide where downloads are; where they are unset, it is the home folder."""
    names = ("HF_HOME", "HF_HUB_CACHE", "TORCH_HOME", "XDG_CACHE_HOME")
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def hub() -> Path:
    """The folder of what comes from the Hugging Face hub, as huggingface_hub finds it."""
    home = _set("HF_HOME") or str(_home() / "huggingface")
    return Path(_set("HF_HUB_CACHE") or _set("HUGGINGFACE_HUB_CACHE") or f"{home}/hub")


def torch_hub() -> Path:
    """The folder of weights that torch.hub downloads."""
    return Path(_set("TORCH_HOME") or _home() / "torch") / "hub" / "checkpoints"


def own() -> Path:
    """Instar's own folder beside theirs."""
    return _home() / "instar"


def _home() -> Path:
    return Path(_set("XDG_CACHE_HOME") or Path("~/.cache").expanduser())


def _set(name: str) -> str:
    return os.path.expandvars(os.path.expanduser(os.environ.get(name, "")))  # noqa: PTH111 - as the libraries do it


def _in(folder: str, name: str) -> str:
    return f"{folder.rstrip('/') or '/'}/{name}".rstrip("/") if name else folder
