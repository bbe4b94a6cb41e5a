"""Matching a network's arrays with those of a checkpoint, before any array is read.

All names, shapes and dtypes must agree; else an error lists both sides, and nothing is
restored.
"""

import os.path
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import jax.numpy as jnp

from jaxtune.checkpoint.leaves import Leaf, Name
from jaxtune.checkpoint.places import Place
from jaxtune.checkpoint.storage import FORMATS, Stored

#: Arrays of a network, by item (`params`, `model_state`) and name.
Wanted = Mapping[str, Mapping[Name, Leaf]]
#: Arrays by item and name.
Flat = Mapping[tuple[str, Name], Leaf]

#: Lines of each kind that an error lists; the others are counted.
_MOST_LINES = 12
_OPTIMIZERS = {
    "opt", "optim", "optimizer", "tx", "opt_state", "opt_states", "optim_state",
    "optimizer_state",
}  # fmt: skip
_MOMENTS = {"mu", "nu", "trace", "velocity", "momentum"}


class CheckpointMismatchError(ValueError):
    """A checkpoint's arrays are not those asked for; both sides are listed."""


def match_arrays(
    stored: Stored,
    wanted: Wanted,
    *,
    partial: Sequence[str] = (),
    prefix: str | None = None,
) -> dict[str, dict[Name, Name]]:
    """Returns the name in the checkpoint of each array of a network.

    The names are looked for below every prefix. In jaxtune's own checkpoints there is
    one for parameters and statistics; in others there may be one for each, and where
    several could hold the statistics, the one nearest to the parameters counts.

    Args:
        stored: What the checkpoint holds.
        wanted: What the network has.
        partial: Dotted prefixes in the network; if given, only what lies below them.
        prefix: Dotted prefix in the checkpoint, where the parameters are.

    Raises:
        CheckpointMismatchError: If a name, a shape or a dtype differs, or several
            prefixes fit; with what would work, if something would.
        ValueError: If the network has nothing below a prefix of `partial`, or the
            checkpoint nothing below `prefix`.
    """
    names = {name for named in wanted.values() for name in named}
    parts = sorted(
        start
        for dotted in partial
        for start in _starts(names, dotted, "partial", "network")
    )
    wanted = {
        item: {n: leaf for n, leaf in named.items() if not parts or _is_in(n, parts)}
        for item, named in wanted.items()
    }
    held = {item: _held(stored, item) for item in wanted}
    shared, places = _find_places(stored, held, wanted, parts, prefix)
    matched: dict[str, dict[Name, Name]] = {}
    here, there = {}, {}
    for item, named in wanted.items():
        matched[item] = {}
        for name, leaf in named.items():
            source = held[item].get(places[item] + name[len(shared) :])
            if source is not None:
                matched[item][name] = source
                here[item, name] = stored.leaves[source]
            if source is not None or not is_random_state(name):
                there[item, name] = leaf
    taken = {source for sources in matched.values() for source in sources.values()}
    for item, place in places.items():
        for name, source in held[item].items():
            rest = shared + name[len(place) :]
            inside = name[: len(place)] == place and (not parts or _is_in(rest, parts))
            if inside and source not in taken and not is_random_state(rest):
                taken.add(source)
                here[item, rest] = stored.leaves[source]
    if lines := _differences(here, there, castable, "network"):
        way_out = "" if partial else f"\n{_way_out(stored, wanted, prefix)}"
        raise CheckpointMismatchError(
            f"the checkpoint {stored.path} is not of this network"
            f"{_searched(stored, places)}:\n{lines}{way_out}"
        )
    return matched


def _starts(names: Iterable[Name], dotted: str, option: str, owner: str) -> set[Name]:
    """Returns the beginnings of names that a dotted prefix stands for."""
    names = set(names)
    starts = {name[:n] for name in names for n in range(1, len(name) + 1)}
    chosen = {start for start in starts if ".".join(start) == dotted}
    if not chosen:
        children = ", ".join(sorted({name[0] for name in names}))
        raise ValueError(
            f"the {owner} has nothing below {option}={dotted!r}; its children are "
            f"{children}."
        )
    return chosen


