"""What trains is split over the devices, with the numbers of training without."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec
from processes import Together, run_script

from jaxtune.loop import sharding as loop_sharding
from jaxtune.loop.sharding import check_sharding
from jaxtune.train import fsdp_sharding

FOLDER = Path(__file__).parents[1]

SCRIPT = """
import json, sys
import jax
place, count, number, mode, root, run = (*sys.argv[1:], None)[:6]
if int(count) > 1:
    jax.distributed.initialize(place, int(count), int(number))
import numpy as np
from flax import nnx
from jaxtune import Callback, ImageDataLoaders, error_rate, vision_learner
from jaxtune.models import BatchNorm, Conv, ReLU, Sequential
from jaxtune.train import split_module

rngs = nnx.Rngs(0)
body = Sequential({
    "conv1": Conv(3, 32, 3, stride=4, rngs=rngs), "relu": ReLU(),
    "conv2": Conv(32, 64, 3, rngs=rngs), "bn2": BatchNorm(64),
    "conv3": Conv(64, 64, 3, rngs=rngs),
})
data = ImageDataLoaders.from_folder(
    root, size=32, batch_size=6, seed=0, workers=1, cache_bytes=0,
)
sharding = "replicated" if mode == "replicated" else "fsdp"
options = {}
if mode in ("average", "fsdp-average"):
    options["ema_decay"] = 0.9

class Watch(Callback):
    split = whole = 0
    def on_train_batch_end(self, batch, logs):
        state = model._trainer.running.state
        parts = [not x.is_fully_replicated for x in jax.tree.leaves(state)]
        self.split, self.whole = sum(parts), len(parts) - sum(parts)
        if mode == "stop" and int(state.step) == 9:
            raise KeyboardInterrupt
    def on_epoch_end(self, epoch, logs):
        counts.append(self.split)
        norms.append(float(np.linalg.norm(model.model[1].linear1.weight[...])))

counts, norms = [], []
model = vision_learner(
    data, body=body, pretrained=True, hidden=(512,), metrics=error_rate, mean=0.5,
    std=0.25, groups={"body": r"body\\.", "head": r"head\\."}, verbose=False,
    precision="float32", sharding=sharding, **options,
)
kept = {"run": run, "save_every": 0} if run else {}
try:
    history = model.fine_tune(2, 1e-3, freeze_epochs=1, callbacks=[Watch()], **kept)
except KeyboardInterrupt:
    sys.exit(3)
again = model.fit(1, 1e-4)
leaves = jax.tree.leaves(split_module(model.model)[1:])
print(json.dumps({
    "devices": len(jax.devices()),
    "counts": counts,
    "losses": [
        float(x) for h in (history, again) for each in h.step_losses.values()
        for x in each
    ],
    "valid": [[row.valid_loss, row.metrics["error_rate"]] for row in model.history],
    "probabilities": model.get_preds().probabilities.tolist(),
    "norms": norms,
    "weights": float(sum(np.abs(np.asarray(x, np.float64)).sum() for x in leaves)),
    "whole": all(x.is_fully_addressable for x in leaves),
}))
"""


def answer(root, mode, *run, count=1, devices=4):
    with Together(SCRIPT, count, mode, root, *run, devices=devices) as together:
        ended = together.ends()
    if mode == "stop":
        assert all(each.status for each in ended)
        return None
    assert [each.status for each in ended] == [0] * count, ended[0].failed[-3000:]
    found = [json.loads(each.said.splitlines()[-1]) for each in ended]
    for other in found[1:]:
        assert other == found[0]
    return found[0]


def assert_same(found, expected):
    for name in ("losses", "valid", "probabilities", "norms", "weights"):
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-3, atol=2e-4)


@pytest.fixture(scope="module")
def replicated(root):
    """What four devices make of the same call with the state whole on each."""
    found = answer(root, "replicated")
    assert set(found["counts"]) == {0}
    return found


@pytest.mark.end_to_end
@pytest.mark.parametrize(("count", "devices"), [(1, 4), (2, 1)])
def test_a_state_that_is_split_trains_as_one_that_is_whole(
    root, replicated, count, devices
):
    found = answer(root, "fsdp", count=count, devices=devices)
    assert found["devices"] == count * devices and found["whole"]
    assert_same(found, replicated)
    # Frozen: the head's large layer with Adam's two moments; then conv2, conv3 too.
    assert found["counts"] == [3, 9, 9]


@pytest.mark.end_to_end
@pytest.mark.parametrize("count", [1, 2])
def test_a_run_of_it_is_resumed_bit_for_bit(root, replicated, tmp_path, count):
    options = {"count": count, "devices": {1: 4, 2: 1}[count]}
    uninterrupted = answer(root, "fsdp", tmp_path / "whole", **options)
    assert_same(uninterrupted, replicated)
    answer(root, "stop", tmp_path / "run", **options)
    resumed = answer(root, "fsdp", tmp_path / "run", **options)
    assert resumed["weights"] == uninterrupted["weights"]
    assert resumed["probabilities"] == uninterrupted["probabilities"]


@pytest.mark.end_to_end
def test_a_run_of_it_goes_on_with_the_state_whole(root, replicated, tmp_path):
    answer(root, "stop", tmp_path / "run")
    assert_same(answer(root, "replicated", tmp_path / "run", devices=1), replicated)


@pytest.mark.end_to_end
def test_the_average_of_weights_is_split_too(root):
    whole = answer(root, "average", devices=1)
    found = answer(root, "fsdp-average")
    assert_same(found, whole)
    assert found["counts"] == [4, 12, 12]


TEXTS = """
import json, sys
sys.path.append(sys.argv[1])
import jax, numpy as np
from flax import nnx
from benchmarks.tpu import collectives
from jaxtune import ImageDataLoaders, error_rate, vision_learner
from jaxtune.models import BatchNorm, Conv, ReLU, Sequential
from jaxtune.train import Phase, constant

