import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from jaxtune.checkpoint import (
    CheckpointDamagedError,
    inspect_checkpoint,
    load_checkpoint,
    load_meta,
    load_opt_state,
    save_checkpoint,
    storage,
)
from jaxtune.checkpoint.leaves import Leaf, checksum, named_leaves, nested


def open_error(path, kind=FileNotFoundError):
    with pytest.raises(kind) as caught:
        storage.open_stored(path)
    return str(caught.value)


def test_plain_orbax_opens_all_of_it(tmp_path, trees):
    from orbax.checkpoint import v1 as ocp

    path = save_checkpoint(
        tmp_path / "run", **trees, meta={"a": [1, None]}, opt_state=(3, {"mu": 1.5})
    )
    # No sharding is given, and Orbax doesn't warn: the arrays are the host's.
    loaded = ocp.load_checkpointables(path)
    assert loaded["meta"] == {"a": [1, None]}
    assert set(loaded) == {"state", "opt_state", "meta"}
    weight = loaded["state"]["params"]["body"]["layer1"]["0"]["weight"]
    assert weight.shape == (2, 3) and weight.dtype == np.float32
    np.testing.assert_array_equal(weight, np.arange(6.0).reshape(2, 3))
    assert loaded["opt_state"] == {"0": 3, "1": {"mu": 1.5}}
    described = ocp.metadata(path).metadata
    assert described["params"]["head"]["bias"].shape == (4,)


def whole_network(loaded):
    """Whether what a plain script loads is `trees`, all of it."""
    assert set(loaded) == {"params", "model_state"}
    np.testing.assert_array_equal(loaded["params"]["head"]["bias"], np.arange(4.0))
    statistics = loaded["model_state"]["body"]["bn1"]["running_mean"]
    np.testing.assert_array_equal(statistics, np.arange(3.0))
    assert len(named_leaves(loaded)) == 4


def test_the_shortest_call_of_plain_orbax_returns_the_whole_network(tmp_path, trees):
    from orbax import checkpoint as v0
    from orbax.checkpoint import v1 as ocp

    # With everything that could be taken for the network beside it.
    more = {"opt_state": trees["params"], "raw": trees["params"]}
    path = save_checkpoint(tmp_path / "12", **trees, **more, meta={})
    whole_network(ocp.load(path))
    whole_network(ocp.load(path, ocp.metadata(path)))
    whole_network(ocp.training.Checkpointer(tmp_path).load(12))
    for make in (v0.StandardCheckpointer, v0.PyTreeCheckpointer):
        with make() as checkpointer:
            whole_network(checkpointer.restore(path / "state"))


def test_checkpoints_of_the_first_format_still_open(tmp_path, trees):
    from orbax.checkpoint import v1 as ocp

    items = {item: nested(named_leaves(tree)) for item, tree in trees.items()}
    items["opt_state"] = {"mu": items["params"]}
    sums = {
        item: {
            ".".join(name): checksum(np.asarray(leaf))
            for name, leaf in named_leaves(tree).items()
        }
        for item, tree in items.items()
    }
    path = tmp_path / "old"
    registry = ocp.handlers.local_registry()
    registry.add(ocp.handlers.JsonHandler, checkpointable_name="meta")
    context = ocp.Context()
    context.checkpointables.registry = registry
    with context:
        ocp.save_checkpointables(
            path,
            {**items, "meta": {"classes": ["a"]}},
            custom_metadata={"format": "jaxtune/1", "crc32": sums},
        )
    params, statistics = load_checkpoint(path, **trees)
    whole_network({"params": params, "model_state": statistics})
    assert load_opt_state(path, {"mu": trees["params"]}).keys() == {"mu"}
    assert load_meta(path) == {"classes": ["a"]}
    contents = inspect_checkpoint(path)
    assert contents.format == "jaxtune/1" and contents.items.keys() == items.keys()
    stored = storage.open_stored(path)
    stored.checksums["params"]["head.bias"] ^= 1
    with pytest.raises(CheckpointDamagedError, match="params/head.bias"):
        storage.read_arrays(stored, list(stored.leaves))


