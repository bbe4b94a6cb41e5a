"""Labels: what users write beside a photo becomes an array of one of three kinds.

Names, lists of names or numbers go in; `Items` come out. The one rule: the kind is
decided by all labels together, and labels that mix kinds are refused, never guessed at.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import os
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtune.arguments import check_instance, described
from jaxtune.data.items import Items, Kind, check_kind, listing
from jaxtune.data.values import label_columns, plain_column, plain_labels


def label_items(
    paths: Sequence[Path],
    labels: Any,
    *,
    classes: Any = None,
    kind: Any = None,
) -> Items:
    """Returns paths with their labels; classes are sorted by name unless given.

    The kind of labels is found by `label_kind` unless given. Blanks around names are
    not part of them.

    Args:
        paths: Photos, in the order the items are to have.
        labels: One for each path: a string or anything that `str` names; or a list,
            tuple or set of these, for several labels; or a float or several, to be
            predicted as numbers. Or an array, a Series or a DataFrame: (n,) or (n, 1)
            of such values; or (n, classes) of zeros and ones, a column for each class.
            None, NaN, blanks and what other libraries have for "missing" mean that the
            photo has no label.
        classes: Names of the classes in the order of their numbers. Useful to go on
            with a model that already has its classes.
        kind: "single", "multi" or "regression", to say what labels are that could be
            several: whole numbers are classes unless it is "regression".

    Raises:
        TypeError: If labels or classes are of no such type.
        ValueError: If a photo has no label or one that is not among `classes`, if
            numbers differ, labels mix kinds, or a class is named twice.
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
    _refuse_missing(paths, labels)
    kind = label_kind(labels) if kind is None else kind
    if classes is not None and kind == "regression":
        raise ValueError(
            "classes were given with labels that are numbers to be predicted. Leave"
            " classes out, or make the labels strings."
        )
    classes = _differing(classes)
    if kind != "regression" and _is_table(labels) and classes is None and columns:
        classes = _differing(columns)
    encode = {"single": _singles, "multi": _multis, "regression": _numbers}[kind]
    array, classes = encode(labels, classes)
    paths = paths if hasattr(paths, "texts") else tuple(paths)
    return Items(paths, array, classes, kind)


