import numpy as np
import pytest

from jaxtune.plots import COLORS, Line, Panel, line_plot


def test_lines_are_drawn_value_for_value_with_their_names():
    panel = Panel(
        [Line([1, 2], [3.0, np.nan], "one"), Line([5], [6], "$two", 1, "points")],
        "title",
        "x",
        "y",
        log_x=True,
    )
    figure = line_plot(panel)
    [axes] = figure.axes
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [3.0, np.nan])
    assert axes.lines[1].get_color() == COLORS[1]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "one",
        "$two",
    ]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
    assert (axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) == (
        "title",
        "x",
        "y",
    )
    figure._repr_png_()


def test_spans_are_named_and_every_other_one_is_shaded():
    line = Line([0, 1, 2], [0, 1, 2])
    panel = Panel([line], spans=[(0, 1, "phase 1"), (1, 2, "phase 2")], whole_x=True)
    axes = line_plot(panel).axes[0]
    assert [text.get_text() for text in axes.texts] == ["phase 1", "phase 2"]
    assert len(axes.patches) == 1 and axes.patches[0].get_x() == 1
    assert axes.get_legend() is None
    assert all(float(tick).is_integer() for tick in axes.get_xticks())


@pytest.mark.parametrize(("count", "shape"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 6)])
def test_panels_stand_in_rows(count, shape):
    figure = line_plot([Panel([Line([0], [i])], str(i)) for i in range(count)])
    assert len(figure.axes) == shape
    assert [a.get_title() for a in figure.axes[:count]] == [
        str(i) for i in range(count)
    ]


def test_limits_are_kept():
    panel = Panel([Line([1, 2], [1, 2])], x_limits=(0, 9), y_limits=(None, 5))
    axes = line_plot(panel).axes[0]
    assert axes.get_xlim() == (0, 9) and axes.get_ylim()[1] == 5


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="no panel"):
        line_plot([])
    with pytest.raises(ValueError, match="'loss'"):
        line_plot(Panel([Line([1, 2], [1], "loss")]))
