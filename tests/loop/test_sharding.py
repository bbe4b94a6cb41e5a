import json
from pathlib import Path

import jax
import numpy as np
import pytest
from processes import run_script

from jaxtune.loop.sharding import (
    check_mesh,
    data_sharding,
    place_batch,
    real_rows,
)

SCRIPT = """
import sys
import jax, numpy as np
from small import two_convolutions
from jaxtune import ImageDataLoaders, vision_learner
from jaxtune.train import split_module
data = ImageDataLoaders.from_folder(sys.argv[1], size=32, batch_size=8)
model = vision_learner(
    data, two_convolutions, cut=4, hidden=(16,), verbose=False, precision="float32"
)
history = model.fine_tune(1, 1e-2, freeze_epochs=1)
leaf = split_module(model.model)[1]["head"]["linear1"]["weight"]
print(len(jax.local_devices()), len(leaf.sharding.device_set), model.num_programs,
      history[0].train_loss, history[-1].valid_loss)
"""


def test_rows_are_split_and_values_kept():
    rows, everywhere = data_sharding()
    batch = {"image": np.arange(8.0).reshape(8, 1), "label": np.arange(8)}
    placed = place_batch(batch, rows, everywhere)
    np.testing.assert_array_equal(real_rows(placed), batch["image"])
    assert everywhere.is_fully_replicated
    assert rows.device_set == set(jax.local_devices())


def run(devices: int, root: Path) -> list[float]:
    return [float(word) for word in run_script(SCRIPT, root, devices=devices).split()]


@pytest.mark.end_to_end
def test_two_devices_train_as_one_does(root):
    """The same batches, augmentations and global batch statistics; other roundings."""
    one, two = run(1, root), run(2, root)
    assert one[:3] == [1, 1, 3] and two[:3] == [2, 2, 3]
    np.testing.assert_allclose(two[3], one[3], rtol=1e-3)
    np.testing.assert_allclose(two[4], one[4], rtol=0.05)


PLACED = """
import sys
import numpy as np
from jaxtune.loop.sharding import data_sharding, place_batch, real_rows
rows, everywhere = data_sharding()
for count in map(int, sys.argv[1:]):
    batch = {"image": np.ones((count, 2)), "label": np.arange(count)}
    placed = place_batch(batch, rows, everywhere)
    np.testing.assert_array_equal(placed["label"], batch["label"])
    np.testing.assert_array_equal(real_rows(placed), batch["image"])
    # What was placed once stays as it is.
    again = place_batch(placed, rows, everywhere)["image"]
    assert again.shape == placed["image"].shape and again.is_fully_addressable
    shard = placed["image"].addressable_shards[0].data
    print(len(placed["image"].sharding.device_set), len(placed["image"]), len(shard))
"""


def test_photos_are_filled_up_for_all_devices():
    lines = run_script(PLACED, 8, 9, 6, 1, devices=4).splitlines()
    assert lines == ["4 8 2", "4 12 3", "4 8 2", "4 4 1"]


