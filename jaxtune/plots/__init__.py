"""Figures of photos, curves, bars and matrices, from plain arrays.

Needs matplotlib, which is an extra: `pip install "jaxtune[plots]"`.
"""

from jaxtune.plots.bars import bar_plot as bar_plot
from jaxtune.plots.curves import Line as Line
from jaxtune.plots.curves import Panel as Panel
from jaxtune.plots.curves import line_plot as line_plot
from jaxtune.plots.figure import COLORS as COLORS
from jaxtune.plots.figure import new_figure as new_figure
from jaxtune.plots.images import image_grid as image_grid
from jaxtune.plots.matrices import matrix_plot as matrix_plot
from jaxtune.plots.rate_curve import rate_curve_plot as rate_curve_plot
