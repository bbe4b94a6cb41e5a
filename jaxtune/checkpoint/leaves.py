"""The leaves of any pytree: their names, shapes and dtypes, copies, sums and back.

What is restored is of the kind that was copied, bit for bit.
"""

import hashlib
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtune.train import whole_on_host

#: Keys, fields and positions on the way to a leaf: ("body", "layer1", "0", "weight").
Name = tuple[str, ...]

_KEY_IMPLEMENTATIONS = ("threefry2x32", "rbg", "unsafe_rbg")


# Names.


def name_of(path: Iterable) -> Name:
    """Returns the name of a leaf from its `jax.tree_util` key path."""
    return tuple(_word(key) for key in path)


def _word(key: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def named_leaves(tree: Any) -> dict[Name, Any]:
    """Returns the leaves of a tree by name, in the tree's order.

    Named tuples and dataclasses contribute field names, tuples and lists positions.
    None and empty containers have no leaves.

    Raises:
        ValueError: If two leaves have the same name, as with the keys 1 and "1".

    Example:
        >>> named_leaves({"mu": (1.0, {"w": 2.0})})
        {('mu', '0'): 1.0, ('mu', '1', 'w'): 2.0}
    """
    named: dict[Name, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = name_of(path)
        if name in named:
            raise ValueError(
                f"two leaves of the tree are called {'.'.join(name)}; a checkpoint "
                "needs a different name for each."
            )
        named[name] = leaf
    return named


def nested(named: Mapping[Name, Any]) -> dict:
    """Returns a tree of dicts from leaves by name.

    Example:
        >>> nested({("mu", "0"): 1.0, ("mu", "1", "w"): 2.0})
        {'mu': {'0': 1.0, '1': {'w': 2.0}}}
    """
    root: dict = {}
    for name, leaf in named.items():
        node = root
        for word in name[:-1]:
            node = node.setdefault(word, {})
        node[name[-1]] = leaf
    return root


# Shapes, dtypes and values.


class Leaf(NamedTuple):
    """Shape and dtype of an array.

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

    A key of `jax.random` is described by its data, which is what is stored.
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
    """Returns a copy of an array on the host that shares no memory with it.

    On a CPU, NumPy's view of a JAX array is the same memory, which a step that donates
    its arguments overwrites; so it is copied there too. Where several processes hold
    parts of an array, all must call it, and each gets the whole.
    """
    if _is_key(leaf):
        leaf = jax.random.key_data(leaf)
    return np.array(whole_on_host(leaf))


def restored(array: np.ndarray, like: Any) -> Any:
    """Returns an array as the kind of leaf that `like` is, in its dtype.

    Args:
        array: Values of the shape of `like`.
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


def _is_key(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)


def _implementation(like: Any) -> str:
    for name in _KEY_IMPLEMENTATIONS:
        key = jax.eval_shape(lambda name=name: jax.random.key(0, impl=name))
        if key.dtype == like.dtype:
            return name
    raise ValueError(
        f"random keys of dtype {like.dtype} can't be restored; supported are "
        f"{', '.join(_KEY_IMPLEMENTATIONS)}."
    )


# Checksums and fingerprints.


def checksum(array: np.ndarray) -> int:
    """Returns the CRC-32 of an array's bytes, in C order."""
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def fingerprint(tree: Any) -> str:
    """Returns the sha256 of a tree's names, shapes, dtypes and values, in hexadecimal.

    Args:
        tree: Any pytree of arrays, random keys included.
    """
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        values = host_copy(leaf)
        name = f"{jax.tree_util.keystr(path)} {values.shape} {values.dtype}\n"
        digest.update(name.encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def fingerprint_text(lines: Iterable[str]) -> str:
    """Returns the sha256 of lines of text, in hexadecimal.

    Example:
        >>> fingerprint_text(["a", "b"]) == fingerprint_text(["ab"])
        False
    """
    digest = hashlib.sha256()
    for line in lines:
        encoded = line.encode(errors="surrogateescape")
        digest.update(f"{len(encoded)}:".encode())
        digest.update(encoded)
    return digest.hexdigest()
