from pathlib import Path

import numpy as np
import pytest
from kinds import make_data, make_model

from jaxtune.data import Items
from jaxtune.inspect.gradcam import GradCam
from jaxtune.results.interpretation import (
    ClassificationInterpretation,
    Interpretation,
    RegressionInterpretation,
)
from jaxtune.results.predictions import Predictions
from jaxtune.results.thresholds import decode

CLASSES = ("ant", "bee", "fly")


def items_of(labels, kind, classes=CLASSES):
    paths = tuple(Path(f"{i}.jpg") for i in range(len(labels)))
    return Items(paths, labels, classes, kind)


@pytest.fixture
def single():
    """Six photos, of which the items know eight: the first two could not be read."""
    said = np.array(
        [[8, 1, 1], [1, 8, 1], [2, 7, 1], [1, 1, 8], [6, 3, 1], [3, 4, 3]], np.float32
    )
    said /= 10
    targets = np.array([0, 1, 0, 1, 1, 0], np.int32)
    losses = -np.log(said[np.arange(6), targets])
    found = Predictions(
        said, targets, np.arange(2, 8, dtype=np.int32), decode(said, "single"), losses
    )
    labels = np.concatenate([[2, 2], targets]).astype(np.int32)
    return ClassificationInterpretation(
        found,
        items_of(labels, "single"),
        photo=lambda i: np.full((4, 4, 3), i, np.uint8),
        heat=lambda places, outputs: [
            GradCam(np.full((8, 8, 3), place, np.uint8), np.full((2, 2), k), "", 0.5)
            for place, k in zip(places, outputs, strict=True)
        ],
    )


def test_top_losses_are_positions_in_the_items(single):
    losses, index = single.top_losses(3)
    np.testing.assert_allclose(losses, -np.log([0.1, 0.2, 0.3]), rtol=1e-6)
    assert index.tolist() == [5, 4, 6]
    assert single.top_losses()[1].tolist() == [5, 4, 6, 7, 2, 3]
    assert single.top_losses(2, largest=False)[1].tolist() == [2, 3]
    assert single.top_losses(1, items=True)[2] == [Path("5.jpg")]
    single.predictions.losses[0] = np.nan
    assert single.top_losses(1)[1].tolist() == [2]


def test_confusion_and_what_is_most_confused(single):
    matrix = single.confusion_matrix()
    assert matrix.tolist() == [[1, 2, 0], [1, 1, 1], [0, 0, 0]]
    assert single.most_confused() == [
        ("ant", "bee", 2),
        ("bee", "ant", 1),
        ("bee", "fly", 1),
    ]
    assert single.most_confused(min_val=2) == [("ant", "bee", 2)]
    # The answer is a copy: it can be changed without changing the next.
    assert single.confusion_matrix().tolist() == matrix.tolist()
    assert single.report().accuracy == pytest.approx(2 / 6)


def test_the_report_is_printed(single, capsys):
    single.print_classification_report()
    assert capsys.readouterr().out == f"{single.report()}\n"


def test_pictures_have_fastais_titles(single):
    pytest.importorskip("matplotlib")
    figure = single.plot_top_losses(2)
    assert [axes.get_title() for axes in figure.axes] == [
        "fly/bee / 2.30 / 0.80",
        "bee/ant / 1.61 / 0.70",
    ]
    assert figure.texts[0].get_text() == "Prediction / Actual / Loss / Probability"
    assert [axes.images[0].get_array()[0, 0, 0] for axes in figure.axes] == [5, 4]
    warm = single.plot_top_losses(2, heatmap=True)
    assert [axes.images[0].get_array()[0, 0, 0] for axes in warm.axes] == [5, 4]
    assert [axes.images[1].get_array()[0, 0] for axes in warm.axes] == [2, 1]
    cells = [t.get_text() for t in single.plot_confusion_matrix().axes[0].texts]
    assert cells[:3] == ["1", "2", "0"]
    figure = single.plot_confusion_matrix(normalize=True, title="mine")
    cells = [t.get_text() for t in figure.axes[0].texts]
    assert cells[:3] == ["0.33", "0.67", "0.00"]
    assert figure.axes[0].get_title() == "mine"
    names = [axes.get_title() for axes in single.plot_report().axes]
    assert names == ["precision", "recall", "F1"]


