"""Curves: losses, metrics and learning rates by epoch, a loss by learning rate.

NaN leaves a gap in a line.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from jaxtune.plots.figure import color_of, new_figure


@dataclasses.dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        x: Positions, (n,).
        y: Values, (n,).
        name: In the legend; not listed if empty.
        color: Number of its colour; equal numbers give equal colours.
        style: "line", "dotted" (a line with its points), "dashed", "faint" (a thin
            background line) or "points".
    """

    x: Any
    y: Any
    name: str = ""
    color: int = 0
    style: Literal["line", "dotted", "dashed", "faint", "points"] = "line"


@dataclasses.dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        lines: The curves, drawn in this order.
        title: Above the axes.
        x_label: Below them.
        y_label: On their left.
        log_x: Whether x is logarithmic.
        log_y: Whether y is logarithmic.
        x_limits: Lowest and highest x shown; either may be None.
        y_limits: Lowest and highest y shown; either may be None.
        whole_x: Whether x has ticks at whole numbers only.
        spans: Named intervals of x, (from, to, name), every other one shaded.
    """

    lines: Sequence[Line]
    title: str = ""
    x_label: str = ""
    y_label: str = ""
    log_x: bool = False
    log_y: bool = False
    x_limits: tuple[float | None, float | None] = (None, None)
    y_limits: tuple[float | None, float | None] = (None, None)
    whole_x: bool = False
    spans: Sequence[tuple[float, float, str]] = ()


_STYLES = {
    "line": {"linewidth": 1.8},
    "dotted": {"linewidth": 1.8, "marker": "o", "markersize": 4.5},
    "dashed": {"linewidth": 1.5, "linestyle": "--"},
    "faint": {"linewidth": 0.8, "alpha": 0.35},
    "points": {"linestyle": "none", "marker": "o", "markersize": 7},
}


def line_plot(
    panels: Panel | Sequence[Panel], *, columns: int | None = None
) -> "matplotlib.figure.Figure":
    """Returns a figure of one or several panels of lines.

    Args:
        panels: One, or several in rows, from left to right.
        columns: Panels per row; if None, at most three, or two if there are four.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there is no panel, or a line's x and y differ in length.
    """
    panels = [panels] if isinstance(panels, Panel) else list(panels)
    if not panels:
        raise ValueError("there is no panel to plot; give at least one.")
    columns = min(columns or (2 if len(panels) == 4 else 3), len(panels))
    rows = math.ceil(len(panels) / columns)
    width = 6.0 if columns == 1 else 4.4
    figure = new_figure(columns * width, rows * 3.4)
    cells = np.ravel(figure.subplots(rows, columns, squeeze=False))
    for axes, panel in zip(cells, panels, strict=False):
        _draw(axes, panel)
    for axes in cells[len(panels) :]:
        axes.set_axis_off()
    return figure


def _draw(axes: Any, panel: Panel) -> None:
    for line in panel.lines:
        x, y = np.asarray(line.x, np.float64), np.asarray(line.y, np.float64)
        if x.shape != y.shape or x.ndim != 1:
            raise ValueError(
                f"line {line.name!r} needs x and y of one length; received shapes "
                f"{x.shape} and {y.shape}."
            )
        axes.plot(x, y, color=color_of(line.color), **_STYLES[line.style])
    axes.set_xscale("log" if panel.log_x else "linear")
    axes.set_yscale("log" if panel.log_y else "linear")
    axes.set_xlim(*panel.x_limits)
    axes.set_ylim(*panel.y_limits)
    if panel.whole_x:
        axes.xaxis.get_major_locator().set_params(integer=True)
    pad = 18 if panel.spans else 6
    axes.set_title(panel.title, fontsize=10, pad=pad, parse_math=False)
    axes.set_xlabel(panel.x_label, parse_math=False)
    axes.set_ylabel(panel.y_label, parse_math=False)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    _draw_spans(axes, panel)
    named = [(h, n.name) for h, n in zip(axes.lines, panel.lines, strict=True)]
    named = [(handle, name) for handle, name in named if name]
    if named:
        legend = axes.legend(*zip(*named, strict=True), fontsize=8, framealpha=0.8)
        for text in legend.get_texts():
            text.set_parse_math(False)


def _draw_spans(axes: Any, panel: Panel) -> None:
    for i, (begin, end, name) in enumerate(panel.spans):
        if i % 2:
            axes.axvspan(begin, end, color="#f0f0f0", zorder=0, linewidth=0)
        axes.text(
            (begin + end) / 2,
            1.01,
            name,
            transform=axes.get_xaxis_transform(),
            ha="center",
            va="bottom",
            fontsize=8,
            color="#777777",
            parse_math=False,
        )
