"""Splits are fair to each class and the same everywhere; folders are read as meant."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtune.data import (
    label_items,
    labelled_folder,
    split_folders,
    split_items,
    stratified_split,
)

label_lists = st.lists(st.integers(0, 5), min_size=1, max_size=80)
fractions = st.floats(0.01, 0.99)


@given(label_lists, fractions, st.integers(0, 2**32 - 1))
def test_each_class_is_on_both_sides(labels, valid_pct, seed):
    labels = np.array(labels)
    train, valid = stratified_split(labels, valid_pct=valid_pct, seed=seed)
    assert sorted([*train, *valid]) == list(range(len(labels)))
    assert list(train) == sorted(train) and list(valid) == sorted(valid)
    for label in set(labels.tolist()):
        total = (labels == label).sum()
        in_train, in_valid = (
            (labels[train] == label).sum(),
            (labels[valid] == label).sum(),
        )
        assert in_train >= 1
        assert in_valid >= (total >= 2)
        assert abs(in_valid - total * valid_pct) <= 1
    again = stratified_split(labels, valid_pct=valid_pct, seed=seed)
    np.testing.assert_array_equal(again[1], valid)


def test_a_split_never_changes_with_versions():
    _, valid = stratified_split(np.zeros(20, int), valid_pct=0.25, seed=3)
    assert valid.tolist() == [1, 4, 10, 18, 19]


def test_seeds_differ_and_every_photo_is_as_likely():
    labels = np.zeros(10, int)
    times = np.zeros(10)
    for seed in range(1000):
        times[stratified_split(labels, valid_pct=0.2, seed=seed)[1]] += 1
    assert times.sum() == 2000
    assert (abs(times - 200) < 60).all()  # 4.7 standard deviations


def test_photos_added_later_move_few_of_the_others():
    names = [f"{n}.jpg" for n in range(200)]
    labels = np.zeros(200, int)
    _, before = stratified_split(labels[:180], valid_pct=0.2, names=names[:180])
    _, after = stratified_split(labels, valid_pct=0.2, names=names)
    assert len(set(before) - set(after)) <= 6


@pytest.mark.parametrize("valid_pct", [0, 1, 20, -0.1, float("nan")])
def test_shares_that_are_no_share(valid_pct):
    with pytest.raises(ValueError, match="above 0 and below 1.*0.2 for 20%"):
        stratified_split(np.zeros(5, int), valid_pct=valid_pct)
    with pytest.raises(ValueError, match="1 names were given for 5 labels"):
        stratified_split(np.zeros(5, int), names=["a"])


def test_a_split_survives_moving_the_folder(tmp_path):
    def split(root):
        paths = [root / f"{n}.jpg" for n in range(40)]
        items = label_items(paths, [n % 2 for n in range(40)])
        train, valid = split_items(items, valid_pct=0.2, seed=1, root=root)
        assert valid.counts() == {"0": 4, "1": 4}
        return [path.name for path in valid.paths]

    assert split(tmp_path) == split(tmp_path / "elsewhere") == split(Path("relative"))


def make(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_train_and_valid_folders(tmp_path):
    make(tmp_path, "train/dog/1.jpg", "train/cat/deep/2.jpg", "train/cat/3.png")
    make(tmp_path, "valid/cat/4.jpg", "test/cat/9.jpg", "train/notes.txt")
    train, valid = split_folders(tmp_path)
    assert train.classes == valid.classes == ("cat", "dog")
    assert [path.name for path in train.paths] == ["3.png", "2.jpg", "1.jpg"]
    assert train.labels.tolist() == [0, 0, 1]
    assert valid.counts() == {"cat": 1, "dog": 0}


def test_class_folders_are_split_by_share(tmp_path):
    make(tmp_path, *(f"{name}/{n}.jpg" for name in ("a", "b") for n in range(10)))
    train, valid = split_folders(str(tmp_path), valid_pct=0.3, seed=5)
    assert train.counts() == {"a": 7, "b": 7} and valid.counts() == {"a": 3, "b": 3}
    assert not set(train.paths) & set(valid.paths)
    again = split_folders(tmp_path, valid_pct=0.3, seed=5)
    assert again[1].paths == valid.paths
    assert split_folders(tmp_path, valid_pct=0.3, seed=6)[1].paths != valid.paths


@pytest.mark.parametrize(
    ("names", "arguments", "message"),
    [
        (["train/a/1.jpg", "val/a/1.jpg"], {}, r"train='train', valid='val'\)"),
        (["train/a/1.jpg", "test/a/1.jpg"], {}, r"valid='test'\)"),
        (["train/a/1.jpg", "valid/a/1.jpg"], {"valid": "val"}, r"valid='valid'\)"),
        (["train/a/1.jpg"], {}, r"train', valid_pct=0.2\) to validate on a f"),
        (["a/1.jpg", "b/1.jpg"], {}, r"holds a, b. .*write .*valid_pct=0.2\)"),
        (["valid/a/1.jpg", "other/a/1.jpg"], {}, r"'train'.*train=\.\.\., valid='v"),
        (["1.jpg"], {}, "holds none.*from_name_re"),
    ],
)
def test_missing_folders_say_what_to_type(tmp_path, names, arguments, message):
    make(tmp_path, *names)
    with pytest.raises(FileNotFoundError, match=message):
        split_folders(tmp_path, **arguments)


def test_the_advice_works(tmp_path):
    make(tmp_path, "train/a/1.jpg", "train/a/2.jpg", "val/a/1.jpg")
    with pytest.raises(FileNotFoundError) as caught:
        split_folders(tmp_path)
    typed = str(caught.value).split("Write from_folder")[1].rstrip(".")
    train, valid = eval(f"split_folders{typed}")
    assert (len(train), len(valid)) == (2, 1)


def test_classes_that_only_validation_has(tmp_path):
    make(tmp_path, "train/a/1.jpg", "valid/a/1.jpg", "valid/b/1.jpg", "valid/c/x.txt")
    with pytest.raises(ValueError, match="classes without photos in 'train': b. "):
        split_folders(tmp_path)
    shutil.rmtree(tmp_path / "valid" / "b")
    assert len(split_folders(tmp_path)[1]) == 1


def test_a_split_folder_is_not_taken_for_classes(tmp_path):
    make(tmp_path, "train/a/1.jpg", "train/a/2.jpg", "val/a/1.jpg")
    with pytest.raises(ValueError, match="is split already.*train', valid_pct=0.2"):
        split_folders(tmp_path, valid_pct=0.2)
    assert len(split_folders(tmp_path / "train", valid_pct=0.5)[0]) == 1


def test_photos_outside_class_folders(tmp_path):
    make(tmp_path, "a/1.jpg", "loose.jpg")
    with pytest.raises(ValueError, match="1 photos lie directly.*loose.jpg.*from_name"):
        labelled_folder(tmp_path)


def test_empty_class_folders_are_left_out_aloud(tmp_path):
    make(tmp_path, "a/1.jpg", "b/notes.txt")
    with pytest.warns(UserWarning, match="Skipped 1 class folders.*: b"):
        assert labelled_folder(tmp_path).classes == ("a",)
    # A class that is asked for by name is kept, with or without photos.
    assert labelled_folder(tmp_path, classes=("b", "a")).counts() == {"b": 0, "a": 1}
    shutil.rmtree(tmp_path / "a")
    with pytest.raises(ValueError, match="no photos in"):
        labelled_folder(tmp_path)


def test_real_folders(photos):
    train, valid = split_folders(photos / "hymenoptera", valid="val")
    assert train.counts() == {"ants": 123, "bees": 121}
    assert valid.counts() == {"ants": 70, "bees": 83}
    with pytest.raises(FileNotFoundError, match="valid='val'"):
        split_folders(photos / "hymenoptera")


def test_labels_that_have_no_strata_are_split_as_one_class():
    paths = [Path(f"{n}.jpg") for n in range(40)]
    single = label_items(paths, ["a"] * 20 + ["b"] * 20)
    _, stratified = split_items(single, valid_pct=0.25, seed=3)
    assert stratified.counts() == {"a": 5, "b": 5}
    _, plain = split_items(single, valid_pct=0.25, seed=3, stratify=False)
    assert len(plain) == 10 and plain.paths != stratified.paths
    for labels in ([n / 2 for n in range(40)], [["a"]] * 20 + [["b"]] * 20):
        _, valid = split_items(label_items(paths, labels), valid_pct=0.25, seed=3)
        assert valid.paths == plain.paths


def test_names_below_the_root_however_it_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sides = set()
    for root, folder in (
        (".", Path()),
        (tmp_path, tmp_path),
        (f"{tmp_path}/", tmp_path),
        (tmp_path / "x" / "..", tmp_path / "x" / ".."),
        (tmp_path, Path()),
    ):
        items = label_items([folder / f"a/{n}.jpg" for n in range(30)], ["x"] * 30)
        _, valid = split_items(items, valid_pct=0.2, root=root)
        sides.add(tuple(path.name for path in valid.paths))
    assert len(sides) == 1


def test_folders_without_strata(tmp_path):
    make(tmp_path, *(f"{name}/{n}.jpg" for name in ("a", "b") for n in range(10)))
    loose = [
        split_folders(tmp_path, valid_pct=0.3, seed=seed, stratify=False)[1].counts()
        for seed in range(5)
    ]
    assert all(sum(counts.values()) == 6 for counts in loose)
    assert any(counts["a"] != 3 for counts in loose)


def test_what_both_folders_leave_out_is_one_warning(tmp_path):
    for split, number in (("train", 2), ("valid", 1)):
        for name in ("ant", "bee"):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            (folder / "1.jpg").touch()
            for n in range(number):
                (folder / f"{n}.heic").touch()
    with pytest.warns(UserWarning, match=r"Skipped 6 files \(.heic 6\)") as said:
        split_folders(tmp_path)
    assert len(said) == 1
    with pytest.warns(UserWarning, match=r"4 files \(.heic 4\)"):
        split_folders(tmp_path / "train", valid_pct=0.5)
    for path in tmp_path.rglob("*.jpg"):
        path.unlink()
    with pytest.raises(ValueError, match=r"no photos in .*it holds 4 files \(.heic 4"):
        split_folders(tmp_path)
