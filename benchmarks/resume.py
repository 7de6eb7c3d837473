"""What a resume in the middle of an epoch of ten million rows waits for, beside a start at its beginning.

    python benchmarks/resume.py [--rows 10000000] [--workers 2] [--rounds 5]

From the order of the rows, which every start makes anew, to the first batch in hand; samples cost nothing to read here.
Loading the checkpoint itself is `checkpoint.py --only load`. Goal: under a second, wherever it starts.
"""

import argparse
from typing import Any

import numpy as np
from _side_by_side import report, rounds

from instar.engine.loading.loaders import train_stream
from instar.engine.loading.order import Order

BATCH, CLASSES = 64, 10
GOAL_SECONDS = 1.0


class Grey:
    """A reader of pictures that are all the same."""

    def read(self, row: int, draw: np.random.Generator | None) -> dict[str, Any]:
        return {"image": np.zeros((8, 8, 3), np.uint8), "label": row % CLASSES}

    def name(self, row: int) -> str:
        return f"row {row}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"rows": 10_000_000, "workers": 2, "rounds": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    classes = np.array_split(np.arange(given.rows), CLASSES)
    sizes = [len(rows) for rows in classes]

    def first_batch(start: int) -> None:
        order = Order(classes, sizes, seed=0)
        stream = train_stream(
            Grey(),
            order,
            start=start,
            total=100 * given.rows // BATCH * BATCH,
            batch=BATCH,
            seed=0,
            workers=given.workers,
        )
        assert len(next(stream)["row"]) == BATCH
        stream.close()

    middle = given.rows // 2 // BATCH * BATCH
    cases = {
        "the beginning": lambda: first_batch(0),
        "the middle of the first epoch": lambda: first_batch(middle),
        "the middle of the 50th epoch": lambda: first_batch(49 * given.rows // BATCH * BATCH + middle),
    }
    results = rounds(cases, rounds=given.rounds)
    report(f"first batch of {given.rows:,} rows, {given.workers} workers", results, "the beginning", {})
    worst = max(float(np.median(taken)) for taken in results.values())
    print(f"  seconds: {worst:.3f}, goal <= {GOAL_SECONDS} {'met' if worst <= GOAL_SECONDS else 'MISSED'}")


if __name__ == "__main__":
    main()
