import numpy as np
import pytest

from jaxtune.plots import COLORS, bar_plot


def test_bars_go_down_in_the_order_given_coloured_by_group():
    figure = bar_plot(
        ["a", "b", "c"],
        {"first": [1.0, 2.0, np.nan], "second": [0.0, 0.0, 3.0]},
        groups=["x", "x", "y"],
        points={"first": [np.nan, 0.5, 1.0]},
        bar_label="parameters",
        point_label="statistics",
    )
    left, right = figure.axes
    assert [bar.get_width() for bar in left.patches[:3]] == [1.0, 2.0, 0.0]
    assert [bar.get_width() for bar in right.patches[:3]] == [0.0, 0.0, 3.0]
    to_hex = pytest.importorskip("matplotlib.colors").to_hex
    colors = [to_hex(bar.get_facecolor()).upper() for bar in left.patches[:3]]
    assert colors == [COLORS[0], COLORS[0], COLORS[1]]
    assert [text.get_text() for text in left.get_yticklabels()] == ["a", "b", "c"]
    low, high = left.get_ylim()
    assert low > high
    np.testing.assert_array_equal(left.lines[0].get_xdata(), [np.nan, 0.5, 1.0])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "x parameters",
        "y parameters",
        "statistics",
    ]
    figure._repr_png_()


def test_a_log_scale_holds_every_bar_and_point_of_all_panels():
    figure = bar_plot(
        ["a", "b", "c"],
        {"1": [0.0, 0.02, np.nan], "2": [5.0, 0.3, 0.0]},
        points={"2": [np.nan, 40.0, 0.004]},
        log=True,
    )
    for axes in figure.axes:
        low, high = axes.get_xlim()
        assert low == pytest.approx(0.001) and high > 40.0
    ends = [bar.get_x() + bar.get_width() for bar in figure.axes[1].patches[:2]]
    assert ends == pytest.approx([5.0, 0.3])
    assert figure.axes[0].patches[0].get_width() == 0.0
    figure._repr_png_()


def test_where_nothing_is_above_zero_a_log_scale_is_none():
    figure = bar_plot(["a"], {"1": [0.0]}, log=True)
    assert figure.axes[0].get_xscale() == "linear"
    figure._repr_png_()


def test_hundreds_of_bars_fit_one_figure():
    names = [f"layer{i}" for i in range(400)]
    figure = bar_plot(names, {"all": np.arange(400.0)})
    assert figure.get_size_inches()[1] < 30
    assert len(figure.axes[0].get_yticks()) <= 200


def test_values_must_be_as_many_as_names():
    with pytest.raises(ValueError, match="'p' must have one value"):
        bar_plot(["a", "b"], {"p": [1.0]})
    with pytest.raises(ValueError, match="nothing to plot"):
        bar_plot([], {"p": []})
