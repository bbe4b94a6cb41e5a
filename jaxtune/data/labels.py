"""Labels: whatever users write beside photos becomes an array of one of three kinds.

The kind is decided by all labels together. Labels that mix kinds, or could be of two,
are refused rather than guessed.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Int32

from jaxtune.arguments import check_instance, described
from jaxtune.data.items import (
    Items,
    Kind,
    NumberedPaths,
    PackedPaths,
    check_kind,
    listing,
    rows_of,
)
from jaxtune.data.values import label_columns, plain_column, plain_labels


def label_items(
    paths: Sequence[Path],
    labels: Any,
    *,
    classes: Any = None,
    kind: Any = None,
) -> Items:
    """Returns paths with their labels; classes are sorted by name unless given.

    The kind is that of `label_kind` unless given. Whitespace around names is removed.

    Args:
        paths: Photos, in the order of the items.
        labels: One for each path: a string, or anything whose `str` is its name; or a
            list, tuple or set of these, for several labels; or a float or several, as
            regression targets. Or an array, a Series or a DataFrame: (n,) or (n, 1) of
            such values; or (n, classes) of zeros and ones, a column for each class.
            None, NaN, blank strings and other libraries' missing values mean that the
            photo has no label.
        classes: Names of the classes in the order of their numbers, such as those of an
            existing model.
        kind: "single", "multi" or "regression", where labels could be of several kinds:
            whole numbers are classes unless it is "regression".

    Raises:
        TypeError: If labels or classes are of another type.
        ValueError: If a photo has no label or one that is not among `classes`, there
            are not as many labels as paths, labels mix kinds, or a class is named
            twice.
    """
    check_kind(kind)
    if isinstance(paths, str | bytes | os.PathLike) or not hasattr(paths, "__len__"):
        raise TypeError(
            f"paths must be a list of paths, one for each photo; received"
            f" {described(paths)}."
        )
    columns = label_columns(labels)
    labels = plain_labels(labels)
    if len(paths) != len(labels):
        raise ValueError(f"{len(paths)} paths were given with {len(labels)} labels.")
    _check_each(paths, labels)
    kind = label_kind(labels) if kind is None else kind
    if classes is not None and kind == "regression":
        raise ValueError(
            "classes were given with labels that are regression targets. Leave classes"
            " out, or make the labels strings."
        )
    if kind != "regression" and _is_binary_table(labels) and classes is None:
        classes = columns
    classes = _distinct(check_classes(classes))
    encode = {"single": _singles, "multi": _multis, "regression": _targets}[kind]
    array, classes = encode(labels, classes)
    paths = paths if hasattr(paths, "texts") else tuple(paths)
    return Items(paths, array, classes, kind)


def label_rows(
    paths: PackedPaths,
    numbers: Int[np.ndarray, " n"],
    values: Sequence[Any],
    **options: Any,
) -> Items:
    """Returns as `label_items` many paths, of which few have different labels.

    What holds for each different label is found out once.

    Args:
        paths: The paths.
        numbers: Which of the `values` is each path's label.
        values: The different labels; one for each path, not several.
        **options: Of `label_items`.

    Raises:
        ValueError: As `label_items`.
    """
    names = NumberedPaths("label", np.arange(len(values)))
    few = label_items(names, values, **options)
    return dataclasses.replace(few, paths=paths, labels=few.labels[numbers])


def label_kind(labels: Any) -> Kind:
    """Returns which kind of labels these are.

    - "single" if each is a name, a whole number or a bool, or if they are an array or
      lists (n, classes) of zeros and ones with exactly one 1 in each row (one-hot);
    - "multi" if they are zeros and ones with other rows too, or lists of names or of
      whole numbers;
    - "regression" if they are floats, or floats and whole numbers, or lists of these,
      equally many for each photo.

    A column (n, 1) counts as (n,).

    Raises:
        TypeError: If they are not labels, see `label_items`.
        ValueError: If only some are lists, or floats are mixed with names; or if floats
            could be classes as well as quantities (1.0, 2.0, 1.0, …) or fractions of
            classes: `kind` then decides.

    Example:
        >>> label_kind(["cat", "dog"]), label_kind([("cat", "dog"), ()])
        ('single', 'multi')
        >>> label_kind([0.5, 2]), label_kind(np.eye(3))
        ('regression', 'single')
    """
    labels = plain_labels(labels)
    if isinstance(labels, np.ndarray):
        return _array_kind(labels)
    forms = collections.Counter(map(_form, labels))
    if set(forms) <= {"a name", "a whole number"}:
        return "single"
    if set(forms) <= {"a float", "a whole number"}:
        return _array_kind(np.array(labels, np.float64))
    if set(forms) == {"a list of whole numbers"} and len(labels) > 1:
        if len({len(label) for label in labels}) == 1:
            raise ValueError(
                f"labels are {len(labels[0])} whole numbers a photo, such as"
                f" {labels[0]}. If they are class numbers write kind='multi'; if they"
                " are quantities to predict write kind='regression'."
            )
    if set(forms) <= {"a list of names", "a list of whole numbers", "an empty list"}:
        return "multi"
    if set(forms) <= {"a list of floats", "a list of whole numbers"}:
        if len({len(label) for label in labels}) == 1:
            return _array_kind(np.array(labels, np.float64))
        return "regression"
    mixture = ", ".join(f"{number} {form}" for form, number in sorted(forms.items()))
    raise ValueError(
        f"labels mix kinds: {mixture}. Give each photo one name; or each a list of"
        " names (['cat'] for one, [] for none); or each a float, or a list of equally"
        " many."
    )


def _array_kind(labels: np.ndarray) -> Kind:
    floats = labels.dtype.kind == "f"
    if labels.ndim == 1:
        values = np.unique(labels) if floats and _are_whole(labels) else ()
        if 1 < len(values) <= len(labels) / 2:  # whole, and each several times
            raise ValueError(
                "labels are whole numbers written as floats:"
                f" {listing(values.tolist(), most=5)}. If they are classes write"
                " kind='single'; if they are quantities to predict write"
                " kind='regression'."
            )
        return "regression" if floats else "single"
    if _is_binary_table(labels) and labels.any():
        return "single" if (labels.sum(axis=1) == 1).all() else "multi"
    if not floats:
        return "multi"
    fractions = (labels >= 0).all() and np.allclose(labels.sum(axis=1), 1, atol=1e-3)
    if len(labels) and fractions:
        raise ValueError(
            f"labels are {labels.shape[1]} fractions a photo that sum to 1, such as"
            f" {labels[0].tolist()}. For the class with the largest fraction write"
            " labels.argmax(axis=1); to predict the numbers write kind='regression'."
        )
    return "regression"


def _are_whole(numbers: np.ndarray) -> bool:
    return bool(np.isfinite(numbers).all() and (numbers == np.rint(numbers)).all())


def _is_binary_table(labels: Any) -> bool:
    """Returns whether labels are zeros and ones, with a column for each class."""
    array = isinstance(labels, np.ndarray) and labels.ndim == 2
    return array and bool(np.isin(labels, (0, 1)).all())


def _form(label: Any) -> str:
    if isinstance(label, list):
        members = set(map(_form, label))
        if not members:
            return "an empty list"
        if members == {"a whole number"}:
            return "a list of whole numbers"
        if members <= {"a float", "a whole number"}:
            return "a list of floats"
        return "a list of names"
    if isinstance(label, float):
        return "a float"
    whole = isinstance(label, int) and not isinstance(label, bool)
    return "a whole number" if whole else "a name"


def _check_each(paths: Sequence[Path], labels: list | np.ndarray) -> None:
    """Refuses missing and infinite labels."""
    if isinstance(labels, np.ndarray):
        if labels.dtype.kind != "f":
            return
        rows = labels.reshape(len(labels), math.prod(labels.shape[1:]))
        missing = np.flatnonzero(np.isnan(rows).any(axis=1)).tolist()
        infinite = np.flatnonzero(np.isinf(rows).any(axis=1)).tolist()
    else:
        missing, infinite = [], []
        for row, label in enumerate(labels):
            for value in label if isinstance(label, list) else (label,):
                if value is None:
                    missing.append(row)
                    break
                if isinstance(value, float) and math.isinf(value):
                    infinite.append(row)
                    break
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(paths)} photos get no label:"
            f" {listing([paths[n] for n in missing])} ({rows_of(missing)}). Correct the"
            " pattern or the function that gives labels, or leave these photos out."
        )
    if infinite:
        raise ValueError(
            f"{len(infinite)} of {len(paths)} labels are infinite:"
            f" {listing([paths[n] for n in infinite])} ({rows_of(infinite)}). Correct"
            " them, or leave these photos out."
        )


def check_classes(classes: Any) -> tuple[str, ...] | None:
    """Returns names of classes as strings without surrounding whitespace, or None.

    Raises:
        TypeError: If they are not a sequence of names.
        ValueError: If there is none, or one is missing.

    Example:
        >>> check_classes([0, "bee "])
        ('0', 'bee')
    """
    if classes is None:
        return None
    unordered = isinstance(classes, str | bytes | Mapping | set | frozenset)
    if unordered or not isinstance(classes, Iterable) or np.ndim(classes) == 0:
        raise TypeError(
            "classes must be a sequence of names in the order of their numbers, such"
            f" as ['ant', 'bee']; received {described(classes)}."
        )
    names = plain_column(classes)
    if not names or any(name is None for name in names):
        raise ValueError(
            "classes must be a sequence of one or more names, none of them empty;"
            f" received {names}."
        )
    if any(isinstance(name, list | Mapping) or callable(name) for name in names):
        raise TypeError(f"classes must be a sequence of names; received {names}.")
    return tuple(map(str, names))


def _distinct(classes: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if classes is not None and len(set(classes)) < len(classes):
        raise ValueError(f"classes must differ from each other; got {classes}.")
    return classes


def _singles(
    labels: list | np.ndarray, classes: tuple[str, ...] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    if isinstance(labels, np.ndarray) and labels.ndim == 2:
        return _one_hot(labels, classes)
    lists = [label for label in labels if isinstance(label, list)]
    if lists:
        raise ValueError(
            "kind='single' means one label for each photo; got"
            f" {lists[0]!r}. For several write kind='multi'."
        )
    if not isinstance(labels, np.ndarray) and set(map(_form, labels)) == {"a float"}:
        labels = np.array(labels)
    if isinstance(labels, np.ndarray):
        if labels.dtype.kind == "f" and _are_whole(labels):  # 2.0 is class 2
            labels = labels.astype(np.int64)
        labels = labels.tolist()
    return _class_numbers(labels, classes)


def _one_hot(
    labels: np.ndarray, classes: tuple[str, ...] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    wrong = ~(np.isin(labels, (0, 1)).all(axis=1) & (labels.sum(axis=1) == 1))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            "kind='single' means one label for each photo: in columns for each class,"
            f" one 1 in each row; got {labels[row].tolist()} in row {row}. For several"
            " write kind='multi'."
        )
    return labels.argmax(axis=1).astype(np.int32), _column_classes(labels, classes)


def _multis(
    labels: list | np.ndarray, classes: tuple[str, ...] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    if isinstance(labels, np.ndarray):
        if labels.ndim == 1 and np.isin(labels, (0, 1)).all():
            labels = labels[:, None]  # one yes or no for each photo
        if labels.ndim == 2:
            if not np.isin(labels, (0, 1)).all():
                raise ValueError(
                    "several whole numbers a photo are multi-label only if all are 0 or"
                    f" 1; got {labels.min()} to {labels.max()}. To predict them as"
                    " numbers write kind='regression'."
                )
            return labels.astype(np.float32), _column_classes(labels, classes)
    alone = [label for label in labels if not isinstance(label, list)]
    if alone:
        raise ValueError(
            "kind='multi' means a list of names for each photo; got"
            f" {alone[0]!r} for {len(alone)} of {len(labels)}. Split it with"
            " label_delim=' ', or write ['cat'] for one name and [] for none."
        )
    columns, classes = _class_numbers([name for row in labels for name in row], classes)
    if not classes:
        raise ValueError("no photo has a label: there is nothing to learn.")
    array = np.zeros((len(labels), len(classes)), np.float32)
    array[np.repeat(np.arange(len(labels)), list(map(len, labels))), columns] = 1
    return array, classes


def _column_classes(
    labels: np.ndarray, classes: tuple[str, ...] | None
) -> tuple[str, ...]:
    """Returns the classes of the columns; their numbers if they have no names."""
    if classes is None:
        classes = tuple(str(column) for column in range(labels.shape[1]))
    if len(classes) != labels.shape[1]:
        raise ValueError(
            f"{len(classes)} classes were given for {labels.shape[1]} columns of"
            " labels."
        )
    return classes


def _targets(
    labels: list | np.ndarray, classes: None
) -> tuple[np.ndarray, tuple[str, ...]]:
    shapes = {np.shape(label) for label in labels}
    if len(shapes) > 1:
        raise ValueError(
            "for regression each photo needs as many numbers as the others; got labels"
            f" of shapes {sorted(shapes)}."
        )
    if not isinstance(labels, np.ndarray):
        values = (x for y in labels for x in (y if isinstance(y, list) else [y]))
        names = [value for value in values if not isinstance(value, int | float)]
        if names:
            raise ValueError(
                f"kind='regression' means numbers; got {names[0]!r}. Leave kind out for"
                " names."
            )
    array = np.asarray(labels, np.float32)
    if array.ndim > 1 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim > 2:
        raise ValueError(
            "a label is a number or a list of numbers; got shape"
            f" {array.shape[1:]} for each photo."
        )
    return array, ()


def _class_numbers(
    labels: Iterable[Hashable], classes: tuple[str, ...] | None
) -> tuple[Int32[np.ndarray, " n"], tuple[str, ...]]:
    """Returns the class number of each label, and the classes."""
    # A million labels have few different values: each value is named once.
    values: dict[Hashable, int] = {}
    numbers = [values.setdefault(label, len(values)) for label in labels]
    numbers = np.array(numbers, np.int64)
    names = [str(value) for value in values]
    if classes is None:
        if all(type(value) is int for value in values):
            classes = tuple(map(str, sorted(values)))  # 2 comes before 10
        else:
            classes = tuple(sorted(set(names)))
    counts = np.bincount(numbers, minlength=len(names))
    return _positions(names, counts, classes)[numbers], classes


def _positions(
    names: Sequence[str], counts: np.ndarray, classes: tuple[str, ...]
) -> Int32[np.ndarray, " names"]:
    """Returns the class number of each name; unknown ones are reported with counts."""
    known = {name: position for position, name in enumerate(classes)}
    unknown: collections.Counter[str] = collections.Counter()
    for name, number in zip(names, counts.tolist(), strict=True):
        if name not in known:
            unknown[name] += number
    if unknown:
        raise ValueError(
            f"The photos have labels that are not among the classes: "
            f"{dict(sorted(unknown.items()))} (label: photos). The classes are"
            f" {classes}. Name every class, or remove these photos."
        )
    return np.array([known[name] for name in names], np.int32)


def with_classes(items: Items, classes: Iterable[Any]) -> Items:
    """Returns the same photos with their labels renumbered, by name, for other classes.

    This is for validating a network of more classes on photos that were labelled
    before. In multi-label items the new classes are 0 for all photos.

    Args:
        items: Photos with their labels.
        classes: Names in the order of the new numbers.

    Raises:
        ValueError: If a photo has a label that is not among them, or the labels are
            regression targets.

    Example:
        >>> two = label_items([Path("a.jpg"), Path("b.jpg")], ["bee", "ant"])
        >>> with_classes(two, ["ant", "bat", "bee"]).labels.tolist()
        [2, 0]
    """
    check_instance(items, "items", Items, "Items, as label_items makes them")
    classes = _distinct(check_classes(classes))
    if classes is None:
        raise TypeError("classes must be a sequence of names; received None.")
    if items.classes == classes:
        return items
    if items.kind == "regression":
        raise ValueError("labels that are regression targets have no classes.")
    counts = {name: number for name, number in items.counts().items() if number}
    numbers = np.array(list(counts.values()), np.int64)
    new = _positions(list(counts), numbers, classes)
    old = np.array([items.classes.index(name) for name in counts], np.int64)
    if items.kind == "single":
        table = np.zeros(len(items.classes), np.int32)
        table[old] = new
        labels = table[items.labels]
    else:
        labels = np.zeros((len(items), len(classes)), np.float32)
        labels[:, new] = items.labels[:, old]
    return dataclasses.replace(items, labels=labels, classes=classes)


def target_stats(items: Items) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation of each regression target.

    Args:
        items: Of the training split.

    Returns:
        Two tuples with a number for each output, in the targets' units, rounded to
        float32 so that a network created again from them is the same bit for bit. A
        standard deviation of 0 (all targets are equal) is given as 1.

    Raises:
        ValueError: If the labels are classes.

    Example:
        >>> items = label_items([Path("a.jpg"), Path("b.jpg")], [1000.0, 3000.0])
        >>> target_stats(items)
        ((2000.0,), (1000.0,))
    """
    if items.kind != "regression":
        raise ValueError(
            f"target_stats is for regression targets; these labels are classes "
            f"(kind={items.kind!r})."
        )
    values = np.asarray(items.labels, np.float64).reshape(len(items), -1)
    mean, std = values.mean(axis=0), values.std(axis=0)
    # Not std == 0: rounding leaves a little.
    std[(values == values[0]).all(axis=0)] = 1.0
    mean, std = mean.astype(np.float32).tolist(), std.astype(np.float32).tolist()
    return tuple(mean), tuple(std)
