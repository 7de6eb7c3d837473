"""Half a million images: listed, known again, divided and drawn, beside what people use for that.

    python benchmarks/scan.py [--only list|again|split|draw|alike] [--files 500000] [--rounds 5] [--folder TMP]

Makes the files (12 bytes each, 163 folders) in a temporary folder and removes them. `list` and `again` are told in
seconds of this process's processors as well, which other programs leave nearly alone.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _side_by_side import report, rounds

CLASSES = 163
DATA = b"P5 1 1 255\n\0"  # a picture of one pixel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("list", "again", "split", "draw", "alike"))
    parser.add_argument("--files", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the files are made: a disk, or the parallel file system")
    given = parser.parse_args()
    wanted = [given.only] if given.only else ["list", "again", "split", "draw", "alike"]
    if {"list", "again"} & set(wanted):
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            os.environ["INSTAR_CACHE"] = str(Path(folder) / "cache")
            root = made(Path(folder) / "images", given.files)
            if "list" in wanted:
                listed(root, given.files, given.rounds)
            if "again" in wanted:
                known_again(root, given.files, given.rounds)
    for name, benchmark in (("split", divided), ("draw", drawn), ("alike", alike)):
        if name in wanted:
            benchmark(given.files, given.rounds)


def made(root: Path, files: int) -> Path:
    for number in range(CLASSES):
        folder = root / f"class {number:03d}"
        folder.mkdir(parents=True)
        for one in range(files // CLASSES + (number < files % CLASSES)):
            descriptor = os.open(f"{folder}/IMG_{one:06d}.jpg", os.O_WRONLY | os.O_CREAT)
            os.write(descriptor, DATA)
            os.close(descriptor)
    return root


def listed(root: Path, files: int, num: int) -> None:
    from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

    from instar.engine.scan import listing

    def theirs() -> None:
        assert len(make_dataset(str(root), find_classes(str(root))[1], IMG_EXTENSIONS)) == files

    def ours() -> None:
        assert len(listing.of_folder(root).files) == files

    cases = {"torchvision make_dataset": theirs, "listing.of_folder": ours}
    title = f"listing {files} files"
    report(title, rounds(cases, rounds=num), "torchvision make_dataset", {"listing.of_folder": 1 / 1.8})
    processor = processor_seconds(cases, num)
    report(f"{title}, processor", processor, "torchvision make_dataset", {"listing.of_folder": 1 / 1.8})
    best = 1e6 * min(processor["listing.of_folder"]) / files
    print(f"  microseconds of processor a file, best round: {best:.2f}  goal <= 0.75 {verdict(best <= 0.75)}")


def known_again(root: Path, files: int, num: int) -> None:
    from instar import prepare
    from instar.engine.scan import listing
    from instar.experiment import Data

    data = Data(root=root)
    time.sleep(3)  # folders that changed a moment ago are not trusted
    begun = time.perf_counter()
    first = prepare.manifest(data, 0)
    print(f"\nfirst start: {time.perf_counter() - begun:.1f} s, every header read")

    def again() -> None:
        assert prepare.manifest(data, 0).hash == first.hash

    cases = {"list anew, no header": lambda: listing.of_folder(root) and None, "second start": again}
    report("second start", rounds(cases, rounds=num), "list anew, no header", {"second start": 1 / 20})
    best = 1e3 * min(processor_seconds({"second start": again}, num)["second start"])
    print(f"  milliseconds of processor, best round: {best:.1f}  goal <= 30 {verdict(best <= 30)}")


def divided(files: int, num: int) -> None:
    from sklearn.model_selection import train_test_split

    from instar.engine.scan import split

    target_N, key_N = long_tail(files)

    def theirs() -> None:
        train_val, _ = train_test_split(np.arange(files), test_size=0.1, stratify=target_N, random_state=0)
        train_test_split(train_val, test_size=0.2, stratify=target_N[train_val], random_state=0)

    cases = {
        "scikit-learn, twice": theirs,
        "keyed": lambda: split.keyed(target_N, key_N, (0.72, 0.18, 0.1), seed=0) is None,
    }
    report(f"train, val and test of {files} rows", rounds(cases, rounds=num), "scikit-learn, twice", {"keyed": 1 / 3})
    more = split.keyed(np.append(target_N, 7), np.append(key_N, np.uint64(12345)), (0.72, 0.18, 0.1), seed=0)
    moved = int((more[:-1] != split.keyed(target_N, key_N, (0.72, 0.18, 0.1), seed=0)).sum())
    print(f"  rows that move when one is added: {moved}")


def drawn(files: int, num: int) -> None:
    import torch
    from torch.utils.data import WeightedRandomSampler

    from instar.engine.loading.order import Order

    torch.set_num_threads(1)
    target_N, _ = long_tail(files)
    counts_K = np.bincount(target_N, minlength=CLASSES)
    weight_N = torch.from_numpy(1 / counts_K[target_N])
    rows_of_class = np.split(np.argsort(target_N, kind="stable"), np.cumsum(counts_K)[:-1])
    quotas_K = np.full(CLASSES, files // CLASSES)
    order = Order(rows_of_class, quotas_K.tolist(), seed=0)
    anywhere = np.random.default_rng(0).integers(0, 10**9, 1000)

    def batch() -> None:
        order.draw(anywhere[0] + np.arange(256))

    def epoch() -> None:
        order.draw(np.arange(order.epoch_samples))

    cases: dict[str, Callable[[], object]] = {
        "WeightedRandomSampler, to its first row": lambda: next(iter(WeightedRandomSampler(weight_N, files))),
        "order, 256 rows anywhere": batch,
        "order, all rows of an epoch": epoch,
    }
    base = "WeightedRandomSampler, to its first row"
    goals = {"order, 256 rows anywhere": 1 / 10, "order, all rows of an epoch": 1 / 10}
    report(f"balanced draw from {files} rows", rounds(cases, rounds=num), base, goals)
    each = []
    for position in anywhere.tolist():
        begun = time.process_time()
        order.draw(position + np.arange(256))
        each.append(time.process_time() - begun)
    middle = 1e3 * statistics.median(each)
    print(f"  256 rows at any of 10^9 positions, ms: {middle:.3f}  goal <= 0.2 {verdict(middle <= 0.2)}")
    large = Order([range(at * 10**6, (at + 1) * 10**6) for at in range(100)], [10**6] * 100, seed=0)
    begun = time.process_time()
    for position in anywhere[:100].tolist():
        large.draw(position + np.arange(256))
    print(f"  the same of 10^8 rows, ms: {10 * (time.process_time() - begun):.3f}")
    try:
        next(iter(WeightedRandomSampler(torch.ones(2**24 + 1), 1)))
    except RuntimeError as error:
        print(f"  WeightedRandomSampler of more than 2^24 rows: {str(error).splitlines()[0]}")


def alike(files: int, num: int) -> None:
    from instar.engine.scan import likeness

    hash_N = np.random.default_rng(0).integers(1, 2**64, files, dtype=np.uint64)
    found = rounds({"look-alikes": lambda: likeness.pairs(hash_N, 6) is None}, rounds=min(num, 2), warm=0)
    print(json.dumps({"benchmark": f"look-alikes among {files} hashes", "seconds": min(found["look-alikes"])}))


def verdict(met: bool) -> str:
    return "met" if met else "MISSED"


def long_tail(files: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels as a collection has them, and a key for each row."""
    random = np.random.default_rng(0)
    target_N = (CLASSES * random.random(files) ** 3).astype(np.int64)
    return target_N, random.integers(1, 2**64, files, dtype=np.uint64)


def processor_seconds(cases: dict[str, Callable[[], object]], num: int) -> dict[str, list[float]]:
    """As `rounds`, in seconds of this process's processors."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(num + 1):
        for name, case in cases.items():
            begun = time.process_time()
            case()
            if number:
                seconds[name].append(time.process_time() - begun)
    return seconds


if __name__ == "__main__":
    main()
