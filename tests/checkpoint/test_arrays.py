import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtune.checkpoint.arrays import (
    checksum,
    describe_leaf,
    host_copy,
    is_concrete,
    restored,
)

LEAVES = {
    "float32": jnp.asarray([1.5, jnp.nan, -0.0, jnp.inf]),
    "bfloat16": jnp.asarray([[1.5], [3.1]], jnp.bfloat16),
    "int8": jnp.asarray([-1, 2], jnp.int8),
    "bool": jnp.asarray(True),
    "uint32": jnp.uint32(2**32 - 1),
    "numpy": np.asarray([1e-300, 2.0]),
    "numpy scalar": np.float64(0.1),
    "int": 7,
    "number": 0.1,
    "truth": True,
}


@pytest.mark.parametrize("leaf", LEAVES.values(), ids=LEAVES)
def test_a_leaf_comes_back_as_it_was(leaf):
    again = restored(host_copy(leaf), leaf)
    assert describe_leaf(again) == describe_leaf(leaf)
    assert np.asarray(again).tobytes() == np.asarray(leaf).tobytes()
    kinds = (jax.Array, np.ndarray, bool, int, float)
    numpy = isinstance(leaf, np.generic)
    kind = np.ndarray if numpy else next(k for k in kinds if isinstance(leaf, k))
    assert isinstance(again, kind)


@pytest.mark.parametrize("name", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_a_random_key_comes_back(name):
    keys = jax.random.split(jax.random.key(3, impl=name), 2)
    shapes = jax.eval_shape(lambda: keys)
    again = restored(host_copy(keys), shapes)
    assert again.dtype == keys.dtype
    assert describe_leaf(keys) == describe_leaf(host_copy(keys))
    assert (jax.random.bits(again[1]) == jax.random.bits(keys[1])).all()


def test_floats_are_cast_to_the_dtype_asked_for():
    wanted = jax.ShapeDtypeStruct((2,), jnp.bfloat16)
    again = restored(np.asarray([1.0, 1.0 + 2**-10], np.float32), wanted)
    assert again.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(again, np.float32), [1.0, 1.0])


def test_a_copy_is_nobodys_memory():
    array = jnp.arange(1000.0)
    copy = host_copy(array)
    assert not np.shares_memory(copy, np.asarray(array))


@pytest.mark.parametrize("leaf", LEAVES.values(), ids=LEAVES)
def test_a_checksum_sees_one_bit(leaf):
    array = host_copy(leaf)
    bits = array.reshape(-1).view(np.uint8)
    before = checksum(array)
    bits[-1] ^= 1
    assert checksum(array) != before


def test_shapes_have_no_values():
    assert is_concrete(jnp.ones(1)) and is_concrete(1.0) and is_concrete(np.ones(1))
    assert not is_concrete(jax.ShapeDtypeStruct((), jnp.float32))
    assert not is_concrete("text")
