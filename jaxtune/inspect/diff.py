"""How far training moved each layer, and whether frozen layers stayed identical.

A snapshot keeps references to the arrays. JAX arrays are immutable, so taking one is
free, and keeping one costs the memory of the arrays that have been replaced since.
Parameters and running statistics are compared bit for bit, so a NaN equals the same
NaN.
"""

import dataclasses
import math
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxtune.arguments import check_integer, described
from jaxtune.checkpoint import load_checkpoint
from jaxtune.inspect.layer_groups import group_finder
from jaxtune.plots import bar_plot
from jaxtune.text_tables import Column, Table, Tabular
from jaxtune.train import boundary_index
from jaxtune.transfer import dotted


class Snapshot(NamedTuple):
    """Parameters and batch-norm statistics at the beginning of a phase.

    Attributes:
        phase: The phase's number, as in the history.
        name: The phase's name, as printed when it started.
        frozen: Names of the layer groups that were frozen in it.
        params: Parameters, arrays by path.
        model_state: Batch-norm statistics, arrays by path.
    """

    phase: int
    name: str
    frozen: tuple[str, ...]
    params: Any
    model_state: Any


@dataclasses.dataclass(frozen=True)
class Moved:
    """How far one array, or several arrays taken together, moved.

    Attributes:
        path: Dotted path of the array or layer, or name of the group.
        group: Its layer group; "" if it is in none, or if arrays of several groups are
            combined.
        size: Number of elements.
        changed: Number of elements whose bits changed.
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
        """`distance / norm`: 0 if nothing changed, inf if the norm before was 0."""
        if not self.changed:
            return 0.0
        return self.distance / self.norm if self.norm else math.inf


def tree_diff(before: Any, after: Any, labels: Any = None) -> list[Moved]:
    """Returns how far each array of a pytree moved, in the order of the tree.

    Random keys and their counters are skipped: every draw changes them.

    Args:
        before: A pytree of arrays: parameters, statistics, or a dict of both.
        after: A pytree with the same names and shapes.
        labels: Group name of each parameter, see `group_labels`; statistics belong to
            the group of their layer. With None, every group is "".

    Raises:
        ValueError: If names or shapes differ; the differences are listed.

    Example:
        >>> import numpy as np
        >>> before, after = {"w": np.array([3.0, 4.0])}, {"w": np.array([3.0, 4.5])}
        >>> [moved] = tree_diff(before, after)
        >>> moved.path, moved.changed, moved.relative
        ('w', 1, 0.1)
    """
    old, new = _named(before), _named(after)
    _check_same(old, new)
    find = (lambda path: "") if labels is None else group_finder(labels)
    return [_moved(name, find(name), old[name], new[name]) for name in old]


def combine(rows: Iterable[Moved], path: str) -> Moved:
    """Returns how far several arrays moved, as if they were concatenated.

    Args:
        rows: One for each array; at least one.
        path: Path of the result, such as a layer's.
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
    old_values, new_values = (x.reshape(-1).astype(np.float64) for x in (old, new))
    changed = _bits(old) != _bits(new)
    return Moved(
        path=path,
        group=group,
        size=old.size,
        changed=int(changed.any(axis=-1).sum()),
        norm=float(np.linalg.norm(old_values)),
        distance=float(np.linalg.norm(new_values - old_values)),
    )


def _bits(array: np.ndarray) -> np.ndarray:
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(np.uint8).reshape(flat.size, array.dtype.itemsize)


@dataclasses.dataclass(frozen=True)
class DiffRow:
    """How far one layer, or one layer group, moved in one interval of training.

    Attributes:
        phase: Number of the phase in the history; 0 if the interval covers several.
        group: Name of the layer group.
        layer: Dotted path of the layer; "" for the group as a whole.
        parameters: How far its parameters moved; None if it has none.
        statistics: How far its running statistics moved; None if it has none.
        frozen: Whether the group was frozen.
    """

    phase: int
    group: str
    layer: str
    parameters: Moved | None
    statistics: Moved | None
    frozen: bool


@dataclasses.dataclass(frozen=True)
class Interval:
    """An interval of training, with the state before and after it.

    Attributes:
        phase: Number of the phase; 0 if the interval covers several.
        name: Shown in tables and figures.
        frozen: Names of the layer groups that were frozen throughout.
        before: Parameters and statistics at the beginning.
        after: Parameters and statistics at the end.
    """

    phase: int
    name: str
    frozen: tuple[str, ...]
    before: tuple[Any, Any]
    after: tuple[Any, Any]


