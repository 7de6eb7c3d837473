"""One of the two processes that `doctor.ranks` starts: it says what torch sees, and adds numbers with the other one."""

import json
import os
import sys
import time
from datetime import timedelta
from typing import Any

_NUMBERS = 1 << 20  # 4 MB of float32
_TIMEOUT = timedelta(seconds=8)


def main(rank: int, meeting: str) -> None:
    """Say everything as it is known, so that a hang takes only what comes after it."""
    begun = time.monotonic()
    say(rank, started=True)
    import torch
    from torch import distributed as dist

    devices = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    built = {"version": torch.__version__, "cuda": torch.version.cuda, "hip": torch.version.hip}
    say(rank, torch={**built, "devices": devices, "seconds": time.monotonic() - begun})
    interface = own_interface()
    dist.init_process_group("gloo", store=dist.FileStore(meeting, 2), rank=rank, world_size=2, timeout=_TIMEOUT)
    say(rank, gloo=added(torch.ones(_NUMBERS), 2) | {"interface": interface})
    if devices:
        together = min(2, len(devices))
        group = dist.new_group(list(range(together)), backend="nccl", timeout=_TIMEOUT)
        if rank < together:
            numbers = torch.ones(_NUMBERS, device=f"cuda:{rank}")
            say(
                rank,
                nccl=added(numbers, together, group=group) | {"interface": os.environ.get("NCCL_SOCKET_IFNAME", "")},
            )
        dist.barrier()


def added(numbers: Any, ranks: int, *, group: Any = None) -> dict[str, Any]:
    """Whether the sum over the ranks is right, and how long the second one took; the first makes the connections."""
    from torch import distributed as dist

    dist.all_reduce(numbers, group=group)
    right = bool((numbers == ranks).all())
    begun = time.monotonic()
    dist.all_reduce(numbers, group=group)
    right = right and bool((numbers == ranks * ranks).all())  # waits for the device, too
    return {"ranks": ranks, "right": right, "seconds": time.monotonic() - begun}


def own_interface() -> str:
    """The interface that leads to other nodes, told to gloo unless the user chose one."""
    from instar.engine.ranks import addresses

    address = addresses.first()
    name = (addresses.interface_of(address) if address else None) or addresses.loopback() or ""
    if name:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
    return os.environ.get("GLOO_SOCKET_IFNAME", "")


def say(rank: int, **facts: Any) -> None:
    """One line for the doctor, from the first rank."""
    if rank == 0:
        print("instar-doctor " + json.dumps(facts), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
    os._exit(0)  # gloo's threads may outlive what they were for
