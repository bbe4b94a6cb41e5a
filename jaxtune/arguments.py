"""Checks of arguments: plain values out, or one sentence that says what is wrong.

A value and the name of its argument in. The one rule of the file: a wrong type is a
`TypeError`, a wrong value a `ValueError`; both name the argument, show what came, and
say what is allowed. Scalars of NumPy and JAX are numbers like Python's own.
"""

import difflib
import inspect
import math
import os
from collections.abc import Collection, Iterable, Sequence
from typing import Any, SupportsFloat, SupportsIndex

import jax
import numpy as np
from flax import nnx

#: A whole number: Python's, NumPy's, or a 0-d array of one.
Integer = SupportsIndex
#: Where other libraries' modules are defined.
_LIBRARIES = {
    "flax.linen": "Flax Linen",
    "torch.nn": "PyTorch",
    "keras": "Keras",
    "equinox": "Equinox",
    "haiku": "Haiku",
}

#: A real number: Python's, NumPy's, or a 0-d array of one.
Number = SupportsFloat


def check_integer(
    value: Any,
    name: str,
    *,
    least: int | None = None,
    most: int | None = None,
    meaning: str = "",
) -> int:
    """Returns a whole number as an `int`.

    Args:
        value: An int, a NumPy integer, or a 0-d array of integers. A bool is none.
        name: Of the argument, for the message.
        least: The smallest number allowed.
        most: The largest number allowed.
        meaning: What the number is, such as "the number of epochs", for the message.

    Raises:
        TypeError: If it is no whole number.
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
    """Returns a real, finite number as a `float`.

    Args:
        value: A number of Python or NumPy, or a 0-d array of one. A bool is none. A
            traced one, as inside `jax.vmap`, is returned as it is.
        name: Of the argument, for the message.
        least: The smallest number allowed.
        above: The number must be larger than this.
        most: The largest number allowed.
        below: The number must be smaller than this.
        meaning: What the number is, for the message.

    Raises:
        TypeError: If it is no number.
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
        name: Of the argument, for the message.
        count: How many there must be; any number if None.
        what: What they are, such as "numbers, one for each channel".
        **limits: Of each of them, see `check_number`.

    Raises:
        TypeError: If it is no list of numbers.
        ValueError: If there are more or fewer, or one is out of range.

    Example:
        >>> check_numbers(np.array([0.5, 0.25]), "std", count=2, above=0)
        (0.5, 0.25)
    """
    wanted = what if count is None else f"{count} {what}"
    # An array may be JAX's, which has no __array__ while it is traced.
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
        TypeError: If it is neither: a string such as "no" would count as true.

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
    """Returns one of some strings as it is.

    Args:
        value: The string.
        name: Of the argument, for the message.
        choices: The strings allowed.
        or_none: Whether None is allowed too.

    Raises:
        TypeError: If it is no string.
        ValueError: If it is another one.

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
    """Returns a value of one of some classes as it is.

    Args:
        value: Any.
        name: Of the argument, for the message.
        kinds: The classes allowed.
        wanted: What they are in words, article included.

    Raises:
        TypeError: If it is of no such class. Of the class itself the message says that
            an instance is wanted.

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
        hint = f" Write {value.__name__}(...) with brackets, which makes one."
    raise TypeError(_wrong(name, wanted, value) + hint)


def check_function(
    value: Any, name: str, wanted: str, *, classes: bool = True, or_none: bool = False
) -> Any:
    """Returns what can be called as it is.

    Args:
        value: Any.
        name: Of the argument, for the message.
        wanted: What is asked for in words, such as "a function (logits, label) -> …".
        classes: Whether a class is such a function: one that makes its instances.
        or_none: Whether None is allowed too.

    Raises:
        TypeError: If it can't be called.
    """
    if value is None and or_none:
        return None
    hint = ""
    if inspect.isclass(value) and not classes:
        hint = f" Write {value.__name__}(...) with brackets, which makes one."
    elif callable(value):
        return value
    wanted += " or None" if or_none else ""
    raise TypeError(_wrong(name, wanted, value) + hint)


def check_module(
    value: Any, name: str, wanted: str = "a flax.nnx module"
) -> nnx.Module:
    """Returns an NNX module as it is.

    Args:
        value: Any.
        name: Of the argument, for the message.
        wanted: What is asked for in words, article included.

    Raises:
        TypeError: If it is something else. Of a module's class, of what makes one and
            of another library's modules the message says what to write instead.

    Example:
        >>> check_module(nnx.BatchNorm, "body")
        Traceback (most recent call last):
            ...
        TypeError: body must be a flax.nnx module; received the class BatchNorm. Write \
BatchNorm(...) with brackets, which makes one.
    """
    if isinstance(value, nnx.Module):
        return value
    is_class = inspect.isclass(value)
    kind, library = value if is_class else type(value), other_library(value)
    what, hint = described(value), ""
    if library:
        what = f"a {library} module, {kind.__name__}"
    if library == "Flax Linen":
        hint = (
            " nnx.bridge.ToNNX(module, rngs=nnx.Rngs(0)).lazy_init(images) makes an NNX"
            " module of it, images being zeros (1, h, w, c)."
        )
    elif library == "PyTorch":
        hint = (
            " Save its state_dict() with torch.save; a network of jaxtune's reads it:"
            ' resnet18(weights="file.pth").'
        )
    elif is_class and issubclass(kind, nnx.Module):
        hint = f" Write {kind.__name__}(...) with brackets, which makes one."
    elif callable(value) and not library and not is_class:
        hint = " If that makes one, call it."
    raise TypeError(f"{name} must be {wanted}; received {what}.{hint}")


def other_library(value: Any) -> str:
    """Returns the name of the library whose module, or class of modules, a value is.

    Empty for what is no module, and for Flax's NNX.
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
        name: Of the argument, for the message.
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
    """Returns a value as a message shows it: short, with its class where that helps.

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
    """Returns alternatives in words.

    Example:
        >>> either(["a", "b", "c"])
        'a, b or c'
    """
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def like(value: str, known: Collection[str]) -> str:
    """Returns a sentence with the known names that are like one; all if none is.

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
    """Returns whether a value is known only when a program runs: inside `jax.jit`."""
    return isinstance(value, jax.core.Tracer)


def _plain(value: Any) -> Any:
    """A scalar of NumPy's or JAX's as Python's own; others as they are."""
    scalar = getattr(value, "ndim", None) == 0 and hasattr(value, "item")
    return value.item() if scalar and not is_traced(value) else value


def _wrong(name: str, wanted: str, value: Any, meaning: str = "") -> str:
    is_what = f" is {meaning} and" if meaning else ""
    return f"{name}{is_what} must be {wanted}; received {described(value)}."


def _range(*, least=None, above=None, most=None, below=None) -> str:
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
