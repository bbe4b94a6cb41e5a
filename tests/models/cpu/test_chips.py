"""Whole networks on lesser chips than this one, each in a process of its own.

Both libraries can be told to behave like a lesser chip. Whatever it is, a process must
come to its end, with the numbers that XLA's own convolutions give.
"""

import pytest
from convolutions import has_onednn
from processes import run_script

#: What oneDNN may use, and what XLA may; None for all that there is.
CHIPS = {
    "SSE41": "SSE4_2",
    "AVX": "AVX",
    "AVX2": "AVX2",
    "AVX512_CORE": "AVX512",
    "all": None,
}

SCRIPT = """
import os, sys, threading
import jax, jax.numpy as jnp, numpy as np
from flax import nnx
import jaxtune
from jaxtune.models import (
    BasicBlock, BatchNorm, Bottleneck, Conv, GlobalAvgPool, Linear, ReLU, ResNet,
    Sequential)

STEPS, BATCH = 3, 8
kind, size, precision = sys.argv[1:4]
rngs = nnx.Rngs(0)
if kind == "last stage":
    # The maps of a ResNet's last stage, and the kernels that see them.
    net = Sequential({
        "conv1": Conv(3, 64, 7, stride=8, padding=3, rngs=rngs),
        "bn1": BatchNorm(64),
        "conv2": Conv(64, 512, 3, stride=4, padding=1, rngs=rngs),
        "bn2": BatchNorm(512),
        "relu": ReLU(),
        "conv3": Conv(512, 512, 3, padding=1, rngs=rngs),
        "bn3": BatchNorm(512),
        "pool": GlobalAvgPool(),
        "fc": Linear(512, 5, rngs=rngs),
    })
else:
    block, blocks = {
        "basic": (BasicBlock, (2, 2, 2, 2)), "bottleneck": (Bottleneck, (1, 1, 1, 1))
    }[kind]
    net = ResNet(block, blocks, num_classes=5, rngs=rngs)
groups = {"body": "conv|bn|layer", "head": "fc"}
labels = jaxtune.group_labels(jaxtune.split_module(net)[1], groups)
rng = np.random.default_rng(0)
batch = {
    "image": rng.normal(size=(BATCH, int(size), int(size), 3)).astype("float32"),
    "label": rng.integers(0, 5, BATCH).astype("int32"),
}

def inference():
    view = jaxtune.with_precision(jaxtune.evaluating(net), precision)
    graphdef, params, model_state = jaxtune.split_module(view)
    step = jax.jit(jaxtune.make_predict_step(graphdef))
    return lambda: [step(params, model_state, batch["image"]) for _ in range(STEPS)]

def training(frozen):
    trained = jaxtune.optimizer_labels(labels, frozen)
    view = jaxtune.training_view(net, labels, frozen)
    view = jaxtune.with_precision(view, precision)
    graphdef, params, model_state = jaxtune.split_module(view)
    rates = {"body": 1e-5, "head": 1e-4}
    tx = jaxtune.group_optimizer(trained, rates, jaxtune.one_cycle(STEPS))
    step = jax.jit(jaxtune.make_train_step(
        graphdef, tx, loss=jaxtune.cross_entropy, labels=trained))

    def run():
        state, losses = jaxtune.TrainState.create(params, model_state, tx), []
        for _ in range(STEPS):
            state, metrics = step(state, batch, jax.random.key(0))
            losses += [metrics["loss"], metrics["grad_norm"]]
        return losses
    return run

def programs():
    return [inference(), training(("body",)), training(())]

os.environ["JAXTUNE_ONEDNN"] = "0"
expected = [run() for run in programs()]
os.environ["JAXTUNE_ONEDNN"] = "1"
runs = programs()
found = [run() for run in runs]  # Compiled one after the other, in this thread.

def again(number):
    found[number] = runs[number]()

threads = [threading.Thread(target=again, args=(n,)) for n in range(len(runs))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
for ours, theirs in zip(found, expected, strict=True):
    ours, theirs = (np.asarray(jnp.stack(x), "float32") for x in (ours, theirs))
    assert np.isfinite(ours).all()
    difference = np.abs(ours - theirs).max() / np.abs(theirs).max()
    print(difference)
"""

#: Largest difference to XLA's own convolutions, relative to the largest value. In
#: bfloat16 a layer's outputs have eight bits, and batches are normalized.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}


def differences(chip, kind, size, precision):
    flags = "" if CHIPS[chip] is None else f"--xla_cpu_max_isa={CHIPS[chip]}"
    environment = {"XLA_FLAGS": flags}
    if CHIPS[chip] is not None:
        environment["ONEDNN_MAX_CPU_ISA"] = chip
    output = run_script(SCRIPT, kind, size, precision, **environment)
    return [float(line) for line in output.splitlines()]


pytestmark = pytest.mark.skipif(not has_onednn(), reason="oneDNN can't be used here")


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    ("chip", "precision"), [("AVX2", "float32"), ("SSE41", "bfloat16")]
)
def test_small_maps_compute_the_same_on_a_lesser_chip(chip, precision):
    """With oneDNN's own scratch memory, AVX2 and 64 px ended the process."""
    found = differences(chip, "last stage", 64, precision)
    assert len(found) == 3 and max(found) < TOLERANCE[precision]


@pytest.mark.slow
@pytest.mark.parametrize("precision", list(TOLERANCE))
@pytest.mark.parametrize("size", [32, 64, 96, 128])
@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
@pytest.mark.parametrize("chip", list(CHIPS))
def test_every_network_size_and_precision_on_every_chip(chip, kind, size, precision):
    found = differences(chip, kind, size, precision)
    assert len(found) == 3 and max(found) < TOLERANCE[precision]
