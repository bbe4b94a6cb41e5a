"""What a network wants against what a checkpoint holds, before any array is read.

Shapes and dtypes by name on both sides in; the name of each array in the checkpoint, or
an error that lists both sides, out. The one rule of the file: all agrees, or nothing is
restored.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import jax.numpy as jnp

from jaxtune.checkpoint.arrays import Leaf
from jaxtune.checkpoint.errors import CheckpointMismatchError
from jaxtune.checkpoint.names import Name
from jaxtune.checkpoint.places import Index, is_random_state
from jaxtune.checkpoint.storage import FORMATS, Stored

#: Arrays wanted, by item (`params`, `model_state`) and name.
Wanted = Mapping[str, Mapping[Name, Leaf]]
#: Lines of each kind that an error lists before it only counts.
LINES = 12


@dataclasses.dataclass
class Differences:
    """Lines for an error, by kind; there is none if all agrees."""

    missing: list[str] = dataclasses.field(default_factory=list)
    extra: list[str] = dataclasses.field(default_factory=list)
    unlike: list[str] = dataclasses.field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.missing or self.extra or self.unlike)

    def compare(self, item: str, name: Name, *, here: Leaf, there: Leaf, same) -> None:
        """Notes a difference between the checkpoint's array and the one wanted."""
        if not same(here, there):
            self.unlike.append(
                f"  ! {item}/{'.'.join(name)}: {_pair(here, there)[0]} in the "
                f"checkpoint, {_pair(here, there)[1]} in the network"
            )

    def lack(self, item: str, name: Name, leaf: Leaf) -> None:
        """Notes an array that only the network has."""
        self.missing.append(
            f"  - {item}/{'.'.join(name)} {leaf.shape}: only in the network"
        )

    def left_over(self, item: str, name: Name, leaf: Leaf) -> None:
        """Notes an array that only the checkpoint has."""
        self.extra.append(
            f"  + {item}/{'.'.join(name)} {leaf.shape}: only in the checkpoint"
        )

    def text(self) -> str:
        """Returns the lines of each kind, the first of many and how many more."""
        lines = []
        for kind in (self.missing, self.extra, self.unlike):
            lines += kind[:LINES]
            if len(kind) > LINES:
                lines.append(f"  {kind[0][2]} … and {len(kind) - LINES} more")
        return "\n".join(lines)


def castable(here: Leaf, there: Leaf) -> bool:
    """Returns whether an array can be restored: one shape; floats, or one dtype."""
    floats = jnp.issubdtype(here.dtype, jnp.floating) and jnp.issubdtype(
        there.dtype, jnp.floating
    )
    return here.shape == there.shape and (floats or here.dtype == there.dtype)


def _pair(here: Leaf, there: Leaf) -> tuple[str, str]:
    if here.shape != there.shape and castable(here._replace(shape=there.shape), there):
        return str(here.shape), str(there.shape)
    return str(here), str(there)


def find_arrays(
    stored: Stored, wanted: Wanted, *, partial: Sequence[str] = ()
) -> dict[str, dict[Name, Name]]:
    """Returns the name in the checkpoint of each array wanted.

    Args:
        stored: What the checkpoint holds.
        wanted: What the network has.
        partial: Dotted prefixes; if there are any, only what lies below them.

    Raises:
        CheckpointMismatchError: If a name, a shape or a dtype differs, or the names lie
            in several places; says what would work, if something would.
        ValueError: If the network has nothing below a prefix of `partial`.
    """
    try:
        return _find(stored, wanted, partial)
    except CheckpointMismatchError as error:
        if partial:
            raise
        raise CheckpointMismatchError(f"{error}\n{_way_out(stored, wanted)}") from None


def _find(
    stored: Stored, wanted: Wanted, partial: Sequence[str]
) -> dict[str, dict[Name, Name]]:
    parts = _parts(wanted, partial)
    shown = {
        item: {n: leaf for n, leaf in named.items() if not parts or _in(n, parts)}
        for item, named in wanted.items()
    }
    # In our own layout, `raw` has the names of the network that it was averaged from.
    own = stored.format in FORMATS
    names = (n for n in stored.leaves if not own or n[:1] != ("raw",))
    index = Index(names)
    depth, places = _places(stored, index, shown, parts)
    differences = Differences()
    found: dict[str, dict[Name, Name]] = {}
    for item, named in shown.items():
        found[item] = {}
        place = places["params"] if places[item] is None else places[item]
        for name, leaf in named.items():
            full = None if place is None else place + name[depth:]
            if full is None or full not in index:
                if not is_random_state(name):
                    differences.lack(item, name, leaf)
                continue
            found[item][name] = index[full]
            differences.compare(
                item, name, here=stored.leaves[index[full]], there=leaf, same=castable
            )
    taken = {name for names in found.values() for name in names.values()}
    for item, place in places.items():
        for rest, full in index.below(place).items() if place is not None else ():
            inside = not parts or _in(rest, [part[depth:] for part in parts])
            if inside and full not in taken and not is_random_state(rest):
                taken.add(full)
                differences.left_over(item, rest, stored.leaves[full])
    if differences:
        raise CheckpointMismatchError(
            f"the checkpoint {stored.path} is not of this network"
            f"{_where(stored, places)}:\n{differences.text()}"
        )
    return found


def _parts(wanted: Wanted, partial: Sequence[str]) -> list[Name]:
    parts = set()
    names = {name for named in wanted.values() for name in named}
    for prefix in partial:
        below = {
            name[:n]
            for name in names
            for n in range(1, len(name) + 1)
            if ".".join(name[:n]) == prefix
        }
        if not below:
            children = ", ".join(sorted({name[0] for name in names}))
            raise ValueError(
                f"the network has nothing below partial={prefix!r}; its children are "
                f"{children}."
            )
        parts |= below
    return sorted(parts)


