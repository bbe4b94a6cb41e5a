"""Rare classes come as often as they are asked to, the same in every process."""

from pathlib import Path

import numpy as np
import pytest

from jaxtune.data import class_weights, item_weights, label_items
from jaxtune.data.sampling import earlier_copies, weighted_order


def labelled(labels, **options):
    paths = [Path(f"{n}.jpg") for n in range(len(labels))]
    return label_items(paths, labels, **options)


FEW = labelled(["a"] * 6 + ["b"] * 3 + ["c"])


def test_class_weights_are_those_of_scikit_learn():
    # compute_class_weight("balanced"): n_samples / (n_classes * np.bincount(y))
    weights = class_weights(FEW)
    np.testing.assert_allclose(weights, [10 / 18, 10 / 9, 10 / 3], rtol=1e-6)
    assert weights.dtype == np.float32
    assert weights[FEW.labels].mean() == pytest.approx(1)


def test_class_weights_of_absent_classes_and_several_labels():
    absent = labelled(["a", "b", "b"], classes=("a", "ghost", "b"))
    assert class_weights(absent).tolist() == [1.5, 1, 0.75]
    several = labelled([("a", "b"), ("a",), ("a",), ()])
    np.testing.assert_allclose(class_weights(several), [4 / 6, 4 / 2])
    with pytest.raises(ValueError, match="class weights need classes"):
        class_weights(labelled([0.5, 1.5]))


def test_weights_of_photos():
    balanced = item_weights(FEW, "balanced")
    sums = [balanced[FEW.labels == label].sum() for label in range(3)]
    np.testing.assert_allclose(sums, sums[0], rtol=1e-6)
    some = item_weights(FEW, {"c": 5, "a": 0})
    assert some.tolist() == [0] * 6 + [1] * 3 + [5]
    assert item_weights(FEW, range(10)).tolist() == list(range(10))
    numbers = labelled([2, 10, 2])
    assert item_weights(numbers, {10: 3}).tolist() == [1, 3, 1]


def test_the_largest_of_several_labels_counts():
    several = labelled([("a", "b"), ("a",), (), ("b",)])
    weights = item_weights(several, {"a": 0.5, "b": 4})
    assert weights.tolist() == [4, 0.5, 1, 4]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("fair", "weights is 'balanced', a dict.*got 'fair'"),
        ({"d": 1, "e": 2, "a": 1}, "unknown classes: d, e. .* a, b, c"),
        ([1, 2], r"one number for each of 10 photos; got shape \(2,\)"),
        ([-1] * 10, "finite, 0 or more, and not all 0; got -1.0 to -1.0"),
        ({"a": float("nan")}, "finite"),
        ([0] * 10, "not all 0"),
    ],
)
def test_weights_that_are_none(weights, message):
    with pytest.raises(ValueError, match=message):
        item_weights(FEW, weights)


def test_numbers_have_no_classes_to_weigh():
    numbers = labelled([0.5, 1.5])
    for weights in ("balanced", {"a": 1}):
        with pytest.raises(ValueError, match="Give weights= a number for each photo"):
            item_weights(numbers, weights)
    assert item_weights(numbers, [1, 2]).tolist() == [1, 2]


def test_orders_draw_in_proportion():
    weights = np.array([0, 1, 2, 0, 5, 0.0])
    drawn = np.concatenate(
        [weighted_order(weights, seed=3, epoch=epoch) for epoch in range(4000)]
    )
    times = np.bincount(drawn, minlength=6)
    assert times[[0, 3, 5]].tolist() == [0, 0, 0]
    expected = len(drawn) * weights / weights.sum()
    deviation = np.sqrt(expected * (1 - weights / weights.sum()))
    assert (abs(times - expected) <= 4.5 * deviation).all()


def test_an_order_never_changes_with_versions():
    weights = np.arange(1.0, 9.0)
    order = weighted_order(weights, seed=3, epoch=2)
    assert order.tolist() == ORDER
    assert weighted_order(weights * 7, seed=3, epoch=2).tolist() == ORDER
    assert weighted_order(weights, seed=3, epoch=1).tolist() != ORDER
    assert weighted_order(weights, seed=4, epoch=2).tolist() != ORDER


ORDER = [3, 5, 4, 6, 6, 1, 0, 7]  # RandomState([3, 2]).choice(8, 8, p=weights / 36)


def test_copies_are_counted():
    order = np.random.default_rng(0).integers(0, 9, 200)
    seen: dict[int, int] = {}
    for position, copies in zip(order.tolist(), earlier_copies(order), strict=True):
        assert copies == seen.get(position, 0)
        seen[position] = copies + 1
