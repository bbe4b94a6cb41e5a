import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from processes import PLACES, run_script

from jaxtune.loop.sharding import data_sharding, place_batch

SCRIPT = """
import sys
import jax, numpy as np
from small import two_convolutions
from jaxtune import ImageDataLoaders, vision_learner
from jaxtune.train import split_module
data = ImageDataLoaders.from_folder(sys.argv[1], size=32, batch_size=8)
model = vision_learner(data, two_convolutions, cut=4, hidden=(16,), verbose=False)
history = model.fine_tune(1, 1e-2)
leaf = split_module(model.model)[1]["head"]["linear1"]["weight"]
print(len(jax.local_devices()), len(leaf.sharding.device_set), model.num_programs,
      history[0].train_loss, history[-1].valid_loss)
"""


def test_rows_are_split_and_values_kept():
    rows, everywhere = data_sharding(8, 6)
    batch = {"image": np.arange(8.0).reshape(8, 1)}
    placed = place_batch(batch, rows, everywhere)
    np.testing.assert_array_equal(placed["image"], batch["image"])
    assert everywhere.is_fully_replicated
    assert len(rows.device_set) <= len(jax.local_devices())


def run(devices: int, root: Path) -> list[float]:
    return [float(word) for word in run_script(SCRIPT, root, devices=devices).split()]


@pytest.mark.end_to_end
def test_two_devices_train_as_one_does(root):
    """The same batches, augmentations and global batch statistics; other roundings."""
    one, two = run(1, root), run(2, root)
    assert one[:3] == [1, 1, 3] and two[:3] == [2, 2, 3]
    np.testing.assert_allclose(two[3], one[3], rtol=1e-3)
    np.testing.assert_allclose(two[4], one[4], rtol=0.05)


IDLE = """
import sys, warnings
import numpy as np
from jaxtune.loop.sharding import data_sharding, place_batch
sizes = [int(size) for size in sys.argv[1:]]
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    for _ in range(2):
        rows, everywhere = data_sharding(*sizes)
    for _ in range(2):
        for count in (8, 9, 1):
            placed = place_batch({"x": np.zeros((count, 2))}, rows, everywhere)
print(rows.num_devices)
for warning in said:
    print(warning.message)
"""


def idle(*sizes: int) -> list[str]:
    return run_script(IDLE, *sizes, devices=4).splitlines()


def test_devices_that_idle_are_said_once():
    assert idle(6)[:2] == [
        "3",
        "3 of 4 cpu devices are used: a batch of 6 rows can't be split evenly among "
        "more. batch_size=4 or 8 would use all 4.",
    ]
    assert idle(3)[:2] == [
        "3",
        "3 of 4 cpu devices are used: a batch of 3 rows can't be split evenly among "
        "more. batch_size=4 would use all 4.",
    ]
    used, said = idle(5, 8)
    assert used == "1" and said.startswith("1 of 4 cpu devices is used: batches of 5 ")


def test_a_batch_that_lies_on_every_device_is_said_once():
    used, *said = idle(8)
    assert used == "4"
    assert said == [
        "a batch of 9 rows can't be split evenly among 4 devices, so each of them "
        "computes all of it. batch_size=8 or 12 would be split.",
        "a batch of 1 rows can't be split evenly among 4 devices, so each of them "
        "computes all of it. batch_size=4 would be split.",
    ]


TWO = """
import sys
from pathlib import Path
import jax
import runs
place, number = sys.argv[1:3]
jax.distributed.initialize(place, num_processes=2, process_id=int(number))
model = runs.make_learner(Path(sys.argv[3]), verbose=False)
before = runs.bits(model)
run = Path(sys.argv[4])
for train in (
    lambda: model.fit(1),
    lambda: model.fit_one_cycle(1),
    lambda: model.fine_tune(1),
    lambda: model.fine_tune(1, run=run),
    lambda: model.gradual_unfreeze(1),
    lambda: model.lr_find(),
):
    try:
        train()
    except NotImplementedError as error:
        print(error)
assert runs.bits(model) == before and not run.exists() and not len(model.history)
model.fine_tune(1)
"""


@pytest.mark.end_to_end
def test_each_of_two_processes_refuses_to_train(root, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, PLACES)),
        "JAX_PLATFORMS": "cpu",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TWO, place, str(i), str(root), tmp_path / "run"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    try:
        answers = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for number, (said, failed) in enumerate(answers):
        lines = said.splitlines()
        assert len(lines) == 6 and len(set(lines)) == 1, failed[-2000:]
        assert lines[0].startswith(f"this is process {number} of 2 of jax.distributed")
        assert "does not train across processes yet" in lines[0]
        assert "NotImplementedError" in failed and processes[number].returncode == 1
