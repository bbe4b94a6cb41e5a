"""Checks of arguments: each returns a plain value, or raises an error of one sentence.

A wrong type is a `TypeError`, a wrong value a `ValueError`; both name the argument and
say what was received and what is allowed. Scalars of NumPy and JAX are accepted
wherever Python numbers are.
"""

import difflib
import inspect
import math
import os
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import Any, SupportsFloat, SupportsIndex

import numpy as np

#: An integer: Python's, NumPy's, or a 0-d integer array.
Integer = SupportsIndex
#: Packages that define other libraries' modules, and the libraries' names.
_LIBRARIES = {
    "flax.linen": "Flax Linen",
    "torch.nn": "PyTorch",
    "keras": "Keras",
    "equinox": "Equinox",
    "haiku": "Haiku",
}

#: A real number: Python's, NumPy's, or a 0-d array.
Number = SupportsFloat


def check_integer(
    value: Any,
    name: str,
    *,
    least: int | None = None,
    most: int | None = None,
    meaning: str = "",
) -> int:
    """Returns an integer as an `int`.

    Args:
        value: An int, a NumPy integer, or a 0-d integer array; not a bool.
        name: Name of the argument, for the message.
        least: Minimum.
        most: Maximum.
        meaning: What the number is, such as "the number of epochs", for the message.

    Raises:
        TypeError: If it is not an integer.
        ValueError: If it is out of range.

    Example:
        >>> check_integer(np.int64(3), "epochs", least=1)
        3
        >>> check_integer(0, "epochs", least=1)
        Traceback (most recent call last):
            ...
        ValueError: epochs must be a whole number of at least 1; received 0.
    """
    wanted = f"a whole number{_range(least=least, most=most)}"
    number = _plain(value)
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(_wrong(name, wanted, value, meaning))
    if (least is not None and number < least) or (most is not None and number > most):
        raise ValueError(_wrong(name, wanted, value, meaning))
    return number


def check_number(
    value: Any,
    name: str,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    meaning: str = "",
) -> Any:
    """Returns a finite real number as a `float`.

    Args:
        value: A number of Python or NumPy, or a 0-d array; not a bool. A traced array,
            as inside `jax.vmap`, is returned as it is.
        name: Name of the argument, for the message.
        least: Minimum.
        above: Exclusive lower limit.
        most: Maximum.
        below: Exclusive upper limit.
        meaning: What the number is, for the message.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is out of range, infinite or NaN.

    Example:
        >>> check_number(np.float32(0.5), "dropout", least=0, below=1)
        0.5
        >>> check_number(float("nan"), "lr", above=0)
        Traceback (most recent call last):
            ...
        ValueError: lr must be a number above 0; received nan.
    """
    wanted = f"a number{_range(least=least, above=above, most=most, below=below)}"
    if is_traced(value) and value.ndim == 0:
        return value
    number = _plain(value)
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise TypeError(_wrong(name, wanted, value, meaning))
    if not math.isfinite(number):
        if wanted == "a number":
            wanted = "a finite number"
        raise ValueError(_wrong(name, wanted, value, meaning))
    number = float(number)
    if (
        (least is not None and number < least)
        or (above is not None and number <= above)
        or (most is not None and number > most)
        or (below is not None and number >= below)
    ):
        raise ValueError(_wrong(name, wanted, value, meaning))
    return number


def check_numbers(
    value: Any, name: str, *, count: int | None = None, what: str = "numbers", **limits
) -> tuple:
    """Returns several numbers as a tuple of floats.

    Args:
        value: A list, tuple or 1-d array of numbers.
        name: Name of the argument, for the message.
        count: Required length; any if None.
        what: What they are, such as "numbers, one for each channel", for the message.
        **limits: Limits of each number, see `check_number`.

    Raises:
        TypeError: If it is not a list of numbers.
        ValueError: If it has another length, or a number is out of range.

    Example:
        >>> check_numbers(np.array([0.5, 0.25]), "std", count=2, above=0)
        (0.5, 0.25)
    """
    wanted = what if count is None else f"{count} {what}"
    # Not by np.asarray, which fails for traced arrays.
    listed = isinstance(value, list | tuple | range) or getattr(value, "ndim", 0) == 1
    if not listed:
        raise TypeError(f"{name} must be {wanted}; received {described(value)}.")
    if count is not None and len(value) != count:
        raise ValueError(
            f"{name} must be {wanted}; received {len(value)}: {described(value)}."
        )
    return tuple(
        check_number(each, f"{name}[{i}]", **limits) for i, each in enumerate(value)
    )


