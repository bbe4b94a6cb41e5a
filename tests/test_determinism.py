"""The same seed, on the same machine, gives the same bits, whatever else differs."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from photos import make_photos

import jaxtune

# Each process compiles for itself: nothing that another has compiled is found.
SCRIPT = """
import hashlib, json, sys
sys.path[:0] = {path!r}
import jax, numpy as np
from flax import nnx
from jaxtune import (BatchNorm, Conv, ImageDataLoaders, Linear, Sequence, error_rate,
                     split_module, vision_learner)
from jaxtune.models import GlobalAvgPool, ReLU

jax.config.update("jax_enable_compilation_cache", False)

def network():
    rngs = nnx.Rngs(0)
    return Sequence({{
        "conv1": Conv(3, 8, 3, stride=2, padding=1, rngs=rngs), "bn1": BatchNorm(8),
        "relu": ReLU(), "pool": GlobalAvgPool(), "fc": Linear(8, 10, rngs=rngs)}})

data = ImageDataLoaders.from_folder(
    {root!r}, size=32, batch_size=8, seed=0, workers={workers}
)
model = vision_learner(
    data, network, cut="relu", metrics=error_rate, hidden=(8,), verbose=False
)
history = model.fine_tune(2, 1e-2, freeze_epochs=1).history
found = {{name: history[name] for name in ("train_loss", "valid_loss", "error_rate")}}
found["bits"] = hashlib.sha256(b"".join(
    np.asarray(x).tobytes() for x in jax.tree.leaves(split_module(model.model)[1:])
)).hexdigest()
print(json.dumps(found))
"""


def run(root, *, workers, hashing):
    script = SCRIPT.format(
        path=[str(Path(jaxtune.__file__).parents[1])],
        root=str(root),
        workers=workers,
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONHASHSEED": str(hashing), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_two_processes_come_to_the_same_bits(tmp_path):
    """A whole fine-tuning; other threads, and another order of Python's sets."""
    root = make_photos(tmp_path / "photos", train=8, valid=4)
    with ThreadPoolExecutor() as pool:
        running = [
            pool.submit(run, root, workers=workers, hashing=hashing)
            for workers, hashing in ((0, 1), (3, 2))
        ]
    one, two = (process.result() for process in running)
    assert one == two
    assert len(set(one["train_loss"])) == 3 and len(one["bits"]) == 64
