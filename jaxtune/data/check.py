"""Checks of a data set before anything trains on it.

Items go in; the readable ones come out, or one error that names all the others. The one
rule: only headers are read, so that it takes seconds.
"""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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
    if len(train_items) + len(valid_items) > MOST_CHECKED:
        return train_items, valid_items
    if train_items.images is not None or valid_items.images is not None:
        return train_items, valid_items
    both = (*train_items.paths, *valid_items.paths)
    with ThreadPoolExecutor(max(workers or 8, 1), "jaxtune-check") as pool:
        problems = list(pool.map(_problem, both))
    bad = [problem for problem in problems if problem is not None]
    if not bad:
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
    return kept_train, kept_valid


def check_not_empty(train_items: Items, valid_items: Items) -> None:
    """Raises a ValueError if there is nothing to train or to validate on."""
    for name, items in (("training", train_items), ("validation", valid_items)):
        if len(items) == 0:
            raise ValueError(
                f"There are no photos for {name} ({len(train_items)} train,"
                f" {len(valid_items)} validate). A class needs two photos to have one"
                " on each side."
            )


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


def _problem(path: Path) -> str | None:
    try:
        check_image(path)
    except (ImageError, OSError) as error:
        return str(error)
    return None
