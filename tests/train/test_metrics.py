import functools

import jax.numpy as jnp
import numpy as np
import pytest

from jaxtune.train import (
    accuracy,
    accuracy_multi,
    error_rate,
    finish_metrics,
    mae,
    mse,
    named_metrics,
    rmse,
    top_5_accuracy,
)

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


SCORES = jnp.asarray([[2.0, -1.0, 0.5], [0.1, 0.2, -3.0], [-4.0, 1.0, 7.0]])
SEVERAL = jnp.asarray([[1, 0, 1], [0, 0, 0], [1, 1, 0]])


def test_accuracy_multi_is_the_share_of_classes():
    rows = accuracy_multi(SCORES, SEVERAL)
    np.testing.assert_allclose(rows, [1, 1 / 3, 1 / 3], rtol=1e-6)
    rows = accuracy_multi(SCORES, SEVERAL.astype(jnp.float32), thresh=0.6)
    np.testing.assert_allclose(rows, [1, 1, 1 / 3], rtol=1e-6)
    # fastai 2.8.12 gives 2/3 for these, as probabilities.
    rows = accuracy_multi(SCORES, SEVERAL, thresh=0.6, sigmoid=False)
    assert float(rows.mean()) == pytest.approx(2 / 3)


def test_errors_of_values_and_the_root_at_the_end():
    assert mae(SCORES, SEVERAL).mean() == pytest.approx(1.9777777, rel=1e-6)
    np.testing.assert_array_equal(rmse(SCORES, SEVERAL), mse(SCORES, SEVERAL))
    means = {"loss": 0.25, "rmse": float(rmse(SCORES, SEVERAL).mean()), "mae": 4.0}
    got = finish_metrics(means, {"rmse": rmse, "mae": mae})
    # fastai 2.8.12's rmse of these.
    assert got["rmse"] == pytest.approx(3.0786, rel=1e-4)
    assert got["loss"] == 0.25 and got["mae"] == 4.0
    assert list(got) == ["loss", "rmse", "mae"]


def test_a_root_is_of_all_photos_however_they_come_in_batches():
    rows = np.asarray(rmse(SCORES, SEVERAL))
    whole = finish_metrics({"rmse": float(rows.mean())}, {"rmse": rmse})["rmse"]
    apart = np.mean([rows[:2].mean() ** 0.5, rows[2] ** 0.5])
    assert whole == pytest.approx(rows.mean() ** 0.5)
    assert abs(whole - apart) > 0.05


def test_ones_own_metric_may_finish_too():
    def log_loss(outputs, target):
        return mse(outputs, target)

    log_loss.finish = lambda mean: -mean
    assert finish_metrics({"log_loss": 2.0}, {"log_loss": log_loss}) == {
        "log_loss": -2.0
    }


def test_a_partial_has_the_name_of_its_function():
    strict = functools.partial(accuracy_multi, thresh=0.9)
    assert list(named_metrics([strict, mae])) == ["accuracy_multi", "mae"]
    half = functools.partial(functools.partial(rmse))
    assert list(named_metrics(half)) == ["rmse"]
    assert finish_metrics({"rmse": 4.0}, named_metrics(half)) == {"rmse": 2.0}
    with pytest.raises(ValueError, match="different names.*__name__"):
        named_metrics([strict, accuracy_multi])
    strict.__name__ = "accuracy_90"
    assert list(named_metrics([strict, accuracy_multi])) == [
        "accuracy_90",
        "accuracy_multi",
    ]
