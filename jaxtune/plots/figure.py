"""Figures: where matplotlib comes in, and what all of the house's plots share.

A size in, an empty figure out. The one rule of the file: nothing is left behind: no
pyplot, no backend, no list of open figures; a figure belongs to whoever holds it.
"""

import functools
import io

import numpy as np

#: Colours that stay apart for colour-blind eyes, in the order of use.
#: Okabe and Ito, https://jfly.uni-koeln.de/color/, the yellow left out.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")


def new_figure(width: float, height: float) -> "matplotlib.figure.Figure":
    """Returns an empty figure, which a notebook shows and `savefig` writes.

    It is not one of pyplot's, so there is none to close, it is shown once, and it needs
    no screen.

    Args:
        width: In inches, of 100 pixels each.
        height: Likewise.

    Raises:
        ImportError: If matplotlib is not there.
    """
    return _figure_class()(
        figsize=(width, height), layout="constrained", dpi=100, facecolor="white"
    )


def color_of(index: int) -> str:
    """Returns the colour of the series with a number; they repeat after seven."""
    return COLORS[index % len(COLORS)]


def sparse_ticks(count: int, room: int) -> np.ndarray:
    """Returns which of `count` names to write where there is room for so many."""
    return np.arange(0, count, max(1, -(-count // max(room, 1))))


def root_scale() -> "matplotlib.colors.PowerNorm":
    """Returns a colour scale by the square root of values from 0 on."""
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
            written = io.BytesIO()
            self.savefig(written, format="png")
            return written.getvalue()

    return NotebookFigure
