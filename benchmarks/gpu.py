"""ResNet-50 at the chip's pace: images per second, share of peak, and PyTorch beside.

    python -m benchmarks.gpu --data photos

Batches of 256 at 224 px in bfloat16 on arrays that lie on the device: predictions, and
training with the body frozen, unfrozen, and unfrozen with running statistics of the
body's norms, which is `vision_learner`'s default. Where `--data` names a folder of
`train/` and `valid/`, also frozen training by `fit` itself: photos decoded, kept on the
device, augmented there. The peer is torchvision's ResNet-50 with fastai's head,
channels last, autocast to bfloat16, `torch.compile`. Each is a process of its own; all
are ready before the first is timed, and then they take turns. Shown are medians and
ranges over the rounds, and the ratio of each round's speeds to PyTorch's.

- `peak`: the matrix product of 8192 x 8192 that this device does fastest, in the run;
- `share_of_peak`: the step's floating-point operations, as XLA counts them, per second
  / that peak;
- `roofline`: the time below which the step can't come on this device: the larger of its
  operations / peak and its bytes, as XLA counts them, / the bandwidth of a large copy,
  also measured in the run; `share_of_roofline` is that time / the step's.

Without an accelerator it runs all the same, small, with XLA's own convolutions:
`python -m benchmarks.gpu --batch 4 --size 64 --arch resnet18 --no-torch`.
One line of JSON for each case, then a table. PyTorch's part needs
benchmarks/requirements.txt.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

from benchmarks.measure import machine, ratio, say, seconds, table
from benchmarks.step import CLASSES, arrays, build, prediction

DTYPES = {"bfloat16": jnp.bfloat16, "float32": jnp.float32}

#: Each case: what PyTorch does beside it, and whether `fit` can be timed at it.
CASES = {
    "predict": ("predict", False),
    "frozen": ("frozen", True),
    "unfrozen": ("unfrozen", False),
    "unfrozen, running": ("unfrozen", False),
}

#: The processes share the device's memory; XLA counts nothing of what oneDNN computes.
SHARED = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "JAXTUNE_ONEDNN": "0"}


def peak_flops(dtype, side: int) -> float:
    """Returns operations per second of a large matrix product, the best of ten."""
    a = jnp.ones((side, side), dtype)
    product = jax.jit(lambda a: a @ a)
    product(a).block_until_ready()
    best = min(seconds(lambda: product(a).block_until_ready()) for _ in range(10))
    return 2 * side**3 / best


def bandwidth(megabytes: int) -> float:
    """Returns bytes per second that a large copy reads and writes, the best of ten."""
    x = jnp.ones((megabytes << 18,), jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    copy(x).block_until_ready()
    best = min(seconds(lambda: copy(x).block_until_ready()) for _ in range(10))
    return 2 * x.nbytes / best


def ours(options, case: str) -> tuple[dict, Callable[[], float]]:
    """Returns what XLA counts in jaxtune's step, and () -> images per second."""
    from jaxtune import compile_step

    batch = jax.device_put(arrays(options.batch, options.size))
    if case == "predict":
        step, *values = prediction(options.arch, options.precision)
        arguments = (*values, batch["image"])
        after = lambda _, given: given  # noqa: E731
    else:
        frozen, _, running = case.partition(", ")
        step, state = build(options.arch, frozen, options.precision, running=running)
        step = compile_step(step, donate=True)
        arguments = (state, batch, jax.random.key(0))
        after = lambda found, given: (found[0], *given[1:])  # noqa: E731
    compiled = step.lower(*arguments).compile()
    costs = {"batch": options.batch, **counted(step, arguments, compiled)}
    held = [arguments]

    def steps(count: int) -> None:
        for _ in range(count):
            found = compiled(*held[0])
            held[0] = after(found, held[0])
        jax.block_until_ready(found)

    steps(3)

    def speed() -> float:
        began = time.perf_counter()
        steps(options.steps)
        return options.batch * options.steps / (time.perf_counter() - began)

    return costs, speed


