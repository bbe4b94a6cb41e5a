"""float32, whatever JAX is told of float64.

The one rule of the file: where a user has switched float64 on for other work
(`jax_enable_x64`), a learner draws, trains and predicts the same numbers as without.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


def in_float32(function: Callable) -> Callable:
    """Returns the function with `jax_enable_x64` off while it runs.

    Not for generators: what consumes them would find it off, too.
    """

    @functools.wraps(function)
    def narrow(*arguments, **options):
        with jax.enable_x64(False):
            return function(*arguments, **options)

    return narrow


def to_float32(module: nnx.Module) -> None:
    """Makes float64 values of a module float32, in place; other values stay.

    With `jax_enable_x64` on, what says no dtype is drawn in float64.
    """
    wide = jax.tree.map(
        lambda x: x.astype(jnp.float32) if _is_wide(x) else x,
        state := nnx.state(module),
    )
    if any(map(_is_wide, jax.tree.leaves(state))):
        nnx.update(module, wide)


def _is_wide(leaf: Any) -> bool:
    return getattr(leaf, "dtype", None) == jnp.float64
