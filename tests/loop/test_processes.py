"""Several processes train one network: the same numbers, read once, ended together."""

import json
import random
import shutil
import signal
import time

import jax
import numpy as np
import pytest
from photos import make_photos
from processes import Together

from jaxtune import ImageDataLoaders
from jaxtune.loop import processes
from jaxtune.loop.sharding import check_mesh
from jaxtune.train import wait_for_all

SCRIPT = """
import json, sys, time
import jax
place, count, number, mode, root, run = (*sys.argv[1:], None)[:6]
if int(count) > 1:
    jax.distributed.initialize(place, int(count), int(number))
import numpy as np
from jaxtune import Callback, ImageDataLoaders, error_rate, vision_learner
from jaxtune.data import Loader
from jaxtune.train import split_module
from small import two_convolutions

read, read_one = [], Loader._fill
def fill(self, batch, part, processes):
    read.extend((self.shuffle, position) for _, position in part)
    return read_one(self, batch, part, processes)
Loader._fill = fill

class Watch(Callback):
    def on_train_batch_end(self, batch, logs):
        print("step", batch, flush=True)
        if run:  # So that a signal arrives before the end.
            time.sleep(0.1)
        if mode == "fail" and number == "1" and batch == 2:
            raise RuntimeError("a broken callback")

data = ImageDataLoaders.from_folder(
    root, size=32, batch_size=6, seed=0, workers=1, cache_bytes=0,
    on_error="skip" if mode == "skip" else "raise",
)
model = vision_learner(
    data, two_convolutions, cut=4, hidden=(16,), metrics=error_rate,
    verbose=mode == "table", precision="float32",
)
options = {"run": run, "save_every": 0} if run else {}
epochs = 40 if mode == "long" else 2
history = model.fine_tune(
    epochs, 1e-3, freeze_epochs=1, callbacks=[Watch()], **options
)
trained = list(read)
predictions = model.get_preds(with_loss=True)
leaves = jax.tree.leaves(split_module(model.model)[1:])
print(json.dumps({
    "devices": len(jax.devices()),
    "programs": model.num_programs,
    "losses": [float(x) for each in history.step_losses.values() for x in each],
    "valid": [[row.valid_loss, row.metrics["error_rate"]] for row in history],
    "probabilities": predictions.probabilities.tolist(),
    "each": predictions.losses.tolist(),
    "index": predictions.index.tolist(),
    "found": model.lr_find(num_it=8).losses.tolist(),
    "worst": model.interpret().confusion_matrix().tolist(),
    "read": trained,
    "bits": float(sum(np.abs(np.asarray(leaf, np.float64)).sum() for leaf in leaves)),
    "local": all(leaf.is_fully_addressable for leaf in leaves),
    "one": model.predict(data.valid_items.paths[0]).label,
}))
"""


def answers(script, count, *arguments, devices=1):
    with Together(script, count, *arguments, devices=devices) as together:
        ended = together.ends()
    assert [each.status for each in ended] == [0] * count, ended[0].failed[-3000:]
    return [json.loads(each.said.splitlines()[-1]) for each in ended]


@pytest.fixture(scope="module")
def alone(root):
    """What one process makes of the same call."""
    return answers(SCRIPT, 1, "plain", root)[0]


@pytest.mark.end_to_end
@pytest.mark.parametrize(("count", "devices"), [(2, 4), (4, 1)])
def test_several_processes_train_as_one_does(root, alone, count, devices):
    found = answers(SCRIPT, count, "plain", root, devices=devices)
    assert found[0]["devices"] == count * devices
    read = [each.pop("read") for each in found]
    for other in found[1:]:
        assert other == found[0]
    for name in ("losses", "valid", "probabilities", "each", "found"):
        np.testing.assert_allclose(found[0][name], alone[name], rtol=2e-3, atol=2e-4)
    for name in ("programs", "index", "worst", "one", "local"):
        assert found[0][name] == alone[name]
    # In each of the three epochs every photo is read by one of them.
    together = sorted(photo for each in read for photo in each)
    assert together == sorted(alone["read"])
    assert max(map(len, read)) < len(together)


