"""What all plots share: an empty figure, colours, ticks.

pyplot is never imported, so no backend is selected and no list of open figures grows.
"""

import functools
import io

import numpy as np

#: Colours that colour-blind people can distinguish, in the order of use.
#: Okabe and Ito, https://jfly.uni-koeln.de/color/, without the yellow.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")


def new_figure(width: float, height: float) -> "matplotlib.figure.Figure":
    """Returns an empty figure, which a notebook shows and `savefig` writes.

    pyplot does not know it, so it need not be closed, and needs no display.

    Args:
        width: In inches, of 100 pixels each.
        height: In inches.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    return _figure_class()(
        figsize=(width, height), layout="constrained", dpi=100, facecolor="white"
    )


def color_of(index: int) -> str:
    """Returns the colour of a series by its number; they repeat after seven."""
    return COLORS[index % len(COLORS)]


def sparse_ticks(count: int, room: int) -> np.ndarray:
    """Returns the positions of at most about `room` of `count` names, evenly spaced."""
    return np.arange(0, count, max(1, -(-count // max(room, 1))))


def root_scale() -> "matplotlib.colors.PowerNorm":
    """Returns a colour scale by the square root of the values, from 0."""
    from matplotlib.colors import PowerNorm

    return PowerNorm(0.5, vmin=0)


@functools.cache
def _figure_class() -> type:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "plots need matplotlib, which is not installed: "
            'pip install "jaxtune[plots]".'
        ) from error

    class NotebookFigure(Figure):
        """A figure which a notebook shows without pyplot."""

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            FigureCanvasAgg(self)

        def _repr_png_(self) -> bytes:
            png = io.BytesIO()
            self.savefig(png, format="png")
            return png.getvalue()

    return NotebookFigure
