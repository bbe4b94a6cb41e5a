"""How far each layer group and layer moved, phase by phase.

The states at the ends of each stretch of training in, a table and a plot out. The one
rule of the file: layers stand in the order of the network, under their group.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from jaxtune.learner.moved import Moved, combine, tree_diff
from jaxtune.learner.snapshot import Snapshot
from jaxtune.learner.tables import Column, Table, Tabular
from jaxtune.plots import bar_plot


@dataclasses.dataclass(frozen=True)
class DiffRow:
    """How far one layer, or one group, moved in one stretch of training.

    Attributes:
        phase: Number of the phase in the history; 0 for a stretch of several.
        group: Its layer group.
        layer: Its path; "" for the group as a whole.
        parameters: How far its own parameters moved; None if it has none.
        statistics: Likewise its running statistics.
        frozen: Whether the group was frozen.
    """

    phase: int
    group: str
    layer: str
    parameters: Moved | None
    statistics: Moved | None
    frozen: bool


@dataclasses.dataclass(frozen=True)
class Stretch:
    """One stretch of training: the states at its ends.

    Attributes:
        phase: Number of the phase; 0 for several.
        name: What to call it.
        frozen: Names of the groups that were frozen in all of it.
        before: Parameters and statistics at its beginning.
        after: At its end.
    """

    phase: int
    name: str
    frozen: tuple[str, ...]
    before: tuple[Any, Any]
    after: tuple[Any, Any]


def stretches(snapshots: Sequence[Snapshot], now: tuple[Any, Any]) -> list[Stretch]:
    """Returns each phase's stretch, from its beginning to the next one's, or to now.

    Args:
        snapshots: Of the beginnings, oldest first. Of several of one phase (a run that
            was stopped and taken up) the first counts.
        now: Parameters and statistics.
    """
    firsts = [
        snapshot
        for i, snapshot in enumerate(snapshots)
        if not i or snapshot.phase != snapshots[i - 1].phase
    ]
    states = [(s.params, s.model_state) for s in firsts] + [now]
    return [
        Stretch(s.phase, s.name, s.frozen, before, after)
        for s, before, after in zip(firsts, states, states[1:], strict=False)
    ]


class Diff(Tabular):
    """How far each group and layer moved, stretch by stretch; prints as a table.

    Attributes:
        rows: For each stretch, each group as a whole followed by its layers.
        names: Of the stretches.
    """

    def __init__(self, parts: Sequence[Stretch], labels: Any, order: Sequence[str]):
        """Compares the ends of each stretch.

        Args:
            parts: The stretches, oldest first.
            labels: Group name of each parameter.
            order: Paths of the layers in the order of the network; others come after.
        """
        self.names = [part.name for part in parts]
        self.rows: list[DiffRow] = []
        self._stretches = [self._compare(part, labels, order) for part in parts]
        self._frozen = [part.frozen for part in parts]
        self._phases = [part.phase for part in parts]

    def _compare(
        self, part: Stretch, labels: Any, order: Sequence[str]
    ) -> list[DiffRow]:
        both = [
            tree_diff(was, now, labels)
            for was, now in zip(part.before, part.after, strict=True)
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
        found = []
        for group, inside in by_group.items():
            frozen = group in part.frozen
            whole = [
                sum((layers[path][kind] for path in inside), []) for kind in (0, 1)
            ]
            found.append(_row(part.phase, group, "", whole, frozen))
            for path in inside:
                found.append(_row(part.phase, group, path, layers[path], frozen))
        self.rows += found
        return found

    def groups(self) -> list[DiffRow]:
        """Returns the rows of whole groups."""
        return [row for row in self.rows if not row.layer]

    def layers(self) -> list[DiffRow]:
        """Returns the rows of layers."""
        return [row for row in self.rows if row.layer]

    def table(self) -> Table:
        """Returns groups and, below each, its layers; for each stretch two columns."""
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

        The scale rises by factors; what has not moved has no bar and no point.

        Raises:
            ImportError: If matplotlib is not there.
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
