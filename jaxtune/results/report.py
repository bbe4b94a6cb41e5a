"""Reports: precision, recall and F1 of each class; regression errors.

The numbers agree with scikit-learn's. Precision, recall and F1 are 0 where they would
divide by 0.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxtune.text_tables import Column, Table, Tabular


@dataclasses.dataclass(frozen=True, eq=False)
class ClassReport(Tabular):
    """Precision, recall and F1 of each class, and averages.

    Attributes:
        classes: Names of the c classes.
        precision: (c,), the fraction of photos predicted as a class that belong to it.
        recall: (c,), the fraction of a class's photos that are predicted as it.
        f1: (c,), harmonic mean of precision and recall.
        support: (c,), number of photos of each class.
        averages: Averaged precision, recall and F1, by name ("macro avg", …).
        accuracy: Fraction of photos classified correctly; None for multi-label.
    """

    classes: tuple[str, ...]
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray
    averages: Mapping[str, tuple[float, float, float]]
    accuracy: float | None

    def as_dict(self) -> dict[str, Any]:
        """Returns plain numbers, as scikit-learn's `output_dict=True` does."""
        rows: dict[str, Any] = {}
        columns = (self.precision, self.recall, self.f1, self.support)
        for name, *numbers in zip(self.classes, *columns, strict=True):
            rows[name] = _row(*numbers)
        if self.accuracy is not None:
            rows["accuracy"] = self.accuracy
        for name, numbers in self.averages.items():
            rows[name] = _row(*numbers, self.support.sum())
        return rows

    def table(self) -> Table:
        """Returns the table."""
        lines: list[list[str] | None] = []
        for name, row in self.as_dict().items():
            if lines and len(lines) == len(self.classes):
                lines.append(None)
            if name == "accuracy" and isinstance(row, float):
                total = int(self.support.sum())
                lines.append([name, "", "", f"{row:.3f}", str(total)])
                continue
            *shares, support = row.values()
            lines.append([name, *(f"{x:.3f}" for x in shares), f"{support:.0f}"])
        names = ("precision", "recall", "f1-score", "support")
        return Table([Column("class", "left"), *map(Column, names)], lines)


def confusion(targets: np.ndarray, decoded: np.ndarray, count: int) -> np.ndarray:
    """Returns the confusion matrix, int64 (c, c): actual rows, predicted columns.

    Args:
        targets: Class indices (n,), or for multi-label 0 and 1 (n, c).
        decoded: Predictions of the same form.
        count: Number of classes, c.

    Returns:
        The number of photos for each pair of classes. For multi-label: on the diagonal
        the true positives of each class; elsewhere the photos in which the row's class
        is a false negative and the column's class a false positive.
    """
    if targets.ndim == 1:
        cells = targets.astype(np.int64) * count + decoded
        return np.bincount(cells, minlength=count**2).reshape(count, count)
    is_actual, is_predicted = targets > 0.5, decoded > 0.5
    missed, wrong = (
        (is_actual & ~is_predicted).astype(np.int64),
        (is_predicted & ~is_actual).astype(np.int64),
    )
    return missed.T @ wrong + np.diag((is_actual & is_predicted).sum(axis=0))


def class_report(
    targets: np.ndarray, decoded: np.ndarray, classes: Sequence[str]
) -> ClassReport:
    """Returns precision, recall and F1 of each class, and their averages.

    Args:
        targets: Class indices (n,), or for multi-label 0 and 1 (n, c).
        decoded: Predictions of the same form.
        classes: Names of the c classes.

    References:
        scikit-learn, `classification_report(..., zero_division=0)`: "macro" is the mean
        over classes, "weighted" the mean weighted by support; for multi-label, "micro"
        pools the counts of all classes and "samples" is the mean over photos.
    """
    numbers = np.arange(len(classes))
    single = targets.ndim == 1
    is_actual = targets[:, None] == numbers if single else targets > 0.5
    is_predicted = decoded[:, None] == numbers if single else decoded > 0.5
    correct, predicted, support = (
        x.sum(axis=0) for x in (is_actual & is_predicted, is_predicted, is_actual)
    )
    scores = _scores(correct, predicted, support)
    share = _divide(support, support.sum())
    averages = {
        "macro avg": _triple(x.mean() for x in scores),
        "weighted avg": _triple((x * share).sum() for x in scores),
    }
    if not single:
        micro = _scores(correct.sum(), predicted.sum(), support.sum())
        rows = _scores(
            *(
                x.sum(axis=1)
                for x in (is_actual & is_predicted, is_predicted, is_actual)
            )
        )
        averages = {
            "micro avg": _triple(micro),
            **averages,
            "samples avg": _triple(x.mean() for x in rows),
        }
    accuracy = float((targets == decoded).mean()) if single else None
    return ClassReport(tuple(classes), *scores, support, averages, accuracy)


