import numpy as np
import pytest

from jaxtune.plots import matrix_plot


def numbers(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_every_square_says_its_number_row_by_row():
    figure = matrix_plot([[5, 1], [0, 7]], ["ants", "bees"], title="t")
    assert numbers(figure) == ["5", "1", "0", "7"]
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["ants", "bees"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["ants", "bees"]
    assert (axes.get_title(), axes.get_ylabel()) == ("t", "actual")
    # Rows go down: the first row's text stands highest.
    assert axes.texts[0].get_window_extent().y0 > axes.texts[2].get_window_extent().y0
    figure._repr_png_()


def test_fractions_have_two_places():
    assert numbers(matrix_plot(np.eye(2) / 3, "ab")) == ["0.33", "0.00", "0.00", "0.33"]


def test_many_classes_are_coloured_only():
    figure = matrix_plot(np.eye(150), [f"class {i}" for i in range(150)])
    assert numbers(figure) == []
    assert len(figure.axes[0].get_xticks()) == 50
    assert max(figure.get_size_inches()) <= 14
    assert len(figure.axes) == 2
    figure._repr_png_()


def test_a_matrix_may_hold_nan_or_nothing():
    figure = matrix_plot([[np.nan, 0], [0, 0]], ["a", "b"])
    assert numbers(figure)[0] == "nan"
    figure._repr_png_()


@pytest.mark.parametrize("matrix", [np.zeros((2, 3)), np.zeros((3, 3)), np.zeros(2)])
def test_a_matrix_of_another_shape_is_refused(matrix):
    with pytest.raises(ValueError, match=r"must be \(2, 2\)"):
        matrix_plot(matrix, ["a", "b"])
