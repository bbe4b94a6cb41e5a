"""Reports: precision, recall and F1 of each class; errors of numbers.

Labels and predictions in, tables out. The one rule of the file: plain NumPy on whole
arrays; the numbers are scikit-learn's, and what divides by 0 is 0.
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
        classes: Their names.
        precision: (c,), of the photos said to be of a class, the share that is.
        recall: (c,), of a class's photos, the share found.
        f1: (c,), their harmonic mean.
        support: (c,), photos of each class.
        averages: By name ("macro avg", …), precision, recall and F1.
        accuracy: The share of photos rightly classified; None for several labels.
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
    """Returns how many photos of each class were taken for each class, int64 (c, c).

    Args:
        targets: Class numbers (n,), the rows; or 0 and 1 (n, c).
        decoded: What was said, of the same form, the columns.
        count: Number of classes, c.

    Returns:
        For class numbers the confusion matrix. For several labels a photo, on the
        diagonal how often a class was found, elsewhere in how many photos the row's
        class was missed and the column's wrongly named.
    """
    if targets.ndim == 1:
        cells = targets.astype(np.int64) * count + decoded
        return np.bincount(cells, minlength=count**2).reshape(count, count)
    has, says = targets > 0.5, decoded > 0.5
    missed, wrong = (has & ~says).astype(np.int64), (says & ~has).astype(np.int64)
    return missed.T @ wrong + np.diag((has & says).sum(axis=0))


def class_report(
    targets: np.ndarray, decoded: np.ndarray, classes: Sequence[str]
) -> ClassReport:
    """Returns precision, recall and F1 of each class, and their averages.

    Args:
        targets: Class numbers (n,), or for several labels 0 and 1 (n, c).
        decoded: What was said, of the same form.
        classes: Names.

    References:
        scikit-learn, `classification_report(..., zero_division=0)`: "macro" is the mean
        over classes, "weighted" by support, and for several labels "micro" counts all
        classes together and "samples" is the mean over photos.
    """
    numbers = np.arange(len(classes))
    single = targets.ndim == 1
    has = targets[:, None] == numbers if single else targets > 0.5
    says = decoded[:, None] == numbers if single else decoded > 0.5
    found, said, support = (x.sum(axis=0) for x in (has & says, says, has))
    scores = _scores(found, said, support)
    share = _divide(support, support.sum())
    averages = {
        "macro avg": _triple(x.mean() for x in scores),
        "weighted avg": _triple((x * share).sum() for x in scores),
    }
    if not single:
        micro = _scores(found.sum(), said.sum(), support.sum())
        rows = _scores(*(x.sum(axis=1) for x in (has & says, says, has)))
        averages = {
            "micro avg": _triple(micro),
            **averages,
            "samples avg": _triple(x.mean() for x in rows),
        }
    accuracy = float((targets == decoded).mean()) if single else None
    return ClassReport(tuple(classes), *scores, support, averages, accuracy)


def best_thresholds(targets: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Returns for each class the threshold at which its F1 is highest, float32 (c,).

    It lies half-way between two photos' probabilities; of several equal ones the
    highest; 0.5 for a class that no photo has. Choose it on other photos than those
    that it is judged by.

    Args:
        targets: 0 and 1, (n, c).
        probabilities: (n, c).
    """
    count = targets.shape[1]
    found = [_best(targets[:, i] > 0.5, probabilities[:, i]) for i in range(count)]
    return np.asarray(found, np.float32)


def _best(has: np.ndarray, probability: np.ndarray) -> float:
    if not has.any():
        return 0.5
    order = np.argsort(-probability, kind="stable")
    ranked = probability[order]
    below = np.append(ranked[1:], 0.0)
    said = np.arange(1, len(ranked) + 1)
    scores = 2 * np.cumsum(has[order]) / (said + has.sum())
    # No threshold parts equal probabilities.
    scores[ranked == below] = -1
    cut = int(scores.argmax())
    return float((ranked[cut] + below[cut]) / 2)


@dataclasses.dataclass(frozen=True, eq=False)
class ValueReport(Tabular):
    """How far predicted numbers are from the true ones, for each output.

    Attributes:
        names: Of the outputs.
        mae: (k,), mean of the absolute differences.
        rmse: (k,), root of the mean of their squares.
        bias: (k,), mean of predicted - actual.
        r2: (k,), 1 - squared differences / squared distances from the mean; NaN where
            all true numbers are equal.
        count: Photos.
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
    """Returns mean errors of each output.

    Args:
        targets: True numbers (n, k).
        predicted: (n, k).
        names: Of the outputs.

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


def _scores(found, said, support):
    return (
        _divide(found, said),
        _divide(found, support),
        _divide(2 * found, said + support),
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
