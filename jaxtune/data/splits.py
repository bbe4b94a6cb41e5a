"""Splits: which photos are for training and which for validation.

The split of a photo depends only on the seed, its name and its class mates, never on
the machine or on a random stream, so it is the same everywhere.
"""

from __future__ import annotations

import collections
import hashlib
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from jaxtune.arguments import (
    Integer,
    Number,
    check_flag,
    check_instance,
    check_integer,
    check_number,
    check_path,
    described,
)
from jaxtune.data.folders import (
    class_folders,
    existing_folder,
    no_photos,
    scan_images,
    warn_skipped,
)
from jaxtune.data.items import (
    Items,
    NumberedPaths,
    PackedPaths,
    folder_label,
    listing,
)
from jaxtune.data.labels import label_items
from jaxtune.data.values import clean_name

#: More photos are split by position: hashing their names would take minutes.
MOST_NAMED = 1_000_000

# Other names people give to the folder of validation photos.
_VALID_NAMES = ("valid", "val", "validation", "test")


def stratified_split(
    labels: Any,
    *,
    valid_pct: Number = 0.2,
    seed: Integer = 0,
    names: Sequence[str] | None = None,
) -> tuple[Int[np.ndarray, " train"], Int[np.ndarray, " valid"]]:
    """Returns sorted positions for training and for validation, class by class.

    `valid_pct` of the photos of each class, rounded, are for validation: at least one
    of two or more, and never all. They are those with the smallest hash of (seed,
    name), so adding photos later moves few of the others.

    Args:
        labels: Class of each photo.
        valid_pct: Fraction of each class for validation, strictly between 0 and 1.
        seed: Another seed gives another split.
        names: Unique name of each photo; its position by default.

    Raises:
        ValueError: If `valid_pct` is not a fraction, or there are more or fewer names
            than labels.

    Example:
        >>> labels = np.array([0, 0, 0, 0, 1, 1])
        >>> train, valid = stratified_split(labels, valid_pct=0.25)
        >>> len(train), len(valid)
        (4, 2)
    """
    valid_pct = check_valid_pct(valid_pct)
    seed = check_integer(seed, "seed", least=0, most=2**32 - 1)
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "biu":
        raise TypeError(
            "labels must be whole numbers, the class of each photo; received"
            f" {described(labels)}, dtype {labels.dtype}."
        )
    if names is not None and isinstance(names, str | bytes):
        raise TypeError(f"names must be a list of names; received {names!r}.")
    names = None if names is None else list(names)
    if names is None:
        names = [str(position) for position in range(len(labels))]
    if len(names) != len(labels):
        raise ValueError(f"{len(names)} names were given for {len(labels)} labels.")
    valid: list[int] = []
    for label in np.unique(labels):
        positions = np.flatnonzero(labels == label).tolist()
        number = min(max(round(len(positions) * valid_pct), 1), len(positions) - 1)
        by_hash = sorted(positions, key=lambda position: _hash(seed, names[position]))
        valid += by_hash[:number]
    chosen = np.zeros(len(labels), bool)
    chosen[valid] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def _hash(seed: int, name: str) -> bytes:
    text = f"{seed}/{name}".encode(errors="surrogateescape")
    return hashlib.blake2b(text, digest_size=16).digest()


def check_valid_pct(valid_pct: Any) -> float:
    """Returns a fraction strictly between 0 and 1.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is out of range.
    """
    meaning = "the fraction of photos for validation"
    try:
        return check_number(valid_pct, "valid_pct", above=0, below=1, meaning=meaning)
    except ValueError as error:
        raise ValueError(f"{error} Write 0.2 for 20%.") from None


