import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxtune
from jaxtune import create_cnn_model, resnet18
from jaxtune.checkpoint import (
    CheckpointMismatchError,
    load_checkpoint,
    load_meta,
    load_opt_state,
    load_raw,
    loading,
    save_checkpoint,
)
from jaxtune.checkpoint.leaves import named_leaves

WHOLE = [
    "v1_state", "v1_pure_dict", "v1_split", "v1_tuple", "v1_train", "v1_optimizer",
    "v1_items", "v1_steps/2", "v1_steps/10", "v0_standard_state",
    "v0_standard_pure_dict", "v0_standard_split", "v0_standard_train",
    "v0_pytree_state", "v0_pytree_tuple", "v0_pytree_optimizer",
    "v0_handler_pure_dict", "v0_steps/1", "v0_prefixed/at_0005",
]  # fmt: skip
BODY = ["v1_body_alone", "v0_standard_body_alone"]


def split(module):
    _, params, model_state = nnx.split(module, nnx.Param, ...)
    return {"params": nnx.as_pure(params), "model_state": nnx.as_pure(model_state)}


def values(*trees):
    """Returns the arrays by dotted name, without the state of random streams."""
    return {
        ".".join(name): np.asarray(leaf)
        for tree in trees
        for name, leaf in named_leaves(tree).items()
        if "rngs" not in name
    }


def assert_equal(actual, expected):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


# Our own.


def test_what_goes_in_comes_out(path, trees):
    shapes = jax.eval_shape(lambda: trees)
    params, stats = load_checkpoint(path, **shapes)
    assert isinstance(params, nnx.State) and isinstance(stats, nnx.State)
    assert_equal(values(params, stats), values(*trees.values()))
    assert load_meta(path)["classes"] == ["a", "b"]


def test_a_network_without_statistics(tmp_path, trees):
    none = nnx.State({})
    path = save_checkpoint(
        tmp_path / "run", params=trees["params"], model_state=none, meta={}
    )
    _, stats = load_checkpoint(path, params=trees["params"], model_state=none)
    assert not jax.tree.leaves(stats)


def test_floats_are_cast_to_the_networks_dtype(path, tmp_path, trees):
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), trees)
    params, stats = load_checkpoint(path, **half)
    jax.tree.map(np.testing.assert_array_equal, params, half["params"])
    assert {leaf.dtype for leaf in jax.tree.leaves((params, stats))} == {
        jnp.dtype("bfloat16")
    }
    again = save_checkpoint(tmp_path / "half", **half, meta={})
    params, _ = load_checkpoint(again, **trees)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_a_body_alone_is_restored_into_a_network(path, trees):
    new = jax.tree.map(lambda x: x - 100, trees)
    new["params"]["head"] = {"weight": jnp.zeros((3, 7)), "bias": jnp.full(7, 2.0)}
    with pytest.raises(CheckpointMismatchError, match="partial='body' restores"):
        load_checkpoint(path, **new)
    params, stats = load_checkpoint(path, **new, partial="body")
    expected = values(trees["params"]["body"], trees["model_state"]["body"])
    assert_equal(values(params["body"], stats["body"]), expected)
    assert params["head"]["bias"] is new["params"]["head"]["bias"]
    assert params["head"]["weight"] is new["params"]["head"]["weight"]


def test_several_parts_are_restored(path, trees):
    new = jax.tree.map(lambda x: x - 100, trees)
    parts = ("body.layer1", "head.bias")
    params, stats = load_checkpoint(path, **new, partial=parts)
    old = trees["params"]
    np.testing.assert_array_equal(params["head"]["bias"], old["head"]["bias"])
    np.testing.assert_array_equal(
        params["head"]["weight"], new["params"]["head"]["weight"]
    )
    assert_equal(values(params["body"]), values(old["body"]))
    assert_equal(values(stats), values(new["model_state"]))


def test_a_whole_checkpoint_opens_for_its_body(path, trees):
    params, stats = load_checkpoint(
        path, params=trees["params"]["body"], model_state=trees["model_state"]["body"]
    )
    expected = values(trees["params"]["body"], trees["model_state"]["body"])
    assert_equal(values(params, stats), expected)


def test_a_body_without_its_statistics_is_not_the_body(path, trees):
    with pytest.raises(CheckpointMismatchError, match=r"\+ model_state/bn1.running_m"):
        load_checkpoint(path, params=trees["params"]["body"], model_state={})


