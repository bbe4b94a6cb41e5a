"""ResNet-50 at the chip's pace: images per second, share of peak, and PyTorch beside.

    python -m benchmarks.gpu --data photos

Batches of 256 at 224 px in bfloat16, body frozen and unfrozen, on arrays that lie on
the device, and through the real input pipeline (decoding, augmentation on the device)
where `--data` names a folder of `train/` and `valid/`. The peer is PyTorch in the same
run: torchvision's ResNet-50 with fastai's head, channels last, autocast to bfloat16,
`torch.compile`. Each is measured alone, several times; shown are medians and ranges.

- `peak`: the matrix product of 8192 x 8192 that this device does fastest, in the run;
- `share_of_peak`: the step's floating-point operations, as XLA counts them, per second
  / that peak;
- `roofline`: the time below which the step can't come on this device: the larger of its
  operations / peak and its bytes, as XLA counts them, / the bandwidth of a large copy,
  also measured in the run; `share_of_roofline` is that time / the step's.

Without an accelerator it runs all the same, small: `JAXTUNE_ONEDNN=0 python -m
benchmarks.gpu --batch 4 --size 64 --arch resnet18 --no-torch`; XLA counts nothing of
what oneDNN computes. One line of JSON for each case, then a table. PyTorch's part needs
benchmarks/requirements.txt.
"""

import argparse
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp

from benchmarks.measure import machine, say, seconds, table
from benchmarks.step import CLASSES, arrays, build

DTYPES = {"bfloat16": jnp.bfloat16, "float32": jnp.float32}


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


def ours(options, case: str) -> dict:
    """Returns jaxtune's figures on arrays that lie on the device."""
    from jaxtune import compile_step

    step, state = build(options.arch, case, options.precision)
    batch = jax.device_put(arrays(options.batch, options.size))
    key = jax.random.key(0)
    lowered = compile_step(step, donate=True).lower(state, batch, key)
    compiled = lowered.compile()
    # In what is compiled for a GPU, convolutions are calls, which count as nothing.
    costs = {
        "flops": lowered.cost_analysis()["flops"],
        "bytes": compiled.cost_analysis()["bytes accessed"],
    }
    state, metrics = compiled(state, batch, key)
    speeds = []
    for _ in range(options.rounds):
        jax.block_until_ready(state)
        began = time.perf_counter()
        for _ in range(options.steps):
            state, metrics = compiled(state, batch, key)
        float(metrics["loss"])
        speeds.append(options.steps / (time.perf_counter() - began))
    return costs | {"steps_per_second": speeds}


def ours_with_input(options, case: str) -> dict:
    """Returns jaxtune's figures through the whole input pipeline."""
    from jaxtune import ImageDataLoaders, compile_step

    data = ImageDataLoaders.from_folder(
        options.data,
        valid="val" if (options.data / "val").is_dir() else "valid",
        size=options.size,
        batch_size=options.batch,
    )
    step, state = build(options.arch, case, options.precision, data)
    run, key = compile_step(step, donate=True), jax.random.key(0)
    speeds: dict[str, list[float]] = {"first_epoch": [], "steps_per_second": []}
    for epoch in range(options.rounds + 1):
        count, began = 0, time.perf_counter()
        for batch in data.train_loader.batches(epoch):
            state, metrics = run(state, jax.device_put(batch), key)
            count += 1
        float(metrics["loss"])
        name = "steps_per_second" if epoch else "first_epoch"
        speeds[name].append(count / (time.perf_counter() - began))
    return speeds


def theirs(options, case: str) -> dict:
    """Returns PyTorch's figures."""
    import torch

    from benchmarks import peers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    net = peers.network(options.arch, CLASSES).to(device)
    net.train()
    if case == "frozen":
        peers.freeze(net, norms_train=False)
    batch = arrays(options.batch, options.size)
    images, labels = (x.to(device) for x in peers.batch(batch["image"], batch["label"]))
    torch.backends.cudnn.benchmark = True
    kind = torch.bfloat16 if options.precision == "bfloat16" else None
    forward = torch.compile(net) if options.torch_compile else net
    step = peers.train_step(
        net, images, labels, forward=forward, autocast=kind, device=device
    )
    for _ in range(3):
        step()
    speeds = []
    for _ in range(options.rounds):
        began = time.perf_counter()
        for _ in range(options.steps - 1):
            step(wait=False)
        step()
        speeds.append(options.steps / (time.perf_counter() - began))
    return {"steps_per_second": speeds}


def main(argv=None) -> list[dict]:
    """Runs the command line; returns the cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="resnet50")
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
    options = parser.parse_args(argv)
    about = machine(*(("torch",) if options.torch else ()))
    peak = peak_flops(DTYPES[options.precision], options.side)
    speed = bandwidth(options.copy)
    about |= {"peak_tflops": round(peak / 1e12, 1), "gigabytes_s": round(speed / 1e9)}
    ways = {"jaxtune": ours}
    if options.data is not None:
        ways["jaxtune, with input"] = ours_with_input
    if options.torch:
        ways["torch"] = theirs
    rows = []
    for case in ("frozen", "unfrozen"):
        found = {who: measure(options, case) for who, measure in ways.items()}
        costs = found["jaxtune"]
        for who, figures in found.items():
            steps = statistics.median(figures["steps_per_second"])
            least = max(costs["flops"] / peak, costs["bytes"] / speed)
            row = {
                "case": case,
                "who": who,
                "images_per_second": round(steps * options.batch, 1),
                "spread": [
                    round(pick(figures["steps_per_second"]) * options.batch, 1)
                    for pick in (min, max)
                ],
                "share_of_peak": round(costs["flops"] * steps / peak, 3),
                "share_of_roofline": round(least * steps, 3),
            }
            rows.append(row)
            say(row | about | {"arch": options.arch, "batch": options.batch})
    print(table(list(rows[0]), [list(row.values()) for row in rows]))
    return rows


if __name__ == "__main__":
    main()
