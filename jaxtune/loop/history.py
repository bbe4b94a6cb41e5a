"""What happened, epoch by epoch, over all phases.

Rows in, a table, a dict, a file or a plot out. The one rule of the file: a row says
which phase it is of, and no phase ever overwrites another's.
"""

import csv
import dataclasses
import io
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import jax
import numpy as np

from jaxtune.checkpoint import write_text
from jaxtune.plots import Line, Panel, line_plot
from jaxtune.text_tables import Column, Table, Tabular
from jaxtune.train import Phase


@dataclasses.dataclass(frozen=True)
class Row:
    """One epoch's figures.

    Attributes:
        phase: Number of the phase (each fit is one), from 1.
        epoch: Number of the epoch in its phase, from 1.
        train_loss: Mean loss over the epoch's training images.
        valid_loss: Mean loss over all validation images.
        metrics: Mean of each metric over all validation images.
        images_per_second: Training images per second, compilation left out.
        seconds: Time of the epoch, validation included.
    """

    phase: int
    epoch: int
    train_loss: float
    valid_loss: float
    metrics: Mapping[str, float]
    images_per_second: float
    seconds: float

    def as_dict(self) -> dict[str, float]:
        """Returns the figures as one flat dict, in the order of the table's columns."""
        return {
            "phase": self.phase,
            "epoch": self.epoch,
            "train_loss": self.train_loss,
            "valid_loss": self.valid_loss,
            **self.metrics,
            "images/s": self.images_per_second,
            "time": self.seconds,
        }

    def as_json(self) -> dict[str, Any]:
        """Returns the fields as plain JSON; `Row(**row.as_json())` is the row again."""
        return dataclasses.asdict(self)

    def cells(self, columns: Iterable[str] | None = None) -> list[str]:
        """Returns the figures as text, one cell for each column.

        Args:
            columns: Names of the columns, empty where the row has none; all of the
                row's if None.
        """
        figures = self.as_dict()
        return [
            format_cell(name, figures[name]) if name in figures else ""
            for name in (figures if columns is None else columns)
        ]


def format_cell(name: str, value: float) -> str:
    """Returns a figure as the table shows it: losses to six places, time as m:ss."""
    if name in ("phase", "epoch"):
        return str(value)
    if name == "images/s":
        return f"{value:.1f}"
    if name == "time":
        return f"{int(value) // 60:02d}:{int(value) % 60:02d}"
    return f"{value:.6f}"


@jax.jit
def _multiples(schedule: Any, steps: Any) -> Any:
    return jax.vmap(lambda step: schedule(step)[0])(steps)


@dataclasses.dataclass(frozen=True)
class PhaseRecord:
    """A phase as it was begun.

    Attributes:
        number: As in the rows.
        phase: Its rates and schedule.
        groups: Names of the layer groups, one for each of the phase's rates.
        frozen: Names of those in which nothing trains.
        steps_per_epoch: Batches in an epoch.
        changes: Peak rates of each group from an epoch on, numbered from 0, where a
            callback has changed them.
    """

    number: int
    phase: Phase
    groups: tuple[str, ...]
    frozen: tuple[str, ...]
    steps_per_epoch: int
    changes: dict[int, tuple[float, ...]] = dataclasses.field(default_factory=dict)

    def learning_rates(self, epochs: int | None = None) -> dict[str, np.ndarray]:
        """Returns the learning rate of each group that trains, batch by batch.

        Args:
            epochs: How many epochs of it, float32 (epochs * steps_per_epoch,) each; all
                of the phase's if None.
        """
        epochs = self.phase.epochs if epochs is None else epochs
        count = epochs * self.steps_per_epoch
        multiples = np.asarray(_multiples(self.phase.schedule, np.arange(count)))
        peaks, rates = self.phase.rates, []
        for epoch in range(epochs):
            peaks = self.changes.get(epoch, peaks)
            rates.append(peaks)
        each = np.repeat(np.asarray(rates, np.float32), self.steps_per_epoch, axis=0)
        return {
            group: multiples * each[:, place]
            for place, group in enumerate(self.groups)
            if group not in self.frozen
        }


