"""Checks losses and metrics against a learner's data and network.

What does not fit is an error here, before anything is computed. Values by class name
are put in the order of the data's classes.
"""

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxtune.models import BatchNorm, Linear, Sequential
from jaxtune.train import (
    EpochMetric,
    Metric,
    check_kind_of,
    check_rows,
    computed,
    default_loss,
    measure_name,
    named_metrics,
    plain_attribute,
    with_class_numbers,
)
from jaxtune.transfer import Denormalize, SigmoidRange, denormalizing, output_shape

_FITTING_METRICS = {
    "single": "error_rate or accuracy",
    "multi": "accuracy_multi",
    "regression": "mae or rmse",
}
#: Rows of the abstract batches on which functions are traced.
_ROWS = 8


def fit_measures(
    loss: Callable | None,
    metrics: Any,
    data: Any,
    network: nnx.Module,
) -> tuple[Callable, dict[str, Metric]]:
    """Returns the loss and the metrics by name, checked against data and network.

    Args:
        loss: (outputs, label) -> one value for each row; the default for the kind of
            labels if None.
        metrics: One or several functions of the same form, or epoch metrics.
        data: `ImageDataLoaders`.
        network: Maps images to outputs.

    Raises:
        TypeError: If one of them is not such a function.
        ValueError: If one is for another kind of labels, doesn't return one value for
            each row, or has values for other classes than the data's; or if the network
            doesn't have one output for each class.
    """
    kind = data.kind
    named = metrics if isinstance(metrics, Mapping) else named_metrics(metrics)
    loss = default_loss(kind) if loss is None else loss
    measures = {"loss": loss, **named}
    for name, each in measures.items():
        is_loss = name == "loss"
        fits = default_loss(kind).__name__ if is_loss else _FITTING_METRICS[kind]
        check_kind_of(each, kind, role="loss" if is_loss else "metric", fits=fits)
    measures = {
        name: with_class_numbers(each, data.classes) for name, each in measures.items()
    }
    outputs = outputs_of(network, data)
    label = jax.eval_shape(lambda: jnp.asarray(_labels(data)))
    for name, each in measures.items():
        if isinstance(each, EpochMetric):
            check_epoch_metric(each, outputs, label)
        else:
            role = "loss" if name == "loss" else "metric"
            check_rows(each, outputs, label, role=role)
            _warn_of_pairs(each, outputs, label, role)
    return measures.pop("loss"), measures


def scaled_objective(loss: Callable, network: nnx.Module) -> Callable | None:
    """Returns the loss to minimise for a network with outputs in the targets' units.

    The loss is shown in these units. Minimising it as it is would make gradients as
    large as the targets, and the target with the largest numbers would dominate. So the
    same loss of errors in standard deviations is minimised. The user's own losses are
    not changed.

    Args:
        loss: `mse`, `l1` or any other loss.
        network: A network, which may end in `Denormalize`.

    Returns:
        The loss to minimise, or None if it is `loss` itself.
    """
    layer = denormalizing(network)
    given = getattr(loss, "keywords", {})
    if layer is None or "scale" in given or not plain_attribute(loss, "takes_scale"):
        return None
    return functools.partial(loss, scale=tuple(map(float, layer.std[...])))