UNEVEN = """
import json, sys
import jax, numpy as np
from small import two_convolutions
from jaxtune import ImageDataLoaders, error_rate, vision_learner

count, rows, norms = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
rng = np.random.default_rng(0)
count += 13
photos = rng.integers(0, 254, (count, 40, 40, 3)).astype(np.uint8)
labels = np.arange(count) % 3
photos[labels == 1, ..., 0] //= 2
data = ImageDataLoaders.from_arrays(
    (photos[13:], labels[13:]),
    (photos[:13] + 1, labels[:13]),
    size=32,
    batch_size=rows,
    seed=0,
)
model = vision_learner(
    data, two_convolutions, cut=4, hidden=(16,), verbose=False, metrics=error_rate,
    norms=norms, precision="float32",
)
history = model.fine_tune(2, 1e-3, freeze_epochs=1)
losses = [float(loss) for each in history.step_losses.values() for loss in each]
print(json.dumps({
    "devices": len(jax.devices()),
    "programs": model.num_programs,
    "losses": losses,
    "valid": [[row.valid_loss, row.metrics["error_rate"]] for row in history],
    "predictions": np.asarray(model.get_preds().probabilities).tolist(),
    "augmented": np.asarray(model.tta(n=2).probabilities).tolist(),
}))
"""


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    ("photos", "rows", "norms"),
    [(60, 6, "train"), (60, 7, "running"), (4, 3, "frozen")],
    ids=["batch norms that train", "an odd number", "fewer photos than devices"],
)
def test_eight_devices_train_as_one_whatever_divides_the_batch(photos, rows, norms):
    one, eight = (
        json.loads(run_script(UNEVEN, photos, rows, norms, devices=devices))
        for devices in (1, 8)
    )
    assert (one.pop("devices"), eight.pop("devices")) == (1, 8)
    assert one["programs"] == eight["programs"]
    assert len(one["losses"]) == 3 * (photos // rows)
    for name in ("losses", "valid", "predictions", "augmented"):
        np.testing.assert_allclose(eight[name], one[name], rtol=1e-3, atol=1e-4)


OWN_STATISTICS = """
import json, sys
import jax, numpy as np
from small import two_convolutions
from jaxtune import ImageDataLoaders, vision_learner
from jaxtune.loop.trainer import Trainer

if len(jax.devices()) == 1:
    Trainer.batch_parts = property(lambda trainer: 4)
rng = np.random.default_rng(0)
photos = rng.integers(0, 254, (61, 40, 40, 3)).astype(np.uint8)
labels = np.arange(61) % 3
data = ImageDataLoaders.from_arrays(
    (photos[13:], labels[13:]), (photos[:13] + 1, labels[:13]), size=32, seed=0,
    batch_size=int(sys.argv[1]),
)
model = vision_learner(
    data, two_convolutions, cut=4, hidden=(16,), verbose=False, norms="train",
    precision="float32", sync_batch_norm=sys.argv[2] == "together",
)
history = model.fine_tune(2, 1e-3, freeze_epochs=1)
print(json.dumps([
    [float(loss) for each in history.step_losses.values() for loss in each],
    [row.valid_loss for row in history],
    np.asarray(model.model[0].bn1.running_var[...]).tolist(),
]))
"""


@pytest.mark.end_to_end
def test_each_device_may_have_batch_statistics_of_its_own():
    expected, found, together = (
        json.loads(run_script(OWN_STATISTICS, 16, norms, devices=devices))
        for devices, norms in ((1, "own"), (4, "own"), (4, "together"))
    )
    for one, four in zip(expected, found, strict=True):
        np.testing.assert_allclose(four, one, rtol=2e-3, atol=1e-4)
    assert not np.allclose(found[0], together[0], rtol=0.02)


@pytest.mark.end_to_end
def test_statistics_of_each_device_need_as_many_rows_on_each():
    with pytest.raises(AssertionError, match=r"4 devices.* batch of 6.*batch_size=8"):
        run_script(OWN_STATISTICS, 6, "own", devices=4)
    with pytest.raises(AssertionError, match="one value for each channel"):
        run_script(OWN_STATISTICS, 4, "own", devices=4)


MESH = """
import sys
import jax
from small import two_convolutions
from jaxtune import ImageDataLoaders, vision_learner

data = ImageDataLoaders.from_folder(sys.argv[1], size=32, batch_size=6)
mesh = jax.make_mesh((2, 2), ("one", "other"), devices=jax.devices()[:4])
model = vision_learner(data, two_convolutions, cut=4, verbose=False, mesh=mesh)
model.fine_tune(1, freeze_epochs=1)
leaf = jax.tree.leaves(model._trainer.values()[0])[0]
print(len(jax.devices()), len(leaf.sharding.device_set), model.num_programs)
"""


@pytest.mark.end_to_end
def test_a_mesh_of_the_users_own_says_which_devices_train(root):
    assert run_script(MESH, root, devices=8).split() == ["8", "4", "3"]


def test_a_mesh_of_something_else_is_an_error():
    with pytest.raises(TypeError, match="mesh must be a jax.sharding.Mesh"):
        check_mesh(jax.devices())
    assert check_mesh(None) is None
