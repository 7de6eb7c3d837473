"""Cases timed side by side: interleaved, so that a noisy machine is noisy for all of them, and told as ratios."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping

Case = Callable[[], object]


def rounds(
    cases: Mapping[str, Case], *, rounds: int, warm: int = 1, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each case in each round; the first `warm` rounds are not counted.

    clock   of the wall; or of this process alone, which other work on the machine disturbs less
    What a case returns, if it can be called, is called after the clock has stopped: cleaning up costs nothing.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(warm + rounds):
        for name, case in cases.items():
            begun = clock()
            after = case()
            taken = clock() - begun
            if callable(after):
                after()
            if number >= warm:
                seconds[name].append(taken)
    return seconds


def ratios(results: Mapping[str, list[float]], base: str) -> dict[str, float]:
    """How long each case takes beside the base: the median, over the rounds, of the two times of one round."""
    return {
        name: statistics.median(own / other for own, other in zip(taken, results[base], strict=True))
        for name, taken in results.items()
    }


def report(name: str, results: Mapping[str, list[float]], base: str, goals: Mapping[str, float]) -> None:
    """Print a table, and the same as one line of JSON.

    goals   case -> the most that its time may be, as a multiple of the base
    """
    beside = ratios(results, base)
    width = max(map(len, results))
    print(f"\n{name}")
    for case, taken in results.items():
        goal = f"goal <= {goals[case]:g} {'met' if beside[case] <= goals[case] else 'MISSED'}" if case in goals else ""
        middle, best = statistics.median(taken) * 1e3, min(taken) * 1e3
        print(f"  {case:<{width}}  {middle:9.2f} ms (best {best:9.2f})  {beside[case]:8.3f} x  {goal}".rstrip())
    facts = {
        "benchmark": name,
        "base": base,
        "rounds": len(results[base]),
        "median_ms": {case: round(statistics.median(taken) * 1e3, 3) for case, taken in results.items()},
        "ratio": {case: round(ratio, 4) for case, ratio in beside.items()},
        "goals": dict(goals),
        "met": all(beside[case] <= goal for case, goal in goals.items()),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    print(json.dumps(facts))
