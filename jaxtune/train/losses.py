"""Losses, one value for each example.

Logits and labels in, a loss per row out, in float32. The one rule of the file: nothing
is averaged over rows here; the step does that, so that padded rows never count.

Keywords are given with `functools.partial(cross_entropy, label_smoothing=0.1)`, whose
values a run's recipe can read. Two attributes of a function say what it is for: `kinds`
of labels, and which of its keywords have one value `per_class`, with what reads them:
a learner lets them be given by the classes' names.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Num

from jaxtune.arguments import Number, check_function, like
from jaxtune.data import as_mapping, class_values, one_or_class_values

#: Kinds of labels: a class number, 0s and 1s of several classes, values.
KINDS = ("single", "multi", "regression")

#: One value a class: in the order of the class numbers, or by number or name.
PerClass = Sequence[float | int] | Mapping | Float[Array | np.ndarray, " c"]

_WEIGHTS = functools.partial(class_values, least=0.0)


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
        label_smoothing: Share of the label that is spread over all classes alike; 0.1
            in fastai's `LabelSmoothingCrossEntropy`.
        class_weights: A factor for each class's rows, see `weighted_cross_entropy`;
            as in fastai the spread share has none.

    Raises:
        ValueError: If there are not as many weights as classes, or they are given by
            names: those are known to a learner only.

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
    """Returns a cross-entropy in which some classes count more than others.

    A row's loss is multiplied by its class's weight, and rows are averaged. PyTorch
    divides by the sum of the batch's weights instead of the number of rows. With
    weights whose mean over the photos is 1 (such as balanced ones, photos / (classes x
    photos of the class)) the two are the same over an epoch; here a photo counts the
    same in whatever batch it comes, and padding, devices and sums over batches change
    nothing. For PyTorch's very number divide by the mean weight of the batch's labels.

    Args:
        class_weights: Of each class, 0 or more: a list in the order of the class
            numbers; a dict by class number, as Keras's `class_weight`; or, for a
            learner, a dict by class name. A dict has every class.
        label_smoothing: As for `cross_entropy`.

    Raises:
        TypeError: If they are no list or dict of numbers.
        ValueError: If weights are negative, not finite, or all 0.

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
    weights: Any = class_values(given, None, "class_weights", least=0.0)
    if not any(weights):
        raise ValueError(
            "class_weights needs one number of at least 0 for each class, and one"
            f" above 0; got {weights}."
        )
    if by_key is not None:
        # Whether keys are numbers or names is known where the classes are.
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

    p is the probability of the row's own class: rows already right count little.

    Args:
        logits: Before the softmax.
        label: Class numbers.
        gamma: How little; 0 is `cross_entropy`.
        class_weights: A factor for each class's rows, the paper's alpha. fastai lets it
            into p too, which then is no probability; here it is a factor alone.

    References:
        Lin et al., "Focal Loss for Dense Object Detection",
        https://arxiv.org/abs/1708.02002, equation 5; fastai 2.8.12, losses.py
        `FocalLoss`.
    """
    losses = cross_entropy(logits, label)
    # At 0 a power less than 1 has no derivative.
    rest = jnp.maximum(-jnp.expm1(-losses), 1e-7)
    losses = rest**gamma * losses
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
    """Returns each row's sigmoid cross-entropy, the mean over its classes.

    Args:
        logits: Before the sigmoid, one for each class by itself.
        label: 1 for each class the image has, else 0; values between are allowed.
        pos_weight: A factor for each class's 1s: zeros / ones of the class counts both
            sides alike. A number for all, a list, or a dict as for
            `weighted_cross_entropy`. All 1 if None.

    Raises:
        ValueError: If there are not as many weights as classes.

    References:
        `torch.nn.BCEWithLogitsLoss`, fastai `BCEWithLogitsLossFlat`.
    """
    logits, label = logits.astype(jnp.float32), label.astype(jnp.float32)
    positive = label * jax.nn.softplus(-logits)
    if pos_weight is not None:
        if not isinstance(pos_weight, jax.Array):
            pos_weight = one_or_class_values(
                pos_weight, logits.shape[-1], "pos_weight", least=0.0
            )
        if np.ndim(pos_weight):
            pos_weight = _per_class(pos_weight, logits.shape[-1], "pos_weight")
        positive = positive * pos_weight
    return (positive + (1 - label) * jax.nn.softplus(logits)).mean(axis=-1)


binary_cross_entropy.kinds = ("multi",)
binary_cross_entropy.per_class = {
    "pos_weight": functools.partial(one_or_class_values, least=0.0)
}


def mse(
    outputs: Float[Array, "b *k"],
    target: Num[Array, "b *n"],
    *,
    scale: Sequence[float | int] | None = None,
) -> Float[Array, "b"]:
    """Returns the squared error of each row, the mean over its outputs.

    Args:
        outputs: What the network says, (b,) or (b, k).
        target: As many values; (b,) and (b, 1) are the same.
        scale: Divides the error of each output, (k,): with the targets' standard
            deviations, each counts the same, whatever its unit.

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
    """Returns the absolute error of each row, the mean over its outputs; see `mse`.

    References:
        `torch.nn.L1Loss`, fastai `L1LossFlat`.
    """
    return jnp.abs(_difference(outputs, target, scale)).mean(axis=-1)


