"""Checks of the array arguments of functions that run on the device.

Only shapes and dtypes are checked, while tracing, so compiled steps pay nothing.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtune.arguments import check_numbers, described, is_traced

_KINDS = {"f": jnp.floating, "b": jnp.bool_, "i": jnp.integer, "u": jnp.uint8}


def check_array(
    value: Any, name: str, wanted: str, ndim: int | None, kind: str | None = None
) -> Any:
    """Returns an array of JAX or NumPy unchanged.

    Args:
        value: An array.
        name: Of the argument, for the message.
        wanted: Description of what it must be.
        ndim: Number of dimensions; at least one if None.
        kind: "f" for floats, "i" for whole numbers, "u" for uint8, "b" for bools.

    Raises:
        TypeError: If it is not an array, or has another dtype.
        ValueError: If it has another number of dimensions.
    """
    if not isinstance(value, jax.Array | np.ndarray):
        raise TypeError(f"{name} must be {wanted}; received {described(value)}.")
    if kind is not None and not jnp.issubdtype(value.dtype, _KINDS[kind]):
        raise TypeError(f"{name} must be {wanted}; received {value.dtype}.")
    if value.ndim != ndim if ndim is not None else value.ndim < 1:
        raise ValueError(f"{name} must be {wanted}; received shape {value.shape}.")
    return value


def check_key(value: Any, name: str, ndim: int = 0) -> Any:
    """Returns a random key, or an array of keys with `ndim` dimensions, unchanged.

    Raises:
        TypeError: If it is neither.
        ValueError: If it has another number of dimensions.
    """
    wanted = "a key such as jax.random.key(0)" if ndim == 0 else "a key for each image"
    shape = getattr(value, "shape", None)
    dtype = getattr(value, "dtype", None)
    if not isinstance(value, jax.Array | np.ndarray):
        raise TypeError(f"{name} must be {wanted}; received {described(value)}.")
    typed = jnp.issubdtype(dtype, jax.dtypes.prng_key)
    # jax.random.PRNGKey gives uint32 numbers, in one more dimension.
    if not typed and dtype != np.uint32:
        raise TypeError(f"{name} must be {wanted}; received {dtype} {shape}.")
    if len(shape) != ndim + (not typed):
        raise ValueError(f"{name} must be {wanted}; received {dtype} {shape}.")
    return value


def check_mean_std(mean: Any, std: Any, channels: int) -> tuple[Any, Any]:
    """Returns mean and std of each channel.

    Raises:
        TypeError: If one is not a list or array of numbers.
        ValueError: If there are more or fewer than channels, one is not finite, or a
            std is not above 0.
    """
    for name, value, limits in (("mean", mean, {}), ("std", std, {"above": 0})):
        if is_traced(value):
            if value.shape not in ((channels,), (1,), ()):
                raise ValueError(
                    f"{name} must have a number for each of {channels} channels;"
                    f" received shape {value.shape}."
                )
            continue
        if isinstance(value, jax.Array):
            value = np.asarray(value)  # indexing a JAX array would be traced
        several = [value] if np.ndim(value) == 0 and _is_number(value) else value
        count = None if np.shape(several) == (1,) else channels
        what = "numbers, one for each channel"
        check_numbers(several, name, count=count, what=what, **limits)
    return mean, std


def _is_number(value: Any) -> bool:
    if isinstance(value, bool | np.bool_ | str):
        return False
    return isinstance(value, int | float | np.number) or hasattr(value, "dtype")
