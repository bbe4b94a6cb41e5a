"""Metrics, one value for each example.

Logits and labels in, a value per row out. The one rule of the file: a metric is a plain
function whose mean over all photos is the figure, so any function of that form is one.
"""

from collections.abc import Callable, Iterable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

#: (logits (b, c), label (b,)) -> one float for each row, (b,).
Metric = Callable[[Float[Array, "b c"], Int[Array, "b"]], Float[Array, "b"]]


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


def named_metrics(metrics: Metric | Iterable[Metric] | None) -> dict[str, Metric]:
    """Returns metrics by their functions' names, in order.

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
    named = {getattr(m, "__name__", type(m).__name__): m for m in listed}
    if len(named) != len(listed) or "loss" in named:
        raise ValueError(
            "metrics need different names, other than 'loss'; received "
            f"{[getattr(m, '__name__', type(m).__name__) for m in listed]}."
        )
    return named
