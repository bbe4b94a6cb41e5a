"""Leaves of a tree as arrays of the host, and back.

Anything JAX calls a leaf in, NumPy arrays out, and back. The one rule of the file: what
comes back is of the kind that went in, bit for bit.
"""

import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_KEY_IMPLEMENTATIONS = ("threefry2x32", "rbg", "unsafe_rbg")


class Leaf(NamedTuple):
    """What is known of an array without its values.

    Attributes:
        shape: Its shape.
        dtype: Its NumPy dtype.
    """

    shape: tuple[int, ...]
    dtype: np.dtype

    def __str__(self) -> str:
        return f"{self.shape} {self.dtype_name}"

    @property
    def dtype_name(self) -> str:
        """Name of the dtype; "str" for text."""
        return "str" if self.dtype.kind == "U" else self.dtype.name

    @property
    def num_bytes(self) -> int:
        """Bytes of the array in memory."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def describe_leaf(leaf: Any) -> Leaf:
    """Returns shape and dtype of an array, a `jax.ShapeDtypeStruct` or a number.

    A key of `jax.random` is described by its data, as it is stored.
    """
    if _is_key(leaf):
        leaf = jax.eval_shape(
            jax.random.key_data, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        )
    if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
        leaf = np.asarray(leaf)
    return Leaf(tuple(leaf.shape), np.dtype(leaf.dtype))


def is_concrete(leaf: Any) -> bool:
    """Returns whether a leaf has values: an array or a number."""
    return isinstance(leaf, jax.Array | np.ndarray | np.generic | bool | int | float)


def host_copy(leaf: Any) -> np.ndarray:
    """Returns a copy of an array on the host, of which nobody else knows.

    On a CPU an array of JAX and what NumPy sees of it are one piece of memory, which a
    donating step overwrites; so it is copied there too.
    """
    if _is_key(leaf):
        leaf = jax.random.key_data(leaf)
    return np.array(leaf)


def restored(array: np.ndarray, like: Any) -> Any:
    """Returns an array as the kind of leaf that `like` is, in its dtype.

    Args:
        array: Of the shape of `like`.
        like: An array, a `jax.ShapeDtypeStruct` or a number.
    """
    if _is_key(like):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=_implementation(like))
    array = np.asarray(array).astype(describe_leaf(like).dtype, copy=False)
    if isinstance(like, np.ndarray | np.generic):
        return array
    if isinstance(like, bool | int | float):
        return array.item()
    return jnp.asarray(array)


def checksum(array: np.ndarray) -> int:
    """Returns the CRC-32 of an array's bytes, in C order."""
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def _is_key(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)


def _implementation(like: Any) -> str:
    for name in _KEY_IMPLEMENTATIONS:
        made = jax.eval_shape(lambda name=name: jax.random.key(0, impl=name))
        if made.dtype == like.dtype:
            return name
    raise ValueError(
        f"keys of {like.dtype} can't be restored; known are those of "
        f"{', '.join(_KEY_IMPLEMENTATIONS)}."
    )
