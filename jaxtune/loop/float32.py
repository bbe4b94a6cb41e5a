"""Keeps a learner in float32 when `jax_enable_x64` is on.

A user may have switched float64 on for other work; a learner then draws, trains and
predicts the same numbers as without.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


def in_float32(function: Callable) -> Callable:
    """Returns the function with `jax_enable_x64` off while it runs.

    Not for generators: the code that consumes one would run with it off, too.
    """

    @functools.wraps(function)
    def narrow(*arguments, **options):
        with jax.enable_x64(False):
            return function(*arguments, **options)

    return narrow


def to_float32(module: nnx.Module) -> None:
    """Casts a module's float64 values to float32, in place; other values stay.

    With `jax_enable_x64` on, values that are drawn without a dtype are float64.
    """
    wide = jax.tree.map(
        lambda x: x.astype(jnp.float32) if _is_wide(x) else x,
        state := nnx.state(module),
    )
    if any(map(_is_wide, jax.tree.leaves(state))):
        nnx.update(module, wide)


def _is_wide(leaf: Any) -> bool:
    return getattr(leaf, "dtype", None) == jnp.float64
