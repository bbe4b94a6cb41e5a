"""Losses: functions of outputs and labels that return one float32 for each row.

None takes the mean over rows: the step does, so that padded rows never count.

Options are set with `functools.partial(cross_entropy, label_smoothing=0.1)`, whose
values are part of a run's description. A loss has two optional attributes: `kinds`, the
kinds of labels it is for, and `per_class`, its keywords with one value for each class
and the functions that check them; a learner accepts those values by class name.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Num

from jaxtune.arguments import Number, check_function, either, like
from jaxtune.data import as_mapping, class_values, one_or_class_values

#: Kinds of labels: one class number, 0 or 1 for each class, numbers to predict.
KINDS = ("single", "multi", "regression")

#: One value for each class: in the order of the class numbers, or by number or name.
PerClass = Sequence[float | int] | Mapping | Float[Array | np.ndarray, " c"]

_WEIGHTS = functools.partial(class_values, least=0)


def cross_entropy(
    logits: Float[Array, "b c"],
    label: Int[Array, "b"],
    *,
    label_smoothing: float | int = 0.0,
    class_weights: PerClass | None = None,
) -> Float[Array, "b"]:
    """Returns softmax cross-entropy in nats for each row, computed in float32.

    Args:
        logits: Before the softmax.
        label: Class numbers.
        label_smoothing: Fraction of the label that is spread evenly over all classes;
            0.1 in fastai's `LabelSmoothingCrossEntropy`.
        class_weights: A factor for each class's rows, see `weighted_cross_entropy`; as
            in fastai it does not apply to the spread fraction.

    Raises:
        ValueError: If there are not as many weights as classes, or they are given by
            class name, which only a learner knows.

    References:
        `torch.nn.CrossEntropyLoss`, fastai `CrossEntropyLossFlat`.
    """
    logits = logits.astype(jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    if class_weights is not None:
        losses = losses * _weights_of(label, class_weights, logits.shape[-1])
    if label_smoothing:
        spread = -jax.nn.log_softmax(logits).mean(axis=-1)
        losses = label_smoothing * spread + (1 - label_smoothing) * losses
    return losses


cross_entropy.kinds = ("single",)
cross_entropy.per_class = {"class_weights": _WEIGHTS}


def weighted_cross_entropy(
    class_weights: PerClass | Any,
    *,
    label_smoothing: float | int = 0.0,
) -> Callable[[Float[Array, "b c"], Int[Array, "b"]], Float[Array, "b"]]:
    """Returns a cross-entropy with a weight for each class.

    Each row's loss is multiplied by its class's weight, and the mean is taken over
    rows. PyTorch divides by the sum of the batch's weights instead of the number of
    rows. If the weights' mean over all photos is 1 (as for balanced ones, photos /
    (classes * photos of the class)), both agree over an epoch; here, however, a photo
    counts the same whatever batch it is in. Divide by the mean weight of the batch's
    labels for PyTorch's value.

    Args:
        class_weights: Numbers of at least 0: a list in the order of the class numbers;
            a dict by class number, as Keras's `class_weight`; or, in a learner, a dict
            by class name. A dict must contain all classes.
        label_smoothing: As for `cross_entropy`.

    Raises:
        TypeError: If they are not a list or dict of numbers.
        ValueError: If a weight is negative, infinite or NaN, or all are 0.

    References:
        `torch.nn.CrossEntropyLoss(weight=...)`.

    Example:
        >>> loss = weighted_cross_entropy([1.0, 3.0])
        >>> loss(jnp.zeros((2, 2)), jnp.asarray([0, 1])).round(2).tolist()
        [0.6899999976158142, 2.0799999237060547]
    """
    by_key = as_mapping(class_weights)
    given = class_weights if by_key is None else list(by_key.values())
    if not hasattr(given, "__len__") and isinstance(given, Iterable):
        given = list(given)
    weights: Any = class_values(given, None, "class_weights", least=0)
    if not any(weights):
        raise ValueError(
            "class_weights needs one number of at least 0 for each class, at least one"
            f" of them above 0; got {weights}."
        )
    if by_key is not None:
        # Keys may be names, so their order is resolved later, with the classes.
        weights = dict(zip(by_key, weights, strict=True))
    options = {"class_weights": weights}
    if label_smoothing:
        options["label_smoothing"] = label_smoothing
    return functools.partial(cross_entropy, **options)


def focal(
    logits: Float[Array, "b c"],
    label: Int[Array, "b"],
    *,
    gamma: float | int = 2.0,
    class_weights: PerClass | None = None,
) -> Float[Array, "b"]:
    """Returns the focal loss of each row: (1 - p)^gamma (-log p).

    p is the probability of the row's label, so rows already predicted well count less.

    Args:
        logits: Before the softmax.
        label: Class numbers.
        gamma: The larger, the less they count; 0 is `cross_entropy`.
        class_weights: A factor for each class's rows, the paper's alpha. Unlike in
            fastai it does not enter p.

    References:
        Lin et al., "Focal Loss for Dense Object Detection",
        https://arxiv.org/abs/1708.02002, equation 5; fastai 2.8.12, losses.py
        `FocalLoss`.
    """
    losses = cross_entropy(logits, label)
    # Not 0, where x ** gamma has no derivative for gamma < 1.
    one_minus_p = jnp.maximum(-jnp.expm1(-losses), 1e-7)
    losses = one_minus_p**gamma * losses
    if class_weights is not None:
        losses = losses * _weights_of(label, class_weights, logits.shape[-1])
    return losses


focal.kinds = ("single",)
focal.per_class = {"class_weights": _WEIGHTS}


def binary_cross_entropy(
    logits: Float[Array, "b c"],
    label: Num[Array, "b c"],
    *,
    pos_weight: Number | PerClass | None = None,
) -> Float[Array, "b"]:
    """Returns the sigmoid cross-entropy of each row, the mean over classes.

    Args:
        logits: Before the sigmoid, one for each class.
        label: 1 for each class the image has, else 0; values in between are allowed.
        pos_weight: A factor for the loss of each class's 1s; the class's ratio of 0s to
            1s balances them. One number for all classes, a list, or a dict as for
            `weighted_cross_entropy`; 1 if None.

    Raises:
        ValueError: If there are not as many weights as classes.

    References:
        `torch.nn.BCEWithLogitsLoss`, fastai `BCEWithLogitsLossFlat`.
    """
    logits, label = logits.astype(jnp.float32), label.astype(jnp.float32)
    positive = label * jax.nn.softplus(-logits)
    if pos_weight is not None:
        positive *= one_or_per_class(
            pos_weight, logits.shape[-1], "pos_weight", least=0
        )
    return (positive + (1 - label) * jax.nn.softplus(logits)).mean(axis=-1)


binary_cross_entropy.kinds = ("multi",)
binary_cross_entropy.per_class = {
    "pos_weight": functools.partial(one_or_class_values, least=0)
}


def mse(
    outputs: Float[Array, "b *k"],
    target: Num[Array, "b *n"],
    *,
    scale: Sequence[float | int] | None = None,
) -> Float[Array, "b"]:
    """Returns the squared error of each row, the mean over outputs.

    Args:
        outputs: The network's outputs, (b,) or (b, k).
        target: As many values; (b,) and (b, 1) are equivalent.
        scale: Divides the error of each output, (k,). With the targets' standard
            deviations all outputs count the same, whatever their units.

    Raises:
        ValueError: If there are not as many values as outputs.

    References:
        `torch.nn.MSELoss`, fastai `MSELossFlat`.
    """
    return (_difference(outputs, target, scale) ** 2).mean(axis=-1)


mse.kinds = ("regression",)
mse.takes_scale = True


def l1(
    outputs: Float[Array, "b *k"],
    target: Num[Array, "b *n"],
    *,
    scale: Sequence[float | int] | None = None,
) -> Float[Array, "b"]:
    """Returns the absolute error of each row, the mean over outputs; see `mse`.

    References:
        `torch.nn.L1Loss`, fastai `L1LossFlat`.
    """
    return jnp.abs(_difference(outputs, target, scale)).mean(axis=-1)


l1.kinds = ("regression",)
l1.takes_scale = True


#: jaxtune's losses by the name that `loss=` accepts.
LOSSES: dict[str, Callable] = {
    function.__name__: function
    for function in (cross_entropy, focal, binary_cross_entropy, mse, l1)
}


def identity(outputs: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns its argument: the activation for regression."""
    return outputs