def label_kind(labels: Any) -> Kind:
    """Returns which kind of labels these are.

    - "single" if each is a name, a whole number or a bool, or if they are an array or
      lists (n, classes) of zeros and ones with exactly one 1 in each row (one-hot);
    - "multi" if they are zeros and ones with other rows too, or lists of names or of
      whole numbers;
    - "regression" if they are floats (with whole numbers among them or not), or lists
      of as many floats.

    A column (n, 1) is as good as (n,).

    Raises:
        TypeError: If they are no labels, see `label_items`.
        ValueError: If some are lists and others are not, or floats stand among names;
            or if floats could be classes as well as amounts (1.0, 2.0, 1.0, …) or
            shares of classes: `kind` says then which they are.

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
                f" {labels[0]}. If they are numbers of classes write kind='multi'; if"
                " they are amounts to be predicted write kind='regression'."
            )
    if set(forms) <= {"a list of names", "a list of whole numbers", "an empty list"}:
        return "multi"
    if set(forms) <= {"a list of floats", "a list of whole numbers"}:
        if len({len(label) for label in labels}) == 1:
            return _array_kind(np.array(labels, np.float64))
        return "regression"
    found = ", ".join(f"{number} {form}" for form, number in sorted(forms.items()))
    raise ValueError(
        f"labels mix kinds: {found}. Give each photo one name, each a list of names"
        " (one name is ['cat'], none is []), or each a float or a list of as many."
    )


def _array_kind(labels: np.ndarray) -> Kind:
    floats = labels.dtype.kind == "f"
    if labels.ndim == 1:
        if floats and _could_be_classes(labels):
            raise ValueError(
                f"labels are whole numbers written as floats: {_values(labels)}. If"
                " they are classes write kind='single'; if they are amounts to be"
                " predicted write kind='regression'."
            )
        return "regression" if floats else "single"
    if _is_table(labels) and labels.any():
        return "single" if (labels.sum(axis=1) == 1).all() else "multi"
    if not floats:
        return "multi"
    shares = (labels >= 0).all() and np.allclose(labels.sum(axis=1), 1, atol=1e-3)
    if len(labels) and shares:
        raise ValueError(
            f"labels are {labels.shape[1]} shares a photo that sum to 1, such as"
            f" {labels[0].tolist()}. For the class with the largest share write"
            " labels.argmax(axis=1); to predict the numbers write kind='regression'."
        )
    return "regression"


def _could_be_classes(numbers: np.ndarray) -> bool:
    """Whether floats look like numbers of classes: whole, and each several times."""
    if not _are_whole(numbers):
        return False
    different = np.unique(numbers)
    return len(different) * 2 <= len(numbers) and len(different) > 1


def _are_whole(numbers: np.ndarray) -> bool:
    return bool(np.isfinite(numbers).all() and (numbers == np.rint(numbers)).all())


def _is_table(labels: Any) -> bool:
    """Whether labels are zeros and ones, a column for each class."""
    array = isinstance(labels, np.ndarray) and labels.ndim == 2
    return array and bool(np.isin(labels, (0, 1)).all())


def _values(numbers: np.ndarray) -> str:
    return listing(np.unique(numbers).tolist(), most=5)


def with_classes(items: Items, classes: Iterable[Any]) -> Items:
    """Returns the same photos, their labels numbered as in other classes, by name.

    To validate a network of more classes on photos that were labelled before. With
    several labels a photo, a class that its photos were never labelled with counts as
    not there.

    Args:
        items: Photos with their labels.
        classes: Names in the order of the numbers that come out.

    Raises:
        ValueError: If a photo has a label that is not among them, or the labels are
            numbers to be predicted.

    Example:
        >>> two = label_items([Path("a.jpg"), Path("b.jpg")], ["bee", "ant"])
        >>> with_classes(two, ["ant", "bat", "bee"]).labels.tolist()
        [2, 0]
    """
    check_instance(items, "items", Items, "Items, as label_items makes them")
    classes = _differing(classes)
    if classes is None:
        raise TypeError("classes must be a sequence of names; received None.")
    if items.classes == classes:
        return items
    if items.kind == "regression":
        raise ValueError(
            "labels that are numbers to be predicted have no classes to be known by."
        )
    counts = items.counts()
    occur = [name for name, number in counts.items() if number]
    numbers = np.array([counts[name] for name in occur], np.int64)
    positions = _positions(occur, numbers, classes)
    olds = np.array([items.classes.index(name) for name in occur], np.int64)
    if items.kind == "single":
        table = np.zeros(len(items.classes), np.int32)
        table[olds] = positions
        labels = table[items.labels]
    else:
        labels = np.zeros((len(items), len(classes)), np.float32)
        labels[:, positions] = items.labels[:, olds]
    return dataclasses.replace(items, labels=labels, classes=classes)


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


def _refuse_missing(paths: Sequence[Path], labels: list | np.ndarray) -> None:
    infinite: list[int] = []
    if isinstance(labels, np.ndarray):
        if labels.dtype.kind != "f":
            return
        rows = labels.reshape(len(labels), math.prod(labels.shape[1:]))
        missing = np.flatnonzero(np.isnan(rows).any(axis=1)).tolist()
        infinite = np.flatnonzero(np.isinf(rows).any(axis=1)).tolist()
    else:
        missing = [n for n, label in enumerate(labels) if _has(label, _is_none)]
        infinite = [n for n, label in enumerate(labels) if _has(label, _is_infinite)]
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


def rows_of(positions: Sequence[int]) -> str:
    """Returns which rows these are, in words.

    Example:
        >>> rows_of([3]), rows_of([0, 12])
        ('row 3, counted from 0', 'rows 0, 12, counted from 0')
    """
    plural = "s" if len(positions) > 1 else ""
    return f"row{plural} {listing(positions)}, counted from 0"


def _has(label: Any, holds: Callable[[Any], bool]) -> bool:
    return any(map(holds, label)) if isinstance(label, list) else holds(label)


def _is_none(label: Any) -> bool:
    return label is None


def _is_infinite(label: Any) -> bool:
    return isinstance(label, float) and math.isinf(label)


def _differing(classes: Any) -> tuple[str, ...] | None:
    classes = check_classes(classes)
    if classes is not None and len(set(classes)) < len(classes):
        raise ValueError(f"classes must differ from each other; got {classes}.")
    return classes


def check_classes(classes: Any) -> tuple[str, ...] | None:
    """Returns names of classes as clean strings, or None.

    Raises:
        TypeError: If they are no sequence of names.
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
    wrong = [name for name in names if isinstance(name, list | Mapping)]
    if wrong or any(callable(name) for name in names):
        raise TypeError(f"classes must be a sequence of names; received {names}.")
    return tuple(map(str, names))