def check_flag(value: Any, name: str) -> bool:
    """Returns True or False.

    Raises:
        TypeError: If it is neither; a string such as "no" would be true otherwise.

    Example:
        >>> check_flag(np.bool_(True), "verbose")
        True
    """
    if not isinstance(value, bool | np.bool_):
        raise TypeError(_wrong(name, "True or False", value))
    return bool(value)


def check_choice(
    value: Any, name: str, choices: Iterable[str], *, or_none: bool = False
) -> Any:
    """Returns a string as it is, if it is one of those allowed.

    Args:
        value: The string.
        name: Name of the argument, for the message.
        choices: The allowed strings.
        or_none: Whether None is allowed too.

    Raises:
        TypeError: If it is not a string.
        ValueError: If it is not one of the choices.

    Example:
        >>> check_choice("Best", "which", ("latest", "best"))
        Traceback (most recent call last):
            ...
        ValueError: which must be 'latest' or 'best'; received 'Best'.
    """
    choices = tuple(choices)
    if value is None and or_none:
        return None
    wanted = either([*map(repr, choices), *(["None"] if or_none else [])])
    if not isinstance(value, str):
        raise TypeError(_wrong(name, wanted, value))
    if value not in choices:
        raise ValueError(_wrong(name, wanted, value))
    return value


def check_instance(
    value: Any, name: str, kinds: type | tuple[type, ...], wanted: str
) -> Any:
    """Returns a value as it is, if it is an instance of one of the given classes.

    Args:
        value: Any.
        name: Name of the argument, for the message.
        kinds: The allowed classes.
        wanted: What they are in words, with the article.

    Raises:
        TypeError: If it is not an instance. If it is the class itself, the message says
            how to make one.

    Example:
        >>> check_instance(3, "groups", dict, "a dict of names and patterns")
        Traceback (most recent call last):
            ...
        TypeError: groups must be a dict of names and patterns; received 3.
    """
    if isinstance(value, kinds):
        return value
    hint = ""
    if inspect.isclass(value) and issubclass(value, kinds):
        hint = _with_brackets(value)
    raise TypeError(_wrong(name, wanted, value) + hint)


def check_function(
    value: Any, name: str, wanted: str, *, classes: bool = True, or_none: bool = False
) -> Any:
    """Returns a value as it is, if it is callable.

    Args:
        value: Any.
        name: Name of the argument, for the message.
        wanted: What it must be in words, such as "a function (logits, label) -> …".
        classes: Whether a class is allowed, as a function that returns an instance.
        or_none: Whether None is allowed too.

    Raises:
        TypeError: If it is not callable.
    """
    if value is None and or_none:
        return None
    hint = ""
    if inspect.isclass(value) and not classes:
        hint = _with_brackets(value)
    elif callable(value):
        return value
    wanted += " or None" if or_none else ""
    raise TypeError(_wrong(name, wanted, value) + hint)


def check_module(value: Any, name: str, wanted: str = "a flax.nnx module") -> Any:
    """Returns a value as it is, if it is an NNX module.

    Args:
        value: Any.
        name: Name of the argument, for the message.
        wanted: What it must be in words, with the article.

    Raises:
        TypeError: If it is something else. For a module class, a function, or a module
            of another library, the message says what to write instead.

    Example:
        >>> from flax import nnx
        >>> check_module(nnx.BatchNorm, "body")
        Traceback (most recent call last):
            ...
        TypeError: body must be a flax.nnx module; received the class BatchNorm. Write \
BatchNorm(...) with brackets, which makes one.
    """
    # Processes that decode photos check arguments too, and need no JAX.
    from flax import nnx

    if isinstance(value, nnx.Module):
        return value
    is_class = inspect.isclass(value)
    kind, library = value if is_class else type(value), other_library(value)
    what, hint = described(value), ""
    if library:
        what = f"a {library} module, {kind.__name__}"
    if library == "Flax Linen":
        hint = (
            " nnx.bridge.ToNNX(module, rngs=nnx.Rngs(0)).lazy_init(images) converts it"
            " to an NNX module; images are zeros (1, h, w, c)."
        )
    elif library == "PyTorch":
        hint = (
            " Save its state_dict() with torch.save and load it into one of jaxtune's"
            ' networks: resnet18(weights="file.pth").'
        )
    elif is_class and issubclass(kind, nnx.Module):
        hint = _with_brackets(kind)
    elif callable(value) and not library and not is_class:
        hint = " If it returns one, call it."
    raise TypeError(f"{name} must be {wanted}; received {what}.{hint}")