def check_loss(loss: Any) -> Callable:
    """Returns a loss function as it is, or one of jaxtune's losses by its name.

    Args:
        loss: A function (logits, label) -> one value for each row, or a key of
            `LOSSES`.

    Raises:
        TypeError: If it is not callable.
        ValueError: If the name is unknown.

    Example:
        >>> check_loss("mse") is mse
        True
    """
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise ValueError(f"there is no loss {loss!r}. {like(loss, LOSSES)}")
        return LOSSES[loss]
    wanted = "a function (logits, label) -> one value for each row"
    return check_function(loss, "loss", wanted, classes=False)


def default_loss(kind: str) -> Callable[[Array, Array], Float[Array, "b"]]:
    """Returns the default loss for a kind of labels.

    Args:
        kind: "single" (`cross_entropy`), "multi" (`binary_cross_entropy`) or
            "regression" (`mse`).

    Raises:
        ValueError: If it is none of these.

    References:
        fastai 2.8.12, vision/data.py, the `loss_func` of each block.
    """
    return _of_kind(kind, (cross_entropy, binary_cross_entropy, mse))


def default_activation(kind: str) -> Callable[[Array], Array]:
    """Returns the function from outputs to predictions for a kind of labels.

    Args:
        kind: "single" (softmax), "multi" (sigmoid) or "regression" (`identity`).

    Raises:
        ValueError: If it is none of these.
    """
    return _of_kind(kind, (jax.nn.softmax, jax.nn.sigmoid, identity))


