from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtune.checkpoint import fingerprint, fingerprint_text
from jaxtune.checkpoint.leaves import (
    checksum,
    describe_leaf,
    host_copy,
    is_concrete,
    named_leaves,
    nested,
    restored,
)
from jaxtune.train import one_cycle

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


class Moments(NamedTuple):
    mu: dict
    nu: dict


def test_fields_keys_and_positions_are_words_of_the_name():
    tree = {"inner": (Moments({"w": 1}, {"w": 2}), optax.MaskedNode(), None, [3])}
    assert named_leaves(tree) == {
        ("inner", "0", "mu", "w"): 1,
        ("inner", "0", "nu", "w"): 2,
        ("inner", "3", "0"): 3,
    }


def test_a_dataclass_gives_the_names_of_its_fields():
    names = named_leaves({"schedule": one_cycle(10)})
    assert ("schedule", "learning_rate", "ends") in names
    assert ("schedule", "total_steps") in names


def test_order_is_that_of_the_tree():
    tree = {"b": [1, 2], "a": {"10": 3, "9": 4}}
    assert list(named_leaves(tree).values()) == jax.tree.leaves(tree)


def test_two_leaves_of_one_name_are_an_error():
    @jax.tree_util.register_pytree_with_keys_class
    class Pair:
        def tree_flatten_with_keys(self):
            key = jax.tree_util.DictKey
            return [(key("1"), 0.0), (key(1), 1.0)], None

        @classmethod
        def tree_unflatten(cls, _, children):
            return cls()

    with pytest.raises(ValueError, match="two leaves of the tree are called 1"):
        named_leaves(Pair())


def test_nested_gives_the_names_back():
    named = {("a", "b"): 1, ("a", "0"): 2, ("c",): 3}
    assert named_leaves(nested(named)) == named


TREE = {"a": jnp.arange(3.0), "b": (jnp.ones(2), jax.random.key(0))}


def test_the_same_values_have_the_same_one():
    copy = {"a": jnp.arange(3.0), "b": (jnp.ones(2), jax.random.key(0))}
    assert fingerprint(TREE) == fingerprint(copy)


def test_a_bit_a_name_a_shape_a_dtype_or_a_key_makes_another():
    others = [
        {**TREE, "a": jnp.arange(3.0).at[0].set(-0.0)},
        {"A": TREE["a"], "b": TREE["b"]},
        {**TREE, "a": jnp.arange(3.0)[None]},
        {**TREE, "a": jnp.arange(3)},
        {**TREE, "b": (jnp.ones(2), jax.random.key(1))},
    ]
    prints = {fingerprint(tree) for tree in [TREE, *others]}
    assert len(prints) == 6


def test_lines_are_not_run_together():
    prints = {fingerprint_text(lines) for lines in (["a", "b"], ["ab"], ["b", "a"])}
    assert len(prints) == 3
