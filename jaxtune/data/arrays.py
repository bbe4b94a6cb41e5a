"""Arrays: what is given to functions on the device is looked at while they are traced.

Arrays and keys go in, and come out as JAX's. The one rule: only shapes and dtypes are
looked at, so that it costs nothing in a compiled step.
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
    """Returns an array of JAX or NumPy as it is.

    Args:
        value: An array.
        name: Of the argument, for the message.
        wanted: What it must be, in words.
        ndim: How many dimensions it has; one or more if None.
        kind: "f" for floats, "i" for whole numbers, "u" for uint8, "b" for bools.

    Raises:
        TypeError: If it is no array, or of another dtype.
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
    """Returns a random key, or an array of them, as it is.

    Raises:
        TypeError: If it is none.
        ValueError: If there are more or fewer.
    """
    wanted = "a key such as jax.random.key(0)" if ndim == 0 else "keys, one an image"
    shape = getattr(value, "shape", None)
    dtype = getattr(value, "dtype", None)
    if not isinstance(value, jax.Array | np.ndarray):
        raise TypeError(f"{name} must be {wanted}; received {described(value)}.")
    typed = jnp.issubdtype(dtype, jax.dtypes.prng_key)
    # What jax.random.PRNGKey gives: the numbers of a key along one dimension more.
    if not typed and dtype != np.uint32:
        raise TypeError(f"{name} must be {wanted}; received {dtype} {shape}.")
    if len(shape) != ndim + (not typed):
        raise ValueError(f"{name} must be {wanted}; received {dtype} {shape}.")
    return value


def check_mean_std(mean: Any, std: Any, channels: int) -> tuple[Any, Any]:
    """Returns mean and std of each channel.

    Raises:
        TypeError: If one is no list or array of numbers.
        ValueError: If one is missing, they are not as many as the channels, or not
            finite, or a std is not above 0.
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
            value = np.asarray(value)  # an entry of JAX's would be traced
        several = [value] if np.ndim(value) == 0 and _is_number(value) else value
        count = None if np.shape(several) == (1,) else channels
        what = "numbers, one for each channel"
        check_numbers(several, name, count=count, what=what, **limits)
    return mean, std


def _is_number(value: Any) -> bool:
    if isinstance(value, bool | np.bool_ | str):
        return False
    return isinstance(value, int | float | np.number) or hasattr(value, "dtype")