@pytest.mark.end_to_end
def test_only_the_first_process_shows_anything(root):
    with Together(SCRIPT, 2, "table", root) as together:
        first, second = together.ends()
    assert "phase 2/2" in first.said and "train_loss" in first.said
    lines = [line for line in second.said.splitlines() if not line.startswith("step")]
    assert len([line for line in lines if not line.startswith("[Gloo]")]) == 1


@pytest.mark.end_to_end
def test_an_error_in_one_process_ends_all_with_its_reason(root):
    began = time.monotonic()
    with Together(SCRIPT, 2, "fail", root, devices=2) as together:
        first, second = together.ends(seconds=100)
    assert time.monotonic() - began < 100
    assert first.status and second.status
    assert "RuntimeError: a broken callback" in second.failed
    assert "process 1 of 2 ended: RuntimeError: a broken callback" in first.failed


@pytest.mark.end_to_end
def test_a_process_that_is_killed_ends_all(root):
    with Together(SCRIPT, 2, "long", root) as together:
        wait_for(together, "step 4")
        together.processes[1].kill()
        began = time.monotonic()
        first, _ = together.ends(seconds=100)
    assert time.monotonic() - began < 30
    assert first.status and "another process" in first.failed


@pytest.mark.end_to_end
def test_a_photo_that_one_process_cant_read_ends_all_or_is_skipped(root, tmp_path):
    photo = make_photos(tmp_path) / "valid" / "red" / "006.png"
    # Its header is good, so that it shows only when it is decoded.
    photo.write_bytes(photo.read_bytes()[:1000])
    with Together(SCRIPT, 2, "plain", tmp_path) as together:
        ended = together.ends(seconds=100)
    assert all(each.status for each in ended)
    for each in ended:
        assert "006.png" in each.failed, each.failed[-2000:]
    two = answers(SCRIPT, 2, "skip", tmp_path)
    one = answers(SCRIPT, 1, "skip", tmp_path)[0]
    assert len(two[0]["index"]) == 20 and two[0]["index"] == one["index"]
    np.testing.assert_allclose(two[0]["valid"], one["valid"], rtol=2e-3)


@pytest.mark.end_to_end
def test_a_run_stops_at_one_step_and_goes_on_where_it_stopped(root, tmp_path, alone):
    """On as many processes bit for bit, on one to rounding."""
    whole = answers(SCRIPT, 2, "plain", root, tmp_path / "whole")[0]
    with Together(SCRIPT, 2, "plain", root, tmp_path / "two") as together:
        wait_for(together, "step 4")
        together.processes[1].send_signal(signal.SIGTERM)
        first, second = together.ends()
    assert (first.status, second.status) == (0, 0), second.failed[-2000:]
    assert "stopped by SIGTERM" in first.said and "stopped by" not in second.said
    shutil.copytree(tmp_path / "two", tmp_path / "one")
    two, one = (
        answers(SCRIPT, count, "plain", root, tmp_path / folder)[0]
        for folder, count in (("two", 2), ("one", 1))
    )
    assert two["bits"] == whole["bits"] and two["valid"] == whole["valid"]
    for found in (two, one):
        np.testing.assert_allclose(found["valid"], alone["valid"], rtol=2e-3)


@pytest.mark.parametrize(
    ("kills", "mode"),
    [
        pytest.param(3, "plain", marks=pytest.mark.end_to_end),
        pytest.param(20, "long", marks=pytest.mark.slow),
    ],
)
def test_a_run_of_which_processes_are_killed_ends_bit_for_bit_the_same(
    root, tmp_path, kills, mode
):
    """Killed is one of the two or both, some time after their first steps."""
    whole = answers(SCRIPT, 2, mode, root, tmp_path / "whole")[0]
    chosen, run = random.Random(kills), tmp_path / "killed"
    for _ in range(kills):
        with Together(SCRIPT, 2, mode, root, run) as together:
            wait_for(together, "step ")
            time.sleep(chosen.uniform(0.0, 1.0))
            for number in chosen.choice([[0], [1], [0, 1]]):
                together.processes[number].kill()
            ended = together.ends(seconds=100)
        assert any(each.status == -signal.SIGKILL for each in ended)
        assert all(each.status for each in ended)
    ended = answers(SCRIPT, 2, mode, root, run)[0]
    assert ended["bits"] == whole["bits"] and ended["valid"] == whole["valid"]


