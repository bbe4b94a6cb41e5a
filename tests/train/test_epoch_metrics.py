"""SKLEARN's numbers were given by scikit-learn 1.9.1."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxtune.models import Identity
from jaxtune.train import (
    APScoreMulti,
    BalancedAccuracy,
    CohenKappa,
    EpochMetric,
    F1Score,
    F1ScoreMulti,
    MatthewsCorrCoef,
    Precision,
    PrecisionMulti,
    R2Score,
    Recall,
    RecallMulti,
    RocAuc,
    RocAucBinary,
    RocAucMulti,
    accuracy,
    binary_cross_entropy,
    cross_entropy,
    epoch_figures,
    make_eval_step,
    mse,
    named_metrics,
    rmse,
)

NAN = float("nan")
SKLEARN = {
    "f1_score micro": 0.68,
    "f1_score macro": 0.662796697626419,
    "f1_score weighted": 0.6809907120743034,
    "f1_score labels": 0.6981424148606811,
    "f1_score micro labels": 0.7169811320754716,
    "precision_score micro": 0.68,
    "precision_score macro": 0.6951884920634921,
    "precision_score weighted": 0.7204365079365079,
    "precision_score labels": 0.8348214285714286,
    "precision_score micro labels": 0.8260869565217391,
    "recall_score micro": 0.68,
    "recall_score macro": 0.670138888888889,
    "recall_score weighted": 0.68,
    "recall_score labels": 0.6111111111111112,
    "recall_score micro labels": 0.6333333333333333,
    "multi f1_score micro": 0.4857142857142857,
    "multi f1_score macro": 0.48181375155059364,
    "multi f1_score weighted": 0.48579725900837667,
    "multi f1_score samples": 0.4138095238095238,
    "multi precision_score micro": 0.4214876033057851,
    "multi precision_score macro": 0.4187476280834914,
    "multi precision_score weighted": 0.42211969383621517,
    "multi precision_score samples": 0.4,
    "multi recall_score micro": 0.5730337078651685,
    "multi recall_score macro": 0.5681493135011442,
    "multi recall_score weighted": 0.5730337078651685,
    "multi recall_score samples": 0.5183333333333333,
    "multi f1 thresh": 0.4305260433692928,
    "balanced": 0.670138888888889,
    "mcc": 0.575565039906184,
    "kappa None": 0.5652173913043478,
    "kappa linear": 0.6077861708309122,
    "kappa quadratic": 0.6288095858296432,
    "kappa labels": 0.7361111111111112,
    "auc ovr macro": 0.8950533886800334,
    "auc ovr weighted": 0.8841024436090226,
    "auc ovo macro": 0.8959297839506172,
    "auc ovo weighted": 0.8914814814814814,
    "auc ovr micro": 0.8815333333333334,
    "auc multi macro": 0.4482883907445157,
    "ap multi macro": 0.44394569948304685,
    "auc multi weighted": 0.4449715977443415,
    "ap multi weighted": 0.4462197297870499,
    "auc multi micro": 0.4483753416337686,
    "ap multi micro": 0.4173884739659679,
    "auc multi samples": NAN,
    "ap multi samples": 0.5722222222222222,
    "f1_score binary": 0.76,
    "f1_score binary 0": 0.6,
    "precision_score binary": 0.6129032258064516,
    "precision_score binary 0": 1.0,
    "recall_score binary": 1.0,
    "recall_score binary 0": 0.42857142857142855,
    "auc binary": 0.8258145363408521,
    "mcc binary": 0.5125161568769396,
    "absent f1": 0.831060606060606,
    "absent kappa": 0.736842105263158,
    "absent kappa labels": 0.7103064066852367,
    "absent balanced": 0.8974358974358975,
    "absent mcc": 0.767626800626697,
    "r2": 0.886893630027771,
    "r2 one": 0.9230669736862183,
}
AVERAGES = ("micro", "macro", "weighted")


def numbers(seed, n, c):
    """Labels, logits that often agree, with ties, and several labels that don't."""
    rng = np.random.RandomState(seed)
    label = rng.randint(0, c, n)
    logits = np.round(rng.normal(size=(n, c)) + 1.5 * np.eye(c)[label], 1)
    several = (rng.rand(n, c) < 0.4).astype(np.float32)
    return label.astype(np.int32), logits.astype(np.float32), several


