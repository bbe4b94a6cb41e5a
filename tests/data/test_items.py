"""Finding photos and naming them, whatever the file system does."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxtune.data import Items, find_images, is_image, parent_label
from jaxtune.data.folders import class_folders
from jaxtune.data.items import (
    check_kind,
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


def items_of(kind, labels, classes=()):
    paths = tuple(Path(f"{n}.jpg") for n in range(len(labels)))
    return Items(paths, labels, classes, kind)


def test_what_a_network_gives_for_each_kind():
    two = ("cat", "dog")
    single = items_of("single", np.array([1, 1, 0], np.int32), two)
    multi = items_of("multi", np.array([[1, 1], [0, 1]], np.float32), two)
    one = items_of("regression", np.array([0.5, 2, 1], np.float32))
    point = items_of("regression", np.zeros((4, 3), np.float32))
    assert [i.num_outputs for i in (single, multi, one, point)] == [2, 2, 1, 3]
    assert single.counts() == {"cat": 1, "dog": 2}
    assert multi.counts() == {"cat": 1, "dog": 2}
    assert one.counts() == point.counts() == {}
    assert single.label_text(single.labels[0]) == "dog"
    assert [multi.label_text(row) for row in multi.labels] == ["cat;dog", "dog"]
    assert one.label_text(one.labels[0]) == "0.5"
    assert point.label_text(point.labels[0]) == "0, 0, 0"


def test_taking_keeps_kind_and_weights():
    items = items_of("multi", np.eye(3, dtype=np.float32), ("a", "b", "c"))
    items = dataclasses.replace(items, weights=np.array([1.0, 2, 3]))
    kept = items.take([2, 0])
    assert kept.kind == "multi" and kept.classes == items.classes
    assert kept.labels.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert kept.weights.tolist() == [3, 1]
    assert [kept.photo(n) for n in range(2)] == [Path("2.jpg"), Path("0.jpg")]


@pytest.mark.parametrize(
    ("kind", "labels"),
    [
        ("single", np.zeros(2, np.float32)),
        ("single", np.zeros(3, np.int32)),
        ("multi", np.zeros((2, 5), np.float32)),
        ("regression", np.zeros(2, np.int32)),
    ],
)
def test_labels_of_another_kind_or_number(kind, labels):
    paths = (Path("0.jpg"), Path("1.jpg"))
    with pytest.raises(ValueError, match="2 .* labels of 1 classes.*label_items"):
        Items(paths, labels, ("a",), kind)


def test_kinds_have_three_names():
    check_kind(None)
    with pytest.raises(
        ValueError, match="'single', 'multi', 'regression' or None.*'many'"
    ):
        check_kind("many")


def test_listing():
    assert listing([1, 2]) == "1, 2"
    assert listing(range(12)).endswith("9 and 2 more")


def test_what_can_be_read_is_taken_and_what_is_left_out_is_counted(tmp_path):
    picture = Image.new("RGB", (5, 4))
    for name in ("a.jfif", "b.JFIF", "c", "d.jpg_large", "e.001", "f.pgm", "g.avif"):
        kind = {"f.pgm": "PPM", "g.avif": "AVIF"}.get(name, "JPEG")
        picture.save(tmp_path / name, format=kind)
    found = [path.name for path in find_images(tmp_path)]
    assert found == ["a.jfif", "b.JFIF", "c", "d.jpg_large", "e.001", "f.pgm", "g.avif"]
    junk = ("x.HEIC", "y.heic", "z.svg", "no extension", "half.jpg.part", "h.h5")
    for name in (
        *junk,
        "Thumbs.db",
        "l.csv",
        "n.txt",
        "n.json",
        ".DS_Store",
        "._a.jpg",
    ):
        (tmp_path / name).write_bytes(b"\x00\x01\x02")
    (tmp_path / "LICENSE").write_text("Free.")
    touch(tmp_path, "__MACOSX/a.jpg", "@eaDir/a.jpg")
    os.mkfifo(tmp_path / "pipe")
    with pytest.warns(UserWarning) as said:
        assert [path.name for path in find_images(tmp_path)] == found
    (warning,) = said
    assert "Skipped 6 files (.heic 2, without extension 1, .h5 1, .part 1, .svg 1)" in (
        str(warning.message)
    )