def split_items(
    items: Items,
    *,
    valid_pct: Number,
    seed: Integer = 0,
    root: str | os.PathLike[str] | None = None,
    stratify: bool = True,
) -> tuple[Items, Items]:
    """Returns the items for training and those for validation.

    Single labels are split class by class, see `stratified_split`. Other kinds, or
    `stratify=False`, are split as if all were of one class. More than a million photos
    are split by their positions, not their names.

    Args:
        items: All the photos.
        valid_pct: Fraction of each class for validation, strictly between 0 and 1.
        seed: Another seed gives another split.
        root: The split depends on the paths relative to it, so that the whole folder
            can be moved; on the paths as they are if None.
        stratify: Whether to split class by class.
    """
    check_instance(items, "items", Items, "Items, as label_items makes them")
    valid_pct = check_valid_pct(valid_pct)
    seed = check_integer(seed, "seed", least=0, most=2**32 - 1)
    check_flag(stratify, "stratify")
    labels = items.labels
    if not stratify or items.kind != "single":
        labels = np.zeros(len(items), np.int32)
    if len(items) > MOST_NAMED:
        chosen = _by_position(labels, valid_pct, seed)
        train, valid = np.flatnonzero(~chosen), np.flatnonzero(chosen)
    else:
        names = _names(items.paths, root)
        train, valid = stratified_split(
            labels, valid_pct=valid_pct, seed=seed, names=names
        )
    return items.take(train), items.take(valid)


def _by_position(
    labels: Int[np.ndarray, " n"], valid_pct: float, seed: int
) -> Bool[np.ndarray, " n"]:
    """Which photos validate: those of each class with the smallest random numbers."""
    # NumPy promises that RandomState's numbers never change.
    numbers = np.random.RandomState(seed).random_sample(len(labels))
    order = np.lexsort((numbers, labels))
    counts = np.unique(labels, return_counts=True)[1]
    most = np.rint(counts * valid_pct).astype(np.int64)
    most = np.minimum(np.maximum(most, 1), counts - 1)
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    chosen = np.zeros(len(labels), bool)
    chosen[order] = rank < np.repeat(most, counts)
    return chosen


def _names(paths: Sequence[Path], root: str | os.PathLike[str] | None) -> list[str]:
    """Returns paths relative to `root`, with slashes."""
    if isinstance(paths, NumberedPaths | PackedPaths):
        texts = paths.texts()
    else:
        texts = [path.as_posix() for path in paths]
    if root is None:
        return texts
    below = Path(root).as_posix().rstrip("/") + "/"
    below = "" if below == "./" else below
    # `os.path.relpath` is slow, so it is called once a folder.
    folders: dict[str, str] = {}
    names = []
    for name in texts:
        plain = ".." not in name and (bool(below) or not os.path.isabs(name))
        if plain and name.startswith(below):
            names.append(name[len(below) :])
        else:
            folder, file = os.path.split(name)
            if folder not in folders:
                relative = Path(os.path.relpath(folder or ".", root)).as_posix()
                folders[folder] = "" if relative == "." else relative + "/"
            names.append(folders[folder] + file)
    return names


def split_folders(
    root: str | os.PathLike[str],
    train: str = "train",
    valid: str = "valid",
    *,
    valid_pct: Number | None = None,
    classes: Iterable[Any] | None = None,
    seed: Integer = 0,
    stratify: bool = True,
) -> tuple[Items, Items]:
    """Returns training and validation photos from a folder of class folders.

    Args:
        root: Contains `train/<class>/…` and `valid/<class>/…`; with `valid_pct`,
            `<class>/…`.
        train: Name of the folder of training photos.
        valid: Name of the folder of validation photos.
        valid_pct: Fraction of each class for validation.
        classes: Names of the classes in the order of their numbers.
        seed: Of the split, with `valid_pct`.
        stratify: Whether to split class by class, with `valid_pct`.

    Raises:
        FileNotFoundError: If a folder is missing; the message says what to write.
        ValueError: If there are no photos, photos outside class folders, or validation
            has classes that training does not have.
    """
    root = existing_folder(root)
    for name, folder in (("train", train), ("valid", valid)):
        check_path(folder, name)
    train, valid = os.fspath(train), os.fspath(valid)
    seed = check_integer(seed, "seed", least=0, most=2**32 - 1)
    check_flag(stratify, "stratify")
    if valid_pct is not None:
        check_valid_pct(valid_pct)
        _refuse_split_folders(root, train, valid)
        items, skipped = _labelled(root, classes)
        warn_skipped(skipped, root)
        return split_items(
            items, valid_pct=valid_pct, seed=seed, root=root, stratify=stratify
        )
    _check_folders(root, train, valid)
    train_items, skipped = _labelled(root / train, classes)
    known = train_items.classes
    unknown = [
        name
        for name in class_folders(root / valid)
        if clean_name(name) not in known and scan_images(root / valid / name)[0]
    ]
    if unknown:
        raise ValueError(
            f"{str(root / valid)!r} has classes without photos in {train!r}:"
            f" {listing(unknown)}. The classes are {listing(known)}. Put"
            f" photos of each class in {train!r}, or correct the folders' names."
        )
    valid_items, more_skipped = _labelled(root / valid, known)
    warn_skipped(skipped + more_skipped, root)
    return train_items, valid_items


