"""The same seed, on the same machine, gives the same bits, whatever else differs."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from photos import make_photos
from processes import run_script

# Each process compiles for itself: nothing that another has compiled is found.
SCRIPT = """
import hashlib, json, sys
import jax, numpy as np
from flax import nnx
from jaxtune import (BatchNorm, Conv, ImageDataLoaders, Linear, Sequential, error_rate,
                     split_module, vision_learner)
from jaxtune.models import GlobalAvgPool, ReLU

jax.config.update("jax_enable_compilation_cache", False)

def network():
    rngs = nnx.Rngs(0)
    return Sequential({
        "conv1": Conv(3, 8, 3, stride=2, padding=1, rngs=rngs), "bn1": BatchNorm(8),
        "relu": ReLU(), "pool": GlobalAvgPool(), "fc": Linear(8, 10, rngs=rngs)})

data = ImageDataLoaders.from_folder(
    sys.argv[1], size=32, batch_size=8, seed=0, workers=int(sys.argv[2])
)
model = vision_learner(
    data, network, cut="relu", metrics=error_rate, hidden=(8,), verbose=False
)
history = model.fine_tune(2, 1e-2, freeze_epochs=1).history
found = {name: history[name] for name in ("train_loss", "valid_loss", "error_rate")}
found["bits"] = hashlib.sha256(b"".join(
    np.asarray(x).tobytes() for x in jax.tree.leaves(split_module(model.model)[1:])
)).hexdigest()
print(json.dumps(found))
"""


def run(root, *, workers, hashing):
    return json.loads(run_script(SCRIPT, root, workers, PYTHONHASHSEED=str(hashing)))


@pytest.mark.end_to_end
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
