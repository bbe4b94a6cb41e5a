"""Photos in whatever form a user has them, and every bad one named."""

import io
import os
import warnings
from collections import deque
from pathlib import Path

import numpy as np
import pytest
from kinds import make_data
from photos import make_photos
from PIL import Image

from jaxtune.data import ImageDataLoaders, ImageError, Loader, list_photos
from jaxtune.data.photos import find_bad


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("photos"), train=2, valid=2)


@pytest.fixture(scope="module")
def data(root):
    return make_data(root, "single", batch_size=2)


@pytest.fixture(scope="module")
def paths(data):
    return list(data.valid_items.paths)


class Series:
    """As much of pandas' and Polars' as counts: an array that is none of NumPy's."""

    def __init__(self, values):
        self.values, self.shape = list(values), (len(values),)

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, object)


class Table:
    def __init__(self, **columns):
        self.held, self.columns = columns, list(columns)

    def __getitem__(self, name):
        return Series(self.held[name])


class Arrow(list):
    def to_pylist(self):
        return list(self)


def test_many_photos_in_any_form_keep_their_order(root, paths, monkeypatch):
    texts = [str(path) for path in paths]
    monkeypatch.setenv("HOME", str(root))
    forms = [
        (paths, paths),
        (tuple(texts), texts),
        (deque(texts), texts),
        ((path for path in paths), paths),
        (dict.fromkeys(texts).keys(), texts),
        (np.array(texts), texts),
        (np.array(paths, object), paths),
        (np.array(texts)[:, None], texts),
        (np.array(texts).astype("S"), texts),
        (Series(texts), texts),
        (Table(path=texts), texts),
        (Arrow(texts), texts),
        (root / "valid", paths),
        (f"{root}/valid/", paths),
        ("~/valid", paths),
        (f"{root}/valid/**/*", paths),
        ("~/valid/red/*.png", paths[-2:]),
        (map(os.fspath, paths), texts),
    ]
    for given, expected in forms:
        found = list_photos(given)
        assert not found.alone and list(found.each) == list(expected), given
    stack = np.zeros((2, 4, 5, 3), np.uint8)
    assert [image.shape for image in list_photos(stack).each] == [(4, 5, 3)] * 2
    assert list_photos([]).each == []
    grey = np.zeros((2, 28, 28), np.uint8)
    assert [i.shape for i in list_photos(grey, channels=1).each] == [(28, 28)] * 2
    assert list_photos(grey[..., :1], channels=1).alone


def test_one_photo_is_alone(root, paths):
    (root / "odd[1].png").write_bytes(paths[0].read_bytes())
    alone = [
        paths[0],
        str(root / "odd[1].png"),  # a file comes before a glob
        "not there.png",
        paths[0].read_bytes(),
        bytearray(b"x"),
        io.BytesIO(b"x"),
        Image.new("RGB", (4, 4)),
        np.zeros((4, 4, 3)),
        np.zeros((4, 4), np.uint8),
    ]
    for photo in alone:
        found = list_photos(photo)
        assert found.alone and found.each == [photo] or photo is found.each[0]
    assert list_photos(np.array("a.png")).each == ["a.png"]


@pytest.mark.parametrize(
    "wrong",
    [
        None, True, 3, float("nan"), {}, {"a": "b.jpg"}, {"a.jpg"}, object(), Path,
        ImageDataLoaders, len, np.zeros(3), np.zeros((2, 2, 2, 2, 2)), "",
    ],
)  # fmt: skip
def test_what_holds_no_photos_is_refused(wrong):
    error = ValueError if isinstance(wrong, np.ndarray | str) else TypeError
    with pytest.raises(error, match="item must be a photo .* received"):
        list_photos(wrong, "item")


def test_what_is_nearly_right_is_told_the_way(root, data):
    with pytest.raises(TypeError, match="columns path, label; pass .* table\\['pa"):
        list_photos(Table(path=["a"], label=["b"]))
    for loader in (data, data.valid_loader):
        with pytest.raises(TypeError, match=r"get_preds\(\) takes these"):
            list_photos(loader)
    with pytest.raises(FileNotFoundError, match=r"No picture matches '.*\.webp'"):
        list_photos(f"{root}/*.webp")
    (root / "nothing").mkdir()
    with pytest.raises(FileNotFoundError, match="no picture in the folder"):
        list_photos(root / "nothing")