def figures(metrics, logits, label, loss, *, batch=16):
    """An epoch's figures: batches with padding in the last, and one without a row."""
    step = jax.jit(
        make_eval_step(
            nnx.graphdef(Identity()),
            loss=loss,
            metrics=metrics,
            apply=lambda graphdef, params, model_state, images: (images, model_state),
        )
    )
    rows = -(-len(label) // batch + 1) * batch + batch
    mask = np.arange(rows) < len(label)
    # Padding that would count if it were looked at: every row of it is right.
    logits, label = (
        np.concatenate([x, np.resize(x, (rows - len(x), *x.shape[1:]))])
        for x in (logits, label)
    )
    empty = nnx.State({}), nnx.State({})
    parts = [
        step(*empty, {"image": logits[i:j], "label": label[i:j], "mask": mask[i:j]})
        for i in range(0, rows, batch)
        for j in [i + batch]
    ]
    return epoch_figures(parts, metrics)


def check(table, *arguments):
    """Compares metrics by the names of SKLEARN's numbers."""
    found = figures(table, *arguments)
    assert list(found) == ["loss", *table]
    for name in table:
        # nan_ok: where scikit-learn has no number, there is none here.
        expected = pytest.approx(SKLEARN[name], abs=1e-6, nan_ok=True)
        assert found[name] == expected, name


def test_one_class_a_photo_is_scikit_learns():
    label, logits, _ = numbers(0, 50, 4)
    scores = {"f1_score": F1Score, "precision_score": Precision, "recall_score": Recall}
    table = {
        f"{name} {average}": metric(average=average)
        for name, metric in scores.items()
        for average in AVERAGES
    }
    for name, metric in scores.items():
        table[f"{name} labels"] = metric(average="macro", labels=[1, 3])
        table[f"{name} micro labels"] = metric(average="micro", labels=[1, 3])
    for weights in (None, "linear", "quadratic"):
        table[f"kappa {weights}"] = CohenKappa(weights=weights)
    for many in ("ovr", "ovo"):
        for average in ("macro", "weighted"):
            table[f"auc {many} {average}"] = RocAuc(multi_class=many, average=average)
    table |= {
        "kappa labels": CohenKappa(weights="quadratic", labels=[3, 0, 1]),
        "auc ovr micro": RocAuc(average="micro"),
        "balanced": BalancedAccuracy(),
        "mcc": MatthewsCorrCoef(),
    }
    check(table, logits, label, cross_entropy)


def test_two_classes_and_one_that_does_not_occur():
    label, logits, _ = numbers(1, 40, 2)
    logits[:, 0] = 0  # Of equal differences softmax need not make equal numbers.
    scores = {"f1_score": F1Score, "precision_score": Precision, "recall_score": Recall}
    table = {f"{name} binary": metric() for name, metric in scores.items()}
    table |= {f"{n} binary 0": metric(pos_label=0) for n, metric in scores.items()}
    table |= {"auc binary": RocAucBinary(), "mcc binary": MatthewsCorrCoef()}
    check(table, logits, label, cross_entropy)
    label, logits, _ = numbers(2, 30, 4)
    label, logits = label[label != 2], logits[label != 2]
    logits[:, 2] = -9
    table = {
        "absent f1": F1Score(average="macro"),
        "absent kappa": CohenKappa(weights="quadratic"),
        "absent kappa labels": CohenKappa(weights="quadratic", labels=range(4)),
        "absent balanced": BalancedAccuracy(),
        "absent mcc": MatthewsCorrCoef(),
    }
    check(table, logits, label, cross_entropy)
    # A class of which no photo is has no area.
    found = figures({"auc": RocAuc()}, logits, label, cross_entropy)
    assert np.isnan(found["auc"])


def test_several_classes_a_photo_are_scikit_learns():
    _, logits, several = numbers(0, 50, 4)
    scores = {
        "f1_score": F1ScoreMulti,
        "precision_score": PrecisionMulti,
        "recall_score": RecallMulti,
    }
    table = {
        f"multi {name} {average}": metric(average=average)
        for name, metric in scores.items()
        for average in (*AVERAGES, "samples")
    }
    for average in (*AVERAGES, "samples"):
        table[f"auc multi {average}"] = RocAucMulti(average=average)
        table[f"ap multi {average}"] = APScoreMulti(average=average)
    table["multi f1 thresh"] = F1ScoreMulti(thresh=[0.2, 0.4, 0.6, 0.8])
    check(table, logits, several, binary_cross_entropy)
    by_number = {
        "multi f1 thresh": F1ScoreMulti(thresh={0: 0.2, 3: 0.8, 1: 0.4, 2: 0.6})
    }
    check(by_number, logits, several, binary_cross_entropy)
    likely = np.asarray(jax.nn.sigmoid(logits))
    ready = {"multi f1_score macro": F1ScoreMulti(sigmoid=False)}
    check(ready, likely, several, binary_cross_entropy)


def test_numbers_far_from_0_are_scikit_learns():
    _, logits, _ = numbers(0, 50, 4)
    target = logits[:, :2] * np.float32(3) + np.float32(1000)
    check({"r2": R2Score()}, target + logits[:, 2:], target, mse)
    one = target[:, :1] + logits[:, 2:3]
    check({"r2 one": R2Score()}, one, target[:, 0], mse)


def test_the_same_whatever_the_batches_beside_plain_metrics():
    label, logits, _ = numbers(0, 50, 4)
    metrics = {"f1": F1Score(average="macro"), "auc": RocAuc(), "accuracy": accuracy}
    first, second = (
        figures(metrics, logits, label, cross_entropy, batch=batch) for batch in (8, 50)
    )
    for name in ("f1", "auc", "accuracy"):
        assert first[name] == second[name]
    assert first["accuracy"] == pytest.approx(0.68)


class Spread(EpochMetric):
    """How far the outputs' mean is from 0, in standard deviations."""

    def from_batch(self, logits, label, mask):
        rows = logits[:, 0] * mask
        return {"sum": rows.sum(), "squares": (rows**2).sum(), "count": mask.sum()}

    def compute(self, total):
        mean = total["sum"] / total["count"]
        return abs(mean) / np.sqrt(total["squares"] / total["count"] - mean**2)


class Median(EpochMetric):
    """The median of the outputs."""

    gather = True

    def from_batch(self, logits, label, mask):
        return logits[:, 0]

    def compute(self, total):
        return np.median(total)


class Largest(EpochMetric):
    """The largest output of each class, of which the smallest."""

    def from_batch(self, logits, label, mask):
        return jnp.where(mask[:, None], logits, -jnp.inf).max(0)

    def merge(self, one, other):
        return np.maximum(one, other)

    def compute(self, total):
        return total.min()


def test_ones_own_sums_and_rows():
    label, logits, _ = numbers(0, 50, 4)
    metrics = named_metrics([Spread(), Median(), Largest()])
    assert list(metrics) == ["spread", "median", "largest"]
    found = figures(metrics, logits, label, cross_entropy)
    first = logits[:, 0]
    assert found["spread"] == pytest.approx(abs(first.mean()) / first.std(), rel=1e-4)
    assert found["median"] == np.median(first)
    assert found["largest"] == logits.max(0).min()


class Wrong(Median):
    """It has no one figure."""

    def compute(self, total):
        return total


def test_what_is_no_figure_is_refused():
    label, logits, _ = numbers(0, 20, 3)
    with pytest.raises(TypeError, match=r"Wrong.compute returned a numpy array of sha"):
        figures({"wrong": Wrong()}, logits, label, cross_entropy)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: F1Score(average="mean"), "average must be 'binary', 'micro', 'macro'"),
        (lambda: F1Score(average=None), "one figure an epoch.*interpret"),
        (lambda: F1Score(average="samples"), "average must be"),
        (lambda: F1ScoreMulti(average="binary"), "average must be 'micro'"),
        (lambda: RocAuc(multi_class="ovo", average="micro"), "average must be"),
        (lambda: RocAuc(multi_class="raise"), "multi_class must be 'ovr' or 'ovo'"),
        (lambda: CohenKappa(weights="cubic"), "weights must be 'linear', 'quadratic'"),
    ],
)
def test_options_that_there_are_not(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_class_without_brackets_and_two_of_one_name():
    with pytest.raises(TypeError, match=r"F1Score is a class: write F1Score\(\)"):
        named_metrics([F1Score])
    with pytest.raises(ValueError, match="different names.*name="):
        named_metrics([F1Score(), F1Score(average="macro")])
    both = [F1Score(average="micro"), F1Score(average="macro", name="macro_f1"), rmse]
    assert list(named_metrics(both)) == ["f1_score", "macro_f1", "rmse"]


def test_every_metric_says_what_is_better_and_is_a_value():
    for kind in (APScoreMulti, CohenKappa, F1Score, MatthewsCorrCoef, R2Score, RocAuc):
        assert kind.higher_is_better is True
        assert kind() == kind() and dataclasses.replace(kind(), name="x").name == "x"
    assert jnp.ndim(0) == 0
