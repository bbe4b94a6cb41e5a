"""A small run in a process of its own, which can be killed."""

import hashlib
import json
import multiprocessing
import os
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from jaxtune import ImageDataLoaders, error_rate, vision_learner
from jaxtune.models import BatchNorm, Conv, GlobalAvgPool, Linear, Sequential
from jaxtune.train import split_module

EPOCHS, FREEZE_EPOCHS = 2, 2


def smallest_network(rngs: nnx.Rngs | None = None) -> Sequential:
    """Returns a whole network of one convolution; its programs compile at once."""
    rngs = nnx.Rngs(3)
    return Sequential(
        {
            "conv1": Conv(3, 8, 3, stride=2, rngs=rngs),
            "bn1": BatchNorm(8),
            "pool": GlobalAvgPool(),
            "fc": Linear(8, 4, rngs=rngs),
        }
    )


def loaders(root: Path, **options) -> ImageDataLoaders:
    """Returns the photos of a folder, 16 px, in batches of 8."""
    options = {"size": 16, "batch_size": 8, "seed": 0, "workers": 0} | options
    return ImageDataLoaders.from_folder(root, **options)


def make_learner(root: Path, **options):
    """Returns a learner with the body frozen; 96 photos, 12 batches of 8."""
    data = ImageDataLoaders.from_folder(
        root, size=16, batch_size=8, seed=0, workers=1, cache_bytes=0
    )
    # By itself it would be bfloat16 in a process of its own on some chips.
    options = {"precision": "float32"} | options
    return vision_learner(
        data, smallest_network, cut=2, metrics=error_rate, hidden=(8,), **options
    )


def bits(model) -> str:
    """Returns a sha256 of every parameter and statistic."""
    leaves = jax.tree.leaves(split_module(model.model)[1:])
    joined = b"".join(np.asarray(leaf).tobytes() for leaf in leaves)
    return hashlib.sha256(joined).hexdigest()


def figures(history) -> list:
    """Returns the table without the columns that depend on the clock."""
    clock = ("images/s", "time")
    return [
        {k: v for k, v in row.as_dict().items() if k not in clock} for row in history
    ]


def train(
    root: str, run: str | None, answer: str, output: str, ema_decay: str | None = None
) -> None:
    """Fine-tunes; writes what came out, whole, when the run is at its end."""
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    decay = None if ema_decay is None else float(ema_decay)
    model = make_learner(Path(root), ema_decay=decay)
    history = model.fine_tune(
        EPOCHS, 1e-2, freeze_epochs=FREEZE_EPOCHS, run=run, save_every=0
    )
    Path(answer + ".part").write_text(json.dumps([bits(model), figures(history)]))
    os.replace(answer + ".part", answer)


def start(*arguments) -> multiprocessing.Process:
    """Starts `train` in a new process, forked from one that has imported it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["runs"])
    process = context.Process(target=train, args=[str(a) for a in arguments])
    process.start()
    return process