def wait_for(together, line: str) -> None:
    end = time.monotonic() + 100
    while line not in together.said(0):
        assert time.monotonic() < end and together.processes[0].poll() is None
        time.sleep(0.05)


def test_one_process_waits_for_nobody():
    assert processes.is_first_process() and not processes.several_processes()
    assert processes.as_the_first_says(True) and not processes.as_the_first_says(False)
    wait_for_all("nothing")
    processes.check_same_everywhere({"a value": pytest.fail})
    with pytest.raises(ValueError, match="mine"), processes.ending_together():
        raise ValueError("mine")


TWICE = """
import sys, time
import jax
jax.distributed.initialize(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
from jaxtune import ImageDataLoaders, vision_learner
from jaxtune.loop import processes
from small import two_convolutions
data = ImageDataLoaders.from_folder(sys.argv[4], size=32, batch_size=8)
def learner(seed):
    return vision_learner(data, two_convolutions, cut=4, seed=seed, verbose=False)
model = learner(0)
try:
    model.fit(1, lr=float("1e38"))
except FloatingPointError as error:
    print("caught", flush=True)
processes.GRACE = 0.0
model = learner(0)
with processes.ending_together():
    time.sleep(4)
model.fit(1)
print("again", flush=True)
learner(int(sys.argv[3])).fit(1)
"""


@pytest.mark.end_to_end
def test_an_error_that_all_catch_ends_nothing_and_other_weights_are_refused(root):
    with Together(TWICE, 2, root) as together:
        ended = together.ends(seconds=100)
    for each in ended:
        assert each.said.splitlines()[-2:] == ["caught", "again"], each.failed[-2000:]
        assert "the weights of process 1 and of process 0 differ" in each.failed


STOPPED = """
import sys, time
import jax
jax.distributed.initialize(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
from jaxtune.loop import RunStopped, processes
processes.GRACE = 0.0
with processes.ending_together():
    time.sleep(4 * int(sys.argv[3]))
    print("stops", flush=True)
    raise RunStopped(0)
"""


@pytest.mark.end_to_end
def test_a_process_that_takes_long_to_stop_is_not_ended_by_one_that_has_stopped():
    with Together(STOPPED, 2) as together:
        ended = together.ends(seconds=100)
    for each in ended:
        assert (each.status, each.said.strip()) == (0, "stops"), each.failed[-2000:]


def test_a_mesh_without_a_device_of_each_process_is_refused(monkeypatch):
    mesh = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="no device of process 1 of 2"):
        check_mesh(mesh)


def test_a_loader_may_read_some_rows_of_each_batch_only():
    photos = np.random.default_rng(0).integers(1, 255, (13, 8, 8, 3), np.uint8)
    labels = np.arange(13) % 2
    data = ImageDataLoaders.from_arrays(
        (255 - photos, labels),
        (photos, labels),
        size=8,
        batch_size=4,
    )
    loader, own = data.valid_loader, np.array([True, False, False, True])
    whole, part = list(loader.batches()), loader.with_rows(own)
    for _ in range(2):
        for batch, expected in zip(part.batches(), whole, strict=True):
            np.testing.assert_array_equal(batch["image"][own], expected["image"][own])
            assert not batch["image"][~own].any()
            np.testing.assert_array_equal(batch["mask"], expected["mask"])
    smaller = part.with_batch_size(3).batches()
    assert all(batch["image"].any(axis=(1, 2, 3)).sum() in (3, 1) for batch in smaller)