def _singles(
    labels: list | np.ndarray, classes: tuple[str, ...] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    if isinstance(labels, np.ndarray) and labels.ndim == 2:
        return _one_hot(labels, classes)
    if any(isinstance(label, list) for label in labels):
        label = next(label for label in labels if isinstance(label, list))
        raise ValueError(
            "kind='single' means one label for each photo; got"
            f" {label!r}. For several write kind='multi'."
        )
    if not isinstance(labels, np.ndarray) and set(map(_form, labels)) == {"a float"}:
        labels = np.array(labels)
    if isinstance(labels, np.ndarray) and labels.dtype.kind == "f":
        if _are_whole(labels):  # 2.0 is class 2
            labels = labels.astype(np.int64)
    # A million labels have few values: each is named once.
    values: dict[Hashable, int] = {}
    numbers = [values.setdefault(label, len(values)) for label in _plain(labels)]
    names = [str(value) for value in values]
    if classes is None:
        classes = _sorted_names(values)
    counts = np.bincount(np.array(numbers, np.int64), minlength=len(names))
    positions = _positions(names, counts, classes)
    return positions[np.array(numbers, np.int64)], classes


def _one_hot(
    labels: np.ndarray, classes: tuple[str, ...] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    several = ~(np.isin(labels, (0, 1)).all(axis=1) & (labels.sum(axis=1) == 1))
    if several.any():
        row = int(np.flatnonzero(several)[0])
        raise ValueError(
            "kind='single' means one label for each photo: of a column for each class,"
            f" one 1 in each row; got {labels[row].tolist()} in row {row}. For several"
            " write kind='multi'."
        )
    return labels.argmax(axis=1).astype(np.int32), _column_classes(labels, classes)


def _multis(
    labels: list | np.ndarray, classes: tuple[str, ...] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    if isinstance(labels, np.ndarray) and labels.ndim == 2:
        return _encoded(labels, classes)
    if isinstance(labels, np.ndarray) and np.isin(labels, (0, 1)).all():
        return _encoded(labels[:, None], classes)  # one yes or no for each photo
    alone = [label for label in labels if not isinstance(label, list)]
    if alone:
        raise ValueError(
            "kind='multi' means a list of names for each photo; got"
            f" {alone[0]!r} for {len(alone)} of {len(labels)}. Split it with"
            " label_delim=' ', or write one name as ['cat'] and none as []."
        )
    values: dict[Hashable, int] = {}
    rows: list[int] = []
    columns: list[int] = []
    for row, names in enumerate(labels):
        for name in _plain(names):
            rows.append(row)
            columns.append(values.setdefault(name, len(values)))
    if classes is None:
        classes = _sorted_names(values)
    names = [str(value) for value in values]
    flat = np.array(columns, np.int64)
    positions = _positions(names, np.bincount(flat, minlength=len(names)), classes)
    array = np.zeros((len(labels), len(classes)), np.float32)
    array[np.array(rows, np.int64), positions[flat]] = 1
    if not classes:
        raise ValueError("no photo has a label: there is nothing to learn.")
    return array, classes


def _encoded(
    labels: np.ndarray, classes: tuple[str, ...] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(
            "several whole numbers a photo are multi-label only if all are 0 or 1;"
            f" got {labels.min()} to {labels.max()}. To predict them as numbers write"
            " kind='regression'."
        )
    return labels.astype(np.float32), _column_classes(labels, classes)


def _column_classes(
    labels: np.ndarray, classes: tuple[str, ...] | None
) -> tuple[str, ...]:
    """Returns the classes that columns are; their numbers if they have no names."""
    if classes is None:
        classes = tuple(str(column) for column in range(labels.shape[1]))
    if len(classes) != labels.shape[1]:
        raise ValueError(
            f"{len(classes)} classes were given for {labels.shape[1]} columns of"
            " labels."
        )
    return classes


def _numbers(
    labels: list | np.ndarray, classes: None
) -> tuple[np.ndarray, tuple[str, ...]]:
    lengths = {np.shape(label) for label in labels}
    if len(lengths) > 1:
        raise ValueError(
            "each photo needs as many numbers as the others to predict them; got"
            f" labels of shapes {sorted(lengths)}."
        )
    names = []
    if not isinstance(labels, np.ndarray):
        members = (x for y in labels for x in (y if isinstance(y, list) else [y]))
        names = [each for each in members if not isinstance(each, int | float)]
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


def _plain(labels: Iterable[Hashable]) -> Iterable[Hashable]:
    """Returns labels as Python's own values: NumPy's hash slower, and differ in str."""
    return labels.tolist() if isinstance(labels, np.ndarray) else labels


def _positions(
    names: Sequence[str], counts: np.ndarray, classes: tuple[str, ...]
) -> np.ndarray:
    """Returns the number of each name's class."""
    known = {name: position for position, name in enumerate(classes)}
    unknown: collections.Counter[str] = collections.Counter()
    for name, number in zip(names, counts.tolist(), strict=True):
        if name not in known:
            unknown[name] += number
    if unknown:
        raise ValueError(
            f"The photos have labels that are not among the classes: "
            f"{dict(sorted(unknown.items()))} (label: photos). The classes are"
            f" {classes}. Name every class, or move these photos away."
        )
    return np.array([known[name] for name in names], np.int32)


def _sorted_names(labels: Iterable[Hashable]) -> tuple[str, ...]:
    unique = set(labels)
    if all(type(name) is int or isinstance(name, np.integer) for name in unique):
        return tuple(str(name) for name in sorted(unique))  # 2 comes before 10
    return tuple(sorted({str(name) for name in unique}))