def other_library(value: Any) -> str:
    """Returns the name of the library that a module, or a module's class, comes from.

    It is empty for NNX modules, and for what is not a module.
    """
    kind = value if inspect.isclass(value) else type(value)
    for each in kind.__mro__:
        for start, library in _LIBRARIES.items():
            if f"{each.__module__}.".startswith(f"{start}."):
                return library
    return ""


def check_path(value: Any, name: str, *, or_none: bool = False) -> Any:
    """Returns a path as it is.

    Args:
        value: A string or `os.PathLike`.
        name: Name of the argument, for the message.
        or_none: Whether None is allowed too.

    Raises:
        TypeError: If it is something else.
        ValueError: If it is an empty string.
    """
    if value is None and or_none:
        return None
    wanted = "a path, a str or a pathlib.Path" + (", or None" if or_none else "")
    if not isinstance(value, str | os.PathLike):
        raise TypeError(_wrong(name, wanted, value))
    if not os.fspath(value):
        raise ValueError(_wrong(name, wanted, value))
    return value


def described(value: Any) -> str:
    """Returns a short description of a value for a message.

    Example:
        >>> described("a"), described(np.zeros((3, 2))), described(int)
        ("'a'", 'a numpy array of shape (3, 2)', 'the class int')
    """
    kind = type(value)
    if inspect.isclass(value):
        return f"the class {value.__name__}"
    if inspect.isroutine(value):
        return f"the function {getattr(value, '__name__', value)}"
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape != ():
        library = kind.__module__.partition(".")[0].replace("jaxlib", "jax")
        return f"{_article(library)} {library} array of shape {shape}"
    if kind.__module__ not in ("builtins", "numpy", "pathlib") or (
        kind.__repr__ is object.__repr__
    ):
        return f"{_article(kind.__name__)} {kind.__name__}"
    text = " ".join(repr(value).split())
    if len(text) > 80:
        return f"{_article(kind.__name__)} {kind.__name__}, {text[:60]} …"
    return text


def either(words: Sequence[str]) -> str:
    """Returns a list of alternatives, joined by commas and "or".

    Example:
        >>> either(["a", "b", "c"])
        'a, b or c'
    """
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def like(value: str, known: Collection[str]) -> str:
    """Returns a sentence that suggests the known names most similar to a wrong one.

    If none is similar, it lists them all.

    Example:
        >>> like("resnet43", ["resnet18", "resnet34", "vgg"])
        'Did you mean resnet34 or resnet18?'
        >>> like("x", ["accuracy", "rmse"])
        'There are accuracy, rmse.'
    """
    lowered = {name.lower(): name for name in known}
    close = difflib.get_close_matches(value.lower(), lowered, n=3, cutoff=0.6)
    if close:
        return f"Did you mean {either([lowered[name] for name in close])}?"
    return f"There are {', '.join(known)}." if known else "There are none."


def is_traced(value: Any) -> bool:
    """Returns whether a value is a JAX tracer, such as inside `jax.jit`."""
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(value, jax.core.Tracer)


def _plain(value: Any) -> Any:
    """A NumPy or JAX scalar as a Python number; other values as they are."""
    scalar = getattr(value, "ndim", None) == 0 and hasattr(value, "item")
    return value.item() if scalar and not is_traced(value) else value


def _wrong(name: str, wanted: str, value: Any, meaning: str = "") -> str:
    is_what = f" is {meaning} and" if meaning else ""
    return f"{name}{is_what} must be {wanted}; received {described(value)}."


def _with_brackets(kind: type) -> str:
    """What to write where an instance is wanted and its class was given."""
    return f" Write {kind.__name__}(...) with brackets, which makes one."


def _range(*, least=None, above=None, most=None, below=None) -> str:
    limits = (least, above, most, below)
    # A limit that is whole is written so, whether it is a float or not.
    least, above, most, below = (
        int(x) if isinstance(x, float) and x.is_integer() else x for x in limits
    )
    if least is not None and most is not None:
        return f" from {least} to {most}"
    parts = [
        f"{words} {limit}"
        for words, limit in (
            ("of at least", least),
            ("above", above),
            ("of at most", most),
            ("below", below),
        )
        if limit is not None
    ]
    return f" {' and '.join(parts)}" if parts else ""


def _article(word: str) -> str:
    return "an" if word[:1].lower() in "aeiou" else "a"