def test_it_says_what_it_is(path):
    stored = storage.open_stored(path)
    assert stored.format == "jaxtune/2"
    assert stored.leaves[("params", "head", "weight")] == Leaf(
        (3, 4), np.dtype("float32")
    )
    described = json.loads((path / "_CHECKPOINT_METADATA").read_text())
    sums = described["custom_metadata"]["crc32"]
    assert sums["model_state"].keys() == {"body.bn1.running_mean"}
    assert sums == stored.checksums


def test_only_what_is_asked_for_is_read(tmp_path, trees):
    path = save_checkpoint(tmp_path / "run", **trees, opt_state={"count": 3}, meta={})
    stored = storage.open_stored(path)
    shutil.rmtree(path / "opt_state")
    name = ("params", "head", "bias")
    assert list(storage.read_arrays(stored, [name])) == [name]
    assert storage.read_arrays(stored, []) == {}


def test_an_array_that_changed_is_named(path):
    stored = storage.open_stored(path)
    stored.checksums["params"]["head.bias"] ^= 1
    with pytest.raises(
        CheckpointDamagedError, match="not what was written, params/head"
    ):
        storage.read_arrays(stored, list(stored.leaves))


def test_where_there_is_none(tmp_path):
    assert "no checkpoint in" in open_error(tmp_path)
    (tmp_path / "photos" / "cats").mkdir(parents=True)
    (tmp_path / "photos" / "cats" / "1.png").write_bytes(b"no photo")
    assert "no checkpoint in" in open_error(tmp_path / "photos")
    assert "no checkpoint in" in open_error(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        load_meta(tmp_path)


def test_a_folder_of_steps_says_which_to_give(written_elsewhere):
    text = open_error(written_elsewhere / "v1_steps")
    assert "holds the checkpoints 2, 10: give one of them" in text
    assert text.endswith(f"{written_elsewhere / 'v1_steps' / '10'}.")
    assert "checkpoints at_0005:" in open_error(written_elsewhere / "v0_prefixed")


def test_a_part_of_a_checkpoint_says_where_the_whole_is(path):
    assert f"give the folder above, {path}" in open_error(path / "state")


def test_half_a_checkpoint_is_none(path, tmp_path):
    half = path.rename(tmp_path / "run.orbax-checkpoint-tmp")
    assert "interrupted half way" in open_error(half)


def test_a_checkpoint_without_a_description(written_elsewhere):
    with pytest.raises(FileNotFoundError, match="was not written by jaxtune"):
        load_meta(written_elsewhere / "v1_state")


@pytest.mark.parametrize("file", ["_CHECKPOINT_METADATA", "state/_METADATA"])
def test_a_damaged_description_of_itself(path, file):
    text = (path / file).read_text()
    (path / file).write_text(text[: len(text) // 2])
    open_error(path, CheckpointDamagedError)


def test_a_missing_item(path):
    shutil.rmtree(path / "state")
    assert "item `state` is missing" in open_error(path, CheckpointDamagedError)


def test_a_damaged_meta(path):
    (path / "meta" / "data.json").write_text('{"a": [1')
    with pytest.raises(CheckpointDamagedError, match="can't be read"):
        load_meta(path)


NOISE = """
import sys
import time
import numpy as np
from jaxtune.checkpoint import (
    CheckpointDamagedError, load_checkpoint, load_meta, save_checkpoint,
)

rng = np.random.default_rng(0)
params = {f"a{i}": rng.normal(size=(50, 500)).astype("float32") for i in range(40)}
path = save_checkpoint(sys.argv[1], params=params, model_state={}, meta={})
file = max((path / "state").rglob("d/*"), key=lambda file: file.stat().st_size)
whole = file.read_bytes()
for damaged in (whole[:1000], None):
    if damaged is None:
        (path / "state" / "_METADATA").write_text("{")
    else:
        file.write_bytes(damaged)
    try:
        load_checkpoint(path, params=params, model_state={})
    except CheckpointDamagedError as error:
        print(error)
load_meta(path)
time.sleep(2)  # Reads that end late are not reported either.
raise RuntimeError("of the program's own")
"""


def test_of_a_damaged_checkpoint_nothing_is_said_but_the_error(tmp_path):
    command = [sys.executable, "-c", NOISE, tmp_path / "run"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.count("Use another checkpoint.") == 2
    *_, last = lines = done.stderr.splitlines()
    assert last == "RuntimeError: of the program's own"
    assert lines.count("Traceback (most recent call last):") == 1
