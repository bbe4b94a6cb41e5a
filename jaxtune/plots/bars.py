"""Horizontal bars with names, such as one for each layer, from top to bottom."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxtune.plots.figure import color_of, new_figure, sparse_ticks

#: In inches: the least and the greatest height of a bar, and of a figure.
_THIN, _THICK, _TALLEST = 0.06, 0.2, 14.0


def bar_plot(
    names: Sequence[str],
    panels: Mapping[str, Any],
    *,
    groups: Sequence[str] | None = None,
    points: Mapping[str, Any] | None = None,
    x_label: str = "",
    bar_label: str = "",
    point_label: str = "",
    log: bool = False,
) -> "matplotlib.figure.Figure":
    """Returns a figure of horizontal bars, with panels side by side.

    Args:
        names: One for each bar, on the left.
        panels: From the title of each panel to the values of its bars, (n,); NaN draws
            no bar.
        groups: Of each bar; each group has a colour, which the legend names.
        points: From a panel's title to values (n,) drawn as points; NaN draws none.
        x_label: Below each panel.
        bar_label: What bars are, in the legend.
        point_label: What points are, in the legend.
        log: Whether x is logarithmic; values of 0 are then not drawn.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there is no name or no panel, or there are more or fewer values
            than names.
    """
    names = list(names)
    count = len(names)
    if not count or not panels:
        raise ValueError("there is nothing to plot; give at least one name and panel.")
    points = dict(points or {})
    groups = [""] * count if groups is None else list(groups)
    for title, values in [*panels.items(), *points.items(), ("groups", groups)]:
        if len(values) != count:
            raise ValueError(
                f"{title!r} must have one value for each of the {count} names; it has "
                f"{len(values)}."
            )
    thick = float(np.clip((_TALLEST - 1.2) / count, _THIN, _THICK))
    height = 1.3 + thick * count
    figure = new_figure(2.0 + 3.6 * len(panels), height)
    cells = figure.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True)[0]
    colors = {group: color_of(i) for i, group in enumerate(dict.fromkeys(groups))}
    lines = np.arange(count)
    low, high = _limits([*panels.values(), *points.values()]) if log else (0.0, 0.0)
    for axes, (title, values) in zip(cells, panels.items(), strict=True):
        axes.barh(
            lines,
            _lengths(values, low),
            left=low,
            color=[colors[group] for group in groups],
            height=0.75,
        )
        if title in points:
            axes.plot(
                np.asarray(points[title], np.float64),
                lines,
                "D",
                markersize=3.5,
                markerfacecolor="white",
                markeredgecolor="#333333",
                markeredgewidth=0.8,
            )
        _dress(axes, title, x_label, low, high)
    ticks = sparse_ticks(count, int(_TALLEST / 0.13))
    cells[0].set_yticks(ticks, [names[i] for i in ticks], fontsize=7, parse_math=False)
    cells[0].set_ylim(count - 0.4, -0.6)
    _legend(figure, colors, bool(points), bar_label, point_label)
    return figure


def _limits(values: Sequence[Any]) -> tuple[float, float]:
    """Returns the ends of a log scale that shows all values above 0; 0, 0 for none."""
    numbers = np.concatenate([np.asarray(v, np.float64) for v in values])
    numbers = numbers[np.isfinite(numbers) & (numbers > 0)]
    if not numbers.size:
        return 0.0, 0.0
    return 10.0 ** np.floor(np.log10(numbers.min())), 1.5 * numbers.max()


def _lengths(values: Any, low: float) -> np.ndarray:
    lengths = np.nan_to_num(np.asarray(values, np.float64) - low)
    return lengths.clip(min=0.0) if low else lengths


def _dress(axes: Any, title: str, x_label: str, low: float, high: float) -> None:
    if low:
        axes.set_xscale("log", nonpositive="mask")
        axes.set_xlim(low, high)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.set_xlabel(x_label, fontsize=9, parse_math=False)
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(
    figure: Any, colors: Mapping[str, str], points: bool, bar: str, point: str
) -> None:
    axes = figure.axes[0]
    entries = [
        (axes.barh([0], [np.nan], color=color), f"{group} {bar}".strip())
        for group, color in colors.items()
        if group
    ]
    if points and point:
        (dot,) = axes.plot(
            [], [], "D", markersize=3.5, markerfacecolor="white",
            markeredgecolor="#333333",
        )  # fmt: skip
        entries.append((dot, point))
    if not entries:
        return
    legend = figure.legend(
        *zip(*entries, strict=True),
        loc="outside lower center",
        ncols=len(entries),
        fontsize=8,
        frameon=False,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
