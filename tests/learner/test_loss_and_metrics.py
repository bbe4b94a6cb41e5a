import functools

import jax.numpy as jnp
import numpy as np
import pytest
import runs

from jaxtune import (
    F1Score,
    F1ScoreMulti,
    ImageDataLoaders,
    Learner,
    RocAuc,
    accuracy,
    accuracy_multi,
    binary_cross_entropy,
    create_cnn_model,
    cross_entropy,
    error_rate,
    focal,
    l1,
    mae,
    mse,
    rmse,
    top_5_accuracy,
    vision_learner,
    weighted_cross_entropy,
)
from jaxtune.learner.loss_and_metrics import fit_measures, scaled_objective

LABELS = {
    "single": np.array(["ant", "bee", "cat"] * 4),
    "multi": np.array([[1, 0, 1], [0, 1, 1], [0, 0, 0]] * 4),
    "regression": np.linspace(0, 19_000, 12, dtype=np.float32),
}
FITTING = {
    "single": {accuracy, error_rate, cross_entropy, focal},
    "multi": {accuracy_multi, binary_cross_entropy},
    "regression": {mae, rmse, mse, l1},
}
METRICS = {accuracy, error_rate, top_5_accuracy, accuracy_multi, mae, rmse}


def photos(labels, **options):
    """Data of noise, in memory."""
    train, valid = (
        np.random.RandomState(i).randint(0, 255, (len(labels), 16, 16, 3), np.uint8)
        for i in range(2)
    )
    return ImageDataLoaders.from_arrays(
        (train, labels), (valid, labels), size=16, workers=0,
        **{"batch_size": 4, "augmentation": None} | options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def datas():
    return {kind: photos(labels) for kind, labels in LABELS.items()}


@pytest.fixture(scope="module")
def networks(datas):
    return {kind: learner(data).model for kind, data in datas.items()}


def learner(data, **options):
    return vision_learner(
        data, runs.smallest_network, cut=2, hidden=(4,), verbose=False, **options
    )


@pytest.mark.parametrize("kind", list(LABELS))
def test_every_loss_and_metric_fits_its_labels_or_is_refused(datas, networks, kind):
    for function in set().union(*FITTING.values()) | {top_5_accuracy}:
        roles = ["metric"] if function in METRICS else ["metric", "loss"]
        for role in roles:
            given = (function, None) if role == "loss" else (None, function)
            given = *given, datas[kind], networks[kind]
            if function in FITTING[kind]:
                loss, metrics = fit_measures(*given)
                assert function in (loss, *metrics.values())
                continue
            message = f"the {role} {function.__name__} "
            with pytest.raises(ValueError, match=message):
                fit_measures(*given)


@pytest.mark.parametrize("kind", list(LABELS))
def test_ones_own_functions_are_looked_at_on_shapes(datas, networks, kind):
    def column(outputs, label):
        return outputs[:, :1] - label.reshape(len(label), -1)[:, :1]

    def mean(outputs, label):
        return (outputs**2).mean()

    for function in (column, mean):
        for given in ((function, None), (None, [function])):
            with pytest.raises(ValueError, match=function.__name__):
                fit_measures(*given, datas[kind], networks[kind])
    fit_measures(lambda o, y: (o**2).mean(-1), None, datas[kind], networks[kind])


def test_a_column_against_a_row_is_warned_of(datas, networks):
    given = datas["regression"], networks["regression"]
    for function in (
        lambda outputs, label: jnp.abs(outputs - label).mean(-1),
        lambda outputs, label: jnp.square(outputs - label).mean(axis=0),
    ):
        with pytest.warns(UserWarning, match=r"every row's label.*outputs\[:, 0\]"):
            fit_measures(None, function, *given)
    fit_measures(None, lambda o, y: jnp.abs(o[:, 0] - y), *given)


def test_weights_are_by_number_or_name(datas, networks):
    for given in ({"cat": 3, "ant": 1, "bee": 2}, {2: 3, 0: 1, 1: 2}, [1, 2, 3]):
        loss, _ = fit_measures(
            weighted_cross_entropy(given), None, datas["single"], networks["single"]
        )
        assert loss.keywords == {"class_weights": (1, 2, 3)}
    with pytest.raises(ValueError, match="it is missing for cat"):
        learner(datas["single"], loss=weighted_cross_entropy({"ant": 1, "bee": 2}))
    thresh = functools.partial(accuracy_multi, thresh={"0": 0.1, "2": 0.3, "1": 0.2})
    model = learner(
        datas["multi"], metrics=[thresh, F1ScoreMulti(thresh={0: 1, 2: 3, 1: 2})]
    )
    accuracy_of, f1 = model._trainer.programs.metrics.values()
    assert accuracy_of.keywords["thresh"] == (0.1, 0.2, 0.3)
    assert f1.thresh == (1.0, 2.0, 3.0)


def test_a_network_of_other_classes_is_refused(datas):
    other = create_cnn_model(runs.smallest_network, 5, cut=2)
    with pytest.raises(ValueError, match=r"one output for each of the 3 classes.*b, 5"):
        Learner(datas["single"], other)


def test_figures_of_the_epoch_stand_in_the_table(datas, tmp_path):
    metrics = [error_rate, F1Score(average="macro"), RocAuc(name="auc")]
    model = learner(
        datas["single"], metrics=metrics, validate_also={"old": datas["single"]}
    )
    history = model.fit(1, 1e-2)
    row = history[-1].metrics
    names = ["error_rate", "f1_score", "auc"]
    assert list(row) == [
        *names, "old_valid_loss", *(f"old_{name}" for name in names)
    ]  # fmt: skip
    assert all(row[name] == row[f"old_{name}"] for name in names)
    assert model.validate() == {"loss": history[-1].valid_loss} | {
        n: row[n] for n in names
    }
    probabilities, targets = model.get_preds()
    said = probabilities.argmax(1)
    scores = [
        2
        * ((said == i) & (targets == i)).sum()
        / ((said == i).sum() + (targets == i).sum())
        for i in range(3)
    ]
    assert row["f1_score"] == pytest.approx(np.mean(scores))
    areas = []
    for i in range(3):
        own, rest = probabilities[targets == i, i], probabilities[targets != i, i]
        pairs = own[:, None] - rest
        areas.append(((pairs > 0) + 0.5 * (pairs == 0)).mean())
    assert row["auc"] == pytest.approx(np.mean(areas))


def test_what_is_minimised_is_in_standard_deviations(datas):
    model = learner(datas["regression"])
    objective = model._trainer.programs.objective
    assert objective.func is mse
    assert objective.keywords["scale"] == pytest.approx([LABELS["regression"].std()])
    network = model.model
    own = functools.partial(mse, scale=(2.0,))
    for loss in (lambda o, y: y, own, cross_entropy):
        assert scaled_objective(loss, network) is None
    assert scaled_objective(l1, network).keywords == objective.keywords
    assert (
        learner(datas["regression"], y_range=(0, 1))._trainer.programs.objective is None
    )
    assert learner(datas["single"])._trainer.programs.objective is None


def test_one_class_has_a_loss_that_fits():
    """Its outputs are a column too, and need no warning of pairs."""
    with pytest.warns(UserWarning, match="have the same label, 'ant'"):
        data = photos(np.array(["ant"] * 12))
    network = create_cnn_model(runs.smallest_network, 1, cut=2, pretrained=False)
    assert fit_measures(None, None, data, network)[0] is cross_entropy
