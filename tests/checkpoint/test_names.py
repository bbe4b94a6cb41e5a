from typing import NamedTuple

import jax
import optax
import pytest

from jaxtune.checkpoint.names import named_leaves, nested
from jaxtune.train import one_cycle


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
