"""Metrics, one value for each example.

Logits and labels in, a value per row out. The one rule of the file: a metric is a plain
function whose mean over all photos is the figure, so any function of that form is one.
Where the figure is a function of that mean (the root of it), the metric says so by an
attribute, `finish`.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from jaxtune.train.losses import l1, mse

#: (logits (b, c), label (b, ...)) -> one float for each row, (b,).
Metric = Callable[[Array, Array], Float[Array, "b"]]


def accuracy(logits: Float[Array, "b c"], label: Int[Array, "b"]) -> Float[Array, "b"]:
    """Returns 1 for each row whose largest logit is the label's, else 0."""
    return (logits.argmax(-1) == label).astype(jnp.float32)


def error_rate(
    logits: Float[Array, "b c"], label: Int[Array, "b"]
) -> Float[Array, "b"]:
    """Returns 1 - accuracy for each row."""
    return 1.0 - accuracy(logits, label)


def top_5_accuracy(
    logits: Float[Array, "b c"], label: Int[Array, "b"]
) -> Float[Array, "b"]:
    """Returns 1 for each row whose label is among the five largest logits, else 0."""
    own = jnp.take_along_axis(logits, label[:, None], axis=-1)
    return ((logits > own).sum(-1) < 5).astype(jnp.float32)


def accuracy_multi(
    logits: Float[Array, "b c"],
    label: Num[Array, "b c"],
    *,
    thresh: float | int = 0.5,
    sigmoid: bool = True,
) -> Float[Array, "b"]:
    """Returns the share of each row's classes that are rightly there or not there.

    Args:
        logits: One for each class by itself.
        label: 1 for each class the image has, else 0.
        thresh: A class is there if its probability is above this.
        sigmoid: Whether `logits` have yet to become probabilities.

    References:
        fastai 2.8.12, metrics.py `accuracy_multi`.
    """
    probability = logits.astype(jnp.float32)
    if sigmoid:
        probability = jax.nn.sigmoid(probability)
    right = (probability > thresh) == (label > 0.5)
    return right.astype(jnp.float32).mean(axis=-1)


def mae(outputs: Float[Array, "b *k"], target: Num[Array, "b *n"]) -> Float[Array, "b"]:
    """Returns the absolute error of each row, the mean over its outputs.

    Raises:
        ValueError: If there are not as many values as outputs.
    """
    return l1(outputs, target)


def rmse(
    outputs: Float[Array, "b *k"], target: Num[Array, "b *n"]
) -> Float[Array, "b"]:
    """Returns the squared error of each row; the figure is the root of its mean.

    The mean of roots, batch by batch, would depend on the batches; so the root is taken
    at the end, by `finish`.

    Raises:
        ValueError: If there are not as many values as outputs.

    References:
        fastai 2.8.12, metrics.py `rmse`.
    """
    return mse(outputs, target)


rmse.finish = math.sqrt


def finish_metrics(
    means: Mapping[str, float], metrics: Mapping[str, Metric]
) -> dict[str, float]:
    """Returns figures from means over all photos.

    Args:
        means: Of each metric, and of others (`loss`), which stay as they are.
        metrics: By name; one may have an attribute `finish`, mean -> figure.

    Example:
        >>> finish_metrics({"loss": 9.0, "rmse": 9.0}, {"rmse": rmse})
        {'loss': 9.0, 'rmse': 3.0}
    """
    return {
        name: _plain(metrics.get(name), "finish", float)(mean)
        for name, mean in means.items()
    }


def named_metrics(metrics: Metric | Iterable[Metric] | None) -> dict[str, Metric]:
    """Returns metrics by their functions' names, in order.

    A `functools.partial` has the name of its function.

    Raises:
        TypeError: If one of them can't be called.
        ValueError: If two have one name.
    """
    if metrics is None:
        listed: list = []
    else:
        listed = [metrics] if callable(metrics) else list(metrics)
    for metric in listed:
        if not callable(metric):
            raise TypeError(
                "a metric is a function (logits, label) -> one value for each row; "
                f"received {metric!r}."
            )
    names = [_plain(m, "__name__", type(m).__name__) for m in listed]
    if len(set(names)) != len(names) or "loss" in names:
        raise ValueError(
            "metrics need different names, other than 'loss'; received "
            f"{names}. A partial or a function of your own gets one by its"
            " attribute __name__."
        )
    return dict(zip(names, listed, strict=True))


def _plain(metric, attribute, default):
    """An attribute of a metric, or of the function that it is a partial of."""
    while isinstance(metric, functools.partial) and not hasattr(metric, attribute):
        metric = metric.func
    return getattr(metric, attribute, default)