def labelled_folder(
    folder: str | os.PathLike[str], *, classes: Iterable[Any] | None = None
) -> Items:
    """Returns the photos of a folder that has a subfolder for each class.

    Class folders without photos are skipped with a warning.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If there are no photos, or some lie outside class folders.
    """
    items, skipped = _labelled(existing_folder(folder, "folder"), classes)
    warn_skipped(skipped, folder)
    return items


def _labelled(
    folder: Path, classes: Iterable[Any] | None
) -> tuple[Items, collections.Counter[str]]:
    """Returns the items of a folder, and the number of skipped files by extension."""
    paths, skipped = scan_images(folder)
    loose = [path.name for path in paths if path.parent == folder]
    if loose:
        raise ValueError(
            f"{len(loose)} photos lie directly in {str(folder)!r}, in no class folder:"
            f" {listing(loose)}. Move each into the folder of its class; for labels in"
            " the files' names use from_name_re or from_name_func."
        )
    if not paths:
        raise ValueError(
            f"{no_photos(skipped, folder)}. It needs a subfolder for each class, with"
            " its photos. Check the path."
        )
    label = folder_label(folder)
    labels = [label(path) for path in paths]
    empty = sorted(set(class_folders(folder)) - set(labels))
    if empty and classes is None:
        warnings.warn(
            f"Skipped {len(empty)} class folders without photos in {str(folder)!r}:"
            f" {listing(empty)}.",
            stacklevel=3,
        )
    return label_items(paths, labels, classes=classes), skipped


def _refuse_split_folders(root: Path, train: str, valid: str) -> None:
    """Refuses folders called train and valid where class folders are expected."""
    folders = class_folders(root)
    if train in folders and (valid in folders or set(folders) & set(_VALID_NAMES)):
        raise ValueError(
            f"{str(root)!r} is split already: it contains {listing(folders)}, which"
            f" valid_pct would take for classes. Leave valid_pct out to use that split,"
            f" or split only the training photos: from_folder({str(root / train)!r},"
            " valid_pct=0.2)."
        )


def _check_folders(root: Path, train: str, valid: str) -> None:
    folders = class_folders(root)
    missing = [name for name in (train, valid) if not (root / name).is_dir()]
    if not missing:
        return
    wanted = " and ".join(repr(name) for name in missing)
    call = f"from_folder({str(root)!r}"
    problem = (
        f"{str(root)!r} has no folder {wanted}; it holds {listing(folders) or 'none'}."
    )
    others = [name for name in _VALID_NAMES if name in folders and name != valid]
    if missing == [valid] and others:
        way_out = f"Write {call}, train={train!r}, valid={others[0]!r})."
    elif missing == [valid]:
        way_out = (
            f"Write from_folder({str(root / train)!r}, valid_pct=0.2) to validate"
            f" on a fifth of {train!r}, or name the folder: {call}, valid=...)."
        )
    elif train in missing and valid in missing and folders:
        way_out = (
            f"If these are the classes, write {call}, valid_pct=0.2) to validate on a"
            f" fifth of the photos; else name the folders: {call}, train=...,"
            " valid=...)."
        )
    elif folders:
        way_out = f"Name it: {call}, train=..., valid={valid!r})."
    else:
        way_out = "Check the path; for labels in the files' names use from_name_re."
    raise FileNotFoundError(f"{problem} {way_out}")
