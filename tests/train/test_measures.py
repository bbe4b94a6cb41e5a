import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxtune.models import Identity
from jaxtune.train import (
    F1Score,
    F1ScoreMulti,
    accuracy,
    accuracy_multi,
    binary_cross_entropy,
    check_kind_of,
    check_rows,
    cross_entropy,
    focal,
    make_eval_step,
    make_train_step,
    measure_name,
    mse,
    row_values,
    split_module,
    top_5_accuracy,
    weighted_cross_entropy,
    with_class_names,
    with_class_numbers,
)
from jaxtune.train.state import TrainState


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


LOGITS, CLASSES = shape(8, 3), shape(8, dtype=jnp.int32)
SOFTMAX = optax.softmax_cross_entropy_with_integer_labels


class Column:
    """A loss that keeps its last axis."""

    def __call__(self, logits, label):
        return SOFTMAX(logits, label)[:, None]


def one_row(logits):
    return logits


def raises(logits, label):
    raise KeyError("weights")


NOT_A_VALUE_FOR_EACH_ROW = [
    (Column(), ValueError, r"Column returned shape \(8, 1\).*\[:, 0\]"),
    (Column().__call__, ValueError, r"Column.__call__ returned shape \(8, 1\)"),
    (
        lambda o, y: SOFTMAX(o, y).mean(),
        ValueError,
        r"<lambda> .*shape \(\).*mean",
    ),
    (lambda o, y: o, ValueError, r"shape \(8, 3\).*mean over the other axes"),
    (lambda o, y: o.sum(0), ValueError, r"shape \(3,\)"),
    (
        lambda o, y: SOFTMAX(o, y)[:, None] - SOFTMAX(o, y),
        ValueError,
        r"\(8, 8\).*broa",
    ),
    (lambda o, y: None, TypeError, "returned nothing"),
    (lambda o, y: (SOFTMAX(o, y),), TypeError, "returned a tuple"),
    (lambda o, y: [*SOFTMAX(o, y)], TypeError, "returned a list"),
    (lambda o, y: {"loss": SOFTMAX(o, y)}, TypeError, "returned a dict"),
    (lambda o, y: 0.5, ValueError, r"shape \(\)"),
    (lambda o, y: "low", ValueError, "failed"),
    (lambda o, y: np.asarray(o), ValueError, "failed.*jax.numpy"),
    (raises, ValueError, "the loss raises failed for outputs float32 .8, 3..*KeyError"),
    (functools.partial(raises), ValueError, "the loss raises failed"),
    (one_row, TypeError, "one_row must accept two arguments"),
    (Column, TypeError, r"Column is a class.*Column\(...\) with brackets"),
    (lambda o, y: y, TypeError, "int32.*no gradient"),
    (lambda o, y: o.argmax(-1) == y, TypeError, "bool.*no gradient"),
    (lambda o, y: o[:, 0] * 1j, TypeError, "complex64"),
]


@pytest.mark.parametrize(("function", "error", "message"), NOT_A_VALUE_FOR_EACH_ROW)
def test_anything_but_one_value_for_each_row_is_refused(function, error, message):
    with pytest.raises(error, match=message):
        check_rows(function, LOGITS, CLASSES, role="loss")


@pytest.mark.parametrize(
    "function",
    [
        SOFTMAX,
        cross_entropy,
        jax.jit(cross_entropy),
        functools.partial(cross_entropy, label_smoothing=0.1),
        lambda logits, label, weight=1.0: weight * SOFTMAX(logits, label),
        lambda *both: SOFTMAX(*both).astype(jnp.bfloat16),
    ],
)
def test_one_value_for_each_row_is_a_loss(function):
    check_rows(function, LOGITS, CLASSES, role="loss")


def test_rows_are_told_from_classes_where_there_are_as_many():
    def of_classes(logits, label):
        return logits.sum(0)

    for rows in (1, 3):
        with pytest.raises(ValueError, match="the metric .*of_classes"):
            check_rows(
                of_classes, shape(rows, 3), shape(rows, dtype=jnp.int32), role="metric"
            )


def test_metrics_may_be_whole_numbers_and_become_floats():
    logits, label = jnp.eye(3), jnp.asarray([0, 1, 1])
    for function in (
        lambda o, y: o.argmax(-1) == y,
        lambda o, y: 1 * (o.argmax(-1) == y),
    ):
        rows = row_values(function, logits, label, role="metric")
        assert rows.dtype == jnp.float32 and rows.tolist() == [1, 1, 0]


def test_the_steps_refuse_what_is_no_loss_or_metric():
    graphdef, params, model_state = split_module(Identity())
    batch = {"image": jnp.ones((4, 2)), "label": jnp.asarray([0, 1, 1, 0])}
    apply = lambda graphdef, params, model_state, images, key=None: (  # noqa: E731
        images,
        model_state,
    )
    tx = optax.sgd(0.1)
    step = make_train_step(graphdef, tx, loss=Column(), apply=apply)
    state = TrainState.create(params, model_state, tx)
    with pytest.raises(ValueError, match="the loss Column returned shape"):
        jax.jit(step)(state, batch, jax.random.key(0))
    metrics = {"mean": lambda o, y: o.mean()}
    step = make_eval_step(graphdef, loss=cross_entropy, metrics=metrics, apply=apply)
    with pytest.raises(ValueError, match=r"the metric <lambda>.*EpochMetric"):
        jax.jit(step)(params, model_state, batch)