def test_a_checkpoint_of_the_body_opens_in_the_network(tmp_path, trees):
    body = {item: tree["body"] for item, tree in trees.items()}
    path = save_checkpoint(tmp_path / "body", **body, meta={})
    new = jax.tree.map(lambda x: x - 100, trees)
    with pytest.raises(CheckpointMismatchError, match="partial='body' restores"):
        load_checkpoint(path, **new)
    params, stats = load_checkpoint(path, **new, partial="body")
    assert_equal(values(params["body"], stats["body"]), values(*body.values()))
    assert_equal(values(params["head"]), values(new["params"]["head"]))
    params, stats = load_checkpoint(path, **new, partial=("body.layer1", "body.bn1"))
    assert_equal(values(params["body"], stats["body"]), values(*body.values()))


def test_what_is_not_restored_must_have_values(path, trees):
    shapes = jax.eval_shape(lambda: trees)
    with pytest.raises(
        ValueError, match="params/head.bias is not restored .* has none"
    ):
        load_checkpoint(path, **shapes, partial="body")


def test_partial_must_name_something(path, trees):
    with pytest.raises(ValueError, match="nothing below partial='tail'; its children"):
        load_checkpoint(path, **trees, partial="tail")


def test_a_real_network_with_another_head(tmp_path):
    made = nnx.eval_shape(lambda: create_cnn_model(resnet18, 5, pretrained=False))
    rng = np.random.default_rng(0)
    old = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), split(made)
    )
    path = save_checkpoint(tmp_path / "run", **old, meta={})
    whole = nnx.eval_shape(lambda: create_cnn_model(resnet18, 7, pretrained=False))
    with pytest.raises(CheckpointMismatchError) as caught:
        load_checkpoint(path, **split(whole))
    assert "! params/head.linear2.weight: (512, 5) in the checkpoint" in str(
        caught.value
    )
    assert "partial='body' restores that" in str(caught.value)
    body = nnx.eval_shape(
        lambda: create_cnn_model(resnet18, 7, pretrained=False, hidden=(8,))["body"]
    )
    params, stats = load_checkpoint(path, **split(body))
    expected = values(old["params"]["body"], old["model_state"]["body"])
    assert_equal(values(params, stats), expected)


# Those of plain Flax code.


@pytest.mark.parametrize("name", WHOLE)
def test_plain_flax_opens_whole(name, written_elsewhere, plain_values, plain_flax):
    new = split(plain_flax.Network(seed=1))
    params, stats = load_checkpoint(written_elsewhere / name, **new)
    assert_equal(values(params, stats), plain_values)
    assert jax.tree.structure(params) == jax.tree.structure(new["params"])
    assert jax.tree.structure(stats) == jax.tree.structure(new["model_state"])


@pytest.mark.parametrize("name", WHOLE)
def test_the_body_of_plain_flax_opens(
    name, written_elsewhere, plain_values, plain_flax
):
    new = split(plain_flax.Network(seed=1, classes=9))
    with pytest.raises(CheckpointMismatchError, match="partial='body' restores"):
        load_checkpoint(written_elsewhere / name, **new)
    params, stats = load_checkpoint(written_elsewhere / name, **new, partial="body")
    body = {k: v for k, v in plain_values.items() if k.startswith("body.")}
    actual = values(params, stats)
    assert_equal({k: v for k, v in actual.items() if k.startswith("body.")}, body)
    np.testing.assert_array_equal(
        actual["head.kernel"], new["params"]["head"]["kernel"]
    )
    alone = split(plain_flax.Network(seed=1).body)
    params, stats = load_checkpoint(written_elsewhere / name, **alone)
    assert_equal({f"body.{k}": v for k, v in values(params, stats).items()}, body)


@pytest.mark.parametrize("name", BODY)
def test_a_body_alone_of_plain_flax_opens(
    name, written_elsewhere, plain_values, plain_flax
):
    body = {k: v for k, v in plain_values.items() if k.startswith("body.")}
    network = split(plain_flax.Network(seed=1))
    into = load_checkpoint(written_elsewhere / name, **network, partial="body")
    actual = values(*into)
    assert_equal({k: v for k, v in actual.items() if k.startswith("body.")}, body)
    alone = load_checkpoint(
        written_elsewhere / name, **split(plain_flax.Network(seed=1).body)
    )
    assert_equal({f"body.{k}": v for k, v in values(*alone).items()}, body)


