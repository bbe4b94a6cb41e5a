"""Checks of a data set before anything trains on it.

Items go in; the readable ones come out, or one error that names all the others. The one
rule: only headers are read, so that it takes seconds.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from jaxtune.data.decode import ImageError, check_image
from jaxtune.data.items import Items, listing

# Reading the headers of more files than this would keep a user waiting for minutes.
MOST_CHECKED = 100_000


def readable_items(
    train_items: Items,
    valid_items: Items,
    *,
    workers: int | None = None,
    on_error: str = "raise",
) -> tuple[Items, Items]:
    """Returns both splits without the photos whose header cannot be read.

    Above 100,000 photos nothing is checked: a damaged one is met while it is decoded.
    So are images that do not lie on disk.

    Args:
        train_items: Photos to train on.
        valid_items: Photos to validate on.
        workers: Threads that read; 8 by default, for reading is mostly waiting.
        on_error: "raise", or "skip" to leave unreadable photos out with a warning.

    Raises:
        jaxtune.data.ImageError: If photos cannot be read and `on_error` is "raise".
        ValueError: If skipping leaves a split empty, or a class without photos to
            train on.
    """
    if train_items.images is not None or valid_items.images is not None:
        _warn_shared(train_items.images, valid_items.images)
        return train_items, valid_items
    both = (*train_items.paths, *valid_items.paths)
    if len(both) > MOST_CHECKED:
        _warn_repeated(train_items, valid_items, [os.path.abspath(p) for p in both])
        return train_items, valid_items
    with ThreadPoolExecutor(max(workers or 8, 1), "jaxtune-check") as pool:
        looks = list(pool.map(_look_at, both))
    problems = [problem for problem, _ in looks]
    bad = [problem for problem in problems if problem is not None]
    if not bad:
        _warn_repeated(train_items, valid_items, [identity for _, identity in looks])
        return train_items, valid_items
    if on_error == "raise":
        raise ImageError(
            f"{len(bad)} of {len(both)} photos cannot be read:\n{_lines(bad)}\n"
            "Mend or remove them, or pass on_error='skip' to leave them out."
        )
    warnings.warn(
        f"Left out {len(bad)} of {len(both)} photos, which cannot be read:\n"
        f"{_lines(bad)}",
        stacklevel=4,
    )
    good = np.array([problem is None for problem in problems])
    kept_train = train_items.take(np.flatnonzero(good[: len(train_items)]))
    kept_valid = valid_items.take(np.flatnonzero(good[len(train_items) :]))
    check_not_empty(kept_train, kept_valid)
    _check_no_class_lost(train_items, kept_train)
    identities = [identity for problem, identity in looks if problem is None]
    _warn_repeated(kept_train, kept_valid, identities)
    return kept_train, kept_valid


def check_not_empty(train_items: Items, valid_items: Items) -> None:
    """Raises a ValueError if there is nothing to train or to validate on."""
    labels = train_items.labels
    if not len(valid_items) and train_items.kind == "single" and len(labels) > 2:
        if len(np.unique(labels)) == len(labels):
            raise ValueError(
                f"All {len(labels)} photos have different labels:"
                f" {listing(train_items.classes, most=5)}. A class needs two photos to"
                f" have one on each side. {_way_out_of_many(train_items.classes)}"
            )
    for name, items in (("training", train_items), ("validation", valid_items)):
        if len(items) == 0:
            raise ValueError(
                f"There are no photos for {name} ({len(train_items)} train,"
                f" {len(valid_items)} validate). A class needs two photos to have one"
                " on each side."
            )


def warn_odd_labels(train_items: Items, valid_items: Items) -> None:
    """Warns of labels from which there is nothing to learn, or which look mistaken.

    These are: one class, or one label, for all photos that train; nearly as many
    classes as photos; names of classes that differ in case or in blanks only.
    """
    _warn_alike(train_items)
    _warn_many(train_items, valid_items)
    similar: dict[str, list[str]] = {}
    for name in train_items.classes:
        similar.setdefault(" ".join(name.split()).casefold(), []).append(name)
    twins = [" and ".join(map(repr, names)) for names in similar.values() if names[1:]]
    if twins:
        warnings.warn(
            f"Classes differ in case or in blanks only: {listing(twins)}. If they are"
            " the same, give them one name.",
            stacklevel=4,
        )


def _warn_alike(items: Items) -> None:
    if len(items) < 2 or (items.labels != items.labels[:1]).any():
        return
    text = items.label_text(items.labels[0])
    way_out = "Check the labels."
    if items.kind == "single":
        way_out = (
            "Put photos of other classes beside them; from_folder takes the folders"
            " directly below the one you name for classes."
        )
    warnings.warn(
        f"All {len(items)} photos that train have the same label, {text!r}: there is"
        f" nothing to learn from them. {way_out}",
        stacklevel=5,
    )


def _warn_many(train_items: Items, valid_items: Items) -> None:
    if train_items.kind != "single":
        return
    labels = np.concatenate([train_items.labels, valid_items.labels])
    different = len(np.unique(labels))
    if len(labels) >= 10 and 2 * different > len(labels):
        warnings.warn(
            f"{len(labels)} photos have {different} different labels:"
            f" {listing(train_items.classes, most=5)}."
            f" {_way_out_of_many(train_items.classes)}",
            stacklevel=5,
        )


def _way_out_of_many(classes: tuple[str, ...]) -> str:
    columns = "If they number or name the photos, choose the labels' own column or part"
    if all(map(_is_number, classes)):
        return (
            "If they are amounts to be predicted, such as ages, write"
            f" kind='regression' (floats instead of strings). {columns}."
        )
    return f"{columns} of the name."


def _is_number(name: str) -> bool:
    try:
        return math.isfinite(float(name))
    except ValueError:
        return False


def _warn_repeated(
    train_items: Items, valid_items: Items, identities: Sequence[Hashable]
) -> None:
    """Warns of photos that train and validate, and of photos with two labels."""
    if len(set(identities)) == len(identities):
        return
    paths = (*train_items.paths, *valid_items.paths)
    labels = np.concatenate([train_items.labels, valid_items.labels])
    places: dict[Hashable, list[int]] = {}
    for position, identity in enumerate(identities):
        places.setdefault(identity, []).append(position)
    several = [each for each in places.values() if len(each) > 1]
    number = len(train_items)
    both = [each for each in several if each[0] < number <= each[-1]]
    if both:
        warnings.warn(
            f"{len(both)} of {len(places)} photos are in both splits, they train and"
            f" validate: {listing([paths[each[0]] for each in both], most=5)}. So"
            " validation says too little about photos that are new. Leave each on one"
            " side, and list it once.",
            stacklevel=5,
        )
    unlike = [each for each in several if (labels[each] != labels[each[0]]).any()]
    if unlike:
        texts = [
            f"{paths[each[0]]} ({' and '.join(_texts(train_items, labels[each]))})"
            for each in unlike[:5]
        ]
        more = f" and {len(unlike) - 5} more" if len(unlike) > 5 else ""
        warnings.warn(
            f"{len(unlike)} of {len(places)} photos are listed more than once, with"
            f" different labels: {', '.join(texts)}{more}. Keep one of them; a photo"
            " that has several labels is listed once, with a list of them.",
            stacklevel=5,
        )


def _warn_shared(train_images: Any, valid_images: Any) -> None:
    """Warns where arrays of images that train and validate are the same memory."""
    train, valid = (
        getattr(each, "array", None) for each in (train_images, valid_images)
    )
    if train is None or valid is None:
        return
    if train is valid:
        shared = bool(np.isin(valid_images.positions, train_images.positions).any())
    else:
        try:
            shared = np.shares_memory(train, valid, max_work=10_000)
        except np.exceptions.TooHardError:
            shared = False
    if shared:
        warnings.warn(
            "Images that validate are among those that train: both arrays share"
            " memory. So validation says too little about images that are new. Leave"
            " each on one side.",
            stacklevel=5,
        )


def _texts(items: Items, labels: np.ndarray) -> list[str]:
    return list(dict.fromkeys(repr(items.label_text(label)) for label in labels))


def check_trained_classes(train_items: Items, valid_items: Items) -> None:
    """Raises a ValueError if photos validate whose class has none to train on."""
    if train_items.kind != "single":
        return
    numbers = train_items.counts()
    lost = [n for n, count in valid_items.counts().items() if count and not numbers[n]]
    if lost:
        raise ValueError(
            f"{len(lost)} classes have photos that validate and none that train:"
            f" {listing(lost)}. Let some of theirs train, or leave these rows out."
        )


def _check_no_class_lost(before: Items, after: Items) -> None:
    numbers = after.counts()
    lost = [name for name, n in before.counts().items() if n and not numbers[name]]
    if lost:
        raise ValueError(
            "on_error='skip' leaves no photo to train on for the classes"
            f" {listing(lost)}: all of theirs are unreadable. Replace the files, or"
            " remove the classes."
        )


def _lines(bad: list[str], most: int = 10) -> str:
    lines = [f"  {problem}" for problem in bad[:most]]
    if len(bad) > most:
        lines.append(f"  and {len(bad) - most} more")
    return "\n".join(lines)


def _look_at(path: Path) -> tuple[str | None, Hashable]:
    """Returns what is wrong with a photo, and what it has in common with itself only.

    That is its place on the disk, so that a link to a photo is the photo.
    """
    identity: Hashable = os.path.abspath(path)
    try:
        check_image(path)
        found = os.stat(path)
        if found.st_ino:
            identity = (found.st_dev, found.st_ino)
    except (ImageError, OSError) as error:
        return str(error), identity
    return None, identity
