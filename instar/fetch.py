"""Pretrained weights, on a node with network -> the ordinary caches of their libraries, and a lock with sha256.

The only door to the network. Read top to bottom: what is wanted, get it, write it down; or check what was written.
"""

import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instar import caches, weights
from instar import lock as locks
from instar.errors import WeightsError
from instar.experiment import Experiment
from instar.lock import Lock, Locked
from instar.weights import Download


@dataclass(frozen=True)
class Fetched:
    """One file that is here now.

    new   whether it was downloaded just now
    """

    path: Path
    facts: dict[str, Any]
    new: bool


def fetch(
    experiment: Experiment,
    lock_file: Path | None,
    *,
    renew: bool = False,
    tell: Callable[[Download], None] = lambda download: None,
) -> list[Fetched]:
    """Get every file an experiment starts from, and write the lock; what is here already is not asked for again.

    lock_file   None to write none
    renew       put what is found now into the lock, although the lock says otherwise
    tell        told of each download before it begins
    Raises WeightsError where a file cannot be had, or is not what the lock, or its own name, says.
    """
    lock = Lock() if lock_file is None else locks.read(lock_file)
    fetched = [_here(download, tell) for download in locks.downloads(experiment)]
    if lock_file is None or not fetched:
        return fetched
    before = {(one.source, one.file): one.sha256 for one in locks.entries(experiment, lock)}
    changed = [
        locks.differs(one.path, old, one.facts["sha256"], by=str(lock_file))
        for one in fetched
        if (old := before.get((one.facts["source"], one.facts["file"]), one.facts["sha256"])) != one.facts["sha256"]
    ]
    if changed and not renew:
        raise WeightsError("\n".join([*changed, "Where it changed at its source and you want the new one: --renew"]))
    locks.write(_with(lock, experiment, fetched), lock_file)
    return fetched


def check(experiment: Experiment, lock_file: Path, *, command: str) -> list[Locked]:
    """Read every byte of what the lock names, without network; returns what it names.

    Raises WeightsError with one line for every file that is missing or changed, expected and found.
    """
    lock = locks.read(lock_file)
    wrong = locks.verify(lock, name=str(lock_file))
    if not wrong:
        wrong = [str(one) for one in locks.missing(experiment, lock_file, command=command)]
    if wrong:
        raise WeightsError("\n".join(wrong))
    return list(lock.weights)


def _with(lock: Lock, experiment: Experiment, fetched: list[Fetched]) -> Lock:
    """The lock with these files in the place of those it had for the same model."""
    asked = locks.asked(experiment) or {}
    kept = [one for one in lock.weights if one.model != asked]
    names = ("source", "revision", "file", "bytes", "sha256")
    new = [Locked(model=asked, **{name: one.facts[name] for name in names}) for one in fetched]
    return Lock(weights=(*kept, *new))


def _here(download: Download, tell: Callable[[Download], None]) -> Fetched:
    """The file in its cache, downloaded where it is not there yet."""
    path, new = weights.located(download), False
    if path is None:
        tell(download)
        (_from_hub if download.revision else _from_address)(download)
        path, new = weights.found(download, command="instar fetch, with the caches it says"), True
    facts = locks.record(download, path)
    promised = weights.promised(path)
    if not facts["sha256"].startswith(promised):
        raise WeightsError(locks.differs(path, promised, facts["sha256"], by="its name"))
    return Fetched(path, facts, new)


def _from_hub(download: Download) -> None:
    """Download the first of the names that the repository has."""
    import huggingface_hub
    from huggingface_hub import errors

    _reach(huggingface_hub.constants.ENDPOINT, download)
    huggingface_hub.utils.disable_progress_bars()
    for number, name in enumerate(download.files):
        try:
            huggingface_hub.hf_hub_download(
                download.source, name, revision=download.revision, cache_dir=caches.hub(), library_name="instar"
            )
            return
        except errors.LocalEntryNotFoundError as error:  # it is how the library says that there is no network
            raise _unreachable(download, error) from error
        except errors.EntryNotFoundError as error:
            if number == len(download.files) - 1:
                raise WeightsError(
                    f"{download.source} has none of the files {', '.join(download.files)} (revision "
                    f"{download.revision})."
                ) from error
        except errors.RepositoryNotFoundError as error:
            raise WeightsError(
                f"{download.source} is not on the hub, or may only be read by some. If it is gated, accept its terms "
                f"there and put your token into HF_TOKEN."
            ) from error
        except Exception as error:  # of the library's transport, which changes from release to release
            raise _unreachable(download, error) from error


def _reach(address: str, download: Download) -> None:
    """Raises WeightsError at once where nothing answers there: the library would try for half a minute."""
    try:
        request = urllib.request.Request(address, method="HEAD")  # noqa: S310 - an address of the library's
        with urllib.request.urlopen(request, timeout=10):  # noqa: S310
            pass
    except urllib.error.HTTPError:
        pass  # it answers
    except (OSError, ValueError) as error:
        raise _unreachable(download, error) from error


def _from_address(download: Download) -> None:
    from torch import hub

    folder = caches.torch_hub()
    path = folder / download.files[0]
    digits = weights.promised(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        hub.download_url_to_file(download.source, str(path), hash_prefix=digits or None, progress=False)
    except RuntimeError as error:  # the hash
        raise WeightsError(f"{download.source} is not what its name promises: {error}.") from error
    except (OSError, ValueError) as error:
        raise _unreachable(download, error) from error


def _unreachable(download: Download, error: Exception) -> WeightsError:
    reason = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
    return WeightsError(
        f"{download} cannot be downloaded into {weights.folder_of(download)}: {reason}. Run this where there is "
        f"network (a login node), or copy the file there from a machine that has it."
    )
