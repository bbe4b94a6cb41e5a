"""Finding photos and naming them, whatever the file system does."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtune.data import Items, find_images, is_image, label_items, parent_label
from jaxtune.data.items import (
    class_folders,
    folder_label,
    listing,
    name_label,
    regex_label,
)


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize("extension", "jpg jpeg png gif bmp webp tif tiff".split())
def test_extensions_in_any_case(extension):
    assert is_image(f"a.{extension}") and is_image(f"a.b.{extension.upper()}")
    assert is_image(Path("folder") / f"a.{extension.title()}")


@pytest.mark.parametrize("name", ["a.txt", ".jpg", "._a.jpg", "jpg", "a.jpg.part", ""])
def test_what_is_no_image(name):
    assert not is_image(name)


def test_find_images_is_sorted_and_leaves_out_the_hidden(tmp_path):
    wanted = ["B.png", "a.jpg", "a/2.JPG", "a/deep/er/1.gif", "b/3.jpeg"]
    touch(tmp_path, *reversed(wanted), "notes.txt", ".DS_Store", "a/._2.JPG")
    touch(tmp_path, ".cache/1.jpg", "a/.ipynb_checkpoints/2.jpg")
    found = find_images(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found] == wanted
    assert find_images(str(tmp_path)) == found


def test_links_are_followed_once(tmp_path):
    touch(tmp_path, "real/cat/1.jpg")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat").symlink_to(tmp_path / "real" / "cat")
    (tmp_path / "real" / "cat" / "loop").symlink_to(tmp_path / "real" / "cat")
    found = find_images(tmp_path / "photos")
    assert [path.name for path in found] == ["1.jpg"]


def test_missing_folders_and_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere"):
        find_images(tmp_path / "nowhere")
    touch(tmp_path, "a.jpg")
    with pytest.raises(NotADirectoryError, match="is a file"):
        find_images(tmp_path / "a.jpg")


def test_class_folders(tmp_path):
    touch(tmp_path, "b/1.jpg", "a/1.jpg", ".hidden/1.jpg", "c.jpg")
    assert class_folders(tmp_path) == ("a", "b")


def test_labels_from_paths(tmp_path):
    path = tmp_path / "cat" / "siamese" / "Tom_1.jpg"
    assert parent_label(path) == "siamese"
    assert folder_label(tmp_path)(path) == "cat"
    assert name_label(lambda name: name[0].isupper())(path) is True
    assert name_label(regex_label(r"^(.*)_\d+"))(path) == "Tom"


def test_a_pattern_is_searched_for():
    label = regex_label(r"([a-z]+)(\d)")
    assert label("IMG_cat7.jpg") == "cat"
    assert label("nothing.jpg") is None


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("(", "not a regular expression"), (r"\d+", "no group: put parentheses")],
)
def test_patterns_that_label_nothing(pattern, message):
    with pytest.raises(ValueError, match=message):
        regex_label(pattern)


def test_classes_are_sorted_and_numbered():
    paths = [Path(name) for name in "cab"]
    items = label_items(paths, ["wolf", "cat", "wolf"])
    assert items.classes == ("cat", "wolf")
    assert items.labels.tolist() == [1, 0, 1] and items.labels.dtype == np.int32
    assert items.paths == tuple(paths) and len(items) == 3
    assert items.counts() == {"cat": 1, "wolf": 2}
    assert items.take([2, 1]).paths == (Path("b"), Path("a"))
    assert len(items.take([])) == 0


def test_labels_that_are_not_strings():
    paths = [Path("a"), Path("b"), Path("c")]
    assert label_items(paths, [10, 2, 10]).classes == ("2", "10")
    assert label_items(paths, [True, False, True]).classes == ("False", "True")


def test_given_classes_keep_their_order():
    paths = [Path("a"), Path("b")]
    items = label_items(paths, ["x", "y"], classes=("y", "z", "x"))
    assert items.labels.tolist() == [2, 0]
    assert items.counts() == {"y": 1, "z": 0, "x": 1}
    with pytest.raises(ValueError, match=r"not among the classes: \{'y': 1\}"):
        label_items(paths, ["x", "y"], classes=("x",))
    with pytest.raises(ValueError, match="differ from each other"):
        label_items(paths, ["x", "x"], classes=("x", "x"))


def test_photos_without_a_label_are_named():
    paths = [Path(f"{n}.jpg") for n in range(15)]
    with pytest.raises(ValueError, match=r"15 of 15.*0.jpg.*9.jpg and 5 more"):
        label_items(paths, [None] * 15)
    with pytest.raises(ValueError, match="15 paths were given with 1 labels"):
        label_items(paths, ["x"])


@given(st.lists(st.text(min_size=1), min_size=1))
def test_every_label_comes_back_from_its_number(names):
    items = label_items([Path(str(n)) for n in range(len(names))], names)
    assert [items.classes[label] for label in items.labels] == names
    assert list(items.classes) == sorted(set(names))
    assert sum(items.counts().values()) == len(names)


def test_listing():
    assert listing([1, 2]) == "1, 2"
    assert listing(range(12)).endswith("9 and 2 more")
    assert isinstance(label_items([], []), Items)
