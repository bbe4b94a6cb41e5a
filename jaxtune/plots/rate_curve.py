"""The figure of a learning rate search: the loss by learning rate."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from jaxtune.plots.curves import Line, Panel, line_plot


def rate_curve_plot(
    rates: Float[np.ndarray, " n"],
    losses: Float[np.ndarray, " n"],
    suggestions: Mapping[str, float],
    *,
    title: str = "",
    skip_end: int = 5,
) -> "matplotlib.figure.Figure":
    """Returns a figure of the smoothed loss by learning rate, suggestions as points.

    Args:
        rates: Learning rate of each step, rising, float64.
        losses: Smoothed loss after each step, float64.
        suggestions: Suggested learning rates by name.
        title: Shown above the axes.
        skip_end: Number of steps to omit at the end, where the loss explodes.

    Raises:
        ImportError: If matplotlib is not installed.

    References:
        fastai 2.8.12, callback/schedule.py `plot_lr_find`.
    """
    shown = slice(max(1, len(rates) - skip_end))
    lines = [Line(rates[shown], losses[shown])]
    finite = np.isfinite(losses)
    for color, (name, rate) in enumerate(suggestions.items(), start=1):
        loss = np.interp(np.log(rate), np.log(rates[finite]), losses[finite])
        lines.append(Line([rate], [loss], f"{name} {rate:.2g}", color, "points"))
    panel = Panel(lines, title, x_label="learning rate", y_label="loss", log_x=True)
    return line_plot(panel)
