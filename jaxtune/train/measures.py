"""Checks of losses and metrics before anything is compiled.

A function and the shapes that it will be given go in; nothing, or an error that names
the function, comes out. The one rule of the file: a function is run on shapes alone
(`jax.eval_shape`), and whatever it returns is one value for each row or refused.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxtune.arguments import is_traced
from jaxtune.data import class_positions

_WORDS = {
    "single": "one class a photo",
    "multi": "several classes a photo",
    "regression": "numbers to predict",
}


def measure_name(function: Any) -> str:
    """Returns what to call a loss or metric in a message.

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
    """Returns an attribute of a function, or of what it is a partial of."""
    while isinstance(function, functools.partial) and not hasattr(function, name):
        function = function.func
    return getattr(function, name, default)


def check_kind_of(function: Any, kind: str, *, role: str, fits: str) -> None:
    """Refuses a loss or metric that says it is for other labels.

    Args:
        function: May have an attribute `kinds`, the kinds of labels it is for.
        kind: Of the labels: "single", "multi" or "regression".
        role: "loss" or "metric".
        fits: What fits these labels, for the message.

    Raises:
        ValueError: If the kind is not among them.
    """
    kinds = plain_attribute(function, "kinds")
    if kinds is not None and kind not in kinds:
        fits = plain_attribute(function, "counterparts", {}).get(kind, fits)
        for_these = " or ".join(_WORDS[each] for each in kinds)
        raise ValueError(
            f"the {role} {measure_name(function)} is for {for_these}, and these labels "
            f"are {_WORDS[kind]}. {fits} fits."
        )


def with_class_numbers(function: Any, classes: Sequence[str]) -> Any:
    """Returns a loss or metric whose values by class are in the order of the classes.

    Only functions that say which of their keywords these are (`per_class`) are looked
    at: jaxtune's own, given as a `functools.partial`, and metrics over an epoch.

    Args:
        function: A loss or metric.
        classes: Names in the order of their numbers.

    Raises:
        TypeError: If such a value is nothing that has one number a class.
        ValueError: If a key is no class, or a class has no value.

    Example:
        >>> from jaxtune.train import weighted_cross_entropy
        >>> loss = weighted_cross_entropy({"bee": 5.0, "ant": 1.0})
        >>> with_class_numbers(loss, ["ant", "bee"]).keywords
        {'class_weights': (1.0, 5.0)}
    """
    names = plain_attribute(function, "per_class", {})
    places = plain_attribute(function, "of_classes", ())
    if not isinstance(function, functools.partial):
        if not dataclasses.is_dataclass(function) or isinstance(function, type):
            return function
        values = {name: getattr(function, name) for name in (*names, *places)}
        changed = _resolved(values, names, places, classes)
        return dataclasses.replace(function, **changed) if changed else function
    inner = with_class_numbers(function.func, classes)
    changed = _resolved(function.keywords, names, places, classes)
    if inner is function.func and not changed:
        return function
    again = functools.partial(inner, *function.args, **function.keywords | changed)
    vars(again).update(vars(function))
    return again


def with_class_names(function: Any, classes: Sequence[str]) -> Any:
    """Returns a loss or metric whose values by class are given by name.

    The way back of `with_class_numbers`: for classes that are others, or in another
    order, that can find each value again.

    Args:
        function: A loss or metric.
        classes: Names in the order of the numbers that it was given.

    Example:
        >>> from jaxtune.train import weighted_cross_entropy
        >>> loss = with_class_numbers(weighted_cross_entropy([1, 5]), ["ant", "bee"])
        >>> with_class_names(loss, ["ant", "bee"]).keywords
        {'class_weights': {'ant': 1.0, 'bee': 5.0}}
    """
    names = plain_attribute(function, "per_class", {})
    places = plain_attribute(function, "of_classes", ())

    def named(values: Mapping[str, Any]) -> dict[str, Any]:
        changed: dict[str, Any] = {}
        for name in {*names, *places} & set(values):
            value = values[name]
            if name in places and isinstance(value, list | tuple):
                changed[name] = tuple(classes[i] for i in value)
            elif name in places and value is not None and value < len(classes):
                changed[name] = classes[value]
            elif name in names and isinstance(value, tuple):
                changed[name] = dict(zip(classes, value, strict=True))
        return changed

    if isinstance(function, functools.partial):
        inner = with_class_names(function.func, classes)
        keywords = function.keywords | named(function.keywords)
        again = functools.partial(inner, *function.args, **keywords)
        vars(again).update(vars(function))
        return again
    if not (names or places) or not dataclasses.is_dataclass(function):
        return function
    values = {name: getattr(function, name) for name in (*names, *places)}
    return dataclasses.replace(function, **named(values))


