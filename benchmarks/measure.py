"""Measures calls in turn, on a machine that is never quiet, and writes what came out.

Callables in; medians, ratios and their spread out. The one rule of the file: what is
compared takes turns within one run, and a ratio is taken within each round.
"""

import datetime
import gc
import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

#: Threads of another library that wait actively have gone to sleep after this.
_SETTLE = 0.4


def seconds(call: Callable[[], object], *, least: float = 0.0) -> float:
    """Returns how long one call takes, the mean of as many as fill `least` seconds."""
    count, began = 0, time.perf_counter()
    while True:
        call()
        count += 1
        elapsed = time.perf_counter() - began
        if elapsed >= least:
            return elapsed / count


def in_turn(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 5,
    least: float = 1.0,
) -> dict[str, list[float]]:
    """Returns each call's seconds in each round; the calls take turns.

    Each turn begins with one call that is not counted: it compiles, or gets caches and
    threads back that the turn before took.
    """
    found: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            gc.collect()
            time.sleep(_SETTLE)
            call()
            if number:  # The first round warms up.
                found[name].append(seconds(call, least=least))
    return found


def peak_memory() -> float:
    """Returns this program's largest resident memory so far, in MB (Linux).

    `ru_maxrss` also counts what the process held before it became this program.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return int(kilobytes) / 1024


def ratio(times: Sequence[float], of: Sequence[float]) -> dict:
    """Returns the median of the rounds' ratios, and the smallest and largest."""
    ratios = [a / b for a, b in zip(times, of, strict=True)]
    return {
        "ratio": round(statistics.median(ratios), 3),
        "spread": [round(min(ratios), 3), round(max(ratios), 3)],
    }


def machine(*libraries: str) -> dict:
    """Returns date, device, versions and load, for a line of results."""
    import jax

    names = ("jax", "jaxlib", "flax", *libraries)
    return {
        "date": datetime.date.today().isoformat(),
        "device": jax.local_devices()[0].device_kind,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in names},
        "load": round(os.getloadavg()[0], 1),
    }


def say(row: Mapping) -> None:
    """Prints one case as a line of JSON."""
    print(json.dumps(row), flush=True)


def table(columns: Sequence[str], rows: Sequence[Sequence]) -> str:
    """Returns a Markdown table."""
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    lines += [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines)
