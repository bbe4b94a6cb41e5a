"""Losses and metrics fitted to a learner's data and network.

What the user gave goes in; the same functions, with values by class in the order of the
data's classes, come out. The one rule of the file: what does not fit is refused here,
before anything is computed.
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
#: Rows of the made-up batches that functions are tried on.
_ROWS = 8


def fit_measures(
    loss: Callable | None,
    metrics: Any,
    data: Any,
    network: nnx.Module,
) -> tuple[Callable, dict[str, Metric]]:
    """Returns a loss and metrics by name, all of which fit the data and the network.

    Args:
        loss: (outputs, label) -> one value for each row; that of the kind of labels if
            None.
        metrics: Functions of the same form or epoch metrics, one or several.
        data: `ImageDataLoaders`.
        network: Maps images to outputs.

    Raises:
        TypeError: If one of them is no such function.
        ValueError: If one is for labels of another kind, returns anything but one value
            for each row, or has values by class that are not those of the classes; or
            if the network has not one output for each class.
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
    """Returns what is minimised where a network's outputs are in the targets' units.

    The loss is shown in these units. Its gradients would grow with them, and of several
    targets that with the largest numbers would count alone; so what is minimised is the
    same of errors in standard deviations. A loss of the user's own is left as it is.

    Args:
        loss: `mse` or `l1`, or any other.
        network: Ends in `Denormalize`, or not.

    Returns:
        A loss, or None where it is `loss` itself.
    """
    layer = denormalizing(network)
    given = getattr(loss, "keywords", {})
    if layer is None or "scale" in given or not plain_attribute(loss, "takes_scale"):
        return None
    return functools.partial(loss, scale=tuple(map(float, layer.std[...])))


def check_epoch_metric(metric: EpochMetric, outputs: Any, label: Any) -> None:
    """Refuses an epoch metric that fails on shapes, or computes no number.

    Args:
        metric: It is run on shapes, and computes one figure of made-up totals.
        outputs: Shape and dtype of the network's, (b, ...).
        label: Likewise, (b, ...).

    Raises:
        TypeError: If it computes something that is no number.
        ValueError: If it fails, or gathers arrays without a row for each photo.
    """
    name, rows = type(metric).__name__, label.shape[0]
    mask = jax.ShapeDtypeStruct((rows,), bool)
    try:
        found = jax.eval_shape(metric.from_batch, outputs, label, mask)
    except Exception as error:
        what = str(error).strip().partition("\n")[0].rstrip(".")
        raise ValueError(
            f"the metric {name} failed in from_batch, for outputs {outputs.dtype} "
            f"{outputs.shape} and labels {label.dtype} {label.shape}: {what}."
        ) from error
    leaves = jax.tree.leaves(found)
    if metric.gather and not all(leaf.shape[:1] == (rows,) for leaf in leaves):
        raise ValueError(
            f"the metric {name} gathers rows (gather = True), and its from_batch "
            f"returned shapes {[leaf.shape for leaf in leaves]} for {rows} rows; each "
            "needs a row for each photo."
        )
    total = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), found)
    try:
        with np.errstate(all="ignore"):
            computed(metric, total)
    except (ArithmeticError, ValueError):
        pass  # The totals are made up: what is wrong with them need not be wrong.
    except (AttributeError, LookupError, NameError, TypeError) as error:
        raise TypeError(f"the metric {name} failed in compute: {error}") from error


def _warn_of_pairs(function: Callable, outputs: Any, label: Any, role: str) -> None:
    """Warns of a column of outputs that is broadcast against a row of labels.

    Its mean over the last axis has the right shape, and is of all pairs of rows.
    """
    if outputs.shape[1:] != (1,) or label.ndim != 1:
        return
    rows = 37  # Nothing else has this length.
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
    """Shapes of everything that is computed, inside of functions too."""
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
    """Returns shape and dtype of a network's outputs for a batch of the data's.

    Raises:
        ValueError: If it has not one output for each class.
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
    """How many outputs a head of jaxtune's own has; None if one must run it to know."""
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