def check_epoch_metric(metric: EpochMetric, outputs: Any, label: Any) -> None:
    """Raises if an epoch metric fails on these shapes or doesn't compute a number.

    Args:
        metric: It is traced on shapes, then computed once from totals of ones.
        outputs: Shape and dtype of the network's outputs, (b, ...).
        label: Shape and dtype of the labels, (b, ...).

    Raises:
        TypeError: If `compute` doesn't return a number.
        ValueError: If `from_batch` fails, or gathers arrays without a row per photo.
    """
    name, rows = type(metric).__name__, label.shape[0]
    mask = jax.ShapeDtypeStruct((rows,), bool)
    try:
        sums = jax.eval_shape(metric.from_batch, outputs, label, mask)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise ValueError(
            f"the metric {name} failed in from_batch, for outputs {outputs.dtype} "
            f"{outputs.shape} and labels {label.dtype} {label.shape}: {reason}."
        ) from error
    leaves = jax.tree.leaves(sums)
    if metric.gather and not all(leaf.shape[:1] == (rows,) for leaf in leaves):
        raise ValueError(
            f"the metric {name} gathers rows (gather = True), and its from_batch "
            f"returned shapes {[leaf.shape for leaf in leaves]} for {rows} rows; each "
            "needs a row for each photo."
        )
    total = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), sums)
    try:
        with np.errstate(all="ignore"):
            computed(metric, total)
    except (ArithmeticError, ValueError):
        pass  # These totals are artificial; real ones may well work.
    except (AttributeError, LookupError, NameError, TypeError) as error:
        raise TypeError(f"the metric {name} failed in compute: {error}") from error


def _warn_of_pairs(function: Callable, outputs: Any, label: Any, role: str) -> None:
    """Warns if outputs (b, 1) are broadcast against labels (b,) to (b, b).

    The mean over the last axis then has the right shape but is over all pairs of rows.
    """
    if outputs.shape[1:] != (1,) or label.ndim != 1:
        return
    rows = 37  # A length that nothing else is likely to have.
    jaxpr = jax.make_jaxpr(function)(
        jax.ShapeDtypeStruct((rows, 1), outputs.dtype),
        jax.ShapeDtypeStruct((rows,), label.dtype),
    )
    if (rows, rows) in set(_shapes(jaxpr.jaxpr)):
        warnings.warn(
            f"the {role} {measure_name(function)} compares each row's output with every"
            " row's label: outputs are (b, 1) and labels (b,), which broadcast to "
            "(b, b). Take outputs[:, 0], unless that is what you want.",
            stacklevel=5,
        )


def _shapes(jaxpr: Any) -> Iterator[tuple[int, ...]]:
    """Shapes of all intermediate values, also inside nested functions."""
    for equation in jaxpr.eqns:
        yield from (var.aval.shape for var in equation.outvars)
        for value in jax.tree.leaves(equation.params, is_leaf=_is_program):
            if (inner := _inner(value)) is not None:
                yield from _shapes(inner)


def _is_program(value: Any) -> bool:
    return _inner(value) is not None


def _inner(value: Any) -> Any:
    value = getattr(value, "jaxpr", value)
    return value if hasattr(value, "eqns") else None


def outputs_of(network: nnx.Module, data: Any) -> Any:
    """Returns the shape and dtype of a network's outputs for a batch of the data.

    Raises:
        ValueError: If it doesn't have one output for each class.
    """
    count = _outputs_of_head(network)
    shape = (count,)
    if count is None:
        shape = output_shape(network, in_channels=data.in_channels)[1:]
    if data.kind != "regression" and shape != (data.num_outputs,):
        raise ValueError(
            f"the network must return one output for each of the {data.num_outputs} "
            f"classes, shape (b, {data.num_outputs}); it returns (b, "
            f"{', '.join(map(str, shape))})."
        )
    return jax.ShapeDtypeStruct((_ROWS, *shape), jnp.float32)


def _outputs_of_head(network: nnx.Module) -> int | None:
    """The number of outputs of one of jaxtune's heads; None if it must be traced."""
    if not isinstance(network, Sequential) or len(network) != 2:
        return None
    layers = network[1]
    if not isinstance(layers, Sequential):
        return None
    for name in reversed(layers.names):
        layer = layers[name]
        if type(layer) is Linear:
            return layer.weight.shape[-1]
        if type(layer) in (BatchNorm, Denormalize, SigmoidRange):
            continue
        return None
    return None


def _labels(data: Any) -> np.ndarray:
    items = getattr(data, "train_items", None)
    if items is None:
        labels = next(iter(data.valid_loader.batches()))["label"]
    else:
        labels = items.labels
    return np.zeros((_ROWS, *labels.shape[1:]), labels.dtype)
