"""Plain names for the leaves of any tree: what its arrays are called on disk.

A pytree in, leaves by name out, and back. The one rule of the file: a name is made of
the keys, fields and positions on the way to a leaf, so that people can read it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax

#: Keys, fields and positions on the way to a leaf: ("body", "layer1", "0", "weight").
Name = tuple[str, ...]


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

    Named tuples and dataclasses give their fields' names, tuples and lists positions.
    None and empty containers are no leaves.

    Raises:
        ValueError: If two leaves have one name, as with the keys 1 and "1".

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
                "needs another name for each."
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