def test_what_says_for_which_labels_it_is_is_refused_for_others():
    check_kind_of(accuracy, "single", role="metric", fits="mae")
    check_kind_of(lambda o, y: y, "multi", role="metric", fits="mae")
    strict = functools.partial(accuracy_multi, thresh=0.9)
    for function, kind, message in (
        (accuracy, "multi", "accuracy is for one class a photo.*several.*Use fits"),
        (strict, "single", "metric accuracy_multi is for several classes a photo"),
        (jax.jit(accuracy), "regression", "these labels are numbers to predict"),
        (F1Score(), "multi", "Use F1ScoreMulti"),
        (F1ScoreMulti(), "single", "Use F1Score\\."),
    ):
        with pytest.raises(ValueError, match=message):
            check_kind_of(function, kind, role="metric", fits="fits")


def test_top_5_of_fewer_classes_is_refused():
    with pytest.raises(ValueError, match="top_5_accuracy needs five classes.*are 3"):
        check_rows(top_5_accuracy, LOGITS, CLASSES, role="metric")
    check_rows(top_5_accuracy, shape(8, 5), CLASSES, role="metric")


def test_values_by_name_are_put_in_order():
    names = ["ant", "bee"]
    for given in ({"bee": 5, "ant": 1}, {1: 5.0, 0: 1.0}, np.array([1, 5]), [1, 5]):
        loss = with_class_numbers(weighted_cross_entropy(given), names)
        assert loss.keywords == {"class_weights": (1.0, 5.0)}
        inner = functools.partial(focal, class_weights=given)
        inner.__name__ = "mine"
        outer = with_class_numbers(functools.partial(inner, gamma=1.0), names)
        assert (outer.keywords, outer.func.__name__) == ({"gamma": 1.0}, "mine")
        assert outer.func.keywords == {"class_weights": (1.0, 5.0)}
        several = functools.partial(binary_cross_entropy, pos_weight=given)
        assert with_class_numbers(several, names).keywords["pos_weight"] == (1, 5)
    thresh = functools.partial(accuracy_multi, thresh={"bee": 0.2, "ant": 0.7})
    assert with_class_numbers(thresh, names).keywords["thresh"] == (0.7, 0.2)
    metric = with_class_numbers(F1ScoreMulti(thresh={"bee": 0.2, "ant": 0.7}), names)
    assert metric == F1ScoreMulti(thresh=(0.7, 0.2))
    assert with_class_numbers(F1Score(pos_label="ant"), names) == F1Score(pos_label=0)
    several = F1Score(labels=["bee", "ant"], average="macro")
    assert with_class_numbers(several, names).labels == (1, 0)
    for unchanged in (cross_entropy, mse, Column()):
        assert with_class_numbers(unchanged, names) is unchanged


def test_values_by_class_are_found_again_for_other_classes():
    old, new = ["ant", "bee"], ["bee", "ant", "cat"]
    metric = F1Score(labels=(0, 1), pos_label=1, average="macro")
    again = with_class_numbers(with_class_names(metric, old), new)
    assert (again.labels, again.pos_label) == ((1, 0), 0)
    thresh = functools.partial(accuracy_multi, thresh=(0.1, 0.2))
    named = with_class_names(thresh, old)
    assert named.keywords == {"thresh": {"ant": 0.1, "bee": 0.2}}
    with pytest.raises(ValueError, match="missing for cat"):
        with_class_numbers(named, new)
    for unchanged in (F1ScoreMulti(), accuracy):
        assert with_class_names(unchanged, old) == unchanged


def test_values_of_other_classes_are_refused():
    for given, error, message in (
        ({"ant": 1}, ValueError, "missing for bee"),
        ({"ant": 1, "bee": 1, "cat": 1}, ValueError, "unknown classes: cat"),
        ([1, 2, 3], ValueError, "2 classes"),
        (1.0, TypeError, "got 1.0"),
        ({"ant": 1, "bee": -1}, ValueError, "at least 0"),
    ):
        loss = functools.partial(cross_entropy, class_weights=given)
        with pytest.raises(error, match=message):
            with_class_numbers(loss, ["ant", "bee"])
    with pytest.raises(ValueError, match="pos_label names classes.*dog"):
        with_class_numbers(F1Score(pos_label="dog"), ["ant", "bee"])


def test_keras_weights_by_number_need_no_learner():
    loss = weighted_cross_entropy({0: 1.0, 1: 5.0})
    got = loss(jnp.zeros((2, 2)), jnp.asarray([0, 1]))
    np.testing.assert_allclose(got, [0.6931472, 3.465736], rtol=1e-6)
    with pytest.raises(ValueError, match="a learner knows the names"):
        weighted_cross_entropy({"ant": 1.0, "bee": 5.0})(
            jnp.zeros((2, 2)), jnp.asarray([0, 1])
        )


def test_names_in_messages():
    assert measure_name(functools.partial(functools.partial(cross_entropy))) == (
        "cross_entropy"
    )
    assert measure_name(Column()) == "Column"
    assert measure_name(lambda o, y: o).startswith("<lambda> (/")
    assert nnx.graphdef(Identity()) is not None