def test_bad_photos_are_found_before_any_is_decoded(root, paths):
    (root / "bad.png").write_bytes(b"nothing")
    with open(__file__) as as_text:
        photos = [
            paths[0], root / "bad.png", "gone.png", None, np.zeros((4, 4, 3)),
            np.zeros(3), root / "valid", f"{root}/valid/*", as_text, b"", b"no",
            paths[0].read_bytes(),
        ]  # fmt: skip
        bad = find_bad(photos)
    assert {i: type(error) for i, error in bad.items()} == {
        1: ImageError,
        2: FileNotFoundError,
        3: TypeError,
        5: ImageError,
        6: ImageError,
        7: ImageError,
        8: TypeError,
        9: ImageError,
        10: ImageError,
    }
    assert "each entry of a list is one photo" in str(bad[6])
    assert "binary mode" in str(bad[8])


def test_a_test_loader_prepares_photos_as_validation_does(data, paths):
    expected = np.concatenate([b["image"] for b in data.valid_loader.batches()])
    arrays = [np.asarray(Image.open(path)) for path in paths]
    mixed = [paths[0], arrays[1], paths[2].read_bytes(), *map(Image.open, paths[3:])]
    for photos in (paths, iter(paths), mixed, np.stack(arrays)):
        loader = data.test_dl(photos)
        assert isinstance(loader, Loader) and not loader.items.labelled
        images = np.concatenate([batch["image"] for batch in loader.batches()])
        np.testing.assert_array_equal(images, expected)
    assert data.test_loader(mixed).items.paths[:2] == (paths[0], Path("photos[1]"))
    assert data.test_loader(paths, batch_size=3).batch_size == 3


def test_labels_are_given_or_those_of_the_folders(root, data, paths):
    found = data.test_loader(root / "valid", with_labels=True).items
    assert found.labelled and found.labels.tolist() == [0, 0, 1, 1, 2, 2]
    given = data.test_loader(paths[:2], labels=["red", "blue"]).items
    assert given.labelled and given.labels.tolist() == [2, 0]
    (root / "loose.png").write_bytes(paths[0].read_bytes())
    with pytest.raises(ValueError, match=r"1 of 1 photos have no label.*labels=\["):
        data.test_loader(root / "loose.png", with_labels=True)
    with pytest.raises(ValueError, match="not among the classes: {'pink': 1}"):
        data.test_loader(paths[:1], labels=["pink"])
    numbers = make_data(root, "regression", batch_size=2)
    assert numbers.test_loader(paths[:2], labels=[1, 2.5]).items.labels.tolist() == [
        1.0,
        2.5,
    ]
    with pytest.raises(ValueError, match=r"labels must have shape \(1,\).*\(1, 2\)"):
        numbers.test_loader(paths[:1], labels=[[1.0, 2.0]])
    with pytest.raises(ValueError, match="these photos have no labels"):
        numbers.test_loader(paths, with_labels=True)


def test_bad_photos_are_named_or_left_out(root, data, paths):
    (root / "bad.png").write_bytes(b"nothing")
    photos = [paths[0], root / "bad.png", paths[1], "gone.png"]
    with pytest.raises(ImageError, match=r"(?s)2 of 4 .*photos\[1\]: .*photos\[3\]: "):
        data.test_loader(photos)
    with pytest.warns(UserWarning, match=r"(?s)photos\[1\]: .*Skipped them"):
        kept = data.test_loader(photos, labels=["red"] * 4, on_error="skip")
    assert kept.items.paths == (paths[0], paths[1])
    assert kept.items.labels.tolist() == [2, 2]
    with pytest.raises(ImageError), warnings.catch_warnings():
        data.test_loader([root / "bad.png"], on_error="skip")
    for wrong, error in (([], ValueError), (None, TypeError), ([None], TypeError)):
        with pytest.raises(error, match="photos"):
            data.test_loader(wrong)
    for option, wrong, error in (
        ("batch_size", 0, ValueError),
        ("batch_size", "8", TypeError),
        ("on_error", "ignore", ValueError),
    ):
        with pytest.raises(error, match=option):
            data.test_loader(paths, **{option: wrong})
