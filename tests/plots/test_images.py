import ml_dtypes
import numpy as np
import pytest

from jaxtune.plots import image_grid


def shown(figure) -> list[np.ndarray]:
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes]


def test_photos_are_shown_value_for_value_in_reading_order():
    photos = np.random.default_rng(0).integers(0, 256, (5, 6, 8, 3), np.uint8)
    figure = image_grid(photos, ["a", "b", "c", "$d_1$", 5], columns=2)
    for array, photo in zip(shown(figure), photos, strict=True):
        np.testing.assert_array_equal(array, photo)
    assert [axes.get_title() for axes in figure.axes] == ["a", "b", "c", "$d_1$", "5"]
    lefts = [round(axes.get_position().x0, 3) for axes in figure.axes]
    bottoms = [axes.get_position().y0 for axes in figure.axes]
    assert lefts[0] == lefts[2] == lefts[4] < lefts[1] == lefts[3]
    assert bottoms[0] == bottoms[1] > bottoms[2] == bottoms[3] > bottoms[4]
    figure._repr_png_()


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.bool_])
def test_floats_are_zero_to_one(dtype):
    photo = np.array([[[0.0, 1.0, 1.0]]]).astype(dtype)
    np.testing.assert_array_equal(shown(image_grid([photo]))[0], [[[0.0, 1.0, 1.0]]])


def test_floats_outside_are_clipped():
    [array] = shown(image_grid(np.array([[[[-1.0, 0.5, 7.0]]]])))
    np.testing.assert_array_equal(array, [[[0.0, 0.5, 1.0]]])


@pytest.mark.parametrize(
    ("channels", "shape"), [(1, (4, 6)), (2, (4, 6)), (3, (4, 6, 3)), (13, (4, 6, 3))]
)
def test_any_number_of_channels_can_be_shown(channels, shape):
    photos = np.random.default_rng(0).random((1, 4, 6, channels))
    [array] = shown(image_grid(photos))
    assert array.shape == shape
    np.testing.assert_allclose(array.reshape(4, 6, -1)[..., 0], photos[0, ..., 0])


def test_grey_photos_keep_their_brightness():
    figure = image_grid(np.full((1, 2, 2, 1), 51, np.uint8))
    assert figure.axes[0].images[0].get_clim() == (0, 255)


def test_photos_of_several_sizes_and_a_title_go_together():
    figure = image_grid([np.zeros((4, 8, 3)), np.zeros((8, 4))], title="both")
    assert [text.get_text() for text in figure.texts] == ["both"]
    assert [array.shape[:2] for array in shown(figure)] == [(4, 8), (8, 4)]


def test_titles_have_their_colours_and_are_wrapped():
    figure = image_grid(
        np.zeros((2, 8, 8, 3)), ["right", "wrong " * 12], title_colors=["green", "red"]
    )
    assert [axes.title.get_color() for axes in figure.axes] == ["green", "red"]
    assert figure.axes[1].get_title().count("\n") >= 2


def test_titles_stay_inside_the_figure():
    figure = image_grid(np.zeros((3, 6, 9, 3)), ["one\ntwo\nthree"] * 3, columns=3)
    figure._repr_png_()
    whole = figure.bbox
    for axes in figure.axes:
        box = axes.title.get_window_extent()
        assert whole.y0 <= box.y0 and box.y1 <= whole.y1


def test_heat_lies_over_the_whole_photo():
    heat = np.random.default_rng(0).random((1, 3, 3))
    figure = image_grid(np.zeros((1, 10, 20, 3)), heat=heat)
    over = figure.axes[0].images[1]
    assert over.get_extent() == [-0.5, 19.5, 9.5, -0.5]
    np.testing.assert_allclose(over.get_array(), heat[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": []}, "no image"),
        ({"images": np.zeros((2, 3))}, "must be"),
        ({"images": np.zeros((1, 2, 2, 3), np.int32)}, "int32"),
        ({"images": np.zeros((2, 2, 2, 3)), "titles": ["a"]}, "1 titles"),
        ({"images": np.zeros((1, 2, 2, 3)), "columns": 0}, "columns"),
    ],
)
def test_what_cannot_be_shown_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        image_grid(**arguments)
