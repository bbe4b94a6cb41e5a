import numpy as np
import pytest

from jaxtune.data import class_values, one_or_class_values

CLASSES = ("ant", "bee", "cat")


class Series:
    """What of a pandas Series counts."""

    def __init__(self, values):
        self.values, self.index = values, list(values)

    def to_dict(self):
        return self.values

    def __iter__(self):
        return iter(self.values.values())


@pytest.mark.parametrize(
    "values",
    [
        [1, 2, 3],
        (1.0, np.float32(2), 3),
        np.array([1, 2, 3]),
        {0: 1, 1: 2, 2: 3},
        {2: 3, 0: 1, 1: 2},
        {np.int64(2): 3, np.int64(0): 1, np.int64(1): 2},
        {"cat": 3, "bee": 2, "ant": 1},
        Series({"cat": 3, "bee": 2, "ant": 1}),
    ],
)
def test_a_value_goes_to_the_class_that_its_key_names(values):
    assert class_values(values, CLASSES, "weights") == (1.0, 2.0, 3.0)


def test_classes_that_are_called_by_numbers_are_named_by_them():
    assert class_values({7: 2, 3: 1}, ("3", "7"), "weights") == (1.0, 2.0)
    assert class_values({1: 1, 2: 2}, ("1", "2"), "weights") == (1.0, 2.0)
    assert class_values({"1": 2, "0": 1}, ("0", "1"), "weights") == (1.0, 2.0)
    assert class_values({False: 1, True: 2}, ("False", "True"), "w") == (1.0, 2.0)


def test_where_only_their_number_is_known():
    assert class_values({1: 2, 0: 1}, 2, "weights") == (1.0, 2.0)
    with pytest.raises(ValueError, match="a, b. The.*a learner knows the names"):
        class_values({"a": 1, "b": 2}, 2, "weights")


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ([1, 2], ValueError, r"each of the 3 classes; got shape \(2,\)"),
        ({"ant": 1, "bee": 2}, ValueError, "it is missing for cat"),
        ({0: 1, 1: 2}, ValueError, "it is missing for cat"),
        (
            {1: 1, 2: 2, 3: 3},
            ValueError,
            "unknown classes: 3. The.*ant, bee, cat, or",
        ),
        ({"ant": 1, "bee": 2, "dog": 3}, ValueError, "unknown classes: dog"),
        ({"ant": 1, 1: 2, 2: 3}, ValueError, "needs one number"),
        ({-1: 1, 0: 1, 1: 1}, ValueError, "unknown classes: -1"),
        (
            [1, float("nan"), 1],
            ValueError,
            "must be a finite number|at least 0; received nan",
        ),
        ([1, -1, 1], ValueError, "at least 0; received -1"),
        (["1", "2", "3"], TypeError, "received '1'"),
        ([[1], [2], [3]], TypeError, "got"),
        (np.ones((3, 1)), TypeError, r"shape \(3, 1\)"),
        ({1.0, 2.0, 3.0}, TypeError, "a list in their order, or a dict"),
        ("balanced", TypeError, "got 'balanced'"),
        (None, TypeError, "got None"),
        (1.0, TypeError, "got 1.0"),
        ({"ant": None, "bee": 1, "cat": 1}, TypeError, "received None"),
    ],
)
def test_what_names_no_class_or_leaves_one_out_is_refused(values, error, message):
    with pytest.raises(error, match=message):
        class_values(values, CLASSES, "class_weights", least=0.0)


def test_one_for_all_or_one_for_each():
    assert one_or_class_values(np.float64(0.25), 3, "thresh") == 0.25
    assert one_or_class_values([1, 2, 3], 3, "thresh") == (1.0, 2.0, 3.0)
    for wrong in (True, "0.5", None):
        with pytest.raises(TypeError, match="thresh"):
            one_or_class_values(wrong, 3, "thresh")
