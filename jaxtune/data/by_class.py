"""One value for each class: lists in the order of the classes, or dicts by class.

Used for class weights, thresholds and the like. A dict's keys must name all classes, or
those it leaves out need a default; unknown keys are refused.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxtune.arguments import check_number, check_numbers, described
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
            are class names, or class numbers as in Keras's `class_weight`. Where the
            names of the classes are numbers, keys are names.
        classes: Names in the order of their numbers; or the number of classes, if their
            names are unknown; None for a list of any length.
        name: Of the argument, for errors.
        default: For classes missing from a dict; if None, all must be there.
        least: The smallest number allowed.

    Raises:
        TypeError: If `values` is neither, or one of them is not a number.
        ValueError: If there are more or fewer values than classes, a key is not a
            class, a class is missing, or a number is not finite or too small.

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
    listed = [int(v) if isinstance(v, bool | np.bool_) else v for v in listed]
    if count is not None and len(listed) != count:
        raise ValueError(f"{wanted}; got shape ({len(listed)},).")
    return check_numbers(listed, name, least=least)


def one_or_class_values(
    values: Any, classes: Sequence[str] | int, name: str, **options
) -> float | tuple[float, ...]:
    """Returns a single number for all classes unchanged, else `class_values`.

    Raises:
        TypeError: If it is neither.
        ValueError: As for `class_values`.

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
    # A Series is ordered by its index, which may not be the order of the classes.
    if hasattr(values, "to_dict") and hasattr(values, "index"):
        return values.to_dict()
    return None


def class_positions(
    keys: Sequence[Any], classes: Sequence[str] | int, wanted: str
) -> list[int]:
    """Returns the number of the class that each key names.

    Args:
        keys: Names or numbers of classes.
        classes: Names in the order of their numbers, or the number of classes.
        wanted: The beginning of the error message, such as "labels are classes".

    Raises:
        ValueError: If a key is not a class, or two keys are the same class.
    """
    names = [] if isinstance(classes, int) else [str(name) for name in classes]
    count = _count(classes)

    def is_number(key: Any) -> bool:
        return isinstance(key, int | np.integer) and bool(0 <= key < count)

    if names and all(str(key) in names for key in keys):
        positions = [names.index(str(key)) for key in keys]
    elif all(map(is_number, keys)):
        positions = [int(key) for key in keys]
    else:
        unknown = [key for key in keys if str(key) not in names and not is_number(key)]
        known = f"the numbers 0 to {count - 1}"
        if isinstance(classes, int):
            known += ": only a learner knows the names"
        else:
            known = f"{listing(names, most=50)}, or {known}"
        raise ValueError(
            f"{wanted}; received unknown classes: {listing(unknown or list(keys))}. The"
            f" classes are {known}."
        )
    if len(set(positions)) < len(positions):
        raise ValueError(f"{wanted}; got one twice: {listing([*keys], most=50)}.")
    return positions


def _count(classes: Sequence[str] | int) -> int:
    return classes if isinstance(classes, int) else len(classes)


def _in_order(
    by_key: Mapping, classes: Sequence[str] | int, wanted: str, default: float | None
) -> list[Any]:
    positions = class_positions(list(by_key), classes, wanted)
    by_position = dict(zip(positions, by_key.values(), strict=True))
    numbers = range(_count(classes))
    missing = [number for number in numbers if number not in by_position]
    if missing and default is None:
        names = missing if isinstance(classes, int) else [classes[i] for i in missing]
        raise ValueError(f"{wanted}; it is missing for {listing(names)}.")
    return [by_position.get(number, default) for number in numbers]
