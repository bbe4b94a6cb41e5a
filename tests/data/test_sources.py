"""Images in memory, or in other libraries' hands, become items without being copied."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxtune.data import source_items
from jaxtune.data.items import NumberedPaths, SourceImages


def pictures(number=6, channels=3, dtype=np.uint8):
    shape = (number, 5, 7, channels) if channels else (number, 5, 7)
    return np.random.default_rng(0).integers(0, 256, shape).astype(dtype)


@pytest.mark.parametrize("channels", [0, 1, 2, 3, 4, 13])
def test_arrays_of_any_number_of_channels(channels):
    images = pictures(channels=channels)
    items = source_items((images, [0, 1, 2, 0, 1, 2]))
    assert items.images.channels == max(channels, 1) and len(items) == 6
    assert items.kind == "single" and items.classes == ("0", "1", "2")
    for position in range(6):
        got = items.photo(position)
        assert np.shares_memory(got, images)
        np.testing.assert_array_equal(got.reshape(images[0].shape), images[position])


def test_taking_does_not_copy_images():
    images = pictures()
    items = source_items((images, list("abcabc"))).take([5, 0]).take([1, 0])
    assert items.labels.tolist() == [0, 2]
    np.testing.assert_array_equal(items.photo(0), images[0])
    np.testing.assert_array_equal(items.photo(1), images[5])
    assert np.shares_memory(items.photo(0), images)
    assert np.shares_memory(items.images.array, images)
    assert [items.paths[n].as_posix() for n in range(2)] == [
        "image/0000000",
        "image/0000005",
    ]
    assert items.paths.texts() == ["image/0000000", "image/0000005"]


def test_labels_that_are_positions():
    images = pictures(3)
    named = source_items((images, np.array([2, 0, 2])), classes=("x", "y", "z"))
    assert named.classes == ("x", "y", "z") and named.labels.tolist() == [2, 0, 2]
    names = source_items((images, np.array([7, 3, 7])), classes=("3", "7"))
    assert names.labels.tolist() == [1, 0, 1]
    tags = source_items((images, [[0, 2], [], [1]]), classes=("x", "y", "z"))
    assert tags.labels.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    for form in (np.array([[1], [0], [1]]), np.array([1.0, 0, 1]), [True, False, True]):
        items = source_items((images, form), classes=("x", "y"), kind="single")
        assert items.classes == ("x", "y") and items.labels.tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match="labels are 0 to 3, and there are 3 classes"):
        source_items((images, [0, 3, 1]), classes=("x", "y", "z"))


def test_kinds_of_labels():
    images = pictures(2)
    assert source_items((images, np.array([0.5, 2]))).kind == "regression"
    assert source_items((images, np.tri(2, dtype=int))).kind == "multi"
    ages = source_items((images, np.array([30, 40])), kind="regression")
    assert ages.labels.tolist() == [30, 40]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((4, 5), np.uint8), r"array \(n, h, w, c\) or \(n, h, w\).*\(4, 5\)"),
        (np.zeros((0, 5, 5, 3), np.uint8), "none of these 0"),
        (np.zeros((4, 3, 20, 20), np.uint8), r"np.moveaxis\(images, 1, -1\)"),
        (np.zeros((4, 5, 5, 3), np.int64), "int64.*astype"),
        (np.full((4, 5, 5, 3), 255.0), "must lie in 0..1; got 255.0.*Divide by 255"),
    ],
)
def test_arrays_that_are_no_images(images, message):
    with pytest.raises(ValueError, match=message):
        source_items((images, ["a"] * len(images)))


def test_as_many_labels_as_images():
    with pytest.raises(ValueError, match="6 images were given with 2 labels"):
        source_items((pictures(), ["a", "b"]))


def records(number=4):
    return [
        {"image": image, "label": "ab"[n % 2]}
        for n, image in enumerate(pictures(number, channels=5))
    ]


def test_a_list_of_records():
    items = source_items(records())
    assert items.images.channels == 5 and items.classes == ("a", "b")
    np.testing.assert_array_equal(items.photo(2), pictures(4, channels=5)[2])


def test_a_grain_source():
    import grain

    dataset = grain.MapDataset.source(records()).map(
        lambda record: {**record, "label": {"a": 0.5, "b": 1.5}[record["label"]]}
    )
    items = source_items(dataset)
    assert items.kind == "regression" and items.labels.tolist() == [0.5, 1.5, 0.5, 1.5]
    np.testing.assert_array_equal(items.photo(1), pictures(4, channels=5)[1])


class DataSet:
    """What a Hugging Face `datasets.Dataset` has, and counts what it decodes."""

    column_names = ("image", "label")
    features = {"label": type("ClassLabel", (), {"names": ["dog", "cat"]})}

    def __init__(self):
        self.decoded = []

    def __len__(self):
        return 4

    def __getitem__(self, key):
        if key == "label":
            return [1, 0, 1, 1]
        self.decoded.append(key)
        return {"image": Image.new("RGB", (6, 5)), "label": [1, 0, 1, 1][key]}


def test_a_data_set_with_columns_decodes_no_image_for_its_labels():
    dataset = DataSet()
    items = source_items(dataset)
    assert dataset.decoded == [0]
    assert items.classes == ("dog", "cat") and items.labels.tolist() == [1, 0, 1, 1]
    assert items.images.channels == 3 and items.photo(3).size == (6, 5)
    assert dataset.decoded == [0, 3]


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("photos", TypeError, "by position; got str"),
        ({"image": 1}, TypeError, "got dict"),
        (5, TypeError, "got int"),
        ([], ValueError, "no images"),
        ([{"img": 1, "label": 2}], ValueError, r"the first has \['img', 'label'\]"),
        ([(1, 2)], ValueError, "the first is a tuple.*Rename"),
        ([{"image": np.zeros(3), "label": 2}], ValueError, r"first has \(3,\)"),
    ],
)
def test_what_is_no_source(source, error, message):
    with pytest.raises(error, match=message):
        source_items(source)


def test_reading_by_position():
    read = SourceImages("abcdef".__getitem__, np.arange(6), 1).take(np.array([4, 2]))
    assert len(read) == 2 and read[0] == "e" and read[1] == "c"
    paths = NumberedPaths("valid", np.arange(10**6))
    assert paths[5:7].texts() == ["valid/0000005", "valid/0000006"]
    assert len(paths) == 10**6 and paths[123] == Path("valid/0000123")
