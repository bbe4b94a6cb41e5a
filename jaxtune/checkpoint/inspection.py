"""What a checkpoint holds, as a readable tree, without reading its arrays.

Nothing is left out of the tree; what repeats is written once.
"""

import dataclasses
import os
import re
from collections.abc import Mapping
from typing import Any

from jaxtune.checkpoint.leaves import Leaf, Name, nested
from jaxtune.checkpoint.places import Place, place_of
from jaxtune.checkpoint.storage import open_stored, read_meta

_ORDER = ("params", "model_state", "opt_state", "raw")


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a checkpoint holds.

    `str` of it is a readable tree; neighbours with equal contents share a line.

    Attributes:
        path: The checkpoint's folder.
        format: "jaxtune/2" or "jaxtune/1"; None if jaxtune didn't write it.
        leaves: Shape and dtype of each array, by name; a name is a tuple of words, the
            first of which is the item (`params`, `model_state`, `opt_state`, `raw`;
            others in others' checkpoints, "" for a tree without a name).
        meta: The description; None if there is none.
    """

    path: Place
    format: str | None
    leaves: dict[Name, Leaf]
    meta: Any

    @property
    def items(self) -> dict[str, dict[str, Leaf]]:
        """Shape and dtype of each array by its dotted name, for each item."""
        items: dict[str, dict[str, Leaf]] = {}
        for (item, *rest), leaf in self.leaves.items():
            items.setdefault(item, {})[".".join(rest)] = leaf
        return items

    def num_bytes(self, item: str) -> int:
        """Returns the bytes of an item's arrays in memory."""
        return sum(leaf.num_bytes for leaf in self.items[item].values())

    def __str__(self) -> str:
        lines = []
        tree = nested(self.leaves)
        items = self.items
        for item in sorted(items, key=_rank):
            leaves = items[item]
            size = self.num_bytes(item) / 1e6
            lines.append(f"{item or '(one tree)'}  {len(leaves)} arrays, {size:.1f} MB")
            if isinstance(tree[item], dict):
                lines += [f"  {line}" for line in _lines(tree[item])]
        if isinstance(self.meta, dict):
            lines.append(f"meta  JSON: {', '.join(self.meta)}")
        return "\n".join(lines)


def inspect_checkpoint(path: str | os.PathLike) -> Contents:
    """Returns what a checkpoint holds, jaxtune's or another's; reads no array.

    Raises:
        FileNotFoundError: If there is no checkpoint at the path.
        CheckpointDamagedError: If its metadata can't be read.
    """
    stored = open_stored(place_of(path))
    prefix = ("",) if stored.single else ()
    return Contents(
        path=stored.path,
        format=stored.format,
        leaves={prefix + name: leaf for name, leaf in stored.leaves.items()},
        meta=read_meta(stored.path) if (stored.path / "meta").is_dir() else None,
    )


def _lines(node: Mapping[str, Any]) -> list[str]:
    # Neighbours with equal subtrees share a line: `0, 1`, `mu, nu`.
    groups: list[tuple[list[str], bool, list[str]]] = []
    for key in sorted(node, key=_natural):
        label, child = key, node[key]
        while isinstance(child, Mapping) and len(child) == 1:
            ((key, child),) = child.items()
            label = f"{label}.{key}"
        inner = isinstance(child, Mapping)
        below = _lines(child) if inner else [str(child)]
        if groups and groups[-1][1:] == (inner, below):
            groups[-1][0].append(label)
        else:
            groups.append(([label], inner, below))
    lines = []
    for labels, inner, below in groups:
        if inner:
            lines += [", ".join(labels), *(f"  {line}" for line in below)]
        else:
            lines.append(f"{', '.join(labels)}  {below[0]}")
    return lines


def _natural(word: str) -> tuple:
    # 2 before 10, and layer2 before layer10.
    return tuple(
        (1, int(part), "") if part.isdigit() else (0, 0, part)
        for part in re.split(r"(\d+)", word)
        if part
    )


def _rank(item: str) -> tuple[int, str]:
    return (_ORDER.index(item) if item in _ORDER else len(_ORDER), item)
