"""HDF5 to .npy beside `cp` of the same files and beside `np.save(h5[...])`, with xxh3 of every byte.

    python benchmarks/convert.py [--files 4] [--rounds 5]

Files like DeepCAM's: 768 x 1152 x 16 float32 and 768 x 1152 int32, 60 MB, in the page cache, one process. Contiguous,
and cut into chunks, processor time; then reading one sample by np.load, by mapping the .npy, and from packed data.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from _side_by_side import report, rounds

from instar import convert, pack, packed
from instar.engine.ranks.place import Place


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--files", type=int, default=4)
    arguments.add_argument("--rounds", type=int, default=5)
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as made:
        for name, how in (("contiguous", {}), ("chunked", {"chunks": (96, 1152, 16)})):
            root = Path(made) / name
            written(root, chosen.files, how)
            converting(root, Path(made) / "out", name, num_rounds=chosen.rounds)
        reading(Path(made) / "contiguous", Path(made), num_rounds=chosen.rounds)


def written(root: Path, files: int, how: dict[str, object]) -> None:
    root.mkdir()
    random = np.random.default_rng(0)
    for number in range(files):
        with h5py.File(root / f"data-{number}.h5", "w") as file:
            file.create_dataset("climate/data", data=random.normal(size=(768, 1152, 16)).astype("f4"), **how)
            file["climate/labels_0"] = random.integers(0, 3, (768, 1152)).astype("i4")


def converting(root: Path, out: Path, name: str, *, num_rounds: int) -> None:
    def cleared(act: Callable[[], object]) -> Callable[[], Callable[[], None]]:
        def case() -> Callable[[], None]:
            out.mkdir()
            act()
            return lambda: shutil.rmtree(out)

        return case

    def saved() -> None:
        for file in root.iterdir():
            with h5py.File(file) as data:
                for array in ("data", "labels_0"):
                    np.save(out / f"{file.stem}.{array}.npy", data[f"climate/{array}"][...])

    def copied() -> None:
        for file in root.iterdir():
            shutil.copyfile(file, out / file.name)

    def ours() -> None:
        convert.convert(root, convert.tasks(root), out, convert.Options(processes=1), Place())

    cases = {"cp": cleared(copied), "np.save(h5[...])": cleared(saved), "instar convert": cleared(ours)}
    seconds = rounds(cases, rounds=num_rounds, clock=time.process_time)
    goals = {"instar convert": 1 / 0.8} if name == "contiguous" else {}
    report(f"convert, {name}, beside cp", seconds, "cp", goals)
    report(f"convert, {name}, beside np.save", seconds, "np.save(h5[...])", {"instar convert": 0.5})


def reading(root: Path, folder: Path, *, num_rounds: int) -> None:
    """One sample after the other, warm, into a batch that is there already."""
    convert.convert(root, convert.tasks(root, ["climate/data"]), folder / "npy", convert.Options(), Place())
    pack.pack(convert.sources(root, convert.tasks(root, ["climate/data"])), folder / "packed", pack.Options("array"))
    files, shards = sorted((folder / "npy").glob("*.npy")), packed.read(folder / "packed")
    batch = np.empty((len(files), 768, 1152, 16), np.float32)

    def filled(get: Callable[[int], np.ndarray]) -> Callable[[], None]:
        def case() -> None:
            for number in range(len(files)):
                batch[number] = get(number)

        return case

    cases = {
        "np.load": filled(lambda number: np.load(files[number])),
        "np.load, mapped": filled(lambda number: np.load(files[number], mmap_mode="r")),
        "packed": filled(shards.array),
    }
    report(f"read {len(files)} samples of 57 MB", rounds(cases, rounds=num_rounds), "np.load", {"packed": 0.5})


if __name__ == "__main__":
    main()
