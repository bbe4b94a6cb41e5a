"""What compiling costs: seconds and programs of a job, cold and warm.

    python -m benchmarks.compile --arch resnet18 resnet34 resnet50 --size 128

Each job is a process of its own that makes a learner on made-up photos, trains one
epoch frozen and one unfrozen, validates, and then trains again with other rates,
another schedule, more epochs and more photos, which must compile nothing. Then it makes
a second learner with another seed, as a sweep does. The first process of an
architecture finds an empty compilation cache (cold), the second what the first left
(warm). Counted are the seconds that JAX reports for all programs from `fine_tune` on,
and the train, eval and predict programs of the learner:

- `compile_s`: XLA compiles a program, or fetches it from the cache;
- `trace_s`: Python traces and lowers it, which no cache saves;
- `waits_s`: both, in the main thread; the rest is done while phase 1 trains;
- `second_s`: both, for the second learner's job.

One line of JSON for each case, then a table; needs nothing but jaxtune; a quarter
of an hour on two cores.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.measure import machine, say, table

_JOB = """
import json, sys, threading, time
import jax, jax.monitoring
import numpy as np

seconds, backend, hits = {"compile_s": 0.0, "trace_s": 0.0, "waits_s": 0.0}, [], []
def duration(name, value, **_):
    if not name.startswith("/jax/core/compile/"):
        return
    is_backend = name.endswith("backend_compile_duration")
    seconds["compile_s" if is_backend else "trace_s"] += value
    if threading.current_thread() is threading.main_thread():
        seconds["waits_s"] += value
    if is_backend:
        backend.append(value)
jax.monitoring.register_event_duration_secs_listener(duration)
jax.monitoring.register_event_listener(
    lambda name, **_: hits.append(1) if name.endswith("cache_hits") else None
)
import jaxtune
images = np.random.default_rng(0).integers(0, 256, (96, 64, 64, 3), np.uint8)
arch, size = sys.argv[1], int(sys.argv[2])

def loaders(count):
    labels = [f"class {i % 5}" for i in range(count)]
    return jaxtune.ImageDataLoaders.from_arrays(
        (images[:count], labels), size=size, batch_size=32
    )

def learner(seed):
    return jaxtune.vision_learner(
        loaders(80), getattr(jaxtune, arch), pretrained=False, verbose=False, seed=seed
    )

model = learner(0)
model.freeze()
# Drawing random weights for a body, which a pretrained one does without, is left out.
seconds.update(dict.fromkeys(seconds, 0.0))
backend.clear()
began = time.perf_counter()
model.fine_tune(1, freeze_epochs=1)
job = time.perf_counter() - began
first = {"programs": model.num_programs, "all_programs": len(backend), **seconds}
model.data = loaders(96)
model.fit_flat_cos(2, slice(1e-5, 1e-4))
model.fine_tune(2, 1e-4, freeze_epochs=1)
more = model.num_programs - first["programs"]
model = learner(1)
model.freeze()
seconds.update(dict.fromkeys(seconds, 0.0))
model.fine_tune(1, freeze_epochs=1)
print(json.dumps({
    "learner_programs": first["programs"],
    "all_programs": first["all_programs"],
    "cache_hits": len(hits),
    **{k: round(v, 2) for k, v in first.items() if k.endswith("_s")},
    "job_s": round(job, 2),
    "more_learner_programs": more,
    "second_s": round(seconds["compile_s"] + seconds["trace_s"], 2),
}))
"""


def job(arch: str, size: int, cache: str) -> dict:
    """Returns the figures of one process."""
    done = subprocess.run(
        [sys.executable, "-c", _JOB, arch, str(size)],
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": cache},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main(argv=None) -> list[dict]:
    """Runs the command line; returns the cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--arch", nargs="+", default=["resnet18", "resnet34", "resnet50"]
    )
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3, help="warm processes")
    options = parser.parse_args(argv)
    about, rows = machine(), []
    for arch in options.arch:
        with tempfile.TemporaryDirectory() as cache:
            jobs = [job(arch, options.size, cache) for _ in range(options.rounds + 1)]
            kept = sum(f.stat().st_size for f in Path(cache).rglob("*") if f.is_file())
        timed = ("compile_s", "trace_s", "waits_s", "second_s")
        warm = {name: [found[name] for found in jobs[1:]] for name in timed}
        for name, found in (("cold", jobs[0]), ("warm", jobs[1])):
            row = {"case": name, "arch": arch, "size": options.size, **found}
            row["cache_mb"] = round(kept / 1e6, 1)
            if name == "warm":
                for timed, found in warm.items():
                    row[timed] = round(float(np.median(found)), 2)
                row["spread"] = {k: [min(v), max(v)] for k, v in warm.items()}
            rows.append(row)
            say(row | about)
    shown = ["case", "arch", "learner_programs", "all_programs", "compile_s", "trace_s"]
    shown += ["waits_s", "second_s", "job_s", "more_learner_programs", "cache_mb"]
    print(table(shown, [[row[name] for name in shown] for row in rows]))
    return rows


if __name__ == "__main__":
    main()
