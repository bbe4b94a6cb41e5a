"""Where a step's time goes on 1, 2, 4 and 8 devices: input, computing, exchanges.

    python -m benchmarks.devices --devices 1 2 4 8

Each number of devices is a process of its own, in which the CPU passes for as many. A
learner of ResNet-18 with all layers training (64 px, 64 photos in all, random weights)
takes turns with itself: state whole on each device, batch norms with statistics of each
device's rows, and the state split (FSDP). Measured, in milliseconds:

- `input`: photos to a batch on the devices: from the cache, and placed;
- `step`: a compiled step, the median of the rounds;
- `exchanges`: of that, the collectives themselves: of each the shortest among the
  devices, by XLA's profile. On the others it also holds the time that they wait for the
  last one, which is `waiting`, the mean over the devices.

Virtual devices share the machine's cores, so the step does not get shorter; what grows
is what sharing the work costs. One line of JSON for each case, then a table.
"""

import argparse
import collections
import glob
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

from benchmarks.measure import machine, say, table
from benchmarks.tpu import KINDS

#: Options of the learner by the name of a case.
CASES = {
    "whole": {},
    "own statistics": {"sync_batch_norm": False},
    "fsdp": {"sharding": "fsdp"},
}


def exchanges(run) -> tuple[float, float, int]:
    """Returns the milliseconds of a call's collectives, of waiting for them, and count.

    Args:
        run: A function that runs a compiled program and waits for it.
    """
    import jax

    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run()
        (file,) = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
        profile = jax.profiler.ProfileData.from_file(file)
        found = collections.defaultdict(list)
        for plane in profile.planes:
            for line in plane.lines:
                for event in line.events:
                    if event.name.startswith(KINDS):
                        found[event.name].append(event.duration_ns / 1e6)
    least = sum(min(each) for each in found.values())
    mean = sum(statistics.mean(each) for each in found.values())
    return least, mean - least, len(found)


def measured(options) -> list[dict]:
    """Returns a row for each case, on the devices of this process."""
    import jax

    from jaxtune import ImageDataLoaders, error_rate, resnet18, vision_learner
    from jaxtune.train import Phase, constant

    rng = np.random.default_rng(0)
    photos = rng.integers(0, 255, (256, 96, 96, 3)).astype(np.uint8)
    labels = [f"class {n % 4}" for n in range(len(photos))]
    data = ImageDataLoaders.from_arrays(
        (photos, labels),
        (photos[:8] // 2, labels[:8]),
        size=options.size,
        batch_size=options.batch,
    )
    list(data.train_loader)
    key, running = jax.random.key(0), {}
    for name, given in CASES.items():
        model = vision_learner(
            data,
            resnet18,
            metrics=error_rate,
            pretrained=False,
            verbose=False,
            norms="train",
            precision="float32",
            **given,
        )
        trainer = model._trainer
        rates = (1e-3,) * len(model.groups)
        step, state = trainer.begin(Phase(None, None, 1, rates, constant(), 0.01))
        running[name] = [trainer, step, state]
    times = collections.defaultdict(lambda: collections.defaultdict(list))
    for _ in range(options.rounds + 1):
        for name, case in running.items():
            trainer, step, state = case
            began = time.perf_counter()
            batch = trainer.place(next(iter(data.train_loader)))
            jax.block_until_ready(batch)
            placed = time.perf_counter()
            case[2], metrics = step(state, batch, key)
            jax.block_until_ready(metrics)
            times[name]["input"].append(placed - began)
            times[name]["step"].append(time.perf_counter() - placed)
    rows = []
    for name, case in running.items():

        def run(case=case, batch=batch):
            case[2], metrics = case[1](case[2], batch, key)
            jax.block_until_ready(metrics)

        found = [exchanges(run) for _ in range(options.rounds)]
        least, waiting, count = map(statistics.median, zip(*found, strict=True))
        # The first round compiles.
        seconds = {what: statistics.median(t[1:]) for what, t in times[name].items()}
        rows.append(
            {
                "devices": len(jax.devices()),
                "case": name,
                "input_ms": round(1e3 * seconds["input"], 1),
                "step_ms": round(1e3 * seconds["step"], 1),
                "exchanges": int(count),
                "exchanges_ms": round(least, 1),
                "waiting_ms": round(waiting, 1),
            }
        )
    return rows


def main(argv=None) -> list[dict]:
    """Runs the command line; returns the cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.here:
        rows = measured(options)
        print(json.dumps(rows))
        return rows
    rows = []
    given = [f"--{name}={getattr(options, name)}" for name in ("size", "batch")]
    given += [f"--rounds={options.rounds}", "--here"]
    for count in options.devices:
        flags = os.environ.get("XLA_FLAGS", "")
        flags += f" --xla_force_host_platform_device_count={count}"
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.devices", *given],
            env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        for row in json.loads(done.stdout.splitlines()[-1]):
            rows.append(row)
            say(row)
    say(machine())
    columns = ["devices", "case", "input, ms", "step, ms", "exchanges"]
    columns += ["exchanges, ms", "waiting, ms"]
    print(table(columns, [list(row.values()) for row in rows]))
    return rows


if __name__ == "__main__":
    main()
