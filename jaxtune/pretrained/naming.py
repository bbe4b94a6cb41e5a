"""The names of a file's arrays, made those of a network.

Arrays by whatever name they were saved under, and a network's names in; the arrays
under the network's names out. The one rule of the file: names are found by comparing
all of them with the network's, so that any prefix will do.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

#: Where a file holds two networks that fit, the one that is meant to be used: MoCo's
#: query encoder, the teacher of DINO, BYOL's online network.
_PREFERRED = ("encoder_q", "teacher", "online_network", "online_encoder", "model")


def named_as(
    arrays: Mapping[str, Any],
    wanted: Collection[str],
    *,
    order: Sequence[str] = (),
    optional: str = "",
) -> dict[str, Any]:
    """Returns the arrays under a network's names; those of other parts keep theirs.

    The prefix that stands before most of the network's names is removed, such as
    `module.encoder_q.` or `backbone.`. A network that was saved as a plain list of its
    children ("0.weight", "4.0.conv1.weight") gets their names.

    Args:
        arrays: By the names in the file.
        wanted: The network's names: parameters and statistics.
        order: Names of the network's children, in their order.
        optional: Child that says nothing about where the network is: the classifier.

    Example:
        >>> named_as({"net.fc.bias": 1, "queue": 2}, ["fc.bias"])
        {'fc.bias': 1, 'queue': 2}
        >>> named_as({"0.weight": 1, "1.bias": 2}, ["conv.weight", "bn.bias"],
        ...          order=["conv", "bn"])
        {'conv.weight': 1, 'bn.bias': 2}
    """
    wanted = set(wanted)
    numbered = {_numbered(name, order): name for name in wanted} if order else {}
    telling = {n for n in wanted if not optional or n.split(".")[0] != optional}
    hits: Counter = Counter()
    for name in arrays:
        parts = name.split(".")
        for cut in range(len(parts)):
            rest, prefix = ".".join(parts[cut:]), "".join(f"{p}." for p in parts[:cut])
            if rest in telling:
                hits[prefix, False] += 1
            if numbered.get(rest) in telling:
                hits[prefix, True] += 1
    if not hits:
        return dict(arrays)
    prefix, by_number = min(hits, key=lambda place: _rank(place, hits[place]))
    found, others = {}, {}
    for name, array in arrays.items():
        if not name.startswith(prefix):
            others[name] = array
            continue
        rest = name[len(prefix) :]
        found[numbered.get(rest, rest) if by_number else rest] = array
    # What is the network's goes before what only has the same name.
    return found | {name: array for name, array in others.items() if name not in found}


def _rank(place: tuple[str, bool], count: int) -> tuple:
    prefix, by_number = place
    words = set(re.split(r"[.]", prefix))
    preferred = [i for i, word in enumerate(_PREFERRED) if word in words]
    return (
        -count,
        prefix != "",
        min(preferred, default=len(_PREFERRED)),
        by_number,
        len(prefix),
        prefix,
    )


def _numbered(name: str, order: Sequence[str]) -> str:
    child, _, rest = name.partition(".")
    return f"{order.index(child)}.{rest}" if child in order else name
