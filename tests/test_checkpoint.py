import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxtune.checkpoint import (
    CheckpointMismatchError,
    load_checkpoint,
    load_meta,
    save_checkpoint,
)

PARAMS = nnx.State(
    {"body": {"layer1": {"0": {"weight": jnp.arange(6.0).reshape(2, 3)}}}}
)
STATS = nnx.State({"body": {"bn1": {"running_mean": jnp.ones(3)}}})
META = {"classes": ["a", "b"], "size": [32, 48], "mean": None, "note": {"x": 1.5}}


@pytest.fixture
def path(tmp_path):
    return save_checkpoint(
        tmp_path / "deep" / "run", params=PARAMS, model_state=STATS, meta=META
    )


def test_what_goes_in_comes_out(path):
    assert load_meta(path) == META
    shapes = jax.eval_shape(lambda: (PARAMS, STATS))
    params, stats = load_checkpoint(path, params=shapes[0], model_state=shapes[1])
    leaf = params["body"]["layer1"]["0"]["weight"]
    np.testing.assert_array_equal(leaf, PARAMS["body"]["layer1"]["0"]["weight"])
    np.testing.assert_array_equal(stats["body"]["bn1"]["running_mean"], np.ones(3))


def test_plain_orbax_opens_it(path):
    from orbax.checkpoint import v1 as ocp

    found = ocp.checkpointables_metadata(path).metadata
    assert found["params"]["body"]["layer1"]["0"]["weight"].shape == (2, 3)


def test_a_network_without_statistics(tmp_path):
    path = save_checkpoint(
        tmp_path / "run", params=PARAMS, model_state=nnx.State({}), meta=META
    )
    _, stats = load_checkpoint(path, params=PARAMS, model_state=nnx.State({}))
    assert not jax.tree.leaves(stats)


def test_both_sides_of_a_difference_are_listed(path):
    other = nnx.State(
        {"body": {"layer1": {"0": {"weight": jnp.ones((2, 4))}}, "fc": jnp.ones(1)}}
    )
    with pytest.raises(CheckpointMismatchError) as caught:
        load_checkpoint(path, params=other, model_state=nnx.State({}))
    text = str(caught.value)
    assert "- params/body.fc (1,): only in the network" in text
    assert "+ model_state/body.bn1.running_mean (3,): only in the checkpoint" in text
    assert "layer1.0.weight: (2, 3) in the checkpoint, (2, 4) in the network" in text


def test_nothing_is_overwritten_and_nothing_is_guessed(path, tmp_path):
    with pytest.raises(FileExistsError, match="choose another folder"):
        save_checkpoint(path, params=PARAMS, model_state=STATS, meta=META)
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        load_meta(tmp_path)