def test_without_photos_or_network_it_says_so(single):
    pytest.importorskip("matplotlib")
    bare = ClassificationInterpretation(single.predictions, single.items)
    with pytest.raises(ValueError, match="no photos to show: give photo="):
        bare.plot_top_losses(1)
    bare = ClassificationInterpretation(
        single.predictions, single.items, photo=single._photo
    )
    with pytest.raises(ValueError, match="no network to explain: give heat="):
        bare.plot_top_losses(1, heatmap=True)


def test_several_labels_and_their_thresholds():
    pytest.importorskip("matplotlib")
    said = np.array([[0.9, 0.6, 0.1], [0.4, 0.2, 0.3], [0.2, 0.1, 0.3]], np.float32)
    targets = np.array([[1, 0, 1], [1, 0, 0], [0, 0, 0]], np.float32)
    found = Predictions(
        said,
        targets,
        np.arange(3, dtype=np.int32),
        decode(said, "multi"),
        np.array([0.3, 0.2, 0.1], np.float32),
    )
    several = ClassificationInterpretation(
        found, items_of(targets, "multi"), photo=lambda i: np.zeros((4, 4, 3), np.uint8)
    )
    assert several.confusion_matrix().tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert several.most_confused() == [("fly", "bee", 1)]
    assert several.report().recall.tolist() == [0.5, 0, 0]
    titles = [axes.get_title() for axes in several.plot_top_losses(2).axes]
    assert titles == ["ant;bee/ant;fly / 0.30", "none/ant / 0.20"]
    axes = several.plot_confusion_matrix().axes[0]
    assert axes.get_ylabel() == "missed"
    best = several.best_thresholds()
    assert best[0] == pytest.approx(0.3) and best[1] == 0.5
    assert several.with_thresholds(best).report().recall[0] == 1
    assert several.with_thresholds(0.95).report().recall[0] == 0


def test_what_does_not_fit_is_refused(single):
    with pytest.raises(ValueError, match="is for photos with several labels"):
        single.best_thresholds()
    with pytest.raises(ValueError, match="is for labels of kind regression; these are"):
        RegressionInterpretation(single.predictions, single.items)
    numbers = items_of(np.zeros(6, np.float32), "regression", ())
    with pytest.raises(
        ValueError, match="single or multi; these are regression.*inter"
    ):
        ClassificationInterpretation(single.predictions, numbers)
    plain = Predictions(*tuple(single.predictions)[:2], single.predictions.index)
    with pytest.raises(ValueError, match="get_preds.with_loss=True, with_decoded=True"):
        Interpretation(plain, single.items)


def test_from_a_learner(root):
    pytest.importorskip("matplotlib")
    model = make_model(make_data(root, "single"))
    found = ClassificationInterpretation.from_learner(model)
    assert found.classes == ("blue", "green", "red")
    matrix = found.confusion_matrix()
    assert matrix.sum(axis=1).tolist() == [7, 7, 7]
    wrong = 1 - np.trace(matrix) / 21
    probabilities, targets = model.get_preds()
    assert wrong == pytest.approx((probabilities.argmax(1) != targets).mean())
    figure = found.plot_top_losses(2, heatmap=True)
    path = found.top_losses(1, items=True)[2][0]
    shown = np.asarray(figure.axes[0].images[0].get_array())
    np.testing.assert_array_equal(shown, model.data.prepare_image(path))
    assert figure.axes[0].images[1].get_array().shape == (7, 7)
    with pytest.raises(ValueError, match="loader has no photo"):
        ClassificationInterpretation.from_learner(model, [])
    train = ClassificationInterpretation.from_learner(model, "train")
    assert train.confusion_matrix().sum() == 96
