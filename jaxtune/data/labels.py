"""Labels: what users write beside a photo becomes an array of one of three kinds.

Names, lists of names or numbers go in; `Items` come out. The one rule: the kind is
decided by all labels together, and labels that mix kinds are refused, never guessed at.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtune.data.items import Items, Kind, check_kind, listing


def label_items(
    paths: Sequence[Path],
    labels: Iterable[Any],
    *,
    classes: Sequence[str] | None = None,
    kind: Kind | None = None,
) -> Items:
    """Returns paths with their labels; classes are sorted by name unless given.

    The kind of labels is found by `label_kind` unless given. A column of zeros and ones
    per class (an integer or bool array (n, classes)) is multi-label.

    Args:
        paths: Photos, in the order the items are to have.
        labels: One for each path: a string or anything that `str` names; or a list,
            tuple or set of these, for several labels; or a float or several, to be
            predicted as numbers. None and NaN mean that the photo has no label.
        classes: Names of the classes in the order of their numbers. Useful to go on
            with a model that already has its classes.
        kind: "single", "multi" or "regression", to say what labels are that could be
            several: whole numbers are classes unless it is "regression".

    Raises:
        ValueError: If a photo has no label or one that is not among `classes`, if
            numbers differ, labels mix kinds, or a class is named twice.
    """
    check_kind(kind)
    labels = labels if isinstance(labels, np.ndarray) else list(labels)
    if len(paths) != len(labels):
        raise ValueError(f"{len(paths)} paths were given with {len(labels)} labels.")
    _refuse_missing(paths, labels)
    kind = label_kind(labels) if kind is None else kind
    if classes is not None and kind == "regression":
        raise ValueError(
            "classes were given with labels that are numbers to be predicted. Leave"
            " classes out, or make the labels strings."
        )
    encode = {"single": _singles, "multi": _multis, "regression": _numbers}[kind]
    array, classes = encode(labels, _differing(classes))
    paths = paths if hasattr(paths, "texts") else tuple(paths)
    return Items(paths, array, classes, kind)


def label_kind(labels: Sequence[Any] | np.ndarray) -> Kind:
    """Returns which kind of labels these are.

    "regression" if they are floats (with whole numbers among them or not), or lists of
    floats of one length; "multi" if they are lists, tuples or sets of anything else, or
    an integer or bool array (n, classes); "single" for all others.

    Raises:
        ValueError: If some are lists and others are not, or floats stand among names.

    Example:
        >>> label_kind(["cat", "dog"]), label_kind([("cat", "dog"), ()])
        ('single', 'multi')
        >>> label_kind([0.5, 2]), label_kind(np.zeros((5, 2)))
        ('regression', 'regression')
    """
    if isinstance(labels, np.ndarray) and labels.dtype != object:
        if np.issubdtype(labels.dtype, np.floating):
            return "regression"
        return "multi" if labels.ndim > 1 else "single"
    forms = collections.Counter(map(_form, labels))
    if set(forms) <= {"a name", "a whole number"}:
        return "single"
    if set(forms) <= {"a float", "a whole number"}:
        return "regression"
    if set(forms) <= {"a list of names", "a list of whole numbers", "an empty list"}:
        return "multi"
    if set(forms) <= {"a list of floats", "a list of whole numbers"}:
        return "regression"
    found = ", ".join(f"{number} {form}" for form, number in sorted(forms.items()))
    raise ValueError(
        f"labels mix kinds: {found}. Give each photo one name, each a list of names"
        " (one name is ['cat'], none is []), or each a float or a list of as many."
    )


def with_classes(items: Items, classes: Sequence[str]) -> Items:
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
    classes = _differing(classes)
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
    if _is_several(label):
        if isinstance(label, set | frozenset):
            return "a list of names"
        members = set(map(_form, label))
        if not members:
            return "an empty list"
        if members == {"a whole number"}:
            return "a list of whole numbers"
        if members <= {"a float", "a whole number"}:
            return "a list of floats"
        return "a list of names"
    if isinstance(label, float | np.floating):
        return "a float"
    whole = isinstance(label, int | np.integer) and not isinstance(label, bool)
    return "a whole number" if whole else "a name"


def _is_several(label: Any) -> bool:
    array = isinstance(label, np.ndarray) and label.ndim > 0
    return array or isinstance(label, list | tuple | set | frozenset)


def _refuse_missing(paths: Sequence[Path], labels: Sequence[Any] | np.ndarray) -> None:
    if isinstance(labels, np.ndarray) and labels.dtype != object:
        if not np.issubdtype(labels.dtype, np.floating):
            return
        bad = ~np.isfinite(labels).reshape(len(labels), -1).all(axis=1)
        missing = np.flatnonzero(bad).tolist()
    else:
        missing = [n for n, label in enumerate(labels) if _is_missing(label)]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(paths)} photos get no label:"
            f" {listing([paths[n] for n in missing])}. Correct the pattern or the"
            " function, or move these files away."
        )


def _is_missing(label: Any) -> bool:
    if _is_several(label):
        return any(map(_is_missing, label))
    number = isinstance(label, float | np.floating)
    return label is None or (number and not math.isfinite(label))


def _differing(classes: Sequence[str] | None) -> tuple[str, ...] | None:
    if classes is not None and len(set(classes)) < len(classes):
        raise ValueError(f"classes must differ from each other; got {tuple(classes)}.")
    return None if classes is None else tuple(classes)


def _singles(
    labels: Sequence[Hashable] | np.ndarray, classes: tuple[str, ...] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    if any(_is_several(label) for label in labels[:1]):
        raise ValueError(
            "kind='single' means one label for each photo; got"
            f" {labels[0]!r}. For several write kind='multi'."
        )
    # A million labels have few values: each is named once.
    values: dict[Hashable, int] = {}
    numbers = [values.setdefault(label, len(values)) for label in _plain(labels)]
    names = [str(value) for value in values]
    if classes is None:
        classes = _sorted_names(values)
    counts = np.bincount(np.array(numbers, np.int64), minlength=len(names))
    positions = _positions(names, counts, classes)
    return positions[np.array(numbers, np.int64)], classes


def _multis(
    labels: Sequence[Iterable[Hashable]] | np.ndarray, classes: tuple[str, ...] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    if isinstance(labels, np.ndarray) and labels.dtype != object and labels.ndim == 2:
        return _encoded(labels, classes)
    alone = [label for label in labels if not _is_several(label)]
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
    if classes is None:
        classes = tuple(str(column) for column in range(labels.shape[1]))
    if len(classes) != labels.shape[1]:
        raise ValueError(
            f"{len(classes)} classes were given for {labels.shape[1]} columns of"
            " labels."
        )
    return labels.astype(np.float32), classes


def _numbers(
    labels: Sequence[Any] | np.ndarray, classes: None
) -> tuple[np.ndarray, tuple[str, ...]]:
    lengths = {np.shape(label) for label in labels}
    if len(lengths) > 1:
        raise ValueError(
            "each photo needs as many numbers as the others to predict them; got"
            f" labels of shapes {sorted(lengths)}."
        )
    try:
        array = np.asarray(labels, np.float32)
    except (TypeError, ValueError):
        raise ValueError(
            f"kind='regression' means numbers; got {labels[0]!r}. Leave kind out for"
            " names."
        ) from None
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
