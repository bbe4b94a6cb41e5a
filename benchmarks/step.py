"""One step of inference, of training with the body frozen, and unfrozen: the ratios.

    python -m benchmarks.step --arch resnet18 resnet34 resnet50 --size 128 224

On a CPU; benchmarks.gpu is for accelerators.

Batches of 32, float32, both networks with fastai's head, on arrays that lie in memory
already; with `--precision bfloat16` jaxtune computes in that, as it does by itself on
chips with matrix units, and PyTorch stays in float32, as fastai does on a CPU. With
`--running` the body's batch norms keep their statistics, as they do by default. The
peer is PyTorch in the same process: torchvision's network, channels last, eager, AdamW,
the same number of threads. The two take turns, and each round gives a ratio (jaxtune's
time / PyTorch's, less is better); shown are the median and the range.

- inference: body and head, softmax;
- frozen: body in eval mode, the head trains; `to_fastai` has it against what fastai
  computes when it is frozen: batch norms in train mode, and trained;
- unfrozen: everything trains.

`--memory` measures instead the largest resident memory of each case in a process of its
own, `--python` what Python costs a step. One line of JSON for each case, then a table.
Needs benchmarks/requirements.txt; about 25 minutes on two cores.
"""

import argparse
import functools
import statistics
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure import in_turn, machine, ratio, say, seconds, table

CLASSES = 37
CASES = ("inference", "frozen", "unfrozen")


def arrays(batch: int, size: int) -> dict[str, np.ndarray]:
    """Returns a batch of noise, (b, size, size, 3) float32, and labels."""
    rng = np.random.default_rng(0)
    return {
        "image": rng.normal(size=(batch, size, size, 3)).astype(np.float32),
        "label": rng.integers(0, CLASSES, batch).astype(np.int32),
    }


def build(arch: str, case: str, precision: str = "float32", *, running: bool = False):
    """Returns jaxtune's uncompiled step and its first state.

    Args:
        arch: Name of an architecture.
        case: "frozen" or "unfrozen".
        precision: What it computes in.
        running: Whether the body's norms keep their statistics while they train.
    """
    import jaxtune

    net = jaxtune.create_cnn_model(getattr(jaxtune, arch), CLASSES, pretrained=False)
    groups = jaxtune.default_groups(net)
    labels = jaxtune.group_labels(jaxtune.split_module(net)[1], groups)
    frozen = tuple(groups)[:-1] if case == "frozen" else ()
    trained = jaxtune.optimizer_labels(labels, frozen)
    tx = jaxtune.group_optimizer(
        trained,
        dict.fromkeys(groups, 1e-4),
        jaxtune.one_cycle(1000),
        no_decay=jaxtune.no_decay_paths(net),
    )
    still = tuple(groups)[:-1] if running else ()
    view = jaxtune.training_view(net, labels, frozen, running=still)
    graphdef, params, model_state = jaxtune.split_module(
        jaxtune.with_precision(view, precision)
    )

    step = jaxtune.make_train_step(
        graphdef,
        tx,
        loss=jaxtune.cross_entropy,
        labels=trained,
    )
    return step, jaxtune.TrainState.create(params, model_state, tx)


def prediction(arch: str, precision: str = "float32") -> tuple:
    """Returns jaxtune's compiled step of prediction, parameters and model state."""
    import jaxtune

    network = jaxtune.create_cnn_model(
        getattr(jaxtune, arch), CLASSES, pretrained=False
    )
    view = jaxtune.with_precision(jaxtune.evaluating(network), precision)
    graphdef, params, model_state = jaxtune.split_module(view)
    step = jaxtune.make_predict_step(graphdef, activation=jax.nn.softmax)
    return jaxtune.compile_step(step), params, model_state


def ours(
    arch: str,
    case: str,
    batch: dict,
    *,
    precision: str = "float32",
    running: bool = False,
):
    """Returns a function of no argument that does one step of jaxtune's."""
    import jaxtune

    data = jax.device_put(batch)
    if case == "inference":
        predict, params, model_state = prediction(arch, precision)
        return lambda: jax.block_until_ready(
            predict(params, model_state, data["image"])
        )
    step, state = build(arch, case, precision, running=running)
    step, held = jaxtune.compile_step(step, donate=True), {"state": state}
    key = jax.random.key(0)

    def call():
        held["state"], metrics = step(held["state"], data, key)
        return float(metrics["loss"])

    return call


def theirs(arch: str, case: str, batch: dict, *, norms_train: bool = False):
    """Returns a function of no argument that does one step of PyTorch's."""
    from benchmarks import peers

    net = peers.network(arch, CLASSES)
    images, labels = peers.batch(batch["image"], batch["label"])
    if case == "inference":
        return peers.predict_step(net, images)
    net.train()
    if case == "frozen":
        peers.freeze(net, norms_train=norms_train)
    return peers.train_step(net, images, labels)