l1.kinds = ("regression",)
l1.takes_scale = True


#: jaxtune's own losses by name, as `loss=` takes them.
LOSSES: dict[str, Callable] = {
    function.__name__: function
    for function in (cross_entropy, focal, binary_cross_entropy, mse, l1)
}


def identity(outputs: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns what it is given: the activation of regression."""
    return outputs


def check_loss(loss: Any) -> Callable:
    """Returns a loss as it is, or the one of jaxtune's that has a name.

    Args:
        loss: A function (logits, label) -> a value for each row, or the name of one of
            `LOSSES`.

    Raises:
        TypeError: If it is no function.
        ValueError: If the name is not known.

    Example:
        >>> check_loss("mse") is mse
        True
    """
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise ValueError(f"no loss is called {loss!r}. {like(loss, LOSSES)}")
        return LOSSES[loss]
    wanted = "a function (logits, label) -> one value for each row"
    return check_function(loss, "loss", wanted, classes=False)


def default_loss(kind: str) -> Callable[[Array, Array], Float[Array, "b"]]:
    """Returns the loss for a kind of labels.

    Args:
        kind: "single" (`cross_entropy`), "multi" (`binary_cross_entropy`) or
            "regression" (`mse`).

    Raises:
        ValueError: If it is another.

    References:
        fastai 2.8.12, vision/data.py, the `loss_func` of each block.
    """
    return _of_kind(kind, (cross_entropy, binary_cross_entropy, mse))


def default_activation(kind: str) -> Callable[[Array], Array]:
    """Returns what makes outputs into predictions for a kind of labels.

    Args:
        kind: "single" (softmax), "multi" (sigmoid) or "regression" (`identity`).

    Raises:
        ValueError: If it is another.
    """
    return _of_kind(kind, (jax.nn.softmax, jax.nn.sigmoid, identity))


def _of_kind(kind, functions):
    if kind not in KINDS:
        raise ValueError(f"labels are {', '.join(map(repr, KINDS))}; got {kind!r}.")
    return functions[KINDS.index(kind)]


def _weights_of(label, class_weights, classes):
    return _per_class(class_weights, classes, "class_weights")[label]


def _per_class(weights, classes, name):
    if not isinstance(weights, jax.Array):
        weights = class_values(weights, classes, name)
    weights = jnp.asarray(weights, jnp.float32)
    # An index too large takes the last one: a wrong number would go unnoticed.
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
    # Broadcasting (b, 1) against (b, k) would train on nonsense.
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
