import numpy as np
import pytest

from jaxtune.results.report import (
    best_thresholds,
    class_report,
    confusion,
    value_report,
)

# Recorded from scikit-learn 1.9.1, classification_report(..., zero_division=0).
TARGETS = "201300011323112132000132021222230132102112032303133010211320"
DECODED = "212000011222112122000122020200220122100110022202122011212222"
SINGLE = {
    "a": (2 / 3, 0.8, 0.7272727272727273, 15),
    "b": (0.8666666666666667, 0.8125, 0.8387096774193549, 16),
    "c": (0.4444444444444444, 0.75, 0.5581395348837209, 16),
    "d": (0.0, 0.0, 0.0, 13),
    "macro avg": (0.4944444444444444, 0.590625, 0.5310304848939508, 60),
    "weighted avg": (0.5162962962962963, 37 / 60, 0.5543113050990021, 60),
}
HAS = "100 010 001 110 001 100 110 101 000 101 100 100 011 100 001 001 100 110 010 001"
SAYS = "110 111 001 110 101 000 110 000 000 101 100 100 010 000 011 000 100 001 011 001"
MULTI = {
    "a": (0.7777777777777778, 0.6363636363636364, 0.7, 11),
    "b": (0.7142857142857143, 0.8333333333333334, 0.7692307692307693, 6),
    "c": (0.625, 0.625, 0.625, 8),
    "micro avg": (0.7083333333333334, 0.68, 0.6938775510204082, 25),
    "macro avg": (0.7056878306878307, 0.6982323232323232, 0.6980769230769232, 25),
    "weighted avg": (0.7136507936507936, 0.68, 0.6926153846153846, 25),
    "samples avg": (0.5666666666666667, 0.675, 0.5916666666666666, 25),
}


def digits(text):
    return np.array([int(digit) for digit in text], np.int32)


def rows(text):
    return np.array([digits(row) for row in text.split()], np.float32)


def check(report, recorded):
    found = report.as_dict()
    assert [name for name in found if name != "accuracy"] == list(recorded)
    for name, numbers in recorded.items():
        assert list(found[name]) == ["precision", "recall", "f1-score", "support"]
        assert list(found[name].values()) == pytest.approx(numbers, rel=1e-12)


def test_one_label_a_photo_as_scikit_learn():
    report = class_report(digits(TARGETS), digits(DECODED), list("abcd"))
    check(report, SINGLE)
    assert report.accuracy == report.as_dict()["accuracy"] == pytest.approx(37 / 60)
    lines = [line.split() for line in str(report).splitlines()]
    assert lines[0] == ["class", "precision", "recall", "f1-score", "support"]
    assert ["c", "0.444", "0.750", "0.558", "16"] in lines
    assert ["accuracy", "0.617", "60"] in lines
    assert ["weighted", "avg", "0.516", "0.617", "0.554", "60"] in lines
    assert "<td" in report._repr_html_()


def test_several_labels_a_photo_as_scikit_learn():
    report = class_report(rows(HAS), rows(SAYS) > 0.5, list("abc"))
    check(report, MULTI)
    assert report.accuracy is None and "accuracy" not in str(report)


def test_a_class_called_accuracy_is_a_class():
    report = class_report(np.array([0, 1]), np.array([0, 0]), ["accuracy", "b"])
    assert report.accuracy == 0.5
    assert "accuracy" in str(report)


def test_confusion_counts_rows_as_actual():
    found = confusion(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0]), 4)
    assert found.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0] * 4]
    has = np.array([[1, 0, 0], [1, 0, 0], [0, 0, 1]], np.float32)
    says = np.array([[0, 1, 1], [1, 0, 0], [0, 1, 0]], bool)
    assert confusion(has, says, 3).tolist() == [[1, 1, 1], [0, 0, 0], [0, 1, 0]]


def test_best_thresholds_are_those_of_trying_them_all():
    random = np.random.default_rng(0)
    has = (random.random((40, 3)) < 0.3).astype(np.float32)
    said = np.round(0.6 * random.random((40, 3)) + 0.3 * has, 2).astype(np.float32)
    has[:, 2] = 0
    found = best_thresholds(has, said)
    assert found[2] == 0.5

    def f1(i, threshold):
        says, real = said[:, i] > threshold, has[:, i] > 0
        return 2 * (says & real).sum() / (says.sum() + real.sum())

    for i in (0, 1):
        tried = [f1(i, threshold) for threshold in np.linspace(0, 1, 2001)]
        assert f1(i, found[i]) == pytest.approx(max(tried))
        assert f1(i, found[i]) > f1(i, 0.5)


def test_numbers_errors_by_output():
    targets = np.array([[1, 5], [2, 5], [4, 5]], np.float32)
    predicted = np.array([[1, 6], [3, 4], [4, 5]], np.float32)
    report = value_report(targets, predicted, ("x", "y"))
    assert report.mae == pytest.approx([1 / 3, 2 / 3])
    assert report.rmse == pytest.approx(np.sqrt([1 / 3, 2 / 3]))
    assert report.bias == pytest.approx([1 / 3, 0])
    assert report.r2[0] == pytest.approx(1 - 1 / (14 / 3)) and np.isnan(report.r2[1])
    assert report.as_dict()["x"]["mae"] == pytest.approx(1 / 3)
    assert "R²" in str(report) and "3 photos" in str(report)
