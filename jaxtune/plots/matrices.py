"""Matrices as coloured squares with numbers, rows down and columns to the right."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxtune.plots.figure import new_figure, root_scale, sparse_ticks

#: Numbers of classes from which numbers are printed small, or not at all.
_SMALL, _TOO_SMALL = 16, 41
#: Longest side that fits on a screen, in inches.
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
        matrix: (n, n) numbers, printed with two decimals unless all are whole.
        labels: The n names of rows and columns; only some are printed if there are too
            many to read.
        title: Above the matrix.
        row_title: What the rows are.
        column_title: What the columns are.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the matrix is not square, or has more or fewer rows than labels.
    """
    values = np.asarray(matrix)
    names = [str(label) for label in labels]
    count = len(names)
    if values.shape != (count, count) or not count:
        raise ValueError(
            f"the matrix must be ({count}, {count}) for {count} labels, and there must "
            f"be at least one; received shape {values.shape}."
        )
    longest = min(max(map(len, names)), 30)
    side = min(1.6 + max(0.075 * longest + 0.3 * count, 1.6), _LARGEST)
    figure = new_figure(side, side)
    figure.set_layout_engine("compressed")
    axes = figure.subplots()
    # By the square root of the values, so that a single mistake is visible.
    shades = {"norm": root_scale()} if np.nanmin(values) >= 0 else {}
    axes.imshow(
        values.astype(np.float32), cmap="Blues", interpolation="nearest", **shades
    )
    ticks = sparse_ticks(count, 60)
    shown = [names[i] for i in ticks]
    small = 9 if count < _SMALL else 7
    slanted = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    if longest <= 4:
        slanted = {}
    axes.set_xticks(ticks, shown, fontsize=small, parse_math=False, **slanted)
    axes.set_yticks(ticks, shown, fontsize=small, parse_math=False)
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
