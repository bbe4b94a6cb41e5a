"""Finds the layer group of any layer, also of one without parameters.

A layer without parameters belongs to the group of the module around it; if that module
spans several groups, the layer belongs to none.
"""

from collections.abc import Callable
from typing import Any

import jax

from jaxtune.transfer import dotted


def group_finder(labels: Any) -> Callable[[str], str]:
    """Returns a function from the path of a layer, parameter or statistic to its group.

    Paths are dotted. The function returns "" if the innermost module around the path
    that has parameters has those of several groups, or if there is no such module.

    Args:
        labels: Group name of each parameter, see `group_labels`.

    Example:
        >>> labels = {"body": {"bn": {"bias": "early"}}, "fc": {"weight": "head"}}
        >>> find = group_finder(labels)
        >>> find("body.bn.running_mean"), find("body.relu"), find("pool")
        ('early', 'early', '')
    """
    names: dict[str, set[str]] = {}
    for path, name in jax.tree_util.tree_leaves_with_path(labels):
        prefix = dotted(path)
        while prefix:
            names.setdefault(prefix, set()).add(name)
            prefix = prefix.rpartition(".")[0]

    def find(path: str) -> str:
        while path and path not in names:
            path = path.rpartition(".")[0]
        around = names.get(path, set())
        return next(iter(around)) if len(around) == 1 else ""

    return find
