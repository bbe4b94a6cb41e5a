import subprocess
import sys

import numpy as np
import pytest

from jaxtune.plots import COLORS, new_figure
from jaxtune.plots.figure import color_of, root_scale, sparse_ticks


def test_a_figure_can_be_saved_and_shown_in_a_notebook(tmp_path):
    figure = new_figure(3.0, 2.0)
    figure.subplots().plot([0, 1], [0, 1])
    figure.savefig(tmp_path / "figure.png")
    png = figure._repr_png_()
    assert (tmp_path / "figure.png").read_bytes()[:8] == png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = (int.from_bytes(png[i : i + 4], "big") for i in (16, 20))
    assert (width, height) == (300, 200)


def test_figures_leave_no_global_state_behind():
    code = (
        "import sys, warnings; warnings.simplefilter('error')\n"
        "from jaxtune.plots import image_grid\n"
        "import numpy as np\n"
        "for _ in range(25): image_grid(np.zeros((1, 4, 4, 3)))._repr_png_()\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    from jaxtune.plots.figure import _figure_class

    _figure_class.cache_clear()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "jaxtune\[plots\]"'):
        new_figure(1.0, 1.0)
    monkeypatch.undo()
    assert new_figure(1.0, 1.0) is not None


def test_colours_repeat_after_the_last():
    assert color_of(0) == COLORS[0] == color_of(len(COLORS))
    assert len(set(COLORS)) == len(COLORS)


def test_few_names_are_all_written_and_many_sparsely():
    assert list(sparse_ticks(5, 10)) == [0, 1, 2, 3, 4]
    assert list(sparse_ticks(10, 4)) == [0, 3, 6, 9]


def test_a_root_scale_shows_one_of_a_hundred_as_a_tenth():
    scale = root_scale()
    scale.autoscale(np.array([0.0, 100.0]))
    assert float(scale(1.0)) == pytest.approx(0.1)