def test_plain_flax_in_another_dtype(written_elsewhere, plain_values, plain_flax):
    new = split(plain_flax.Network(seed=1))
    params, stats = load_checkpoint(written_elsewhere / "v1_half", **new)
    for name, value in values(params, stats).items():
        assert value.dtype == np.float32
        rounded = jnp.asarray(plain_values[name]).astype(jnp.bfloat16)
        np.testing.assert_array_equal(value, rounded.astype(jnp.float32))
    with pytest.raises(CheckpointMismatchError) as caught:
        load_checkpoint(written_elsewhere / "v1_whole_numbers", **new)
    assert "head.bias: (2,) int32 in the checkpoint, (2,) float32" in str(caught.value)


@pytest.mark.parametrize("name", ["v1_pure_dict/state", "v0_standard_pure_dict"])
def test_plain_flax_of_a_device_that_is_not_here(
    name, written_elsewhere, plain_values, plain_flax, tmp_path
):
    copy = tmp_path / name.split("/")[0]
    shutil.copytree(written_elsewhere / copy.name, copy)
    shardings = tmp_path / name / "_sharding"
    text = shardings.read_text()
    assert "cpu:0" in text
    shardings.write_text(text.replace("cpu:0", "cuda:0"))
    params, stats = load_checkpoint(copy, **split(plain_flax.Network(seed=1)))
    assert_equal(values(params, stats), plain_values)


def test_random_state_is_restored_where_it_is_there(written_elsewhere, plain_flax):
    new = split(plain_flax.Network(seed=1))
    old = split(plain_flax.Network(seed=0))

    def key(model_state):
        return jax.random.key_data(model_state["drop"]["rngs"]["key"])

    _, stats = load_checkpoint(written_elsewhere / "v1_state", **new)
    np.testing.assert_array_equal(key(stats), key(old["model_state"]))
    _, stats = load_checkpoint(written_elsewhere / "v1_pure_dict", **new)
    np.testing.assert_array_equal(key(stats), key(new["model_state"]))
    with pytest.raises(ValueError, match="drop.rngs.count is not restored"):
        load_checkpoint(
            written_elsewhere / "v1_pure_dict", **jax.eval_shape(lambda: new)
        )


def test_of_two_networks_in_one_checkpoint_one_is_chosen(
    written_elsewhere, plain_values, plain_flax
):
    path, new = written_elsewhere / "v1_twice", split(plain_flax.Network(seed=1))
    with pytest.raises(CheckpointMismatchError, match="state.ema, state.params.*prefi"):
        load_checkpoint(path, **new)
    assert_equal(
        values(*load_checkpoint(path, **new, prefix="state.ema")), plain_values
    )


def test_moments_are_never_parameters(written_elsewhere, plain_flax):
    new = split(plain_flax.Network())
    with pytest.raises(
        CheckpointMismatchError, match="- params/head.kernel .4, 2.: on"
    ):
        load_checkpoint(written_elsewhere / "v1_moments_alone", **new)


def test_what_else_lies_in_the_tree_is_told(written_elsewhere, plain_flax):
    network = plain_flax.Network()
    del network.body.conv1
    with pytest.raises(CheckpointMismatchError) as caught:
        load_checkpoint(written_elsewhere / "v1_pure_dict", **split(network))
    text = str(caught.value)
    assert "+ params/body.conv1.kernel (3, 3, 3, 4): only in the checkpoint" in text
    assert "partial=" in text and "head" in text


# Damage.

# In a process of its own: Orbax's reader leaves noise behind when a file is missing.
DAMAGE = """
import random, shutil, sys
from pathlib import Path

import numpy as np

from jaxtune.checkpoint import (
    CheckpointDamagedError, load_checkpoint, load_opt_state, save_checkpoint
)

root = Path(sys.argv[1])
rng = np.random.default_rng(0)
draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
params = {"w": draw(80, 80), "b": {"c": draw(30), "d": draw(600)}}
stats = {"mean": draw(3)}
state = {"mu": draw(80, 40)}
whole = save_checkpoint(
    root / "whole", params=params, model_state=stats, meta={}, opt_state=state
)

def same(actual, expected):
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(actual, expected)

def outcome(path):
    try:
        new, mean = load_checkpoint(path, params=params, model_state=stats)
        moments = load_opt_state(path, state)
    except (CheckpointDamagedError, FileNotFoundError) as error:
        assert "damaged" in str(error) or "no checkpoint" in str(error), error
        return "refused"
    same(new["w"], params["w"])
    same(new["b"]["c"], params["b"]["c"])
    same(new["b"]["d"], params["b"]["d"])
    same(mean["mean"], stats["mean"])
    same(moments["mu"], state["mu"])
    return "whole"

assert outcome(whole) == "whole"
draws = random.Random(0)
for file in sorted(whole.rglob("*")):
    data = file.read_bytes() if file.is_file() else b""
    for how in ("missing", "short", "zeros", "bit", "bit") if data else ():
        shutil.rmtree(root / "copy", ignore_errors=True)
        shutil.copytree(whole, root / "copy")
        damaged = root / "copy" / file.relative_to(whole)
        changed = bytearray(data)
        changed[draws.randrange(len(data))] ^= 1 << draws.randrange(8)
        if how == "missing":
            damaged.unlink()
        else:
            new = {"short": data[: len(data) // 2], "zeros": bytes(len(data))}
            damaged.write_bytes(new.get(how, bytes(changed)))
        print(how, file.relative_to(whole), outcome(root / "copy"))
"""