def measure(
    arch: str, size: int, case: str, *, batch: int, rounds: int, **options
) -> dict:
    """Returns one case's figures; the options are those of `ours`."""
    data = arrays(batch, size)
    calls = {
        "jaxtune": ours(arch, case, data, **options),
        "torch": theirs(arch, case, data),
    }
    if case == "frozen":
        calls["fastai"] = theirs(arch, case, data, norms_train=True)
    times = in_turn(calls, rounds=rounds)
    row = {"case": case, "arch": arch, "size": size, "batch": batch, **options}
    row |= {f"{n}_ms": round(1e3 * statistics.median(t), 1) for n, t in times.items()}
    row |= ratio(times["jaxtune"], times["torch"])
    if "fastai" in times:
        row |= {
            f"{name}_to_fastai": value
            for name, value in ratio(times["jaxtune"], times["fastai"]).items()
        }
    return row


def memory(who: str, arch: str, size: int, case: str, batch: int) -> float:
    """Returns the largest resident memory of a process that does a few steps, MB."""
    code = (
        "from benchmarks.step import *\n"
        f"call = {who}({arch!r}, {case!r}, arrays({batch}, {size}))\n"
        "for _ in range(3): call()\n"
        "from benchmarks.measure import peak_memory\n"
        "print(peak_memory())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


class Repeated(list):
    """A loader of the same batches in each epoch."""

    #: What is asked before a phase; enough for a batch norm.
    batch_size = 8

    def batches(self, *where):
        """Returns them."""
        return iter(self)


def python_share(arch: str, case: str) -> float:
    """Returns the milliseconds of Python in one step of the learner's loop.

    The loop is the learner's own; the step is a compiled one with the same state and
    metrics that computes nothing, so what is left is what Python does.
    """
    import jaxtune
    from jaxtune.loop.fit import fit

    images = np.zeros((8, 32, 32, 3), np.uint8)
    labels = np.arange(8) % CLASSES
    data = jaxtune.ImageDataLoaders.from_arrays(
        (images, labels), (images + 1, labels), size=32, batch_size=8
    )
    learner = jaxtune.vision_learner(
        data, getattr(jaxtune, arch), pretrained=False, verbose=False
    )
    trainer = learner._trainer
    phase = jaxtune.Phase(None, 0, 1, (1e-4,) * 3, jaxtune.one_cycle(100), 0.0)
    state = trainer.begin(phase)[1]

    @functools.partial(jax.jit, donate_argnums=0)
    def nothing(state, batch, key):
        metrics = {"loss": jnp.zeros(()), "count": jnp.ones(()), "grad_norm": 0.0}
        return state, metrics | {"finite": jnp.asarray(True)}

    trainer.begin = lambda phase: (nothing, jax.tree.map(jnp.copy, state))
    trainer.evaluator = lambda: lambda *arguments: {"loss": 0.0}
    batch = jax.device_put({"image": np.zeros((1, 1, 1, 3)), "label": np.zeros(1)})
    # So many that what a phase costs is little beside them.
    loader = Repeated([batch] * 1000)
    given = types.SimpleNamespace(train_loader=loader, valid_loader=loader)
    key = jax.random.key(0)

    def epoch():
        list(fit(trainer, given, [phase], first_epoch=0, key=key))

    epoch()
    return min(seconds(epoch) for _ in range(5))


def main(argv=None) -> list[dict]:
    """Runs the command line; returns the cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--arch", nargs="+", default=["resnet18", "resnet34", "resnet50"]
    )
    parser.add_argument("--size", nargs="+", type=int, default=[128, 224])
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--precision", choices=("float32", "bfloat16"), default="float32"
    )
    parser.add_argument("--running", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--python", action="store_true")
    options = parser.parse_args(argv)
    if jax.default_backend() != "cpu":
        parser.error("PyTorch's part runs on the CPU: set JAX_PLATFORMS=cpu")
    rows, about = [], machine(*(() if options.python else ("torch",)))
    for arch in options.arch:
        if options.python:
            rows.append({"case": "python", "arch": arch})
            rows[-1]["ms"] = round(python_share(arch, "unfrozen"), 2)
            say(rows[-1] | about)
            continue
        for size in options.size:
            for case in options.case:
                if options.memory:
                    row = {"case": case, "arch": arch, "size": size}
                    for who in ("ours", "theirs"):
                        peak = memory(who, arch, size, case, options.batch)
                        row[f"{who}_mb"] = round(peak)
                else:
                    row = measure(
                        arch,
                        size,
                        case,
                        batch=options.batch,
                        rounds=options.rounds,
                        precision=options.precision,
                        running=options.running,
                    )
                rows.append(row)
                say(row | about)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    print(table(columns, [[row.get(name, "") for name in columns] for row in rows]))
    return rows


if __name__ == "__main__":
    main()