def counted(step, arguments: tuple, compiled) -> dict:
    """Returns a step's floating-point operations and its program's bytes.

    In what is compiled for a GPU, convolutions are calls, which count as nothing, so
    operations are counted in what would be compiled for a CPU, if there is one.
    """
    forms = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
    try:
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            flops = step.lower(*forms).cost_analysis()["flops"]
    except (RuntimeError, TypeError):
        return {}
    return {"flops": flops, "bytes": compiled.cost_analysis()["bytes accessed"]}


def ours_with_input(options, case: str) -> tuple[dict, Callable[[], float]]:
    """Returns the first epoch's pace, and () -> images per second of an epoch of `fit`.

    They are those of the table of epochs: of training, without validation.
    """
    import jaxtune

    data = jaxtune.ImageDataLoaders.from_folder(
        options.data,
        valid="val" if (options.data / "val").is_dir() else "valid",
        size=options.size,
        batch_size=options.batch,
    )
    learner = jaxtune.vision_learner(
        data,
        getattr(jaxtune, options.arch),
        pretrained=False,
        norms="running",
        precision=options.precision,
        verbose=False,
    )
    learner.freeze()
    learner.fit(2, lr=1e-4)
    first = learner.history[0].images_per_second

    def speed() -> float:
        count = max(1, options.steps // len(data.train_loader))
        learner.fit(count, lr=1e-4)
        rows = learner.history[-count:]
        return statistics.median(row.images_per_second for row in rows)

    return {"first_epoch": round(first, 1)}, speed


def theirs(options, case: str) -> tuple[dict, Callable[[], float]]:
    """Returns () -> PyTorch's images per second."""
    import torch

    from benchmarks import peers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    net = peers.network(options.arch, CLASSES).to(device)
    net.train(case != "predict")
    if case == "frozen":
        peers.freeze(net, norms_train=False)
    batch = arrays(options.batch, options.size)
    images, labels = (x.to(device) for x in peers.batch(batch["image"], batch["label"]))
    kind = torch.bfloat16 if options.precision == "bfloat16" else None
    forward = torch.compile(net) if options.torch_compile else net
    if case == "predict":

        def step(wait: bool = True):
            with torch.inference_mode(), torch.autocast(device, kind, kind is not None):
                chances = forward(images).softmax(1)
            return float(chances[0, 0]) if wait else chances

    else:
        step = peers.train_step(
            net, images, labels, forward=forward, autocast=kind, device=device
        )
    step()

    def speed() -> float:
        began = time.perf_counter()
        for _ in range(options.steps - 1):
            step(wait=False)
        step()
        return options.batch * options.steps / (time.perf_counter() - began)

    def tuned_speed() -> float:
        if not torch.backends.cudnn.benchmark:
            # Kernels are chosen by trial now that no other process is on the device.
            torch.backends.cudnn.benchmark = True
            speed()
        return speed()

    return {}, tuned_speed


WAYS = {"jaxtune": ours, "jaxtune, with input": ours_with_input, "torch": theirs}


class Worker:
    """A process that holds one case ready, and times it when asked."""

    def __init__(self, arguments: list[str], who: str, case: str):
        """Starts it; it compiles from now on."""
        command = [sys.executable, "-m", "benchmarks.gpu", *arguments]
        self.process = subprocess.Popen(
            [*command, "--worker", who, case],
            env=os.environ | SHARED,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.who, self.case, self.costs = who, case, {}
        self.speeds: list[float] = []

    def wait(self) -> "Worker":
        """Waits until it is ready."""
        self.costs = self._next()
        return self

    def time(self) -> None:
        """Lets it have its turn."""
        print(file=self.process.stdin, flush=True)
        self.speeds.append(self._next())

    def _next(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.who}, {self.case}: ended with {self.end()}")
        return json.loads(line)

    def end(self) -> int:
        """Ends it; returns its exit status."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        status = self.process.wait()
        self.process.stdout.close()
        return status


def serve(options) -> None:
    """What a worker does: gets ready, and times a turn for each line that comes."""
    who, case = options.worker
    out = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        costs, speed = WAYS[who](options, case)
        print(json.dumps(costs), file=out, flush=True)
        for _ in sys.stdin:
            print(json.dumps(speed()), file=out, flush=True)


def workers(options, arguments: list[str]) -> list[Worker]:
    """Returns a process for each way and case, all ready."""
    found = []
    for case, (_, with_input) in CASES.items():
        if case in options.case:
            # One after the other: XLA's compiler chooses kernels by trying them out.
            found.append(Worker(arguments, "jaxtune", case).wait())
            if options.data is not None and with_input:
                found.append(Worker(arguments, "jaxtune, with input", case).wait())
    if options.torch:
        peers = dict.fromkeys(CASES[case][0] for case in options.case)
        theirs = [Worker(arguments, "torch", case) for case in peers]
        found += [worker.wait() for worker in theirs]
    return found


def main(argv=None) -> list[dict]:
    """Runs the command line; returns the cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--precision", default="bfloat16", choices=list(DTYPES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="in each round")
    parser.add_argument("--side", type=int, default=8192, help="of the matrix product")
    parser.add_argument("--copy", type=int, default=1024, help="megabytes of the copy")
    parser.add_argument("--data", type=Path, help="photos, for the input pipeline")
    parser.add_argument("--no-torch", dest="torch", action="store_false")
    parser.add_argument(
        "--no-torch-compile", dest="torch_compile", action="store_false"
    )
    parser.add_argument(
        "--worker", nargs=2, metavar=("WHO", "CASE"), help=argparse.SUPPRESS
    )
    arguments = sys.argv[1:] if argv is None else list(argv)
    options = parser.parse_args(arguments)
    if options.worker:
        serve(options)
        return []
    os.environ.update(SHARED)
    about = machine(*(("torch",) if options.torch else ()))
    peak = peak_flops(DTYPES[options.precision], options.side)
    speed = bandwidth(options.copy)
    about |= {"peak_tflops": round(peak / 1e12, 1), "gigabytes_s": round(speed / 1e9)}
    about |= {"arch": options.arch, "batch": options.batch}
    ready = workers(options, arguments)
    for _ in range(options.rounds):
        for worker in ready:
            worker.time()
    for worker in ready:
        worker.end()
    rows = figures(ready, peak, speed)
    for row in rows:
        say(row | about)
    print(table(list(rows[0]), [list(row.values()) for row in rows]))
    return rows


def figures(ready: list[Worker], peak: float, bandwidth: float) -> list[dict]:
    """Returns a row for each worker, from the speeds of its turns."""
    by = {(worker.who, worker.case): worker for worker in ready}
    rows = []
    for (who, case), worker in by.items():
        median = statistics.median(worker.speeds)
        row = {"case": case, "who": who, "images_per_second": round(median, 1)}
        row["spread"] = [round(pick(worker.speeds), 1) for pick in (min, max)]
        row |= {"to_torch": "", "share_of_peak": "", "share_of_roofline": ""}
        row["first_epoch"] = worker.costs.get("first_epoch", "")
        torch = by.get(("torch", CASES[case][0]))
        if torch is not None and torch is not worker:
            found = ratio(worker.speeds, torch.speeds)
            row["to_torch"] = f"{found['ratio']} {found['spread']}"
        if "flops" in worker.costs:
            flops, bytes_read = worker.costs["flops"], worker.costs["bytes"]
            least = max(flops / peak, bytes_read / bandwidth)
            steps = median / worker.costs["batch"]
            row["share_of_peak"] = round(flops * steps / peak, 3)
            row["share_of_roofline"] = round(least * steps, 3)
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
