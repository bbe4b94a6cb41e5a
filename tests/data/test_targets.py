from pathlib import Path

import numpy as np
import pytest

from jaxtune.data import label_items, target_stats


def items(labels, kind="regression"):
    return label_items(
        [Path(f"{i}.jpg") for i in range(len(labels))], labels, kind=kind
    )


def test_each_target_has_its_own_mean_and_deviation():
    labels = np.array([[1e4, 5e-4], [3e4, 1e-4], [2e4, 6e-4]])
    mean, std = target_stats(items(labels))
    np.testing.assert_allclose(mean, labels.mean(0), rtol=1e-6)
    np.testing.assert_allclose(std, labels.std(0), rtol=1e-6)
    one = target_stats(items([0.0, 19_000.0]))
    assert one == ((9500.0,), (9500.0,))


def test_equal_targets_are_not_divided_by_0():
    assert target_stats(items([0.1] * 7)) == ((float(np.float32(0.1)),), (1.0,))
    assert target_stats(items([5000.0])) == ((5000.0,), (1.0,))


def test_classes_have_none():
    with pytest.raises(ValueError, match="these labels are classes"):
        target_stats(items(["ant", "bee"], "single"))
