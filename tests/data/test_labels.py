"""Whatever users write beside a photo becomes labels of one kind, or is refused."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtune.data import Items, label_items, label_kind, target_stats, with_classes
from jaxtune.data.values import clean_name


def labelled(labels, **options):
    paths = [Path(f"{n}.jpg") for n in range(len(labels))]
    return label_items(paths, labels, **options)


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


NAMES = st.text(min_size=1).map(clean_name).filter(bool)


@given(st.lists(NAMES, min_size=1))
def test_every_label_comes_back_from_its_number(names):
    items = label_items([Path(str(n)) for n in range(len(names))], names)
    assert [items.classes[label] for label in items.labels] == names
    assert list(items.classes) == sorted(set(names))
    assert sum(items.counts().values()) == len(names)


def test_no_photos_at_all():
    assert isinstance(label_items([], []), Items)


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (["a", "b"], "single"),
        ([1, 2], "single"),
        ([True, False], "single"),
        (np.array([3, 1]), "single"),
        (np.array(["a", "b"], object), "single"),
        ([("a", "b"), ()], "multi"),
        ([{"a"}, {"b", "a"}], "multi"),
        ([["a"], ["b"]], "multi"),
        ([[0, 3], [2]], "multi"),
        (np.tri(3, dtype=int), "multi"),
        (np.tri(3, dtype=bool), "multi"),
        (np.tri(3), "multi"),
        (np.tri(3).astype(int).tolist(), "multi"),
        (np.eye(3, dtype=int), "single"),
        (np.eye(3), "single"),
        (np.eye(3).tolist(), "single"),
        (np.array([[3], [0], [1]], np.uint8), "single"),
        ([[3], [0], [1]], "single"),
        (np.array([["a"], ["b"]]), "single"),
        (np.array([[0.5], [2]]), "regression"),
        ([0.5, 1.0], "regression"),
        ([0.5, 1], "regression"),
        ([np.float32(0.5)] * 2, "regression"),
        ([(0.5, 1.0), [2, 3.5]], "regression"),
        (np.zeros((2, 4)), "regression"),
    ],
)
def test_the_kind_is_seen(labels, kind):
    assert label_kind(labels) == kind
    assert labelled(labels).kind == kind


def test_several_labels_are_zeros_and_ones():
    items = labelled([("dog", "cat"), (), ["dog", "dog"], {"fox"}])
    assert items.classes == ("cat", "dog", "fox")
    wanted = [[1, 1, 0], [0, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert items.labels.tolist() == wanted and items.labels.dtype == np.float32
    assert items.counts() == {"cat": 1, "dog": 2, "fox": 1}
    given_order = labelled([("dog",), ("cat",)], classes=("dog", "ape", "cat"))
    assert given_order.labels.tolist() == [[1, 0, 0], [0, 0, 1]]
    with pytest.raises(ValueError, match=r"not among the classes: \{'dog': 2\}"):
        labelled([("dog",), ("cat", "dog")], classes=("cat",))
    with pytest.raises(ValueError, match="no photo has a label"):
        labelled([(), ()])


def test_a_column_for_each_class():
    items = labelled(np.array([[1, 0, 1], [0, 0, 1]]), classes=("x", "y", "z"))
    assert items.classes == ("x", "y", "z")
    assert items.labels.tolist() == [[1, 0, 1], [0, 0, 1]]
    assert labelled(np.tri(2, dtype=bool)).classes == ("0", "1")
    with pytest.raises(ValueError, match="2 classes were given for 3 columns"):
        labelled(np.eye(3, dtype=int), classes=("x", "y"))
    with pytest.raises(ValueError, match="only if all are 0 or 1; got 0 to 7"):
        labelled(np.array([[0, 7]]))


def test_numbers_to_predict():
    one, many = labelled([0.5, 2]), labelled([(1.5, 2), (3, 4)])
    assert one.labels.tolist() == [0.5, 2] and one.labels.dtype == np.float32
    assert many.labels.shape == (2, 2) and many.num_outputs == 2
    assert one.classes == many.classes == ()
    ages = labelled([30, 41], kind="regression")
    assert ages.kind == "regression" and ages.labels.tolist() == [30, 41]
    with pytest.raises(ValueError, match="as many numbers as the others"):
        labelled([(1.5, 2.5), (3.5,)])
    with pytest.raises(ValueError, match="means numbers; got 'old'"):
        labelled(["old", "young"], kind="regression")
    with pytest.raises(
        ValueError, match="classes were given with labels that are regr"
    ):
        labelled([0.5], classes=("a",))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", ("a", "b")], "labels mix kinds: 1 a list of names, 1 a name"),
        (["a", 0.5], "labels mix kinds: 1 a float, 1 a name"),
        ([0.5, [1.5]], "labels mix kinds: 1 a float, 1 a list of floats"),
        ([("a",), (0.5,)], "mix kinds"),
    ],
)
def test_kinds_do_not_mix(labels, message):
    with pytest.raises(ValueError, match=message):
        labelled(labels)


@pytest.mark.parametrize(
    "labels",
    [
        [0.5, float("nan")],
        ["a", None],
        ["a", float("nan")],
        [("a",), None],
        [("a",), ("a", None)],
        np.array([[1.0, 2], [np.nan, 1]]),
    ],
)
def test_a_missing_label_is_named_whatever_the_kind(labels):
    with pytest.raises(ValueError, match="1 of 2 photos get no label: 1.jpg"):
        labelled(labels)


def test_a_kind_that_the_labels_are_not():
    with pytest.raises(ValueError, match="means one label for each"):
        labelled([("a", "b")], kind="single")
    with pytest.raises(ValueError, match="means a list of names.*'a b'.*label_delim"):
        labelled(["a b", "a"], kind="multi")
    assert labelled([1.0, 10.0, 2.0], kind="single").classes == ("1", "2", "10")
    assert labelled([0.5, 2.0], kind="single").classes == ("0.5", "2.0")
    with pytest.raises(ValueError, match=r"one 1 in each row; got \[1, 1\] in row 1"):
        labelled(np.tri(2, dtype=int), kind="single")
    for infinite in (np.array([1.0, np.inf]), [(1.0, 2.0), (-np.inf, 1.0)]):
        with pytest.raises(ValueError, match=r"1 of 2 labels are infinite: 1.jpg"):
            labelled(infinite)


@given(st.lists(st.sets(NAMES), min_size=1))
def test_every_set_of_labels_comes_back(sets):
    if not any(sets):
        return
    items = labelled(sets)
    for names, row in zip(sets, items.labels, strict=True):
        assert {items.classes[n] for n in np.flatnonzero(row)} == names


@given(st.permutations(["ant", "bee", "cat", "dog"]), st.booleans())
def test_labels_are_renumbered_by_name(classes, several):
    names = [["bee", "cat"], [], ["ant"]] if several else ["cat", "ant", "cat"]
    items = labelled(names, classes=("cat", "owl", "bee", "ant"))
    other = with_classes(items, classes)
    assert (other.classes, other.kind) == (tuple(classes), items.kind)
    said = [set(filter(None, other.label_text(x).split(";"))) for x in other.labels]
    assert said == [set(n if several else [n]) for n in names]
    assert with_classes(other, classes) is other


def test_labels_that_are_not_among_the_others_are_named():
    items = labelled(["cat", "ant", "cat"])
    with pytest.raises(ValueError, match=r"not among the classes: \{'cat': 2\}"):
        with_classes(items, ["ant", "bee"])
    with pytest.raises(ValueError, match="must differ"):
        with_classes(items, ["ant", "cat", "ant"])
    with pytest.raises(ValueError, match="have no classes"):
        with_classes(labelled([0.5, 1.5]), ["ant"])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            np.array([0.0, 1, 0, 1]),
            "floats: 0.0, 1.0. If .*kind='single'.*'regression'",
        ),
        ([3.0, 3.0, 7.0, 7.0], "whole numbers written as floats: 3.0, 7.0"),
        (
            np.array([[0.25, 0.75], [1, 0]]),
            r"2 fractions a photo.*\[0.25, 0.75\].*argmax",
        ),
        ([[10, 20], [30, 40]], r"2 whole numbers a photo.*kind='multi'.*'regression'"),
        (np.arange(8).reshape(2, 4), "only if all are 0 or 1; got 0 to 7"),
    ],
)
def test_labels_that_could_be_two_things_are_asked_about(labels, message):
    with pytest.raises(ValueError, match=message):
        labelled(labels)
    assert labelled(labels, kind="regression").kind == "regression"


@pytest.mark.parametrize(
    "labels",
    [None, 5, "abab", b"ab", {"a": 1}, {"a", "b"}, np.array(3), int, object(),
     np.zeros(2, complex), [{"a": 1}], [object()], [int], [[["a"]]], [print]],
)  # fmt: skip
def test_what_is_no_label(labels):
    with pytest.raises(TypeError, match=r"^labels(\[0\])? must be"):
        label_items([Path("0.jpg")], labels)


def test_one_hot_columns_are_classes():
    one_hot = np.eye(3)[[2, 0, 1, 2]]
    for form in (one_hot, one_hot.astype(int), one_hot > 0, one_hot.tolist()):
        items = labelled(form, classes=("x", "y", "z"))
        assert items.kind == "single" and items.labels.tolist() == [2, 0, 1, 2]
        assert items.labels.dtype == np.int32 and items.classes == ("x", "y", "z")
    assert labelled(one_hot, kind="multi").labels.tolist() == one_hot.tolist()
    assert labelled(np.array([[0], [1]]), kind="multi").labels.tolist() == [[0], [1]]


def test_classes_are_a_sequence_of_names():
    for wrong in ("ab", {"a"}, {"a": 0}, 5, int, ["a", int]):
        with pytest.raises(TypeError, match="^classes must be"):
            labelled(["a"], classes=wrong)
    for wrong in ([], ["a", None], ["a", " "]):
        with pytest.raises(ValueError, match="^classes must be"):
            labelled(["a"], classes=wrong)
    assert labelled([0, 1], classes=np.array([1, 0])).classes == ("1", "0")


def test_each_target_has_its_own_mean_and_deviation():
    labels = np.array([[1e4, 5e-4], [3e4, 1e-4], [2e4, 6e-4]])
    mean, std = target_stats(labelled(labels))
    np.testing.assert_allclose(mean, labels.mean(0), rtol=1e-6)
    np.testing.assert_allclose(std, labels.std(0), rtol=1e-6)
    one = target_stats(labelled([0.0, 19_000.0]))
    assert one == ((9500.0,), (9500.0,))


def test_equal_targets_are_not_divided_by_0():
    assert target_stats(labelled([0.1] * 7)) == ((float(np.float32(0.1)),), (1.0,))
    assert target_stats(labelled([5000.0])) == ((5000.0,), (1.0,))


def test_classes_have_none():
    with pytest.raises(ValueError, match="labels are classes"):
        target_stats(labelled(["ant", "bee"]))
