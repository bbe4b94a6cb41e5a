"""Interpretation of predicted numbers: how far they are from the true ones.

Predictions with their losses in; tables and figures out. The one rule of the file: a
residual is predicted - actual.
"""

import dataclasses

import numpy as np

from jaxtune.arguments import Integer
from jaxtune.data.items import Items
from jaxtune.learner.gathering import Predictions
from jaxtune.learner.interpretation import Interpretation
from jaxtune.learner.report import ValueReport, value_report
from jaxtune.learner.tables import Column, Table, Tabular
from jaxtune.plots import Line, Panel, line_plot


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
        names: Of the outputs: "value", or their numbers.
    """

    kinds = ("regression",)

    def __init__(self, predictions: Predictions, items: Items, **options):
        """Takes answers; see `Interpretation`."""
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
            for name, (actual, said) in zip(self.names, pairs, strict=True):
                difference = float(said) - float(actual)
                rows.append((photo, name, float(actual), float(said), difference))
        return Residuals(tuple(rows))

    def plot_residuals(self) -> "matplotlib.figure.Figure":
        """Returns a figure of predicted over actual numbers, and of the residuals.

        Raises:
            ImportError: If matplotlib is not there.
        """
        panels = []
        for i, name in enumerate(self.names):
            actual, said = self._actual[:, i], self._predicted[:, i]
            ends = np.array(
                [min(actual.min(), said.min()), max(actual.max(), said.max())]
            )
            points = {"color": i, "style": "points"}
            line = {"color": 6, "style": "dashed"}
            panels += [
                Panel(
                    [Line(ends, ends, **line), Line(actual, said, **points)],
                    title=name,
                    x_label="actual",
                    y_label="predicted",
                ),
                Panel(
                    [Line(ends, 0 * ends, **line), Line(said, said - actual, **points)],
                    title=f"{name}: residuals",
                    x_label="predicted",
                    y_label="predicted - actual",
                ),
            ]
        return line_plot(panels, columns=2)
