"""Metrics: functions of outputs and labels that return one value for each row.

An epoch's figure is the mean over all photos, so any such function is a metric. If the
figure is a function of that mean, such as its root, the metric's attribute `finish` is
that function; a figure that is not based on a mean is an `EpochMetric`. The attribute
`kinds` lists the kinds of labels it is for; `higher_is_better` is True or False.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from jaxtune.arguments import Number, described, like
from jaxtune.data import one_or_class_values
from jaxtune.train.epoch_metrics import EpochMetric, column_name
from jaxtune.train.losses import PerClass, l1, mse, one_or_per_class
from jaxtune.train.measures import plain_attribute

#: (logits (b, c), label (b, ...)) -> one float for each row, (b,); or an `EpochMetric`.
Metric = Callable[[Array, Array], Float[Array, "b"]] | EpochMetric


def accuracy(logits: Float[Array, "b c"], label: Int[Array, "b"]) -> Float[Array, "b"]:
    """Returns 1 for each row whose label has the largest logit, else 0."""
    return (logits.argmax(-1) == label).astype(jnp.float32)


def error_rate(
    logits: Float[Array, "b c"], label: Int[Array, "b"]
) -> Float[Array, "b"]:
    """Returns 1 - accuracy for each row."""
    return 1.0 - accuracy(logits, label)


def top_5_accuracy(
    logits: Float[Array, "b c"], label: Int[Array, "b"]
) -> Float[Array, "b"]:
    """Returns 1 for each row whose label has one of the five largest logits, else 0.

    Raises:
        ValueError: If there are fewer than five classes, for which it is always 1.
    """
    if logits.shape[-1] < 5:
        raise ValueError(
            f"top_5_accuracy needs five classes or more; there are {logits.shape[-1]}."
            " Use accuracy."
        )
    own = jnp.take_along_axis(logits, label[:, None], axis=-1)
    return ((logits > own).sum(-1) < 5).astype(jnp.float32)


def accuracy_multi(
    logits: Float[Array, "b c"],
    label: Num[Array, "b c"],
    *,
    thresh: Number | PerClass = 0.5,
    sigmoid: bool = True,
) -> Float[Array, "b"]:
    """Returns each row's fraction of correctly predicted labels.

    Args:
        logits: One for each class; probabilities if `sigmoid` is False.
        label: 1 for each class the image has, else 0.
        thresh: A class is predicted if its probability is above this: one number, or
            one for each class, as a list in their order or a dict by number (in a
            learner, by name).
        sigmoid: Whether to apply the sigmoid to `logits`.

    Raises:
        ValueError: If there are not as many thresholds as classes.

    References:
        fastai 2.8.12, metrics.py `accuracy_multi`.
    """
    probability = logits.astype(jnp.float32)
    if sigmoid:
        probability = jax.nn.sigmoid(probability)
    thresh = one_or_per_class(thresh, logits.shape[-1], "thresh")
    above = probability > jnp.asarray(thresh, jnp.float32)
    correct = above == (label > 0.5)
    return correct.astype(jnp.float32).mean(axis=-1)


def mae(outputs: Float[Array, "b *k"], target: Num[Array, "b *n"]) -> Float[Array, "b"]:
    """Returns the absolute error of each row, the mean over outputs.

    Raises:
        ValueError: If there are not as many values as outputs.
    """
    return l1(outputs, target)


def rmse(
    outputs: Float[Array, "b *k"], target: Num[Array, "b *n"]
) -> Float[Array, "b"]:
    """Returns the squared error of each row; the figure is the root of the mean.

    The root is taken at the end of an epoch, by `finish`: a mean of roots would depend
    on how the photos are divided into batches.

    Raises:
        ValueError: If there are not as many values as outputs.

    References:
        fastai 2.8.12, metrics.py `rmse`.
    """
    return mse(outputs, target)


for _metric, _kind, _higher_is_better in (
    (accuracy, "single", True),
    (error_rate, "single", False),
    (top_5_accuracy, "single", True),
    (accuracy_multi, "multi", True),
    (mae, "regression", False),
    (rmse, "regression", False),
):
    _metric.kinds, _metric.higher_is_better = (_kind,), _higher_is_better
accuracy_multi.per_class = {"thresh": one_or_class_values}
rmse.finish = math.sqrt


def epoch_figures(
    parts: Sequence[Mapping[str, Any]], metrics: Mapping[str, Metric]
) -> dict[str, float]:
    """Returns an epoch's loss and metrics from the eval step's results.

    Args:
        parts: What the step of `make_eval_step` returned for each batch.
        metrics: By name, as passed to `make_eval_step`.

    Returns:
        The loss, then the metrics in their order.

    Raises:
        ValueError: If all rows are padding.
        TypeError: If an `EpochMetric` does not compute a number.
    """
    parts = jax.device_get(list(parts))
    sums: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            if not isinstance(metrics.get(name), EpochMetric):
                sums[name] = sums.get(name, 0.0) + float(value)
    count = sums.pop("count", 0.0)
    if not count:
        raise ValueError("there is no readable photo to validate on.")
    figures = {"loss": sums["loss"] / count}
    for name, metric in metrics.items():
        if isinstance(metric, EpochMetric):
            total = _total([part[name] for part in parts], metric)
            figures[name] = computed(metric, total)
        else:
            figures[name] = sums[name] / count
    return finish_metrics(figures, metrics)


def computed(metric: EpochMetric, total: Any) -> float:
    """Returns `metric.compute(total)` as a float.

    Raises:
        TypeError: If it is not a number.
    """
    value = metric.compute(total)
    if np.ndim(value) or isinstance(value, str | bytes | None):
        raise TypeError(
            f"{type(metric).__name__}.compute returned {described(value)}; it must"
            " return one number, the epoch's figure."
        )
    return float(value)


def _total(parts: list, metric: EpochMetric) -> Any:
    if metric.gather:
        masks = [part["mask"] for part in parts]
        return jax.tree.map(
            lambda *rows: np.concatenate(
                [x[mask] for x, mask in zip(rows, masks, strict=True)]
            ),
            *(part["rows"] for part in parts),
        )
    return functools.reduce(metric.merge, (jax.tree.map(_wide, p) for p in parts))


def _wide(x: Any) -> np.ndarray:
    x = np.asarray(x)
    whole = x.dtype == bool or np.issubdtype(x.dtype, np.integer)
    return x.astype(np.int64 if whole else np.float64)


def finish_metrics(
    means: Mapping[str, float], metrics: Mapping[str, Metric]
) -> dict[str, float]:
    """Returns an epoch's figures from the means over all photos.

    Args:
        means: By name; those that are not metrics (`loss`) are returned as they are.
        metrics: By name; an attribute `finish` is a function from mean to figure.

    Example:
        >>> finish_metrics({"loss": 9.0, "rmse": 9.0}, {"rmse": rmse})
        {'loss': 9.0, 'rmse': 3.0}
    """
    return {
        name: plain_attribute(metrics.get(name), "finish", float)(mean)
        for name, mean in means.items()
    }


#: jaxtune's metrics of rows by the name that `metrics=` accepts.
METRICS: dict[str, Callable] = {
    function.__name__: function
    for function in (accuracy, error_rate, top_5_accuracy, accuracy_multi, mae, rmse)
}


def check_metrics(metrics: Any) -> list[Metric]:
    """Returns metrics as a list, with names replaced by jaxtune's metrics.

    Args:
        metrics: One or several functions, `EpochMetric`s or keys of `METRICS`, or None.

    Raises:
        TypeError: If one is neither callable nor an `EpochMetric`.
        ValueError: If two have the same name, or a name is unknown.

    Example:
        >>> check_metrics(["accuracy", mae]) == [accuracy, mae]
        True
    """
    listed = _listed(metrics)
    for i, metric in enumerate(listed):
        if isinstance(metric, str):
            if metric not in METRICS:
                raise ValueError(
                    f"metrics: there is no {metric!r}. {like(metric, METRICS)}"
                )
            listed[i] = METRICS[metric]
    named_metrics(listed)
    return listed


def _listed(metrics: Any) -> list:
    if metrics is None:
        return []
    if callable(metrics) or isinstance(metrics, EpochMetric | str):
        return [metrics]
    if isinstance(metrics, Iterable):
        return list(metrics)
    raise TypeError(
        "metrics must be one or several functions (logits, label) -> one value for "
        f"each row, or their names; received {described(metrics)}."
    )


def named_metrics(metrics: Metric | Iterable[Metric] | None) -> dict[str, Metric]:
    """Returns metrics by name, in order.

    The name is that of the function (under a `functools.partial`) or of the
    `EpochMetric`'s column.

    Raises:
        TypeError: If one is neither callable nor an `EpochMetric`.
        ValueError: If two have the same name, or one is called "loss".
    """
    listed = _listed(metrics)
    for metric in listed:
        if isinstance(metric, type) and issubclass(metric, EpochMetric):
            raise TypeError(
                f"the metric {metric.__name__} is a class: write {metric.__name__}(),"
                " with brackets, which makes one."
            )
        if not callable(metric) and not isinstance(metric, EpochMetric):
            raise TypeError(
                "a metric must be a function (logits, label) -> one value for each row"
                f" or an EpochMetric; received {metric!r}."
            )
    names = [
        column_name(m)
        if isinstance(m, EpochMetric)
        else plain_attribute(m, "__name__", type(m).__name__)
        for m in listed
    ]
    if len(set(names)) != len(names) or "loss" in names:
        raise ValueError(
            "metrics need different names, other than 'loss'; received "
            f"{names}. Set the attribute __name__ of a function or partial, or name="
            " of an EpochMetric."
        )
    return dict(zip(names, listed, strict=True))