def _of_kind(kind, functions):
    if kind not in KINDS:
        raise ValueError(
            f"kind must be {either([repr(known) for known in KINDS])}; got {kind!r}."
        )
    return functions[KINDS.index(kind)]


def _weights_of(label, class_weights, classes):
    return _per_class(class_weights, classes, "class_weights")[label]


def one_or_per_class(values: Any, classes: int, name: str, **options) -> Any:
    """Returns one number as it is, or numbers by class as a float32 array, (classes,).

    Of a JAX array, which may be traced, only the shape is checked; for other values and
    their errors see `one_or_class_values`.
    """
    if not isinstance(values, jax.Array):
        values = one_or_class_values(values, classes, name, **options)
    return _per_class(values, classes, name) if np.ndim(values) else values


def _per_class(weights, classes, name):
    if not isinstance(weights, jax.Array):
        weights = class_values(weights, classes, name)
    weights = jnp.asarray(weights, jnp.float32)
    # JAX clips indices out of bounds, so too few weights would go unnoticed.
    if weights.shape != (classes,):
        raise ValueError(
            f"{name} needs one number for each of the {classes} classes; got shape"
            f" {weights.shape}."
        )
    return weights


def _difference(outputs, target, scale):
    rows = outputs.shape[0]
    shapes = outputs.shape, target.shape
    outputs, target = (x.astype(jnp.float32).reshape(rows, -1)
                       for x in (outputs, target))  # fmt: skip
    # Broadcasting (b, 1) against (b, k) would give a wrong loss.
    if outputs.shape != target.shape:
        raise ValueError(
            "the network needs one output for each value of the target; outputs are"
            f" {shapes[0]}, targets {shapes[1]}."
        )
    difference = outputs - target
    if scale is not None:
        scale = jnp.asarray(scale, jnp.float32)
        if scale.shape != outputs.shape[1:]:
            raise ValueError(
                f"scale needs one number for each of the {outputs.shape[1]} outputs;"
                f" got shape {scale.shape}."
            )
        difference = difference / scale
    return difference
