"""What an earlier version wrote still opens: here, in plain Orbax, and as a run."""

import json
import shutil
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest
import runs
from make_checkpoints import EMA_DECAY, FINE_TUNE, photos, probabilities

from jaxtune.checkpoint import (
    find_checkpoint,
    inspect_checkpoint,
    load_checkpoint,
    load_meta,
)
from jaxtune.train import split_module

GOLDEN = Path(__file__).parents[1] / "golden"
EXPECTED = json.loads((GOLDEN / "checkpoints_v2.json").read_text())
FOLDERS = ["checkpoint_v2", "run_v2/checkpoints/8", "run_v2/checkpoints/10"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return photos(tmp_path_factory.mktemp("photos"))


@pytest.mark.parametrize("name", FOLDERS)
def test_plain_orbax_reads_every_value_that_was_written(name):
    from orbax.checkpoint import v1 as ocp

    path = GOLDEN / name
    described = json.loads((path / "_CHECKPOINT_METADATA").read_text())
    checksums = described["custom_metadata"]["crc32"]
    trees = ocp.load_checkpointables(path)
    trees |= trees.pop("state")
    assert trees.keys() == {*checksums, "meta"}
    assert {"params", "model_state", "opt_state"} <= checksums.keys()
    for item, expected in checksums.items():
        leaves = jax.tree_util.tree_leaves_with_path(trees[item])
        assert expected == {
            ".".join(str(key.key) for key in keys): zlib.crc32(
                np.asarray(leaf).tobytes()
            )
            for keys, leaf in leaves
        }


@pytest.mark.parametrize("name", FOLDERS)
def test_its_network_is_opened_by_name(name, root):
    _, params, model_state = split_module(runs.make_learner(root).model)
    again, statistics = load_checkpoint(
        GOLDEN / name, params=params, model_state=model_state
    )
    leaves = jax.tree.leaves(again), jax.tree.leaves(params)
    assert not any((a == b).all() for a, b in zip(*leaves, strict=True) if a.ndim > 1)
    assert jax.tree.structure(statistics) == jax.tree.structure(model_state)
    contents = inspect_checkpoint(GOLDEN / name)
    assert contents.format == "jaxtune/2"
    assert contents.meta["classes"] == ["blue", "green", "red"]


@pytest.mark.parametrize("name", ["checkpoint_v2", "run_v2"])
def test_it_predicts_what_it_did(name, root):
    np.testing.assert_allclose(
        probabilities(GOLDEN / name, root), EXPECTED[name], atol=1e-4
    )


def test_a_learner_goes_on_from_it(root, capsys):
    model = runs.make_learner(root)
    text = model.load(GOLDEN / "checkpoint_v2")
    assert "the optimizer continues" in text
    assert model.frozen_groups == ()
    model.fit(1, 1e-3)
    assert model.history[-1].valid_loss < 1


def test_the_run_is_resumed(root, tmp_path, capsys):
    run = shutil.copytree(GOLDEN / "run_v2", tmp_path / "run")
    # As if it had been begun elsewhere: chips differ in the last bits of first values.
    recipe = json.loads((run / "run.json").read_text())
    recipe["made_with"]["jax"] = "0.1"
    (run / "run.json").write_text(json.dumps(recipe))
    assert load_meta(find_checkpoint(run, "best"))["valid_loss"] == pytest.approx(
        EXPECTED["table"][1]["valid_loss"]
    )
    model = runs.make_learner(root, ema_decay=EMA_DECAY)
    history = model.fine_tune(**FINE_TUNE, run=run)
    assert "2 of 3 batches of epoch 2 of 2" in capsys.readouterr().out.splitlines()[0]
    for row, expected in zip(runs.figures(history), EXPECTED["table"], strict=True):
        assert row == pytest.approx(expected, abs=1e-4)
    assert load_meta(find_checkpoint(run))["run"]["finished"]
