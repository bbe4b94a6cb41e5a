import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxtune.inspect.diff import combine, tree_diff


def test_distances_are_relative_to_where_the_values_were():
    before = nnx.State({"a": {"w": jnp.array([3.0, 4.0])}, "b": jnp.zeros(3)})
    after = nnx.State({"a": {"w": jnp.array([3.0, 4.5])}, "b": jnp.array([0.0, 2, 0])})
    labels = nnx.State({"a": {"w": "early"}, "b": "late"})
    w, b = tree_diff(before, after, labels)
    assert (w.path, w.group, w.size, w.changed) == ("a.w", "early", 2, 1)
    assert (w.norm, w.distance, w.relative) == (5.0, 0.5, 0.1)
    assert (b.norm, b.distance, b.relative) == (0.0, 2.0, np.inf)
    both = combine([w, b], "all")
    assert (both.path, both.group, both.size, both.changed) == ("all", "", 5, 2)
    assert both.distance == pytest.approx(np.sqrt(0.25 + 4)) and both.norm == 5.0


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32])
def test_one_bit_is_seen_and_equal_bits_are_zero(dtype):
    before = {"x": jnp.ones((4, 3), dtype)}
    [same] = tree_diff(before, {"x": jnp.ones((4, 3), dtype)})
    assert (same.changed, same.relative) == (0, 0.0)
    bits = np.array(before["x"])
    bits.view(np.uint8).reshape(-1)[0] ^= 1
    [moved] = tree_diff(before, {"x": bits})
    assert moved.changed == 1 and moved.relative > 0


def test_a_change_that_arithmetic_does_not_see_is_still_one():
    [sign] = tree_diff({"x": np.array([0.0, 1.0])}, {"x": np.array([-0.0, 1.0])})
    assert (sign.changed, sign.distance) == (1, 0.0)
    nan = {"x": np.array([np.nan])}
    assert tree_diff(nan, nan)[0].relative == 0.0


def test_statistics_are_in_the_group_of_their_layer():
    labels = {"bn": {"weight": "early"}, "fc": {"weight": "head"}}
    stats = {"bn": {"running_mean": jnp.zeros(2)}}
    [row] = tree_diff(stats, stats, labels)
    assert row.group == "early"


def test_random_keys_are_left_out():
    before = {
        "drop": {"rngs": {"count": jnp.zeros((), jnp.uint32)}},
        "k": jax.random.key(0),
    }
    after = {
        "drop": {"rngs": {"count": jnp.ones((), jnp.uint32)}},
        "k": jax.random.key(1),
    }
    assert tree_diff(before, after) == []


def test_states_of_other_names_or_shapes_are_refused_and_listed():
    before = {"a": jnp.zeros(2), "b": jnp.zeros(1)}
    after = {"a": jnp.zeros(3), "c": jnp.zeros(1)}
    with pytest.raises(ValueError) as error:
        tree_diff(before, after)
    for line in ("only before: b", "only after: c", r"a: (2,) before, (3,) after"):
        assert line in str(error.value)
