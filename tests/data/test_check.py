"""What is wrong with the photos is said before training, all of it at once."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxtune.data import ImageError, label_items, source_items
from jaxtune.data.check import (
    check_not_empty,
    check_trained_classes,
    readable_items,
    warn_odd_labels,
)


def write(root, number, bad=()):
    root.mkdir()
    for n in range(number):
        Image.fromarray(np.full((6, 6), n, np.uint8)).save(root / f"{n:02}.png")
    for n in bad:
        (root / f"{n:02}.png").write_bytes(b"" if n % 2 else b"text")
    return label_items(sorted(root.iterdir()), ["ab"[n % 2] for n in range(number)])


def test_readable_photos_are_left_as_they_are(tmp_path):
    train, valid = write(tmp_path / "train", 4), write(tmp_path / "valid", 3)
    assert readable_items(train, valid) == (train, valid)
    assert readable_items(train, valid, workers=0) == (train, valid)


def test_every_unreadable_photo_is_counted_and_ten_are_named(tmp_path):
    train = write(tmp_path / "train", 20, bad=range(9))
    valid = write(tmp_path / "valid", 6, bad=(2, 3))
    with pytest.raises(ImageError) as caught:
        readable_items(train, valid)
    message = str(caught.value)
    assert "11 of 26 photos cannot be read" in message
    assert "and 1 more" in message and "on_error='skip'" in message
    for n in range(9):
        assert str(train.paths[n]) in message
    assert str(valid.paths[2]) in message and str(valid.paths[3]) not in message
    assert "empty (0 bytes)" in message and "known format" in message


def test_skipping_leaves_them_out_with_one_warning(tmp_path):
    train = write(tmp_path / "train", 6, bad=(1,))
    valid = write(tmp_path / "valid", 4, bad=(0,))
    with pytest.warns(UserWarning, match="(?s)Skipped 2 of 10.*01.png.*") as caught:
        kept = readable_items(train, valid, on_error="skip")
    assert len(caught) == 1
    assert [len(items) for items in kept] == [5, 3]
    assert train.paths[1] not in kept[0].paths
    assert kept[0].labels.tolist() == [0, 0, 1, 0, 1]
    assert kept[0].classes == train.classes


def test_a_file_that_is_gone_is_named(tmp_path):
    train, valid = write(tmp_path / "train", 4), write(tmp_path / "valid", 3)
    train.paths[2].unlink()
    with pytest.raises(ImageError, match="(?s)1 of 7.*no picture at.*02.png"):
        readable_items(train, valid)


@pytest.mark.filterwarnings("ignore:Skipped")
def test_skipping_may_not_lose_a_class_or_a_split(tmp_path):
    good = write(tmp_path / "good", 4)
    lost = write(tmp_path / "lost", 4, bad=(1, 3))
    with pytest.raises(ValueError, match="no photo to train on for the classes b"):
        readable_items(lost, good, on_error="skip")
    assert len(readable_items(good, lost, on_error="skip")[1]) == 2
    empty = write(tmp_path / "empty", 2, bad=(0, 1))
    with pytest.raises(ValueError, match="no photos for validation"):
        readable_items(good, empty, on_error="skip")


def test_above_a_bound_nothing_is_opened(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxtune.data.check.MOST_CHECKED", 9)
    train, valid = write(tmp_path / "train", 6, bad=(1,)), write(tmp_path / "valid", 4)
    assert readable_items(train, valid) == (train, valid)


def test_empty_splits(tmp_path):
    items = write(tmp_path / "train", 2)
    with pytest.raises(ValueError, match=r"for training \(0 train, 2 validate\)"):
        check_not_empty(items.take([]), items)


def test_images_in_memory_are_not_opened():
    images = np.zeros((4, 5, 5, 3), np.uint8)
    items = source_items((images, list("abab")))
    others = source_items((images.copy(), list("abab")))
    assert readable_items(items, others) == (items, others)
    assert readable_items(items.take([0, 2]), items.take([1, 3]))
    for shared in (items, source_items((images[:2], list("ab")))):
        with pytest.warns(UserWarning, match="both arrays share memory"):
            readable_items(items, shared)


def split(train, valid=("a", "b"), **options):
    """Items by label alone, of photos that are not there."""
    both = [*train, *valid]
    items = label_items([Path(f"{n}.jpg") for n in range(len(both))], both, **options)
    return items.take(range(len(train))), items.take(range(len(train), len(both)))


def test_a_photo_in_both_splits_or_with_two_labels_is_said(tmp_path):
    train, valid = write(tmp_path / "a", 4), write(tmp_path / "b", 4)
    (tmp_path / "link.png").symlink_to(train.paths[1])
    for again in (train.paths[1], tmp_path / "b" / ".." / "a" / "01.png",
                  tmp_path / "link.png"):  # fmt: skip
        paths = (valid.paths[0], again)
        with pytest.warns(UserWarning, match="1 of 5 photos are in both splits.*01"):
            readable_items(train, label_items(paths, ["a", "b"]))
    paths = (*train.paths, train.paths[2], train.paths[3])
    with pytest.warns(UserWarning, match=r"1 of 8.*02.png \('a' and 'b'\).*a list"):
        readable_items(label_items(paths, list("abab") + ["b", "b"]), valid)
    readable_items(label_items(paths, list("ababab")), valid)  # drawn more often


@pytest.mark.parametrize(
    ("train", "options", "message"),
    [
        (["a", "a"], {"classes": ["a", "b"]}, "All 2 training photos .*same.*'a'"),
        ([["x", "y"]] * 3, {}, "All 3 training photos.*'x;y'"),
        ([2.5] * 3, {}, "All 3 training photos.*'2.5'"),
        ([str(n) for n in range(9)], {}, "11 photos have 11 different.*kind='regr"),
        ([f"p{n}" for n in range(9)], {}, "11 photos have 11 different.*of the name"),
        (["Ant", "ant", "b c", "b  c"], {}, "'Ant' and 'ant', 'b  c' and 'b c'"),
    ],
)
def test_labels_that_look_mistaken_are_said(train, options, message):
    valid = {list: [["x"], ["y"]], float: [1.5, 2.5]}.get(type(train[0]), ["a", "b"])
    if train[0] == "0":
        valid = ["98", "99"]
    with pytest.warns(UserWarning, match=message) as said:
        warn_odd_labels(*split(train, valid, **options))
    assert len(said) == 1


def test_all_labels_different_is_refused_where_nothing_would_validate():
    ages = label_items([Path(f"{n}.jpg") for n in range(3)], ["30", "41", "52"])
    with pytest.raises(ValueError, match="All 3 photos have different.*regression"):
        check_not_empty(ages, ages.take([]))


def test_classes_that_only_validate():
    def labelled(labels, **options):
        return label_items([Path(n) for n in labels], labels, **options)

    classes = ("a", "b", "c")
    train = labelled(["a", "b"], classes=classes)
    check_trained_classes(train, labelled(["a"], classes=classes))
    with pytest.raises(ValueError, match="1 classes have photos for validation.*: c"):
        check_trained_classes(train, labelled(["c", "a"], classes=classes))
