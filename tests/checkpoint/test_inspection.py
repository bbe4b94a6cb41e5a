import jax.numpy as jnp
import numpy as np
import pytest

from jaxtune.checkpoint import inspect_checkpoint, save_checkpoint

TREE = """\
params  5 arrays, 0.0 MB
  body
    blocks
      0, 1
        bias, weight  (2,) float32
    conv1.weight  (3, 3) bfloat16
model_state  1 arrays, 0.0 MB
  body.bn1.running_mean  (2,) float32
opt_state  25 arrays, 8.0 MB
  0
    count  () int32
    mu.w, nu.w  (1000, 1000) float32
  1
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20  () int64
  2  () bool
meta  JSON: classes, size"""


@pytest.fixture
def contents(tmp_path):
    pair = {"weight": jnp.ones(2), "bias": jnp.ones(2)}
    moment = {"w": jnp.ones((1000, 1000))}
    path = save_checkpoint(
        tmp_path / "run",
        params={
            "body": {
                "blocks": [pair, pair],
                "conv1": {"weight": jnp.ones((3, 3), jnp.bfloat16)},
            }
        },
        model_state={"body": {"bn1": {"running_mean": jnp.ones(2)}}},
        opt_state=(
            {"count": jnp.int32(0), "mu": moment, "nu": moment},
            list(range(21)),
            True,
        ),
        meta={"classes": ["a"], "size": [2, 2]},
    )
    return inspect_checkpoint(path)


def test_names_shapes_and_dtypes(contents):
    assert contents.format == "jaxtune/2"
    assert contents.meta == {"classes": ["a"], "size": [2, 2]}
    weight = contents.items["params"]["body.conv1.weight"]
    assert (weight.shape, weight.dtype) == ((3, 3), jnp.dtype("bfloat16"))
    assert contents.num_bytes("params") == 4 * 2 * 4 + 9 * 2
    assert contents.leaves[("opt_state", "0", "count")].dtype == np.int32


def test_the_tree_can_be_read(contents):
    assert str(contents) == TREE


def test_checkpoints_of_others(written_elsewhere):
    contents = inspect_checkpoint(written_elsewhere / "v0_standard_train")
    assert contents.format is None and contents.meta is None
    assert contents.items[""]["state.params.head.kernel"].shape == (4, 2)
    assert str(contents).startswith("(one tree)  ")
    assert "batch_stats.body.bn1\n" in str(contents)
    steps = inspect_checkpoint(written_elsewhere / "v1_optimizer")
    assert steps.items["state"]["note"].dtype_name == "str"


def test_no_array_is_read(contents):
    large = [f for f in contents.path.rglob("d/*") if f.stat().st_size > 1_000_000]
    assert large
    for file in large:
        file.unlink()
    assert str(inspect_checkpoint(contents.path)) == TREE