def _is_in(name: Name, parts: Collection[Name]) -> bool:
    return any(name[: len(part)] == part for part in parts)


def _held(stored: Stored, item: str) -> dict[Name, Name]:
    """Returns the names in which an item is searched, and the arrays they stand for.

    Of others' checkpoints that is all names, also without the `value` that Flax adds to
    a variable that is not made pure.
    """
    if stored.format in FORMATS:
        return {name[1:]: name for name in stored.leaves if name[0] == item}
    names = dict.fromkeys(stored.leaves)
    siblings = Counter(name[:cut] for name in names for cut in range(len(name)))
    held = {
        name[:-1]: name
        for name in names
        if len(name) > 1
        and name[-1] == "value"
        and siblings[name[:-1]] == 1
        and name[:-1] not in names
    }
    return held | {name: name for name in names}


def _find_places(
    stored: Stored,
    held: Mapping[str, Mapping[Name, Name]],
    wanted: Wanted,
    parts: Sequence[Name],
    prefix: str | None,
) -> tuple[Name, dict[str, Name]]:
    """Returns the prefix of each item in the checkpoint.

    A checkpoint of the body alone lacks the words that all parts begin with; how many
    of them it lacks comes first.
    """
    own = stored.format in FORMATS
    chosen = None if prefix is None else {()}
    if prefix:
        chosen = _starts(held["params"], prefix, "prefix", "checkpoint")
    lengths = [len(name) for named in wanted.values() for name in named]
    shared = os.path.commonprefix(parts)[: min(lengths) - 1] if parts else ()
    attempts = []
    for depth in range(len(shared) + 1):
        names = {
            item: {name[depth:] for name in named if not is_random_state(name)}
            for item, named in wanted.items()
        }
        hits = {item: _hits(held[item], n) for item, n in names.items() if n}
        if chosen is not None and "params" in hits:
            hits["params"] = Counter({p: hits["params"][p] for p in chosen})
        attempts.append((shared[:depth], hits))
        complete = all(len(names[item]) in hits[item].values() for item in hits)
        if complete:
            break
    shared, hits = attempts[-1 if complete else 0]
    places: dict[str, Name] = {}
    for item, counts in hits.items():
        if own and places:
            break  # Our own have statistics under the same prefix as parameters.
        candidates = _candidates(counts, places.get("params", ()))
        if complete and len(candidates) > 1:
            raise _several(stored, item, candidates)
        if candidates:
            places[item] = candidates[0]
    default = next(iter(places.values()), ())
    return shared, {item: places.get(item, default) for item in wanted}


def _candidates(hits: Counter, near: Name) -> list[Name]:
    """Returns the prefixes of most names; of these the ones nearest to another."""

    def rank(place: Name) -> tuple[int, int]:
        return hits[place], len(os.path.commonprefix([place, near]))

    best = max(map(rank, hits), default=None)
    return sorted((p for p in hits if rank(p) == best), key=lambda p: (len(p), p))


def _hits(held: Iterable[Name], wanted: Collection[Name]) -> Counter:
    """Returns how many of the wanted names lie below each prefix."""
    hits = Counter(
        name[:cut] for name in held for cut in range(len(name)) if name[cut:] in wanted
    )
    return Counter({p: n for p, n in hits.items() if not is_optimizer_state(p)})


def _several(
    stored: Stored, item: str, places: Sequence[Name]
) -> CheckpointMismatchError:
    shown = [".".join(place) for place in places]
    listed = ", ".join(place or "the root" for place in shown)
    way_out = "Read the right one with Orbax, and use nnx.update."
    if item == "params":
        way_out = f"Choose one, such as prefix={shown[0]!r}."
    return CheckpointMismatchError(
        f"the checkpoint {stored.path} has arrays of these names ({item}) in several "
        f"places: {listed}. {way_out}"
    )


def _searched(stored: Stored, places: Mapping[str, Name]) -> str:
    if stored.format in FORMATS:
        return ""
    shown = [
        f"{item} looked for below {'.'.join(place) or 'the root'}"
        for item, place in places.items()
    ]
    return f" ({'; '.join(shown)})"