def _resolved(
    values: Mapping[str, Any],
    names: Mapping[str, Callable],
    places: Sequence[str],
    classes: Sequence[str],
) -> dict[str, Any]:
    """Values that were given by class and are in the order of the classes now."""
    changed: dict[str, Any] = {}
    for name, read in names.items():
        value = values.get(name)
        if value is not None and not is_traced(value):
            changed[name] = read(value, classes, name)
    for name in places:
        value = values.get(name)
        if value is not None:
            several = isinstance(value, list | tuple)
            keys = list(value) if several else [value]
            found = class_positions(keys, classes, f"{name} names classes")
            changed[name] = tuple(found) if several else found[0]
    return {
        k: v
        for k, v in changed.items()
        if type(values[k]) is not type(v) or values[k] != v
    }


def row_values(
    function: Callable, logits: Any, label: Array, *, role: str
) -> Float[Array, " b"]:
    """Returns a loss's or metric's value of each row, after `check_rows`.

    Args:
        function: (logits, label) -> one value for each row.
        logits: The network's outputs, arrays (b, ...).
        label: (b, ...).
        role: "loss" or "metric", for the message.

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
    """Refuses a loss or metric that gives anything but one value for each row.

    It is run on shapes; where the number of rows is also that of something else, on
    another number of rows too, so that a value for each class is none for each row.

    Args:
        function: (logits, label) -> one value for each row.
        logits: The network's outputs, arrays (b, ...) or their shapes and dtypes.
        label: Likewise, (b, ...).
        role: "loss" or "metric", for the message.

    Raises:
        TypeError: If it takes other arguments, or returns something that is no array
            of numbers; a loss must be floats, which have a gradient.
        ValueError: If it returns an array of another shape, or fails.
    """
    logits, label = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (logits, label)
    )
    rows = label.shape[0]
    others = {n for x in jax.tree.leaves((logits, label)) for n in x.shape[1:]} | {1}
    _check_rows(function, logits, label, role)
    if rows in others:
        rows = next(n for n in range(rows + 1, rows + 99) if n not in others)
        more = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype),
            (logits, label),
        )
        _check_rows(function, *more, role)


def _check_rows(function: Callable, logits: Any, label: Any, role: str) -> None:
    name, rows = measure_name(function), label.shape[0]
    whole = f"the {role} {name}"
    given = f"for outputs {_form(logits)} and labels {_form(label)}"
    wanted = f"one value for each row is wanted, shape ({rows},)"
    if isinstance(function, type):
        raise TypeError(
            f"{whole} is a class, not a function (outputs, labels) -> one value for "
            f"each row. Perhaps {name}(...), with brackets, makes one."
        )
    try:
        inspect.signature(function).bind(logits, label)
    except ValueError:
        pass  # Built-in functions may have no signature.
    except TypeError as error:
        raise TypeError(
            f"{whole} is called with two arguments, outputs and labels, and can't be: "
            f"{error}."
        ) from None
    try:
        found = jax.eval_shape(function, logits, label)
    except Exception as error:
        what = str(error).strip().partition("\n")[0].rstrip(".")
        if plain_attribute(function, "kinds") is not None:
            raise ValueError(f"{whole} does not fit: {what}.") from error
        raise ValueError(
            f"{whole} failed {given}: {type(error).__name__}: {what}. It is called with"
            f" arrays of jax.numpy, and {wanted}."
        ) from error
    if not hasattr(found, "shape"):
        kind = "nothing" if found is None else f"a {type(found).__name__}"
        raise TypeError(f"{whole} returned {kind} {given}; {wanted}.")
    if found.shape != (rows,):
        raise ValueError(
            f"{whole} returned shape {found.shape} {given}; {wanted}."
            f"{_hint(found.shape, rows, role)}"
        )
    whole_numbers = found.dtype == bool or jnp.issubdtype(found.dtype, jnp.integer)
    if role == "loss" and not jnp.issubdtype(found.dtype, jnp.floating):
        raise TypeError(
            f"{whole} returned {found.dtype} {given}; a loss is floats, since others"
            " have no gradient: nothing would train."
        )
    if not whole_numbers and not jnp.issubdtype(found.dtype, jnp.floating):
        raise TypeError(f"{whole} returned {found.dtype} {given}; {wanted}, real.")


def _hint(shape: tuple[int, ...], rows: int, role: str) -> str:
    if shape == ():
        whole = ""
        if role == "metric":
            whole = " For a figure of a whole epoch, such as F1, see EpochMetric."
        return (
            " Leave out the mean over the batch: it is taken over real rows, whatever"
            f" the batches.{whole}"
        )
    if shape == (rows, 1):
        return " Take its only column: [:, 0]."
    if shape == (rows, rows):
        return (
            " Outputs and labels were broadcast against each other: give both the same"
            " shape first, such as outputs[:, 0] for labels (b,)."
        )
    if shape[0] == rows:
        return " Take the mean over the other axes."
    return ""


def _form(tree: Any) -> str:
    """Shapes and dtypes as a message shows them."""
    if hasattr(tree, "shape"):
        return f"{tree.dtype} {tree.shape}"
    return str(jax.tree.map(lambda x: f"{x.dtype} {x.shape}", tree))
