"""One value a class: lists in the order of the classes, or dicts by name or number.

What a user writes goes in; a value for each class, in the order of the class numbers,
comes out. The one rule of the file: a value goes to the class that its key names, and
what names no class, or leaves one out, is refused.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxtune.arguments import check_number, described
from jaxtune.data.items import listing


def class_values(
    values: Any,
    classes: Sequence[str] | int | None,
    name: str,
    *,
    default: float | None = None,
    least: float | None = None,
) -> tuple[float, ...]:
    """Returns one number for each class, in the order of the class numbers.

    Args:
        values: A list or array in that order; or a dict (or pandas Series) whose keys
            are names of classes, or their numbers as in Keras's `class_weight`. Where
            the classes are named by numbers, a key is a name.
        classes: Names in the order of their numbers; or how many there are, where the
            names are not known; None for a list of any length.
        name: Of the argument, for the message.
        default: For classes that a dict leaves out; if None, it must have all.
        least: The smallest number allowed.

    Raises:
        TypeError: If it is nothing of that kind, or a value is no number.
        ValueError: If there are more or fewer values than classes, a key is no class,
            a class is missing, or a number is not finite or too small.

    Example:
        >>> class_values({"bee": 5, "ant": 1}, ("ant", "bee"), "class_weights")
        (1.0, 5.0)
        >>> class_values({1: 5.0, 0: 1.0}, 2, "class_weights")
        (1.0, 5.0)
    """
    count = None if classes is None else _count(classes)
    each = "class" if count is None else f"of the {count} classes"
    wanted = f"{name} needs one number for each {each}"
    by_key = as_mapping(values)
    if by_key is not None and classes is not None:
        listed = _in_order(by_key, classes, wanted, default)
    else:
        if isinstance(values, str | bytes | set | frozenset) or np.ndim(values) != 1:
            raise TypeError(
                f"{wanted}: a list in their order, or a dict by name or number; "
                f"got {described(values)}."
            )
        listed = list(values)
    if count is not None and len(listed) != count:
        raise ValueError(f"{wanted}; got shape ({len(listed)},).")
    return tuple(_number(value, wanted, least) for value in listed)


def one_or_class_values(
    values: Any, classes: Sequence[str] | int, name: str, **options
) -> float | tuple[float, ...]:
    """Returns a number for all classes as it is, or else `class_values`.

    Raises:
        TypeError: If it is nothing of that kind.
        ValueError: As `class_values`.

    Example:
        >>> one_or_class_values(0.5, 3, "thresh")
        0.5
        >>> one_or_class_values({"b": 0.5, "a": 0.25}, ("a", "b"), "thresh")
        (0.25, 0.5)
    """
    number = getattr(values, "ndim", None) == 0 or isinstance(values, int | float)
    if number and not isinstance(values, bool):
        return check_number(values, name, least=options.get("least"))
    return class_values(values, classes, name, **options)


def as_mapping(values: Any) -> dict | None:
    """Returns a dict, or a pandas Series, as a dict; None for anything else."""
    if isinstance(values, Mapping):
        return dict(values)
    # A Series is ordered by its index, which need not be the order of the classes.
    if hasattr(values, "to_dict") and hasattr(values, "index"):
        return values.to_dict()
    return None


def class_positions(
    keys: Sequence[Any], classes: Sequence[str] | int, wanted: str
) -> list[int]:
    """Returns the number of the class that each key names.

    Args:
        keys: Names or numbers of classes.
        classes: Names in the order of their numbers, or how many there are.
        wanted: How the message begins, such as "labels are classes".

    Raises:
        ValueError: If a key is no class, or two are the same one.
    """
    names = None if isinstance(classes, int) else [str(name) for name in classes]
    count = _count(classes)
    whole = all(isinstance(key, int | np.integer) for key in keys)
    if names is not None and all(str(key) in names for key in keys):
        places = [names.index(str(key)) for key in keys]
    elif whole and all(0 <= key < count for key in keys):
        places = [int(key) for key in keys]
    else:
        known = [] if names is None else names
        unknown = [
            key
            for key in keys
            if str(key) not in known
            and not (isinstance(key, int | np.integer) and 0 <= key < count)
        ]
        numbers = f"the numbers 0 to {count - 1}"
        if names is None:
            known = f"{numbers}: names are known to a learner, not here"
        else:
            known = f"{listing(names, most=50)}, or {numbers}"
        unknown = unknown or list(keys)
        raise ValueError(
            f"{wanted}; received unknown classes: {listing(unknown)}. The classes are"
            f" {known}."
        )
    if len(set(places)) < len(places):
        raise ValueError(f"{wanted}; got one twice: {listing([*keys], most=50)}.")
    return places


def _count(classes: Sequence[str] | int) -> int:
    return classes if isinstance(classes, int) else len(classes)


def _in_order(
    by_key: Mapping, classes: Sequence[str] | int, wanted: str, default: float | None
) -> list[Any]:
    places = class_positions(list(by_key), classes, wanted)
    found = dict(zip(places, by_key.values(), strict=True))
    count = _count(classes)
    missing = [place for place in range(count) if place not in found]
    if missing and default is None:
        left_out = (
            missing if isinstance(classes, int) else [classes[i] for i in missing]
        )
        raise ValueError(f"{wanted}; it is missing for {listing(left_out)}.")
    return [found.get(place, default) for place in range(count)]


def _number(value: Any, wanted: str, least: float | None) -> float:
    if isinstance(value, str | bytes) or np.ndim(value) != 0:
        raise TypeError(f"{wanted}; got {described(value)} among them.")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{wanted}; got {described(value)} among them.") from None
    if not math.isfinite(number) or (least is not None and number < least):
        limits = "finite" if least is None else f"finite and at least {least:g}"
        raise ValueError(f"{wanted}, {limits}; got {number}.")
    return number
