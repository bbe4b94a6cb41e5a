"""Finding a network's names in a checkpoint that somebody else made.

Names wanted and names stored in, the prefixes below which they lie out. The one rule of
the file: a tree is found by its names alone, and an optimizer's moments, which have the
parameters' names too, are never taken for parameters.
"""

from collections import Counter
from collections.abc import Collection, Iterable

from jaxtune.checkpoint.names import Name

_OPTIMIZERS = {
    "opt", "optim", "optimizer", "tx", "opt_state", "opt_states", "optim_state",
    "optimizer_state",
}  # fmt: skip
_MOMENTS = {"mu", "nu", "trace", "velocity", "momentum"}


class Index:
    """The names of a checkpoint, also without the `value` that Flax adds.

    Flax stores a variable that is not made pure as `….weight.value`.
    """

    def __init__(self, stored: Iterable[Name]):
        """Takes the names as they are stored."""
        self._stored = {name: name for name in stored}
        below = Counter(name[:cut] for name in self._stored for cut in range(len(name)))
        self._short: dict[Name, Name] = {}
        for name in list(self._stored):
            lone = len(name) > 1 and name[-1] == "value" and below[name[:-1]] == 1
            short = name[:-1] if lone and name[:-1] not in self._stored else name
            self._short[short] = self._stored[short] = name

    def __getitem__(self, name: Name) -> Name:
        """Returns a name as it is stored."""
        return self._stored[name]

    def __contains__(self, name: Name) -> bool:
        """Returns whether there is such a name."""
        return name in self._stored

    def below(self, prefix: Name) -> dict[Name, Name]:
        """Returns the names below a prefix, without it, and as they are stored."""
        return {
            name[len(prefix) :]: stored
            for name, stored in self._short.items()
            if name[: len(prefix)] == prefix and len(name) > len(prefix)
        }

    def places(self, wanted: Collection[Name]) -> list[Name]:
        """Returns the prefixes below which all wanted names lie, shortest first."""
        return sorted(
            (p for p, count in self._hits(wanted).items() if count == len(wanted)),
            key=lambda prefix: (len(prefix), prefix),
        )

    def nearest(self, wanted: Collection[Name]) -> Name | None:
        """Returns the prefix below which most wanted names lie; None if none does."""
        hits = self._hits(wanted)
        return min(hits, key=lambda p: (-hits[p], len(p), p), default=None)

    def _hits(self, wanted: Collection[Name]) -> Counter:
        names, hits = set(wanted), Counter()
        for name in self._stored:
            for cut in range(len(name)):
                if name[cut:] in names:
                    hits[name[:cut]] += 1
        return Counter({p: n for p, n in hits.items() if not is_optimizers(p)})


def is_optimizers(prefix: Name) -> bool:
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
