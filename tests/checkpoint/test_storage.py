import json
import shutil

import numpy as np
import pytest

from jaxtune.checkpoint import (
    CheckpointDamagedError,
    load_meta,
    save_checkpoint,
    storage,
)
from jaxtune.checkpoint.arrays import Leaf


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
    found = ocp.load_checkpointables(path)
    assert found["meta"] == {"a": [1, None]}
    assert set(found) == {"params", "model_state", "opt_state", "meta"}
    weight = found["params"]["body"]["layer1"]["0"]["weight"]
    assert weight.shape == (2, 3) and weight.dtype == np.float32
    np.testing.assert_array_equal(weight, np.arange(6.0).reshape(2, 3))
    assert found["opt_state"] == {"0": 3, "1": {"mu": 1.5}}
    assert ocp.metadata(path, "params").metadata["head"]["bias"].shape == (4,)


def test_orbax_v0_opens_an_item(path, trees):
    from orbax import checkpoint as v0

    with v0.PyTreeCheckpointer() as checkpointer:
        found = checkpointer.restore(path / "params")
    np.testing.assert_array_equal(found["head"]["bias"], np.arange(4.0))


def test_it_says_what_it_is(path):
    stored = storage.open_stored(path)
    assert stored.format == "jaxtune/1"
    assert stored.leaves[("params", "head", "weight")] == Leaf(
        (3, 4), np.dtype("float32")
    )
    described = json.loads((path / "_CHECKPOINT_METADATA").read_text())
    sums = described["custom_metadata"]["crc32"]
    assert sums["model_state"].keys() == {"body.bn1.running_mean"}
    assert sums == stored.checksums


def test_only_what_is_asked_for_is_read(path):
    stored = storage.open_stored(path)
    shutil.rmtree(path / "model_state")
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
    assert f"give the folder above, {path}" in open_error(path / "params")


def test_half_a_checkpoint_is_none(path, tmp_path):
    half = path.rename(tmp_path / "run.orbax-checkpoint-tmp")
    assert "broken off half way" in open_error(half)


def test_a_checkpoint_without_a_description(written_elsewhere):
    with pytest.raises(FileNotFoundError, match="was not written by jaxtune"):
        load_meta(written_elsewhere / "v1_state")


@pytest.mark.parametrize("file", ["_CHECKPOINT_METADATA", "params/_METADATA"])
def test_a_damaged_description_of_itself(path, file):
    text = (path / file).read_text()
    (path / file).write_text(text[: len(text) // 2])
    open_error(path, CheckpointDamagedError)


def test_a_missing_item(path):
    shutil.rmtree(path / "model_state")
    assert "item `model_state` is missing" in open_error(path, CheckpointDamagedError)


def test_a_damaged_meta(path):
    (path / "meta" / "data.json").write_text('{"a": [1')
    with pytest.raises(CheckpointDamagedError, match="can't be read"):
        load_meta(path)
