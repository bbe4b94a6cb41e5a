"""Which layer group a layer is in, whether it has parameters or not.

A label tree in, a function of paths out. The one rule of the file: what has no
parameter belongs to the group of what surrounds it, and to none if that is several.
"""

from collections.abc import Callable
from typing import Any

import jax

from jaxtune.transfer import dotted


def group_finder(labels: Any) -> Callable[[str], str]:
    """Returns a function: dotted path of a layer, parameter or statistic -> its group.

    The function returns "" for what has no parameter around it, or those of several
    groups.

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
