"""How near packing comes to what its cores can decode and encode, and to copying where there is nothing to encode.

    python benchmarks/pack.py [--images FOLDER] [--rounds 3] [--workers 2]

The bound is the same work on the same files without a shard, an index or a sync: each of as many bare processes takes
its share of the files, reads, decodes, shrinks and encodes, and throws the result away.
"""

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from _side_by_side import report, rounds
from loader import copied, cpu_seconds, painted

from instar import pack
from instar.engine.packing import payloads, sources
from instar.engine.packing.sources import Sources
from instar.readers._pixels import Form


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--images", type=Path, help="a folder of class folders of JPEGs; made up without it")
    arguments.add_argument("--most", type=int, default=400)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--workers", type=int, default=2)
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as made:
        root = Path(made) / "photos"
        copied(chosen.images, root, chosen.most) if chosen.images else painted(root, chosen.most)
        found = sources.of_folder(root)
        for payload in ("jpeg256", "raw256", "original"):
            beside(found, Path(made), payload, workers=chosen.workers, num_rounds=chosen.rounds)


def beside(found: Sources, folder: Path, payload: str, *, workers: int, num_rounds: int) -> None:
    def packing() -> Callable[[], None]:
        target = folder / "packed"
        pack.pack(found, target, pack.Options(payload=payload, processes=workers))
        return lambda: shutil.rmtree(target)

    cases = {f"the bound: {workers} bare processes": lambda: bare(found, payload, workers), "instar pack": packing}
    base = next(iter(cases))
    cpu: dict[str, list[float]] = {case: [] for case in cases}

    def timed(case: str) -> Callable[[], object]:
        def act() -> object:
            before = cpu_seconds()
            after = cases[case]()
            cpu[case].append(cpu_seconds() - before)
            return after

        return act

    wall = rounds({case: timed(case) for case in cases}, rounds=num_rounds)
    goals = {"instar pack": 1 / 0.9} if payload != "original" else {}  # nothing is encoded there
    report(f"pack {len(found)} images as {payload}: wall time", wall, base, goals)
    report(
        f"pack {len(found)} images as {payload}: CPU time", {k: v[-num_rounds:] for k, v in cpu.items()}, base, goals
    )


def bare(found: Sources, payload: str, workers: int) -> None:
    children = []
    for worker in range(workers):
        child = os.fork()
        if child == 0:
            for row in range(worker, len(found), workers):
                data = sources.load(found.place, found.form, found.names[row], 0, int(found.size_N[row]))
                payloads.stored(data, found.names[row], payload=payload, form=Form(0))
            os._exit(0)
        children.append(child)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0


if __name__ == "__main__":
    main()
