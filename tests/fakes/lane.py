"""What a trial would run: a command that writes down what its process may use."""

import json
import os
import sys
from pathlib import Path


def told() -> int:
    names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "INSTAR_WORLD", "INSTAR_RANK")
    seen = {name: os.environ.get(name) for name in names}
    Path(sys.argv[1]).write_text(json.dumps({**seen, "cores": sorted(os.sched_getaffinity(0))}))
    return 0
