"""Names, layouts, the comparison both ways, and filling a module entirely or not."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from jaxtune.pretrained.convert import (
    WeightsMismatchError,
    from_torch_layout,
    load_into,
    match_weights,
    named_as,
    to_torch_layout,
)


class Layer(nnx.Module):
    def __init__(self, *shape):
        self.weight = nnx.Param(jnp.zeros(shape, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(shape[-1:], jnp.float32))


class Norm(nnx.Module):
    def __init__(self, size):
        self.weight = nnx.Param(jnp.ones(size))
        self.running_mean = nnx.BatchStat(jnp.zeros(size))


class Network(nnx.Module):
    def __init__(self, classes=5):
        self.conv1 = Layer(3, 3, 2, 4)
        self.bn1 = Norm(4)
        self.blocks = nnx.List([Layer(4, 4)])
        self.fc = Layer(4, classes)
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))


def torch_arrays(classes=5):
    random = np.random.default_rng(0)
    shapes = {
        "conv1.weight": (4, 2, 3, 3),
        "conv1.bias": (4,),
        "bn1.weight": (4,),
        "bn1.running_mean": (4,),
        "blocks.0.weight": (4, 4),
        "blocks.0.bias": (4,),
        "fc.weight": (classes, 4),
        "fc.bias": (classes,),
    }
    made = {k: random.normal(size=v).astype(np.float32) for k, v in shapes.items()}
    return made | {"bn1.num_batches_tracked": np.array(9)}


def values(network):
    state = nnx.state(network, (nnx.Param, nnx.BatchStat))
    return {
        ".".join(map(str, path)): np.asarray(each[...])
        for path, each in nnx.to_flat_state(state)
    }


def test_layouts_of_a_convolution_and_a_linear_layer():
    kernel = np.arange(24).reshape(2, 3, 2, 2)
    turned = from_torch_layout("a.weight", kernel)
    assert turned.shape == (2, 2, 3, 2)
    assert turned[1, 0, 2, 1] == kernel[1, 2, 1, 0]
    matrix = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(from_torch_layout("weight", matrix), matrix.T)
    for name in ("a.bias", "a.running_mean", "position"):
        assert from_torch_layout(name, matrix) is matrix
    vector = np.arange(3)
    assert from_torch_layout("bn.weight", vector) is vector


@given(st.lists(st.integers(1, 4), min_size=0, max_size=5))
def test_layouts_are_inverses(shape):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    there = from_torch_layout("x.weight", array)
    np.testing.assert_array_equal(to_torch_layout("x.weight", there), array)
    back = to_torch_layout("x.weight", array)
    np.testing.assert_array_equal(from_torch_layout("x.weight", back), array)


def test_match_lists_both_sides_and_shapes_sorted():
    arrays = {"b": np.zeros(2), "z": np.zeros(1), "y": np.zeros(1), "same": np.zeros(1)}
    expected = {"b": (3,), "c": (1,), "a": (1,), "same": (1,)}
    with pytest.raises(WeightsMismatchError) as caught:
        match_weights(arrays, expected, source="x.pth")
    error = caught.value
    assert error.missing == ("a", "c")
    assert error.unexpected == ("y", "z")
    assert error.differing == {"b": ((2,), (3,))}
    lines = str(error).splitlines()
    assert "x.pth" in lines[0] and "2 names only in the network" in lines[0]
    assert lines[1:6] == [
        "  - a",
        "  - c",
        "  + y",
        "  + z",
        "    b: (2,) in the file, (3,) in the network",
    ]


def test_long_lists_are_shortened_with_their_number():
    expected = {f"layer{index:03}": (1,) for index in range(50)}
    with pytest.raises(WeightsMismatchError, match="No name fits") as caught:
        match_weights({"other": np.zeros(1)}, expected)
    assert "... and 30 more" in str(caught.value)
    assert "  - layer019" in str(caught.value)
    assert "  - layer020" not in str(caught.value)


def test_allowed_differences_pass_and_counts_are_left_out():
    arrays = {"a": np.zeros(1), "fc.bias": np.zeros(3), "n.num_batches_tracked": 1}
    arrays["n.num_batches_tracked"] = np.array(1)
    expected = {"a": (1,), "head.bias": (2,)}
    matched = match_weights(
        arrays, expected, allow_missing=["head.*"], allow_unexpected=["fc.*"]
    )
    assert list(matched) == ["a"]
    with pytest.raises(WeightsMismatchError) as caught:
        match_weights(arrays, expected, allow_missing=["head.*"])
    assert caught.value.unexpected == ("fc.bias",)


def test_load_into_fills_parameters_and_statistics():
    network, arrays = Network(), torch_arrays()
    load_into(network, arrays)
    filled = values(network)
    assert filled.keys() == arrays.keys() - {"bn1.num_batches_tracked"}
    for name, value in filled.items():
        np.testing.assert_array_equal(value, from_torch_layout(name, arrays[name]))


def test_load_into_an_abstract_module():
    network = nnx.eval_shape(lambda: Network())
    load_into(network, torch_arrays())
    filled = values(network)
    assert all(isinstance(each, np.ndarray) for each in filled.values())
    np.testing.assert_array_equal(filled["fc.bias"], torch_arrays()["fc.bias"])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_values_take_the_module_s_dtype(dtype):
    network = Network()
    arrays = {k: v.astype(dtype) for k, v in torch_arrays().items() if v.ndim}
    load_into(network, arrays)
    for name, value in values(network).items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(
            value, from_torch_layout(name, arrays[name].astype(np.float32))
        )


def spoilt():
    fewer = torch_arrays()
    del fewer["bn1.running_mean"]
    more = torch_arrays() | {"extra": np.zeros(1, np.float32)}
    turned = torch_arrays()
    turned["conv1.weight"] = turned["conv1.weight"].transpose(2, 3, 1, 0)
    whole = torch_arrays()
    whole["fc.weight"] = whole["fc.weight"].astype(np.int8)
    return {"fewer": fewer, "more": more, "turned": turned, "int": whole}


@pytest.mark.parametrize("which", ["fewer", "more", "turned", "int"])
def test_a_mismatch_leaves_the_module_as_it_was(which):
    network = Network()
    before = values(network)
    with pytest.raises((WeightsMismatchError, TypeError)):
        load_into(network, spoilt()[which])
    after = values(network)
    assert all((before[name] == after[name]).all() for name in before)


def test_shapes_are_shown_as_pytorch_writes_them():
    with pytest.raises(WeightsMismatchError, match="Only fc differs") as caught:
        load_into(Network(classes=7), torch_arrays(5))
    assert "fc.weight: (5, 4) in the file, (7, 4) in the network" in str(caught.value)


def test_loading_copies():
    network, arrays = Network(), torch_arrays()
    load_into(network, arrays)
    arrays["fc.bias"][:] = 100.0
    assert float(jnp.max(network.fc.bias[...])) < 50.0


def test_sharding_is_kept():
    network = Network()
    sharding = network.fc.bias.get_value().sharding
    load_into(network, torch_arrays())
    assert network.fc.bias.get_value().sharding == sharding
    assert isinstance(network.fc.bias.get_value(), jax.Array)


ORDER = ("conv1", "relu", "layer1", "fc")
WANTED = ("conv1.weight", "layer1.0.bias", "fc.weight")
BODY = {"conv1.weight": 1, "layer1.0.bias": 2}
OTHER = {"conv1.weight": 8, "layer1.0.bias": 9, "fc.weight": 9}


def below(prefix, arrays):
    return {prefix + name: each for name, each in arrays.items()}


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "model.", "backbone.", "encoder.", "module.encoder_q.", "a.b.c."],
)
def test_any_prefix_is_removed_and_what_is_beside_keeps_its_name(prefix):
    file = below(prefix, BODY) | {"queue": 3, "projector.0.weight": 4}
    assert named_as(file, WANTED) == BODY | {"queue": 3, "projector.0.weight": 4}


@pytest.mark.parametrize(
    ("chosen", "other"),
    [
        ("module.encoder_q.", "module.encoder_k."),
        ("teacher.backbone.", "student.backbone."),
        ("online_network.", "target_network."),
        ("", "ema."),
    ],
)
def test_of_two_networks_the_one_that_is_meant_is_taken(chosen, other):
    """Also where the other one alone has a classifier."""
    for file in (
        below(chosen, BODY) | below(other, OTHER),
        below(other, OTHER) | below(chosen, BODY),
    ):
        renamed = named_as(file, WANTED, order=ORDER, optional="fc")
        assert {name: renamed[name] for name in BODY} == BODY


@pytest.mark.parametrize("prefix", ["", "backbone.", "0."])
def test_a_list_of_children_gets_their_names(prefix):
    file = below(prefix, {"0.weight": 1, "2.0.bias": 2}) | {"head.weight": 3}
    assert named_as(file, WANTED, order=ORDER) == BODY | {"head.weight": 3}


def test_another_networks_names_stay():
    assert named_as({"a.b": 1}, WANTED, order=ORDER) == {"a.b": 1}