photos = np.zeros((16, 32, 32, 3), np.uint8)
labels = [f"class {i % 2}" for i in range(16)]
data = ImageDataLoaders.from_arrays(
    (photos, labels), (photos + 1, labels), size=32, batch_size=8
)
rngs, found = nnx.Rngs(0), {}
for sharding in ("replicated", "fsdp", "each"):
    body = Sequential({
        "conv1": Conv(3, 64, 3, stride=4, rngs=rngs), "relu": ReLU(),
        "conv2": Conv(64, 64, 3, rngs=rngs), "bn2": BatchNorm(64),
    })
    model = vision_learner(
        data, body=body, pretrained=True, hidden=(256,), metrics=error_rate, mean=0.5,
        std=0.25, groups={"body": r"body\\.", "head": r"head\\."}, verbose=False,
        precision="float32", sync_batch_norm=sharding != "each", norms="train",
        sharding="replicated" if sharding == "each" else sharding,
    )
    trainer = model._trainer
    key, batch = jax.random.key(0), trainer.place(next(data.train_loader.batches(0)))
    programs = {}
    for name in ("frozen", "unfrozen"):
        model.freeze() if name == "frozen" else model.unfreeze()
        phase = Phase(None, None, 1, (1e-3, 1e-3), constant(), 0.01)
        step, state = trainer.begin(phase)
        programs[name] = step, state, batch, key
    graphdef, values = trainer.eval_graphdef(), trainer.values()
    programs["eval"] = trainer.programs.eval_step(graphdef), *values, batch
    answer = trainer.programs.answer_step(graphdef)
    programs["predict"] = answer, *values, batch["image"]
    for name, (step, *given) in programs.items():
        text = step._jitted.lower(*given).compile().as_text()
        found[f"{sharding} {name}"] = [x[:3] for x in collectives(text)]
print(json.dumps(found))
"""


@pytest.mark.end_to_end
def test_what_the_devices_exchange_in_each_program():
    found = json.loads(run_script(TEXTS, FOLDER.parent, devices=4).splitlines()[-1])
    total = {
        name: {
            kind: sum(each[2] for each in exchanges if each[0] == kind)
            for kind in {each[0] for each in exchanges}
        }
        for name, exchanges in found.items()
    }
    head = 4 * (128 * 256 + 256 * 2)
    body = 4 * 3 * 3 * (3 * 64 + 64 * 64)
    # Statistics and gradients of batch norms, those of a frozen body included.
    few = 4 * 12 * (256 + 64)
    for sharding in ("replicated", "each"):
        assert list(total[f"{sharding} frozen"]) == ["all-reduce"]
        assert head <= total[f"{sharding} frozen"]["all-reduce"] <= head + few
        assert list(total[f"{sharding} unfrozen"]) == ["all-reduce"]
        reduced = total[f"{sharding} unfrozen"]["all-reduce"]
        assert head + body <= reduced <= head + body + few
    # There and back for each of three batch norms, less what goes together; or once.
    assert len(found["replicated unfrozen"]) in (5, 6, 7)
    assert len(found["each unfrozen"]) == len(found["each frozen"]) == 1
    for sharding in ("replicated", "fsdp", "each"):
        # Loss, metric and number of photos.
        assert total[f"{sharding} eval"] == {"all-reduce": 12}
        assert total[f"{sharding} predict"] == {}
    # Whatever is frozen stays where it is.
    assert total["fsdp frozen"].pop("all-gather") == 4 * 128 * 256
    assert head <= sum(total["fsdp frozen"].values()) <= head + few
    gathered = total["fsdp unfrozen"].pop("all-gather")
    assert gathered == 4 * (128 * 256 + 3 * 3 * 64 * 64)


def test_an_array_is_split_along_its_longest_axis_that_the_devices_divide():
    mesh = AbstractMesh((4,), ("data",))
    specs = {
        (3, 3, 64, 512): PartitionSpec(None, None, None, "data"),
        (1000, 513): PartitionSpec("data"),
        (3, 3, 63, 511): PartitionSpec(),
        (64, 64): PartitionSpec(),
        (): PartitionSpec(),
    }
    for shape, spec in specs.items():
        assert fsdp_sharding(shape, mesh).spec == spec


def test_another_sharding_is_an_error(monkeypatch):
    with pytest.raises(ValueError, match="sharding"):
        check_sharding("zero")
    assert check_sharding("fsdp") == "fsdp"
    monkeypatch.setattr(loop_sharding, "all_devices", lambda: jax.devices()[:1] * 4)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="2 processes.* 4 devices.*one device"):
        check_sharding("fsdp")
    assert check_sharding("replicated") == "replicated"
