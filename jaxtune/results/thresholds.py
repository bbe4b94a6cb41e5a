"""Multi-label thresholds: the probability above which a class is predicted.

Single-label classification and regression have none.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxtune.arguments import check_number, described

#: Threshold of every class that is given none.
DEFAULT_THRESHOLD = 0.5


def as_thresholds(
    value: Any, classes: Sequence[str], *, name: str = "thresholds"
) -> np.ndarray:
    """Returns the threshold of each class, float32 (c,).

    Args:
        value: One number for all classes; one for each, in class order, as from
            `best_thresholds()`; or a dict from a class's name or index to its
            threshold, with 0.5 for the rest.
        classes: Names of the c classes.
        name: Name of the argument, for errors.

    Raises:
        TypeError: If `value` is of another type.
        ValueError: If there are not c thresholds, a class is unknown, or a threshold is
            not in 0..1.

    Example:
        >>> as_thresholds({"dog": 0.25, 0: 0.75}, ["cat", "dog", "fox"]).tolist()
        [0.75, 0.25, 0.5]
    """
    wanted = (
        f"{name} must be a number from 0 to 1, one for each of the {len(classes)} "
        "classes, or a dict of some by the class's name or number"
    )
    if isinstance(value, Mapping):
        thresholds = np.full(len(classes), DEFAULT_THRESHOLD, np.float32)
        for key, each in value.items():
            thresholds[_position(key, classes, name)] = check_number(
                each, f"{name}[{key!r}]", least=0, most=1
            )
        return thresholds
    shape = np.shape(value) if hasattr(value, "__array__") else None
    many = isinstance(value, list | tuple) if shape is None else shape != ()
    if not many:
        number = hasattr(value, "__float__") and not isinstance(value, type)
        if not number or isinstance(value, str | bytes | bool | np.bool_):
            raise TypeError(f"{wanted}; received {described(value)}.")
        number = check_number(value, name, least=0, most=1)
        return np.full(len(classes), number, np.float32)
    if shape is not None and len(shape) != 1:
        raise ValueError(f"{wanted}; received {described(value)}.")
    value = list(value)
    if len(value) != len(classes):
        raise ValueError(f"{wanted}; received {len(value)}: {described(value)}.")
    return np.array(
        [
            check_number(each, f"{name}[{i}]", least=0, most=1)
            for i, each in enumerate(value)
        ],
        np.float32,
    )


def decode(probabilities: np.ndarray, kind: str, thresholds: Any = None) -> np.ndarray:
    """Returns the predicted labels for probabilities.

    Args:
        probabilities: (n, c), or (c,) for one photo.
        kind: "single": the most probable class, int32 (n,); "multi": which classes are
            above their thresholds, bool (n, c); "regression": the values as they are.
        thresholds: Multi-label: one for all classes, or (c,); 0.5 if None.
    """
    if kind == "single":
        return probabilities.argmax(axis=-1).astype(np.int32)
    if kind == "multi":
        chosen = DEFAULT_THRESHOLD if thresholds is None else thresholds
        return probabilities > np.asarray(chosen, np.float32)
    return probabilities


def _position(key: Any, classes: Sequence[str], name: str) -> int:
    if isinstance(key, str) and key in classes:
        return list(classes).index(key)
    whole = isinstance(key, int | np.integer) and not isinstance(key, bool)
    if whole and 0 <= key < len(classes):
        return int(key)
    known = ", ".join(classes[:10]) + (" …" if len(classes) > 10 else "")
    raise ValueError(
        f"{name} has {key!r}, which is no class and no class's number; there are "
        f"{known}."
    )


def check_several(kind: str, name: str = "thresholds") -> None:
    """Raises a ValueError unless labels are multi-label.

    Args:
        kind: Kind of the labels: "single", "multi" or "regression".
        name: Name of the argument, for the error.
    """
    if kind != "multi":
        there = {
            "single": "here each photo has one, and the most probable class is said",
            "regression": "here numbers are predicted",
        }[kind]
        raise ValueError(f"{name}= is for photos with several labels; {there}.")