class History(Tabular):
    """The epochs of one call or of a whole learner, oldest first.

    `history` is Keras's dict of lists, iteration gives `Row`s, a slice is a history
    again, `print` shows the table.

    Attributes:
        rows: The epochs.
        phases: What is known of the phases, by number.
        step_losses: Mean loss of each training batch, by (phase, epoch), where it was
            handed over.
    """

    def __init__(self, rows: Iterable[Row] = ()):
        """Takes the rows there are so far."""
        self.rows: list[Row] = list(rows)
        self.phases: dict[int, PhaseRecord] = {}
        self.step_losses: dict[tuple[int, int], tuple[float, ...]] = {}

    def append(self, row: Row, step_losses: Iterable[float] = ()) -> None:
        """Adds an epoch, and the mean loss of each of its training batches if given."""
        self.rows.append(row)
        losses = tuple(float(loss) for loss in step_losses)
        if losses:
            self.step_losses[row.phase, row.epoch] = losses

    def add_phase(
        self,
        number: int,
        phase: Phase,
        *,
        groups: Iterable[str],
        frozen: Collection[str] = (),
        steps_per_epoch: int,
    ) -> None:
        """Says what a phase is like, for the plot of its rates; again: replaces it.

        Args:
            number: As in the rows.
            phase: Its rates and schedule.
            groups: Names of the layer groups, one for each of the phase's rates.
            frozen: Names of those in which nothing trains.
            steps_per_epoch: Batches in an epoch.
        """
        record = PhaseRecord(
            number, phase, tuple(groups), tuple(frozen), steps_per_epoch
        )
        self.phases[number] = record

    @property
    def history(self) -> dict[str, list[float]]:
        """Each column as a list with one value per epoch, phase column included."""
        flat = [row.as_dict() for row in self.rows]
        names = list(dict.fromkeys(name for row in flat for name in row))
        # A metric that later epochs began with stands with the others.
        names.sort(key=lambda name: name in ("images/s", "time"))
        return {name: [row.get(name, float("nan")) for row in flat] for name in names}

    def __len__(self) -> int:
        """Returns the number of epochs."""
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        """Goes through the epochs."""
        return iter(self.rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> "History": ...
    def __getitem__(self, index):
        """Returns one epoch's row; for a slice, a history of some epochs."""
        if not isinstance(index, slice):
            return self.rows[index]
        part = History(self.rows[index])
        numbers = {row.phase for row in part.rows}
        part.phases = {n: self.phases[n] for n in self.phases if n in numbers}
        keys = {(row.phase, row.epoch) for row in part.rows}
        part.step_losses = {
            k: self.step_losses[k] for k in self.step_losses if k in keys
        }
        return part

    def truncate(self, epochs: int) -> None:
        """Forgets all epochs after the first so many, and their phases."""
        kept = self[:epochs]
        self.rows[:] = kept.rows
        self.phases, self.step_losses = kept.phases, kept.step_losses

    def table(self) -> Table:
        """Returns the epochs as cells under the names of the columns."""
        names = list(self.history)
        cells = [
            [
                format_cell(name, row.as_dict()[name]) if name in row.as_dict() else ""
                for name in names
            ]
            for row in self.rows
        ]
        return Table([Column(name) for name in names], cells, rules=False)

    def __str__(self) -> str:
        """Returns the table as plain text."""
        return self.table().text() if self.rows else "no epoch yet"

    __repr__ = __str__

    def to_csv(self, path: str | os.PathLike) -> Path:
        """Writes the table as CSV, wholly or not at all; returns the path.

        Figures are written in full, as Python's `repr` gives them; a metric that an
        epoch has not is left empty. A file that is there already is replaced.

        Args:
            path: The file; its folder must be there.

        Raises:
            FileNotFoundError: If the folder isn't there.
        """
        path = Path(path).expanduser()
        text = io.StringIO(newline="")
        names = list(self.history)
        writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(row.as_dict() for row in self.rows)
        if not path.parent.is_dir():
            raise FileNotFoundError(
                f"can't write {path}: there is no folder {path.parent}. Make it first."
            )
        write_text(path, text.getvalue())
        return path

    def plot(self) -> "matplotlib.figure.Figure":
        """Returns a figure of losses, of each metric and of each group's rates.

        All stand over epochs, counted through the phases, which are marked; rates and,
        where they are known, batches' losses have a value for each step. A group has
        no curve where nothing of it trains; with norms="train" a frozen group's norms
        do.

        Raises:
            ImportError: If matplotlib is not there.
            ValueError: If there is no epoch yet.
        """
        if not self.rows:
            raise ValueError("there is no epoch to plot yet; train first.")
        spans = self._spans()
        marks = [(begin, end, f"phase {number}") for number, begin, end in spans]
        common = {
            "x_label": "epoch",
            "x_limits": (0, len(self.rows) * 1.02),
            "whole_x": True,
            "spans": marks if len(marks) > 1 else (),
        }
        groups = self._metric_groups()
        further = self._metric_lines(groups.pop("valid_loss", {}))
        panels = [Panel([*self._loss_lines(), *further], "loss", **common)]
        for name, members in groups.items():
            panels.append(Panel(self._metric_lines(members), name, **common))
        rates = self._rate_lines(spans)
        if rates:
            # The end of a cycle is next to nothing, and would fill the panel.
            gaps = [np.flatnonzero(np.isnan(line.y)) for line in rates]
            parts = [
                part
                for line, gap in zip(rates, gaps, strict=True)
                for part in np.split(line.y, gap + 1)[:-1]
            ]
            peaks = [peak for part in parts if (peak := np.nanmax(part)) > 0]
            shown = (
                {"log_y": True, "y_limits": (min(peaks) / 30, None)} if peaks else {}
            )
            panels.append(Panel(rates, "learning rate", **shown, **common))
        return line_plot(panels)

    def _spans(self) -> list[tuple[int, float, float]]:
        """Number, begin and end of each phase, in epochs from 0 on."""
        spans: list[tuple[int, float, float]] = []
        for i, row in enumerate(self.rows):
            if spans and spans[-1][0] == row.phase:
                spans[-1] = (row.phase, spans[-1][1], i + 1.0)
            else:
                spans.append((row.phase, float(i), i + 1.0))
        return spans

    def _over_epochs(self, values: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        return np.arange(1, len(values) + 1), np.asarray(values, np.float64)

    def _loss_lines(self) -> list[Line]:
        columns = self.history
        steps = [
            (i + (np.arange(len(losses)) + 1) / len(losses), np.asarray(losses))
            for i, row in enumerate(self.rows)
            if (losses := self.step_losses.get((row.phase, row.epoch)))
        ]
        lines = []
        if steps:
            x, y = (np.concatenate(parts) for parts in zip(*steps, strict=True))
            lines.append(Line(x, y, "train, each batch", 0, "faint"))
        for color, name in enumerate(("train", "valid")):
            x, y = self._over_epochs(columns[f"{name}_loss"])
            lines.append(Line(x, y, name, color, "dotted"))
        return lines

    def _metric_groups(self) -> dict[str, dict[str, str]]:
        """The columns of each panel by what to call them: further photos' with theirs.

        Those of further photos called `old` are `old_valid_loss`, `old_error_rate`, ….
        """
        names = dict.fromkeys(name for row in self.rows for name in row.metrics)
        end = "_valid_loss"
        prefixes = [name.removesuffix(end) for name in names if name.endswith(end)]
        groups: dict[str, dict[str, str]] = {}
        for name in names:
            places = ((name.removeprefix(f"{p}_"), p) for p in prefixes)
            home = ((b, p) for b, p in places if b == "valid_loss" or b in names)
            base, label = next((h for h in home if h[0] != name), (name, "valid"))
            groups.setdefault(base, {})[label] = name
        return groups

    def _metric_lines(self, members: Mapping[str, str]) -> list[Line]:
        columns = self.history
        return [
            Line(
                *self._over_epochs(columns[name]),
                label if len(members) > 1 or label != "valid" else "",
                1 if label == "valid" else 2 + place,
                "dotted",
            )
            for place, (label, name) in enumerate(
                sorted(members.items(), key=lambda member: member[0] == "valid")
            )
        ]

    def _rate_lines(self, spans: Sequence[tuple[int, float, float]]) -> list[Line]:
        """One line for each group, with a gap where nothing of it trains."""
        parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
        groups = dict.fromkeys(g for r in self.phases.values() for g in r.groups)
        for number, begin, end in spans:
            if number not in self.phases:
                continue
            record = self.phases[number]
            for group, y in record.learning_rates(round(end - begin)).items():
                x = begin + np.arange(len(y)) / record.steps_per_epoch
                # NaN at the end: two phases are two curves.
                pair = (np.append(x, end), np.append(y, np.nan))
                parts.setdefault(group, []).append(pair)
        return [
            Line(*(np.concatenate(p) for p in zip(*parts[g], strict=True)), g, color)
            for color, g in enumerate(groups)
            if g in parts
        ]