def best_thresholds(targets: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Returns for each class the threshold at which its F1 is highest, float32 (c,).

    A threshold lies half-way between two neighbouring probabilities. If several give
    the same F1, the highest is taken; a class without photos gets 0.5. Evaluate on
    other photos than those that the thresholds were chosen on.

    Args:
        targets: Labels, 0 and 1, (n, c).
        probabilities: Predicted probabilities (n, c).
    """
    count = targets.shape[1]
    thresholds = [_best(targets[:, i] > 0.5, probabilities[:, i]) for i in range(count)]
    return np.asarray(thresholds, np.float32)


def _best(has: np.ndarray, probability: np.ndarray) -> float:
    if not has.any():
        return 0.5
    order = np.argsort(-probability, kind="stable")
    ranked = probability[order]
    below = np.append(ranked[1:], 0.0)
    num_predicted = np.arange(1, len(ranked) + 1)
    scores = 2 * np.cumsum(has[order]) / (num_predicted + has.sum())
    # A threshold can't lie between equal probabilities.
    scores[ranked == below] = -1
    cut = int(scores.argmax())
    return float((ranked[cut] + below[cut]) / 2)


@dataclasses.dataclass(frozen=True, eq=False)
class ValueReport(Tabular):
    """How far predicted numbers are from the true ones, for each output.

    Attributes:
        names: Names of the outputs.
        mae: (k,), mean absolute error.
        rmse: (k,), root mean squared error.
        bias: (k,), mean of predicted - actual.
        r2: (k,), coefficient of determination: 1 - mean squared error / variance of the
            true numbers; NaN where these are all equal.
        count: Number of photos.
    """

    names: tuple[str, ...]
    mae: np.ndarray
    rmse: np.ndarray
    bias: np.ndarray
    r2: np.ndarray
    count: int

    def as_dict(self) -> dict[str, dict[str, float]]:
        """Returns plain numbers by output."""
        columns = ("mae", "rmse", "bias", "r2")
        return {
            name: {column: float(getattr(self, column)[i]) for column in columns}
            for i, name in enumerate(self.names)
        }

    def table(self) -> Table:
        """Returns the table."""
        rows = [
            [name, *(f"{x:.4g}" for x in row.values())]
            for name, row in self.as_dict().items()
        ]
        columns = [
            Column("output", "left"),
            *map(Column, ("MAE", "RMSE", "bias", "R²")),
        ]
        return Table(columns, rows, notes=[f"{self.count} photos"])


def value_report(
    targets: np.ndarray, predicted: np.ndarray, names: Sequence[str]
) -> ValueReport:
    """Returns MAE, RMSE, bias and R² of each output.

    Args:
        targets: True numbers (n, k).
        predicted: Predicted numbers (n, k).
        names: Names of the outputs.

    References:
        scikit-learn, `mean_absolute_error`, `root_mean_squared_error`, `r2_score`.
    """
    targets, predicted = targets.astype(np.float64), predicted.astype(np.float64)
    residuals = predicted - targets
    squares = (residuals**2).mean(axis=0)
    spread = targets.var(axis=0)
    ratio = np.divide(
        squares, spread, out=np.full_like(spread, np.nan), where=spread > 0
    )
    return ValueReport(
        tuple(names),
        np.abs(residuals).mean(axis=0),
        np.sqrt(squares),
        residuals.mean(axis=0),
        1 - ratio,
        len(targets),
    )


def _scores(correct, predicted, support):
    return (
        _divide(correct, predicted),
        _divide(correct, support),
        _divide(2 * correct, predicted + support),
    )


def _divide(above: Any, below: Any) -> np.ndarray:
    above, below = np.asarray(above, np.float64), np.asarray(below, np.float64)
    zeros = np.zeros(np.broadcast_shapes(above.shape, below.shape))
    return np.divide(above, below, out=zeros, where=below > 0)


def _triple(numbers: Any) -> tuple[float, float, float]:
    precision, recall, f1 = (float(x) for x in numbers)
    return precision, recall, f1


def _row(precision, recall, f1, support) -> dict[str, float]:
    return {
        "precision": float(precision),
        "recall": float(recall),
        "f1-score": float(f1),
        "support": float(support),
    }
