"""How far arrays moved from one state of a network to another.

Two trees in, a row for each array out. The one rule of the file: an array that has not
moved by a bit says 0, and nothing else does.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from jaxtune.learner.grouping import group_finder
from jaxtune.transfer import dotted


@dataclasses.dataclass(frozen=True)
class Moved:
    """How far one array moved, or several together.

    Attributes:
        path: Of the array, the layer or the group.
        group: Its layer group; "" if it is in none.
        size: Number of elements.
        changed: How many of them are not bit for bit what they were.
        norm: Euclidean norm before.
        distance: Euclidean norm of the difference.
    """

    path: str
    group: str
    size: int
    changed: int
    norm: float
    distance: float

    @property
    def relative(self) -> float:
        """Distance / norm: 0 if nothing moved, inf from a norm of 0."""
        if not self.changed:
            return 0.0
        return self.distance / self.norm if self.norm else math.inf


def tree_diff(before: Any, after: Any, labels: Any = None) -> list[Moved]:
    """Returns how far each array of a tree moved, in the order of the tree.

    Random keys are left out: they move whenever something is drawn.

    Args:
        before: A tree of arrays: parameters, statistics, or a dict of both.
        after: Another of the same names and shapes.
        labels: Group name of each parameter, see `group_labels`; statistics are in the
            group of the layer around them. No groups if None.

    Raises:
        ValueError: If names or shapes differ; the differences are listed.

    Example:
        >>> import numpy as np
        >>> was, now = {"w": np.array([3.0, 4.0])}, {"w": np.array([3.0, 4.5])}
        >>> [moved] = tree_diff(was, now)
        >>> moved.path, moved.changed, moved.relative
        ('w', 1, 0.1)
    """
    old, new = _named(before), _named(after)
    _check_same(old, new)
    find = (lambda path: "") if labels is None else group_finder(labels)
    return [_moved(name, find(name), old[name], new[name]) for name in old]


def combine(rows: Iterable[Moved], path: str) -> Moved:
    """Returns how far several arrays moved as one.

    Args:
        rows: At least one.
        path: What to call them together.
    """
    rows = list(rows)
    groups = {row.group for row in rows}
    return Moved(
        path=path,
        group=groups.pop() if len(groups) == 1 else "",
        size=sum(row.size for row in rows),
        changed=sum(row.changed for row in rows),
        norm=math.hypot(*(row.norm for row in rows)),
        distance=math.hypot(*(row.distance for row in rows)),
    )


def _named(tree: Any) -> dict[str, Any]:
    named = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = dotted(path)
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        if not is_key and "rngs" not in name.split("."):
            named[name] = leaf
    return named


def _check_same(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    problems = [f"  only before: {name}" for name in old if name not in new]
    problems += [f"  only after: {name}" for name in new if name not in old]
    problems += [
        f"  {name}: {old[name].shape} before, {new[name].shape} after"
        for name in old
        if name in new and old[name].shape != new[name].shape
    ]
    if problems:
        more = f"\n  … and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise ValueError(
            "only states of the same names and shapes can be compared; these differ:\n"
            + "\n".join(problems[:20])
            + more
        )


def _moved(path: str, group: str, old: Any, new: Any) -> Moved:
    old, new = np.asarray(old), np.asarray(new)
    was, now = (x.reshape(-1).astype(np.float64) for x in (old, new))
    changed = _bits(old) != _bits(new)
    return Moved(
        path=path,
        group=group,
        size=old.size,
        changed=int(changed.any(axis=-1).sum()),
        norm=float(np.linalg.norm(was)),
        distance=float(np.linalg.norm(now - was)),
    )


def _bits(array: np.ndarray) -> np.ndarray:
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(np.uint8).reshape(flat.size, array.dtype.itemsize)
