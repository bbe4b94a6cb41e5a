from pathlib import Path

import jax
import numpy as np
from processes import run_script

from jaxtune.learner.devices import data_sharding, place_batch

SCRIPT = """
import sys
import jax, numpy as np
from photos import tiny_resnet
from jaxtune import ImageDataLoaders, vision_learner
from jaxtune.train import split_module
data = ImageDataLoaders.from_folder(sys.argv[1], size=32, batch_size=8)
model = vision_learner(data, tiny_resnet, hidden=(16,), verbose=False)
history = model.fine_tune(1, 1e-2)
leaf = split_module(model.model)[1]["head"]["linear1"]["weight"]
print(len(jax.local_devices()), len(leaf.sharding.device_set), model.num_programs,
      history[0].train_loss, history[-1].valid_loss)
"""


def test_rows_are_split_and_values_kept():
    rows, everywhere = data_sharding(8, 6)
    batch = {"image": np.arange(8.0).reshape(8, 1)}
    placed = place_batch(batch, rows)
    np.testing.assert_array_equal(placed["image"], batch["image"])
    assert everywhere.is_fully_replicated
    assert len(rows.device_set) <= len(jax.local_devices())


def run(devices: int, root: Path) -> list[float]:
    return [float(word) for word in run_script(SCRIPT, root, devices=devices).split()]


def test_two_devices_train_as_one_does(root):
    """The same batches, augmentations and global batch statistics; other roundings."""
    one, two = run(1, root), run(2, root)
    assert one[:3] == [1, 1, 3] and two[:3] == [2, 2, 3]
    np.testing.assert_allclose(two[3], one[3], rtol=1e-3)
    np.testing.assert_allclose(two[4], one[4], rtol=0.05)