@pytest.mark.end_to_end
def test_no_damage_is_taken_for_values(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", DAMAGE, tmp_path],
        cwd=Path(jaxtune.__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line.split() for line in done.stdout.splitlines()]
    data = [line for line in lines if "/d/" in line[1]]
    assert {how for how, _, result in data if result == "refused"} == {
        "missing", "short", "zeros", "bit",
    }  # fmt: skip


def test_the_comparison_comes_before_any_array_is_read(path, trees, monkeypatch):
    def read_arrays(*_):
        raise AssertionError("arrays were read")

    monkeypatch.setattr(loading, "read_arrays", read_arrays)
    with pytest.raises(CheckpointMismatchError):
        load_checkpoint(path, params=trees["params"], model_state={})
    with pytest.raises(AssertionError, match="arrays were read"):
        load_checkpoint(path, **trees)


# Optimizer state.


def test_an_optimizers_state_must_be_there(path):
    with pytest.raises(FileNotFoundError, match="holds no optimizer state"):
        load_opt_state(path, {"count": jnp.int32(0)})
    assert load_opt_state(path, {}) == {}


def test_an_optimizers_state_is_strict(tmp_path, trees):
    state = {"mu": jnp.ones(2), "count": jnp.int32(3)}
    path = save_checkpoint(tmp_path / "run", **trees, meta={}, opt_state=state)
    new = {"mu": jnp.ones(2, jnp.bfloat16), "step": jnp.int32(3)}
    with pytest.raises(CheckpointMismatchError) as caught:
        load_opt_state(path, new)
    text = str(caught.value)
    assert "- opt_state/step (): only in the optimizer" in text
    assert "+ opt_state/count (): only in the checkpoint" in text
    assert "mu: (2,) float32 in the checkpoint, (2,) bfloat16 in the optim" in text
    assert "freeze boundary: load_checkpoint" in text


def test_what_an_average_is_made_of_comes_back_beside_it(path, tmp_path, trees):
    raw = {"params": {"head": {"bias": -jnp.arange(4.0)}}, "updates": jnp.int32(7)}
    kept = save_checkpoint(tmp_path / "run", **trees, meta={}, raw=raw)
    jax.tree.map(np.testing.assert_array_equal, load_raw(kept, raw), raw)
    params, _ = load_checkpoint(kept, **trees)
    np.testing.assert_array_equal(params["head"]["bias"], np.arange(4.0))
    with pytest.raises(CheckpointMismatchError, match="averages other parameters"):
        load_raw(kept, {"updates": jnp.int32(0)})
    with pytest.raises(FileNotFoundError, match="which are not averages"):
        load_raw(path, raw)


def test_parameters_open_across_a_freeze_boundary(tmp_path):
    from jaxtune.train import group_optimizer, one_cycle

    params = nnx.State({"body": {"w": jnp.ones(3)}, "head": {"w": jnp.ones(2)}})
    frozen = nnx.State({"body": {"w": "frozen"}, "head": {"w": "head"}})
    free = nnx.State({"body": {"w": "body"}, "head": {"w": "head"}})
    first = group_optimizer(frozen, {"head": 1.0}, one_cycle(5)).init(params)
    second = group_optimizer(free, {"head": 1.0, "body": 0.1}, one_cycle(5)).init(
        params
    )
    path = save_checkpoint(
        tmp_path / "run", params=params, model_state={}, meta={}, opt_state=first
    )
    load_opt_state(path, first)
    with pytest.raises(CheckpointMismatchError, match="inner_states.body.inner_state"):
        load_opt_state(path, second)
    again, _ = load_checkpoint(path, params=params, model_state={})
    np.testing.assert_array_equal(again["body"]["w"], params["body"]["w"])