def _way_out(stored: Stored, wanted: Wanted, prefix: str | None) -> str:
    names = [n for named in wanted.values() for n in named if not is_random_state(n)]
    children = list(dict.fromkeys(name[0] for name in names))
    agree = []
    for child in children:
        try:
            match_arrays(stored, wanted, partial=[child], prefix=prefix)
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


def is_optimizer_state(prefix: Name) -> bool:
    """Returns whether what lies below a prefix belongs to an optimizer.

    `opt_state.0.mu` and the like do; `optimizer.model`, where Flax's own optimizer
    keeps the network, doesn't.
    """
    for i, word in enumerate(prefix):
        if word in _MOMENTS:
            return True
        if word in _OPTIMIZERS and prefix[i + 1 : i + 2] != ("model",):
            return True
    return False


def is_random_state(name: Name) -> bool:
    """Returns whether a name is that of Flax's random streams (`….rngs.….key`)."""
    bare = name[:-1] if name[-1:] == ("value",) else name
    return "rngs" in bare[:-1] and bare[-1] in ("key", "count")


def castable(here: Leaf, there: Leaf) -> bool:
    """Returns whether shapes agree, and dtypes do or both are floats."""
    floats = jnp.issubdtype(here.dtype, jnp.floating) and jnp.issubdtype(
        there.dtype, jnp.floating
    )
    return here.shape == there.shape and (floats or here.dtype == there.dtype)


def check_same_state(
    path: Place,
    stored: Mapping[Name, Leaf],
    wanted: Mapping[Name, Leaf],
    *,
    item: str = "opt_state",
) -> None:
    """Raises an error unless a training state equals the one wanted, name by name.

    Args:
        path: The checkpoint's folder, for the message.
        stored: What the checkpoint holds.
        wanted: What is asked for.
        item: "opt_state", an optimizer's state, or "raw", the values behind an average.

    Raises:
        CheckpointMismatchError: If a name, a shape or a dtype differs.
    """
    here = {(item, name): stored[name] for name in sorted(stored)}
    there = {(item, name): wanted[name] for name in sorted(wanted)}
    owner = "optimizer" if item == "opt_state" else "network"
    lines = _differences(here, there, lambda a, b: a == b, owner)
    if lines and item == "raw":
        raise CheckpointMismatchError(
            f"the checkpoint {path} averages other parameters:\n{lines}\nTraining with "
            "an average resumes only where the same parameters train; the averaged "
            "values open with load_checkpoint."
        )
    if lines:
        raise CheckpointMismatchError(
            f"the optimizer state in the checkpoint {path} is of another optimizer or "
            f"of other parameters:\n{lines}\nIt can be resumed only where the same "
            "parameters train with the same optimizer. Parameters alone open across a "
            "freeze boundary: load_checkpoint."
        )


def _differences(
    here: Flat, there: Flat, fits: Callable[[Leaf, Leaf], bool], owner: str
) -> str:
    """Returns lines about arrays that only one side has, or that don't fit.

    Args:
        here: Arrays of the checkpoint.
        there: Arrays of the network or optimizer.
        fits: Whether an array of the checkpoint can be restored into the other.
        owner: "network" or "optimizer".
    """
    kinds: tuple[list[str], ...] = ([], [], [])
    for (item, name), leaf in there.items():
        label = f"{item}/{'.'.join(name)}"
        other = here.get((item, name))
        if other is None:
            kinds[0].append(f"  - {label} {leaf.shape}: only in the {owner}")
        elif not fits(other, leaf):
            only_shape = fits(other._replace(shape=leaf.shape), leaf)
            pair = (other.shape, leaf.shape) if only_shape else (other, leaf)
            kinds[2].append(
                f"  ! {label}: {pair[0]} in the checkpoint, {pair[1]} in the {owner}"
            )
    for (item, name), leaf in here.items():
        if (item, name) not in there:
            label = f"{item}/{'.'.join(name)}"
            kinds[1].append(f"  + {label} {leaf.shape}: only in the checkpoint")
    lines = []
    for kind in kinds:
        lines += kind[:_MOST_LINES]
        if len(kind) > _MOST_LINES:
            lines.append(f"  {kind[0][2]} … and {len(kind) - _MOST_LINES} more")
    return "\n".join(lines)