def _in(name: Name, parts: Collection[Name]) -> bool:
    return any(name[: len(part)] == part for part in parts)


def _places(
    stored: Stored, index: Index, shown: Wanted, parts: Sequence[Name]
) -> tuple[int, dict[str, Name | None]]:
    # A checkpoint of the body alone lacks the words that all parts begin with.
    shared = 0
    if parts:
        shortest = min(len(n) for named in shown.values() for n in named)
        while shared < min(shortest - 1, *map(len, parts)) and (
            len({part[shared] for part in parts}) == 1
        ):
            shared += 1
    for depth in range(shared + 1):
        cut = _cut(shown, depth)
        found = {item: index.places(n) for item, n in cut.items() if n}
        if all(found.values()):
            return depth, _unique(stored, found, cut)
    return 0, _nearest(stored, index, _cut(shown, 0))


def _cut(shown: Wanted, depth: int) -> dict[str, list[Name]]:
    return {
        item: [name[depth:] for name in named if not is_random_state(name)]
        for item, named in shown.items()
    }


def _unique(
    stored: Stored, found: Mapping[str, list[Name]], cut: Mapping[str, list]
) -> dict[str, Name | None]:
    chosen: dict[str, Name | None] = {}
    for item in cut:
        places = found.get(item)
        # Statistics in the parameters' own tree are the parameters' statistics.
        if places and len(places) > 1 and chosen.get("params") in places:
            places = [chosen["params"]]
        if places and len(places) > 1:
            listed = ", ".join(".".join(place) or "the root" for place in places)
            raise CheckpointMismatchError(
                f"the checkpoint {stored.path} has arrays of these names ({item}) in "
                f"several places: {listed}. Read the right one with Orbax, and put it "
                "into the network with nnx.update."
            )
        chosen[item] = places[0] if places else None
    return _with_mirror(stored, chosen)


def _nearest(
    stored: Stored, index: Index, cut: Mapping[str, list]
) -> dict[str, Name | None]:
    chosen: dict[str, Name | None] = {}
    for item, names in cut.items():
        if chosen.get("params") in (complete := index.places(names) if names else []):
            chosen[item] = chosen["params"]
        else:
            chosen[item] = complete[0] if complete else index.nearest(names)
    if stored.format in FORMATS:
        chosen = {item: place or (item,) for item, place in chosen.items()}
    elif all(place is None for place in chosen.values()):
        chosen["params"] = ()
    return _with_mirror(stored, chosen)


def _with_mirror(
    stored: Stored, chosen: dict[str, Name | None]
) -> dict[str, Name | None]:
    # In our own layout the statistics lie beside the parameters, wanted or not.
    place = chosen.get("params")
    if stored.format in FORMATS and place and place[0] == "params":
        chosen["model_state"] = chosen["model_state"] or ("model_state", *place[1:])
    return chosen


def _where(stored: Stored, places: Mapping[str, Name | None]) -> str:
    if stored.format in FORMATS:
        return ""
    shown = [
        f"{item} looked for below {'.'.join(place) or 'the root'}"
        for item, place in places.items()
        if place is not None
    ]
    return f" ({'; '.join(shown)})" if shown else ""


def _way_out(stored: Stored, wanted: Wanted) -> str:
    names = [name for named in _cut(wanted, 0).values() for name in named]
    children = list(dict.fromkeys(name[0] for name in names))
    agree = []
    for child in children:
        try:
            _find(stored, wanted, [child])
        except CheckpointMismatchError:
            continue
        agree.append(child)
    if agree and len(agree) < len(children):
        shown = repr(agree[0] if len(agree) == 1 else tuple(agree))
        return (
            f"Everything below {' and '.join(agree)} agrees: partial={shown} restores "
            "that, and leaves the rest as it is."
        )
    return (
        "Build the network it was saved from: the same architecture, head and classes."
    )


def same_state(
    path: Path,
    stored: Mapping[Name, Leaf],
    wanted: Mapping[Name, Leaf],
    *,
    item: str = "opt_state",
) -> None:
    """Raises an error unless a training's state is the one wanted, name by name.

    Args:
        path: The checkpoint's folder, for the message.
        stored: What the checkpoint holds.
        wanted: What is asked for.
        item: "opt_state", an optimizer's state, or "raw", what an average is made of.

    Raises:
        CheckpointMismatchError: If a name, a shape or a dtype differs.
    """
    differences = Differences()
    for name in sorted(set(stored) | set(wanted)):
        if name not in stored:
            differences.lack(item, name, wanted[name])
        elif name not in wanted:
            differences.left_over(item, name, stored[name])
        else:
            differences.compare(
                item,
                name,
                here=stored[name],
                there=wanted[name],
                same=lambda here, there: here == there,
            )
    if differences and item == "raw":
        raise CheckpointMismatchError(
            f"in the checkpoint {path} other values have an average:\n"
            f"{differences.text()}\nIt goes on only where the same parameters train; "
            "the averaged ones open with load_checkpoint."
        )
    if differences:
        text = differences.text().replace("the network", "the optimizer")
        raise CheckpointMismatchError(
            f"the optimizer's state in the checkpoint {path} is of another optimizer "
            f"or of other parameters:\n{text}\nIt goes on only where the same "
            "parameters train with the same optimizer. Parameters alone open across a "
            "freeze boundary: load_checkpoint."
        )
