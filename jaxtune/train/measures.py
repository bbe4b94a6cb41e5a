"""Checks of losses and metrics before anything is compiled.

A function is run on shapes alone (`jax.eval_shape`); it must return one value for each
row of the batch.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxtune.arguments import is_traced
from jaxtune.data import class_positions

#: What the labels of each kind are, in words.
_KINDS = {
    "single": "one class a photo",
    "multi": "several classes a photo",
    "regression": "numbers to predict",
}


def measure_name(function: Any) -> str:
    """Returns the name of a loss or metric for an error message.

    Example:
        >>> measure_name(functools.partial(max, key=abs))
        'max'
        >>> measure_name(lambda logits, label: logits)  # doctest: +ELLIPSIS
        '<lambda> (...:1)'
    """
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", type(function).__qualname__)
    name = name.rpartition("<locals>.")[2]
    code = getattr(inspect.unwrap(function), "__code__", None)
    if name == "<lambda>" and code is not None:
        return f"{name} ({code.co_filename}:{code.co_firstlineno})"
    return name


def plain_attribute(function: Any, name: str, default: Any = None) -> Any:
    """Returns an attribute of a function, or of the function under its partials."""
    while isinstance(function, functools.partial) and not hasattr(function, name):
        function = function.func
    return getattr(function, name, default)


def check_kind_of(function: Any, kind: str, *, role: str, fits: str) -> None:
    """Raises if a loss or metric is declared for other kinds of labels.

    Args:
        function: Its attribute `kinds`, if any, lists the kinds of labels it is for.
        kind: Of the labels: "single", "multi" or "regression".
        role: "loss" or "metric".
        fits: Name of one for these labels, for the message, unless the function's
            attribute `counterparts` has one for this kind.

    Raises:
        ValueError: If the kind is not among them.
    """
    kinds = plain_attribute(function, "kinds")
    if kinds is not None and kind not in kinds:
        fits = plain_attribute(function, "counterparts", {}).get(kind, fits)
        for_these = " or ".join(_KINDS[each] for each in kinds)
        raise ValueError(
            f"the {role} {measure_name(function)} is for {for_these}, but these labels "
            f"are {_KINDS[kind]}. Use {fits}."
        )


def with_class_numbers(function: Any, classes: Sequence[str]) -> Any:
    """Returns a loss or metric with its per-class values in the order of the classes.

    This concerns arguments that the function declares by its attribute `per_class`
    (one number for each class) or `of_classes` (names of classes): keywords of a
    `functools.partial`, or fields of an `EpochMetric`.

    Args:
        function: A loss or metric.
        classes: Class names in the order of the class numbers.

    Raises:
        TypeError: If such a value does not have one number for each class.
        ValueError: If a key is not a class, or a class has no value.

    Example:
        >>> from jaxtune.train import weighted_cross_entropy
        >>> loss = weighted_cross_entropy({"bee": 5.0, "ant": 1.0})
        >>> with_class_numbers(loss, ["ant", "bee"]).keywords
        {'class_weights': (1.0, 5.0)}
    """

    def numbered(values, per_class, of_classes):
        changed: dict[str, Any] = {}
        for name, read in per_class.items():
            value = values.get(name)
            if value is not None and not is_traced(value):
                changed[name] = read(value, classes, name)
        for name in of_classes:
            value = values.get(name)
            if value is not None:
                several = isinstance(value, list | tuple)
                keys = list(value) if several else [value]
                numbers = class_positions(keys, classes, f"{name} names classes")
                changed[name] = tuple(numbers) if several else numbers[0]
        return {
            name: new
            for name, new in changed.items()
            if type(values[name]) is not type(new) or values[name] != new
        }

    return _with_changed(function, numbered)


def with_class_names(function: Any, classes: Sequence[str]) -> Any:
    """Returns a loss or metric with its per-class values by class name.

    The inverse of `with_class_numbers`. Its result can then be given the numbers of
    other classes, or of the same ones in another order.

    Args:
        function: A loss or metric.
        classes: Class names in the order of its class numbers.

    Example:
        >>> from jaxtune.train import weighted_cross_entropy
        >>> loss = with_class_numbers(weighted_cross_entropy([1, 5]), ["ant", "bee"])
        >>> with_class_names(loss, ["ant", "bee"]).keywords
        {'class_weights': {'ant': 1.0, 'bee': 5.0}}
    """

    def named(values, per_class, of_classes):
        changed: dict[str, Any] = {}
        for name, value in values.items():
            if name in of_classes and isinstance(value, list | tuple):
                changed[name] = tuple(classes[i] for i in value)
            elif name in of_classes and value is not None and value < len(classes):
                changed[name] = classes[value]
            elif name in per_class and isinstance(value, tuple):
                changed[name] = dict(zip(classes, value, strict=True))
        return changed

    return _with_changed(function, named)


def _with_changed(function: Any, change: Callable) -> Any:
    """Returns a partial with other keywords, or an epoch metric with other fields.

    Args:
        function: A loss or metric; returned as it is if nothing changes.
        change: (values by name, `per_class`, `of_classes`) -> the values that change.
    """
    per_class = plain_attribute(function, "per_class", {})
    of_classes = plain_attribute(function, "of_classes", ())
    if isinstance(function, functools.partial):
        inner = _with_changed(function.func, change)
        changed = change(function.keywords, per_class, of_classes)
        if inner is function.func and not changed:
            return function
        again = functools.partial(inner, *function.args, **function.keywords | changed)
        vars(again).update(vars(function))
        return again
    if not dataclasses.is_dataclass(function) or isinstance(function, type):
        return function
    values = {name: getattr(function, name) for name in (*per_class, *of_classes)}
    changed = change(values, per_class, of_classes)
    return dataclasses.replace(function, **changed) if changed else function


def row_values(
    function: Callable, logits: Any, label: Array, *, role: str
) -> Float[Array, " b"]:
    """Returns a loss's or metric's value for each row, after `check_rows`.

    Args:
        function: (logits, label) -> one value for each row.
        logits: The network's outputs, arrays (b, ...).
        label: (b, ...).
        role: "loss" or "metric", for the message.

    Returns:
        Floats, (b,); booleans and integers become float32.

    Raises:
        TypeError: As `check_rows`.
        ValueError: As `check_rows`.
    """
    check_rows(function, logits, label, role=role)
    values = function(logits, label)
    if jnp.issubdtype(values.dtype, jnp.floating):
        return values
    return values.astype(jnp.float32)


def check_rows(function: Callable, logits: Any, label: Any, *, role: str) -> None:
    """Raises if a loss or metric returns anything but one value for each row.

    It is run on shapes only. If the number of rows equals another dimension, it is run
    on another number of rows too, since otherwise one value for each class, say, could
    pass for one for each row.

    Args:
        function: (logits, label) -> one value for each row.
        logits: The network's outputs, arrays (b, ...) or their shapes and dtypes.
        label: Likewise, (b, ...).
        role: "loss" or "metric", for the message.

    Raises:
        TypeError: If it can't be called with two arguments, or does not return an array
            of real numbers, floats for a loss.
        ValueError: If it returns an array of another shape, or raises.
    """
    logits, label = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (logits, label)
    )
    rows = label.shape[0]
    sizes = {n for x in jax.tree.leaves((logits, label)) for n in x.shape[1:]} | {1}
    _check_rows(function, logits, label, role)
    if rows in sizes:
        rows = next(n for n in range(rows + 1, rows + 99) if n not in sizes)
        more = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype),
            (logits, label),
        )
        _check_rows(function, *more, role)


def _check_rows(function: Callable, logits: Any, label: Any, role: str) -> None:
    name, rows = measure_name(function), label.shape[0]
    whole = f"the {role} {name}"
    given = f"for outputs {_form(logits)} and labels {_form(label)}"
    wanted = f"it must return one value for each row, shape ({rows},)"
    if isinstance(function, type):
        raise TypeError(
            f"{whole} is a class, not a function (outputs, labels) -> one value for "
            f"each row. Write {name}(...) with brackets, if that makes one."
        )
    try:
        inspect.signature(function).bind(logits, label)
    except ValueError:
        pass  # Built-in functions may have no signature.
    except TypeError as error:
        raise TypeError(
            f"{whole} must accept two arguments, outputs and labels: {error}."
        ) from None
    try:
        result = jax.eval_shape(function, logits, label)
    except Exception as error:
        what = str(error).strip().partition("\n")[0].rstrip(".")
        if plain_attribute(function, "kinds") is not None:
            raise ValueError(f"{whole} can't be used here: {what}.") from error
        raise ValueError(
            f"{whole} failed {given}: {type(error).__name__}: {what}. It is called with"
            f" jax.numpy arrays, and {wanted}."
        ) from error
    if not hasattr(result, "shape"):
        kind = "nothing" if result is None else f"a {type(result).__name__}"
        raise TypeError(f"{whole} returned {kind} {given}; {wanted}.")
    if result.shape != (rows,):
        raise ValueError(
            f"{whole} returned shape {result.shape} {given}; {wanted}."
            f"{_hint(result.shape, rows, role)}"
        )
    allowed = [jnp.floating] if role == "loss" else [jnp.floating, jnp.integer, bool]
    if not any(jnp.issubdtype(result.dtype, kind) for kind in allowed):
        gradient = "; others have no gradient, so nothing would train"
        kinds = f"floats{gradient}" if role == "loss" else "real numbers"
        raise TypeError(
            f"{whole} returned {result.dtype} {given}; a {role} must be {kinds}."
        )


def _hint(shape: tuple[int, ...], rows: int, role: str) -> str:
    if shape == ():
        epoch = ""
        if role == "metric":
            epoch = " For a figure of a whole epoch, such as F1, see EpochMetric."
        return (
            " Don't take the mean over the batch: jaxtune takes it, without padded"
            f" rows.{epoch}"
        )
    if shape == (rows, 1):
        return " Take its only column: [:, 0]."
    if shape == (rows, rows):
        return (
            " Outputs and labels were broadcast against each other: first give both the"
            " same shape, such as outputs[:, 0] for labels (b,)."
        )
    if shape[0] == rows:
        return " Take the mean over the other axes."
    return ""


def _form(tree: Any) -> str:
    """Shapes and dtypes for a message."""
    if hasattr(tree, "shape"):
        return f"{tree.dtype} {tree.shape}"
    return str(jax.tree.map(lambda x: f"{x.dtype} {x.shape}", tree))
