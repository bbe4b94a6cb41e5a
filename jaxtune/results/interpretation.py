"""Interpretation: which photos have the largest losses, and which classes get confused.

The network runs once, beforehand; all tables and figures come from its predictions.
Only heat maps run it again.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxtune.arguments import (
    Integer,
    check_flag,
    check_instance,
    check_integer,
    described,
)
from jaxtune.data.items import Items
from jaxtune.inspect.gradcam import GradCam
from jaxtune.plots import Line, Panel, bar_plot, image_grid, line_plot, matrix_plot
from jaxtune.results.predictions import (
    Predictions,
    plain_loader,
    require_items,
)
from jaxtune.results.report import (
    ClassReport,
    ValueReport,
    best_thresholds,
    class_report,
    confusion,
    value_report,
)
from jaxtune.results.thresholds import as_thresholds, check_several, decode
from jaxtune.text_tables import Column, Table, Tabular


def _check_kind(interpretation: "type[Interpretation]", kind: str) -> None:
    if kind not in interpretation.kinds:
        raise ValueError(
            f"{interpretation.__name__} is for labels of kind "
            f"{' or '.join(interpretation.kinds)}; these are {kind}. "
            "learner.interpret() takes the one that fits."
        )


class Interpretation:
    """Photos with a network's predictions for them and their losses.

    Attributes:
        predictions: Predictions with losses and decoded labels.
        items: The photos' names, labels and classes.
        classes: Names of the classes; empty for regression.
    """

    kinds: tuple[str, ...] = ("single", "multi", "regression")

    def __init__(
        self,
        predictions: Predictions,
        items: Items,
        *,
        photo: Callable[[int], np.ndarray] | None = None,
        heat: Callable[[Sequence[int], np.ndarray], Sequence[GradCam]] | None = None,
    ):
        """Takes predictions; nothing is computed yet.

        Args:
            predictions: Predictions with losses and decoded labels.
            items: The items that `predictions.index` refers to.
            photo: Maps a position in the items to pixels (h, w, c), for plots.
            heat: Maps positions in the items, and the index of an output for each, to
                their Grad-CAM maps, for plots with heat maps.

        Raises:
            ValueError: If targets, losses or decoded labels are missing, or the labels
                are of another kind than this class is for.
        """
        check_instance(predictions, "predictions", Predictions, "what get_preds gives")
        check_instance(items, "items", Items, "the Items of a loader")
        _check_kind(type(self), items.kind)
        if predictions.targets is None:
            raise ValueError(
                "interpretation needs labels, and these predictions have none. Give "
                "them with data.test_loader(photos, labels=[...])."
            )
        if predictions.losses is None or predictions.decoded is None:
            raise ValueError(
                "the predictions need losses and decoded answers: "
                "get_preds(with_loss=True, with_decoded=True)."
            )
        self.predictions = predictions
        self.items = items
        self.classes = items.classes
        self._photo = photo
        self._heat = heat

    @classmethod
    def from_learner(cls, learner: Any, loader: Any = None, *, thresh: Any = None):
        """Returns the interpretation of a learner's predictions for a loader.

        Args:
            learner: A `Learner`; its network runs once over the photos.
            loader: As in `Learner.interpret`.
            thresh: As in `Learner.get_preds`.

        Raises:
            TypeError: If `learner` is no `Learner`, or the loader's photos can't be
                read again.
            ValueError: If the labels are of another kind than this class is for, or
                there are none.
        """
        if isinstance(learner, type) or not hasattr(learner, "get_preds"):
            raise TypeError(
                f"learner must be a Learner; received {described(learner)}."
            )
        _check_kind(cls, learner.data.kind)
        plain = plain_loader(learner.data, loader, needs_labels=True)
        loader = require_items(plain, "interpretation")
        predictions = learner.get_preds(
            loader, with_loss=True, with_decoded=True, thresh=thresh
        )
        return cls(
            predictions,
            loader.items,
            photo=lambda i: loader.preparation(loader.items.photo(i))[0],
            heat=lambda places, outputs: learner.explain(
                [loader.items.photo(i) for i in places], outputs
            ),
        )

    def top_losses(
        self, k: Integer | None = None, largest: bool = True, items: bool = False
    ) -> tuple:
        """Returns the largest losses and the positions of their photos in the items.

        Args:
            k: How many; all if None, or if there are fewer.
            largest: Whether to sort from the largest down; else from the smallest up.
            items: Whether to return the photos' paths as a third value.

        Returns:
            Losses float32 (k,), positions int32 (k,), and the paths if asked for. NaN
            counts as the largest loss.

        References:
            fastai 2.8.12, interpret.py `Interpretation.top_losses`.
        """
        check_flag(items, "items")
        rows = self._ranked(k, largest)
        losses_and_index = self.predictions.losses[rows], self.predictions.index[rows]
        if not items:
            return losses_and_index
        return *losses_and_index, [self.items.paths[i] for i in losses_and_index[1]]

    def plot_top_losses(
        self,
        k: Integer = 9,
        largest: bool = True,
        *,
        heatmap: bool = False,
        columns: Integer | None = None,
    ) -> "matplotlib.figure.Figure":
        """Returns a figure of the photos with the largest losses.

        Titles give prediction / actual / loss and, for single-label classification,
        the probability of the prediction.

        Args:
            k: How many.
            largest: Whether to show the largest losses; else the smallest.
            heatmap: Whether to overlay each photo with the Grad-CAM map of its
                prediction; photos then have the size that `Learner.grad_cam` uses.
            columns: Photos in a row.

        Raises:
            ImportError: If matplotlib is not installed.
            ValueError: If the interpretation was made without `photo`, or without
                `heat` when `heatmap` is set.

        References:
            fastai 2.8.12, vision/learner.py `plot_top_losses`; `heatmap` as
            in fastai 1.0.
        """
        check_flag(heatmap, "heatmap")
        if columns is not None:
            columns = check_integer(columns, "columns", least=1)
        rows = self._ranked(k, largest)
        heat = None
        if heatmap:
            cams = self._explained(rows)
            photos, heat = [cam.photo for cam in cams], [cam.heat for cam in cams]
        else:
            photos = self._photos(rows)
        parts = ["Prediction", "Actual", "Loss"]
        parts += ["Probability"] * (self.items.kind == "single")
        return image_grid(
            photos,
            [self._title(row) for row in rows.tolist()],
            columns=columns,
            heat=heat,
            title=" / ".join(parts),
        )

    def _ranked(self, k: Integer | None, largest: bool) -> np.ndarray:
        if k is not None:
            k = check_integer(k, "k", least=1)
        check_flag(largest, "largest")
        losses = np.nan_to_num(self.predictions.losses, nan=np.inf)
        order = np.argsort(-losses if largest else losses, kind="stable")
        return order if k is None else order[:k]

    def _photos(self, rows: np.ndarray) -> list[np.ndarray]:
        if self._photo is None:
            raise ValueError("there are no photos to show: give photo=.")
        return [self._photo(int(self.predictions.index[row])) for row in rows]

    def _explained(self, rows: np.ndarray) -> Sequence[GradCam]:
        if self._heat is None:
            raise ValueError("there is no network to explain: give heat=.")
        chosen = self.predictions.probabilities[rows].argmax(axis=-1)
        return self._heat(self.predictions.index[rows].tolist(), chosen)

    def _title(self, row: int) -> str:
        predicted, actual = self._texts(row)
        title = f"{predicted}/{actual} / {self.predictions.losses[row]:.2f}"
        if self.items.kind == "single":
            title += f" / {self.predictions.probabilities[row].max():.2f}"
        return title

    def _texts(self, row: int) -> tuple[str, str]:
        both = self.predictions.decoded[row], self.predictions.targets[row]
        predicted, actual = (self.items.label_text(label) or "none" for label in both)
        return predicted, actual


class ClassificationInterpretation(Interpretation):
    """Which classes a network confuses, for single-label or multi-label data.

    References:
        fastai 2.8.12, interpret.py `ClassificationInterpretation`.
    """

    kinds = ("single", "multi")

    def confusion_matrix(self) -> np.ndarray:
        """Returns the confusion matrix, int64 (c, c): actual rows, predicted columns.

        For multi-label: on the diagonal the true positives of each class; elsewhere the
        photos in which the row's class is a false negative and the column's class a
        false positive.
        """
        return confusion(
            self.predictions.targets, self.predictions.decoded, len(self.classes)
        )

    def plot_confusion_matrix(
        self, normalize: bool = False, title: str = "Confusion matrix"
    ) -> "matplotlib.figure.Figure":
        """Returns a figure of the confusion matrix.

        Args:
            normalize: Whether to divide each row by its sum.
            title: Title of the figure.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        check_flag(normalize, "normalize")
        check_instance(title, "title", str, "a string")
        matrix = self.confusion_matrix()
        if normalize:
            matrix = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        names = {"row_title": "actual", "column_title": "predicted"}
        if self.items.kind == "multi":
            names = {"row_title": "missed", "column_title": "named instead"}
        return matrix_plot(matrix, self.classes, title=title, **names)

    def most_confused(self, min_val: Integer = 1) -> list[tuple[str, str, int]]:
        """Returns (actual, predicted, count) of confused classes, most frequent first.

        Args:
            min_val: Pairs confused less often are left out.
        """
        min_val = check_integer(min_val, "min_val", least=0)
        matrix = self.confusion_matrix()
        np.fill_diagonal(matrix, 0)
        pairs = [
            (self.classes[i], self.classes[j], int(matrix[i, j]))
            for i, j in np.argwhere(matrix >= max(min_val, 1))
        ]
        return sorted(pairs, key=lambda pair: pair[2], reverse=True)

    def report(self) -> ClassReport:
        """Returns precision, recall, F1 and support of each class, and averages.

        It prints as a table; the numbers are those of scikit-learn's
        `classification_report` with `zero_division=0`.
        """
        targets, decoded = self.predictions.targets, self.predictions.decoded
        return class_report(targets, decoded, self.classes)

    def print_classification_report(self) -> None:
        """Prints `report()`."""
        print(self.report())

    def plot_report(self) -> "matplotlib.figure.Figure":
        """Returns a figure of precision, recall and F1 of each class.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        report = self.report()
        return bar_plot(
            [f"{c} ({n})" for c, n in zip(report.classes, report.support, strict=True)],
            {
                "precision": report.precision,
                "recall": report.recall,
                "F1": report.f1,
            },
        )

    def best_thresholds(self) -> np.ndarray:
        """Returns for each class the threshold at which its F1 is highest here.

        For multi-label data. `learner.thresholds = interp.best_thresholds()` makes
        `predict` use them; `with_thresholds` applies them to these predictions.
        Evaluate on other photos than those that the thresholds were chosen on.

        Returns:
            float32 (c,).

        Raises:
            ValueError: If each photo has one label.
        """
        check_several(self.items.kind)
        return best_thresholds(self.predictions.targets, self.predictions.probabilities)

    def with_thresholds(self, thresh: Any) -> "ClassificationInterpretation":
        """Returns this interpretation with other thresholds; losses stay the same.

        Args:
            thresh: A class is predicted if its probability is above its threshold; one
                for all classes, or one for each.

        Raises:
            ValueError: If each photo has one label.
        """
        check_several(self.items.kind)
        chosen = as_thresholds(thresh, self.classes, name="thresh")
        decoded = decode(self.predictions.probabilities, "multi", chosen)
        predictions = dataclasses.replace(self.predictions, decoded=decoded)
        return type(self)(predictions, self.items, photo=self._photo, heat=self._heat)


@dataclasses.dataclass(frozen=True)
class Residuals(Tabular):
    """Photos with true and predicted numbers, a row for each output of each photo.

    Attributes:
        rows: (photo, output, actual, predicted, predicted - actual).
    """

    rows: tuple[tuple[str, str, float, float, float], ...]

    def table(self) -> Table:
        """Returns the table."""
        columns = [Column("photo", "left", folds=True), Column("output", "left")]
        columns += map(Column, ("actual", "predicted", "residual"))
        cells = [[*row[:2], *(f"{x:.4g}" for x in row[2:])] for row in self.rows]
        return Table(columns, cells)


class RegressionInterpretation(Interpretation):
    """How far predicted numbers are from the true ones.

    Attributes:
        names: Names of the outputs: "value" for a single one, else "0", "1", ….
    """

    kinds = ("regression",)

    def __init__(self, predictions: Predictions, items: Items, **options):
        """Takes predictions; see `Interpretation`."""
        super().__init__(predictions, items, **options)
        rows = len(predictions.targets)
        self._actual = predictions.targets.reshape(rows, -1)
        self._predicted = predictions.probabilities.reshape(rows, -1)
        count = self._actual.shape[1]
        self.names = tuple(map(str, range(count))) if count > 1 else ("value",)

    def report(self) -> ValueReport:
        """Returns MAE, RMSE, bias and R² of each output; it prints as a table."""
        return value_report(self._actual, self._predicted, self.names)

    def residuals(self, k: Integer | None = None) -> Residuals:
        """Returns photos with true and predicted numbers, the largest loss first.

        Args:
            k: How many photos; all if None.
        """
        rows = []
        for row in self._ranked(k, True):
            photo = str(self.items.paths[int(self.predictions.index[row])])
            pairs = zip(self._actual[row], self._predicted[row], strict=True)
            for name, (actual, predicted) in zip(self.names, pairs, strict=True):
                difference = float(predicted) - float(actual)
                rows.append((photo, name, float(actual), float(predicted), difference))
        return Residuals(tuple(rows))

    def plot_residuals(self) -> "matplotlib.figure.Figure":
        """Returns a figure of predicted against actual numbers, and of residuals.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        panels = []
        for i, name in enumerate(self.names):
            actual, predicted = self._actual[:, i], self._predicted[:, i]
            ends = np.array(
                [min(actual.min(), predicted.min()), max(actual.max(), predicted.max())]
            )
            points = {"color": i, "style": "points"}
            line = {"color": 6, "style": "dashed"}
            panels += [
                Panel(
                    [Line(ends, ends, **line), Line(actual, predicted, **points)],
                    title=name,
                    x_label="actual",
                    y_label="predicted",
                ),
                Panel(
                    [
                        Line(ends, 0 * ends, **line),
                        Line(predicted, predicted - actual, **points),
                    ],
                    title=f"{name}: residuals",
                    x_label="predicted",
                    y_label="predicted - actual",
                ),
            ]
        return line_plot(panels, columns=2)
