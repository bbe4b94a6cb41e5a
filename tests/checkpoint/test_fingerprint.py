import jax
import jax.numpy as jnp

from jaxtune.checkpoint import fingerprint, fingerprint_text

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