def stretches(snapshots: Sequence[Snapshot], now: tuple[Any, Any]) -> list[Interval]:
    """Returns an interval for each phase, up to the start of the next phase or to now.

    Args:
        snapshots: Taken at the beginnings of phases, oldest first. Where a phase has
            several (a run that was interrupted and resumed), the first one counts.
        now: The current parameters and statistics.
    """
    firsts = [
        snapshot
        for i, snapshot in enumerate(snapshots)
        if not i or snapshot.phase != snapshots[i - 1].phase
    ]
    states = [(s.params, s.model_state) for s in firsts] + [now]
    return [
        Interval(s.phase, s.name, s.frozen, before, after)
        for s, before, after in zip(firsts, states, states[1:], strict=False)
    ]


class Diff(Tabular):
    """How far each group and layer moved in each interval; prints as a table.

    Attributes:
        rows: For each interval, every group as a whole followed by its layers.
        names: Names of the intervals.
    """

    def __init__(self, parts: Sequence[Interval], labels: Any, order: Sequence[str]):
        """Compares the state before and after each interval.

        Args:
            parts: The intervals, oldest first.
            labels: Group name of each parameter.
            order: Dotted paths of the layers in forward order; layers that are not
                listed come last.
        """
        self.names = [part.name for part in parts]
        self.rows: list[DiffRow] = []
        self._stretches = [self._compare(part, labels, order) for part in parts]
        self._frozen = [part.frozen for part in parts]
        self._phases = [part.phase for part in parts]

    def _compare(
        self, part: Interval, labels: Any, order: Sequence[str]
    ) -> list[DiffRow]:
        both = [
            tree_diff(before, after, labels)
            for before, after in zip(part.before, part.after, strict=True)
        ]
        places = {path: i for i, path in enumerate(order)}
        layers: dict[str, tuple[list, list]] = {}
        for kind, moved in enumerate(both):
            for row in moved:
                layer = row.path.rpartition(".")[0]
                layers.setdefault(layer, ([], []))[kind].append(row)
        paths = sorted(layers, key=lambda path: places.get(path, len(places)))
        by_group: dict[str, list[str]] = {}
        for path in paths:
            group = next(row.group for rows in layers[path] for row in rows)
            by_group.setdefault(group, []).append(path)
        rows = []
        for group, inside in by_group.items():
            frozen = group in part.frozen
            whole = [
                sum((layers[path][kind] for path in inside), []) for kind in (0, 1)
            ]
            rows.append(_row(part.phase, group, "", whole, frozen))
            for path in inside:
                rows.append(_row(part.phase, group, path, layers[path], frozen))
        self.rows += rows
        return rows

    def groups(self) -> list[DiffRow]:
        """Returns the rows of whole groups."""
        return [row for row in self.rows if not row.layer]

    def layers(self) -> list[DiffRow]:
        """Returns the rows of layers."""
        return [row for row in self.rows if row.layer]

    def table(self) -> Table:
        """Returns groups, each above its layers; two columns for each interval."""
        columns = [Column("group / layer", "left", folds=True)]
        several = len(self.names) > 1
        for i in range(len(self.names)):
            number = f" {self._phases[i] or i + 1}" if several else ""
            columns += [Column(f"params{number}"), Column(f"stats{number}")]
        lines: list = []
        for i, same in enumerate(zip(*self._stretches, strict=True)):
            first = same[0]
            if i and not first.layer:
                lines.append(None)
            cells = [f"  {first.layer}" if first.layer else first.group]
            for row in same:
                cells += [_percent(row.parameters), _percent(row.statistics)]
            lines.append(cells)
        return Table(columns=columns, rows=lines, notes=self._notes(several))

    def _notes(self, several: bool) -> list[str]:
        notes = []
        for i, (name, frozen) in enumerate(zip(self.names, self._frozen, strict=True)):
            number = f"{self._phases[i] or i + 1}: " if several else ""
            held = f"; {', '.join(frozen)} frozen" if frozen else ""
            notes.append(f"{number}{name}{held}")
        return [
            *notes,
            "norm of the difference / norm before; 0: not a bit moved",
        ]

    def plot(self) -> "matplotlib.figure.Figure":
        """Returns a figure: a bar for each layer's parameters, a point for statistics.

        The scale is logarithmic; what has not changed has no bar and no point.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        shown = [[row for row in part if row.layer] for part in self._stretches]
        titles = [
            f"{name}\n({', '.join(frozen)} frozen)" if frozen else name
            for name, frozen in zip(self.names, self._frozen, strict=True)
        ]
        titles = [
            f"{self._phases[i]}: {t}" if titles.count(t) > 1 else t
            for i, t in enumerate(titles)
        ]
        return bar_plot(
            [row.layer for row in shown[0]],
            {
                t: [_value(row.parameters) for row in p]
                for t, p in zip(titles, shown, strict=True)
            },
            groups=[row.group for row in shown[0]],
            points={
                t: [_value(row.statistics) for row in p]
                for t, p in zip(titles, shown, strict=True)
            },
            x_label="distance moved, % of the norm before",
            bar_label="parameters",
            point_label="statistics",
            log=True,
        )


def _row(
    phase: int, group: str, layer: str, both: Sequence[list[Moved]], frozen: bool
) -> DiffRow:
    parameters, statistics = (
        combine(rows, layer or group) if rows else None for rows in both
    )
    return DiffRow(phase, group, layer, parameters, statistics, frozen)


def _percent(moved: Moved | None) -> str:
    if moved is None:
        return ""
    if not moved.changed:
        return "0"
    if not moved.norm:
        return "from 0"
    percent = 100 * moved.relative
    return f"{percent:#.2g}%" if percent < 9.95 else f"{percent:,.0f}%"


def _value(moved: Moved | None) -> float:
    if moved is None or not moved.changed or not moved.norm:
        return math.nan
    return 100 * moved.relative


class FrozenMovedError(AssertionError):
    """A parameter or running statistic of a frozen layer group changed."""


def check_frozen(
    snapshots: Sequence[Snapshot],
    now: tuple[Any, Any],
    labels: Any,
    *,
    groups: Collection[str] | None = None,
    norms: str = "frozen",
) -> None:
    """Raises an error if a frozen parameter or statistic has changed by even one bit.

    Args:
        snapshots: Taken at the beginnings of phases, oldest first.
        now: The current parameters and statistics.
        labels: Group name of each parameter.
        groups: The groups that must not have changed since the first snapshot; if None,
            each phase is checked for the groups that were frozen in it.
        norms: The learner's `norms`: what the norm layers of frozen groups do. The
            message explains it.

    Raises:
        FrozenMovedError: If something changed; the message names it.
    """
    parts = stretches(snapshots, now)
    if groups is not None and parts:
        first = parts[0]
        parts = [Interval(0, "all training", tuple(groups), first.before, now)]
    problems = []
    for part in parts:
        moved = [
            row
            for before, after in zip(part.before, part.after, strict=True)
            for row in tree_diff(before, after, labels)
            if row.changed and row.group in part.frozen
        ]
        for group in part.frozen:
            names = [row.path for row in moved if row.group == group]
            if names:
                listed = ", ".join(names[:5])
                more = f" and {len(names) - 5} more" if len(names) > 5 else ""
                problems.append(f"  {group}, in {part.name}: {listed}{more}")
    if problems:
        way_out = {
            "stats": '\nnorms="stats" moves the statistics of frozen groups; '
            'norms="frozen" moves nothing.',
            "train": '\nnorms="train" moves statistics, weights and biases of the '
            'norm layers of frozen groups; norms="frozen" moves nothing.',
        }
        raise FrozenMovedError(
            "these were to stay bit for bit what they were, and moved:\n"
            + "\n".join(problems)
            + way_out.get(norms, "")
        )


def interval_since(
    since: int | str | os.PathLike, snapshots: Sequence[Snapshot], now: tuple[Any, Any]
) -> Interval:
    """Returns the interval from the beginning of a phase, or a checkpoint, until now.

    Args:
        since: Number of a phase, "start", or the folder of a checkpoint.
        snapshots: Parameters and statistics at the beginning of each phase.
        now: The current parameters and statistics.

    Raises:
        TypeError: If `since` is of another type.
        ValueError: If there is no such phase.
        FileNotFoundError: If there is no checkpoint at the path.
    """
    if not isinstance(since, str | os.PathLike):
        try:
            since = check_integer(since, "since", least=1)
        except TypeError:
            raise TypeError(
                'since must be the number of a phase, "start", the folder of a '
                f"checkpoint or None; received {described(since)}."
            ) from None
    parts = stretches(snapshots, now)
    numbers = [part.phase for part in parts]
    if since == "start" or isinstance(since, int):
        first = numbers[0] if since == "start" and numbers else since
        if first not in numbers:
            raise ValueError(
                f"no phase {since!r} has begun; there are {numbers or 'none yet'}."
            )
        part = parts[numbers.index(first)]
        name = f"since the beginning of phase {first}"
        return Interval(0, name, (), part.before, now)
    before = load_checkpoint(since, params=now[0], model_state=now[1])
    return Interval(0, f"since {os.fspath(since)}", (), before, now)


def check_group_names(
    groups: str | Collection[str] | None, known: Mapping[str, Any]
) -> tuple[str, ...] | None:
    """Returns names of layer groups as a tuple, or None for None.

    Args:
        groups: One name, several or None.
        known: The layer groups by name.

    Raises:
        TypeError: If `groups` is of another type.
        ValueError: If there is no such group.
    """
    names = (groups,) if isinstance(groups, str) else groups
    if names is None:
        return None
    if not isinstance(names, Collection) or not all(isinstance(n, str) for n in names):
        raise TypeError(
            "groups must be the name of a layer group, several, or None; received "
            f"{described(names)}."
        )
    for name in names:
        boundary_index(name, known)
    return tuple(names)
