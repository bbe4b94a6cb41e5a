import jax.numpy as jnp
import pytest

from jaxtune.train import accuracy, error_rate, named_metrics, top_5_accuracy

LOGITS = jnp.asarray([[0.0, 1.0, 2.0], [5.0, 1.0, 2.0]])
LABEL = jnp.asarray([2, 1])


def test_one_value_a_row():
    assert accuracy(LOGITS, LABEL).tolist() == [1.0, 0.0]
    assert error_rate(LOGITS, LABEL).tolist() == [0.0, 1.0]


def test_top_5():
    logits = jnp.arange(10.0)[None]
    assert top_5_accuracy(logits, jnp.asarray([5])).tolist() == [1.0]
    assert top_5_accuracy(logits, jnp.asarray([4])).tolist() == [0.0]


def test_metrics_have_their_functions_names():
    assert list(named_metrics([error_rate, accuracy])) == ["error_rate", "accuracy"]
    assert list(named_metrics(accuracy)) == ["accuracy"]
    assert named_metrics(None) == {}


def test_what_is_no_metric_is_refused():
    with pytest.raises(TypeError):
        named_metrics(["accuracy"])
    with pytest.raises(ValueError, match="different names"):
        named_metrics([accuracy, accuracy])
