"""What happened, epoch by epoch, over all phases.

Rows in, a table, a dict or text out. The one rule of the file: a row says which phase
it is of, and no phase ever overwrites another's.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any


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

    def cells(self) -> list[str]:
        """Returns the figures as text, one cell for each column."""
        return [format_cell(name, value) for name, value in self.as_dict().items()]


def format_cell(name: str, value: float) -> str:
    """Returns a figure as the table shows it: losses to six places, time as m:ss."""
    if name in ("phase", "epoch"):
        return str(value)
    if name == "images/s":
        return f"{value:.1f}"
    if name == "time":
        return f"{int(value) // 60:02d}:{int(value) % 60:02d}"
    return f"{value:.6f}"


class History:
    """The epochs of one call or of a whole learner, oldest first.

    `history` is Keras's dict of lists, iteration gives `Row`s, `print` the table.
    """

    def __init__(self, rows: Iterable[Row] = ()):
        """Takes the rows there are so far."""
        self.rows: list[Row] = list(rows)

    def append(self, row: Row) -> None:
        """Adds an epoch."""
        self.rows.append(row)

    @property
    def history(self) -> dict[str, list[float]]:
        """Each column as a list with one value per epoch, phase column included."""
        flat = [row.as_dict() for row in self.rows]
        names = list(dict.fromkeys(name for row in flat for name in row))
        return {name: [row.get(name, float("nan")) for row in flat] for name in names}

    def __len__(self) -> int:
        """Returns the number of epochs."""
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        """Goes through the epochs."""
        return iter(self.rows)

    def __getitem__(self, index: int) -> Row:
        """Returns one epoch's row."""
        return self.rows[index]

    def __str__(self) -> str:
        """Returns the table as plain text."""
        if not self.rows:
            return "no epoch yet"
        names = list(self.history)
        lines = [
            [format_cell(name, row.as_dict()[name]) if name in row.as_dict() else ""
             for name in names]
            for row in self.rows
        ]  # fmt: skip
        widths = [
            max(len(cell) for cell in column)
            for column in zip(names, *lines, strict=True)
        ]
        return "\n".join(
            "  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True))
            for line in [names, *lines]
        )

    __repr__ = __str__
