"""Fingerprints: two trees have the same one if every bit of them is the same.

Trees or lists of text in, a sha256 out. The one rule of the file: names, shapes and
dtypes count as well as values.
"""

import hashlib
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np


def fingerprint(tree: Any) -> str:
    """Returns the sha256 of a tree's names, shapes, dtypes and values, in hexadecimal.

    Args:
        tree: Any pytree of arrays, random keys included.
    """
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(
            leaf.dtype, jax.dtypes.prng_key
        ):
            leaf = jax.random.key_data(leaf)
        values = np.asarray(jax.device_get(leaf))
        name = f"{jax.tree_util.keystr(path)} {values.shape} {values.dtype}\n"
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(values).tobytes())
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
