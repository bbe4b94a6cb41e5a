"""The history of a training: losses and metrics of each epoch, over all phases.

Each row has the number of its phase, so phases never overwrite each other's rows.
"""

import csv
import dataclasses
import io
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

import jax
import numpy as np

from jaxtune.checkpoint import Place, in_storage, place_of, write_text
from jaxtune.plots import Line, Panel, line_plot
from jaxtune.text_tables import Column, Table, Tabular
from jaxtune.train import Phase


@dataclasses.dataclass(frozen=True)
class Row:
    """The losses, metrics and timing of one epoch.

    Attributes:
        phase: Number of the phase (each fit is one), from 1.
        epoch: Number of the epoch in its phase, from 1.
        train_loss: Mean loss over the epoch's training images.
        valid_loss: Mean loss over all validation images.
        metrics: Each metric over all validation images, by name.
        images_per_second: Training images per second, without compilation.
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
            columns: Names of the columns; the cell is empty where the row has no such
                column. The row's own columns if None.
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
    """A phase's settings when it began.

    Attributes:
        number: Number of the phase, as in the rows.
        phase: Its rates and schedule.
        groups: Names of the layer groups, one for each of the phase's rates.
        frozen: Names of the groups in which nothing trains.
        steps_per_epoch: Batches in an epoch.
        changes: Where a callback changed the rates: epoch, from 0, to the peak rates of
            all groups from that epoch on.
    """

    number: int
    phase: Phase
    groups: tuple[str, ...]
    frozen: tuple[str, ...]
    steps_per_epoch: int
    changes: dict[int, tuple[float, ...]] = dataclasses.field(default_factory=dict)

    def learning_rates(self, epochs: int | None = None) -> dict[str, np.ndarray]:
        """Returns the learning rate of each group that trains, for each batch.

        Args:
            epochs: How many of the phase's epochs; all if None.

        Returns:
            Float32 arrays (epochs * steps_per_epoch,) by group.
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
    """The epochs of one fit or of a whole learner, oldest first.

    `history.history` is a dict of lists as in Keras, iterating yields `Row`s, a slice
    is a `History`, and `print` shows the table.

    Attributes:
        rows: The epochs.
        phases: Rates, schedule and frozen groups of each phase, by number.
        step_losses: Mean loss of each training batch, by (phase, epoch). Epochs that
            another process trained are missing.
    """

    def __init__(self, rows: Iterable[Row] = ()):
        """Takes the rows there are so far."""
        self.rows: list[Row] = list(rows)
        self.phases: dict[int, PhaseRecord] = {}
        self.step_losses: dict[tuple[int, int], tuple[float, ...]] = {}

    def append(self, row: Row, step_losses: Iterable[float] = ()) -> None:
        """Adds an epoch, and if given the mean loss of each of its batches."""
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
        """Adds or replaces a phase's settings, for the plot of its rates.

        Args:
            number: Number of the phase, as in the rows.
            phase: Its rates and schedule.
            groups: Names of the layer groups, one for each of the phase's rates.
            frozen: Names of the groups in which nothing trains.
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
        # Metrics that only later epochs have come before the timing columns, too.
        names.sort(key=lambda name: name in ("images/s", "time"))
        return {name: [row.get(name, float("nan")) for row in flat] for name in names}

    def __len__(self) -> int:
        """Returns the number of epochs."""
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        """Iterates over the epochs' rows."""
        return iter(self.rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> "History": ...
    def __getitem__(self, index):
        """Returns one epoch's row, or for a slice a `History`."""
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
        """Keeps the first `epochs` epochs and their phases; forgets the rest."""
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

    def to_csv(self, path: str | os.PathLike) -> Place:
        """Writes the table as a CSV file, atomically; returns the path, absolute.

        Numbers are written in full, as Python's `repr` gives them. The cell of a metric
        that an epoch doesn't have is empty. An existing file is replaced.

        Args:
            path: The file; its folder must exist. Or a place in Google Cloud Storage,
                "gs://bucket/name.csv".

        Raises:
            FileNotFoundError: If the folder doesn't exist.
        """
        path = place_of(path)
        text = io.StringIO(newline="")
        names = list(self.history)
        writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(row.as_dict() for row in self.rows)
        if not in_storage(path) and not path.parent.is_dir():
            raise FileNotFoundError(
                f"can't write {path}: there is no folder {path.parent}. Make it first."
            )
        write_text(path, text.getvalue())
        return path

    def plot(self) -> "matplotlib.figure.Figure":
        """Returns a figure of the losses, each metric and each group's learning rate.

        The x axis counts epochs over all phases, which are marked. Learning rates, and
        training losses where they are known, are drawn for each step. A layer group has
        no curve while nothing in it trains; with norms="train" the norms of frozen
        groups train.

        Raises:
            ImportError: If matplotlib is not installed.
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
            # A cycle ends near zero, which would fill most of a logarithmic axis.
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
        """Each phase's number, start and end, in epochs from 0."""
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
        """The columns of each panel, by label.

        Extra validation data called `old` has the columns `old_valid_loss`,
        `old_error_rate`, …; they are drawn in the panels of `valid_loss`, `error_rate`.
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
        """One line per group, with a gap where nothing in the group trains."""
        parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
        groups = dict.fromkeys(g for r in self.phases.values() for g in r.groups)
        for number, begin, end in spans:
            if number not in self.phases:
                continue
            record = self.phases[number]
            for group, y in record.learning_rates(round(end - begin)).items():
                x = begin + np.arange(len(y)) / record.steps_per_epoch
                # NaN at the end separates the curves of two phases.
                pair = (np.append(x, end), np.append(y, np.nan))
                parts.setdefault(group, []).append(pair)
        return [
            Line(*(np.concatenate(p) for p in zip(*parts[g], strict=True)), g, color)
            for color, g in enumerate(groups)
            if g in parts
        ]
