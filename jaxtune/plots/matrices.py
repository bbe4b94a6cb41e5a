"""Matrices as coloured squares with their numbers inside.

A matrix and its labels in, a figure out. The one rule of the file: rows go down and
columns to the right, as the matrix is written.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxtune.plots.figure import new_figure, root_scale, sparse_ticks

#: From so many classes on, numbers are small, or a square is too small for one.
_SMALL, _TOO_SMALL = 16, 41
#: Inches of the longest side that a screen still holds.
_LARGEST = 14.0


def matrix_plot(
    matrix: Any,
    labels: Sequence[object],
    *,
    title: str = "",
    row_title: str = "actual",
    column_title: str = "predicted",
) -> "matplotlib.figure.Figure":
    """Returns a figure of a square matrix, such as a confusion matrix.

    Args:
        matrix: (n, n) numbers; whole ones are written as they are, others with two
            places.
        labels: The names of rows and columns, n. Where there are too many to read,
            some are written only.
        title: Stands over it.
        row_title: What the rows are.
        column_title: What the columns are.

    Raises:
        ImportError: If matplotlib is not there.
        ValueError: If the matrix is not square or has not as many rows as labels.
    """
    values = np.asarray(matrix)
    names = [str(label) for label in labels]
    count = len(names)
    if values.shape != (count, count) or not count:
        raise ValueError(
            f"the matrix must be ({count}, {count}) for {count} labels, of which at "
            f"least one; received shape {values.shape}."
        )
    longest = min(max(map(len, names)), 30)
    side = min(1.6 + max(0.075 * longest + 0.3 * count, 1.6), _LARGEST)
    figure = new_figure(side, side)
    figure.set_layout_engine("compressed")
    axes = figure.subplots()
    # By the root of the values, so that a single mistake can still be seen.
    shades = {"norm": root_scale()} if np.nanmin(values) >= 0 else {}
    axes.imshow(
        values.astype(np.float32), cmap="Blues", interpolation="nearest", **shades
    )
    ticks = sparse_ticks(count, 60)
    written = [names[i] for i in ticks]
    small = 9 if count < _SMALL else 7
    slanted = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    if longest <= 4:
        slanted = {}
    axes.set_xticks(ticks, written, fontsize=small, parse_math=False, **slanted)
    axes.set_yticks(ticks, written, fontsize=small, parse_math=False)
    axes.set_xlabel(column_title, parse_math=False)
    axes.set_ylabel(row_title, parse_math=False)
    if title:
        axes.set_title(title, fontsize=11, parse_math=False)
    if count < _TOO_SMALL:
        _write_numbers(axes, values)
    else:
        figure.colorbar(axes.images[0], ax=axes, shrink=0.7)
    return figure


def _write_numbers(axes, values: np.ndarray) -> None:
    finite = values[np.isfinite(values)]
    dark = finite.max() * 0.4 if finite.size else 0.0
    whole = bool(np.all(finite == np.floor(finite)))
    for (row, column), value in np.ndenumerate(values):
        color = "white" if value > dark else "black" if value else "#aaaaaa"
        axes.text(
            column,
            row,
            f"{value:.0f}" if whole else f"{value:.2f}",
            ha="center",
            va="center",
            fontsize=9 if len(values) < _SMALL else 7,
            color=color,
        )
