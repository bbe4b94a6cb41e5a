from pathlib import Path

import numpy as np
import pytest
from kinds import make_data, make_model

from jaxtune.data import Items
from jaxtune.results.interpretation import RegressionInterpretation
from jaxtune.results.predictions import Predictions


def interpretation(targets, said):
    targets, said = np.asarray(targets, np.float32), np.asarray(said, np.float32)
    losses = ((said - targets.reshape(said.shape)) ** 2).mean(axis=1)
    index = np.arange(len(said), dtype=np.int32)
    found = Predictions(said, targets, index, said, losses)
    paths = tuple(Path(f"{i}.jpg") for i in range(len(said)))
    items = Items(paths, targets, (), "regression")
    return RegressionInterpretation(found, items, photo=lambda i: np.zeros((4, 4)))


def test_residuals_from_the_worst_photo_down():
    found = interpretation([1, 2, 4], [[1.5], [2], [1]])
    rows = found.residuals(2).rows
    assert rows[0] == ("2.jpg", "value", 4, 1, -3)
    assert rows[1] == ("0.jpg", "value", 1, 1.5, 0.5)
    assert len(found.residuals().rows) == 3
    lines = str(found.residuals(1)).splitlines()
    assert lines[0].split() == ["photo", "output", "actual", "predicted", "residual"]
    assert lines[2].split() == ["2.jpg", "value", "4", "1", "-3"]
    assert found.report().mae == pytest.approx([3.5 / 3])
    assert found.top_losses(1)[1].tolist() == [2]


def test_several_outputs_have_a_row_and_two_panels_each():
    pytest.importorskip("matplotlib")
    found = interpretation([[1, 9], [2, 8]], [[1, 8], [3, 8]])
    assert found.names == ("0", "1")
    assert [row[1] for row in found.residuals().rows] == ["0", "1", "0", "1"]
    figure = found.plot_residuals()
    assert len(figure.axes) == 4
    diagonal, points = figure.axes[0].lines
    assert points.get_xydata().tolist() == [[1, 1], [2, 3]]
    assert diagonal.get_xydata().tolist() == [[1, 1], [3, 3]]
    assert figure.axes[3].lines[1].get_xydata().tolist() == [[8, -1], [8, 0]]
    titles = [axes.get_title() for axes in found.plot_top_losses(1).axes]
    assert titles == ["1, 8/1, 9 / 0.50"]


def test_from_a_learner(root):
    model = make_model(make_data(root, "regression"))
    found = model.interpret()
    said, targets = model.get_preds()
    assert found.report().bias[0] == pytest.approx(
        (said[:, 0] - targets).mean(), rel=1e-5
    )
    assert model.validate()["loss"] == pytest.approx(
        found.report().rmse[0] ** 2, rel=1e-5
    )
