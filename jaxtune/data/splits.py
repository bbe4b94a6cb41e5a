"""Splits: which photos train and which validate.

Labels or folders go in; two lists of positions, or two `Items`, come out. The one rule:
the side a photo falls on depends on the seed and on the photo's own name, never on the
machine or on a random stream, so a split is the same everywhere.
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
from jaxtyping import Int

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
from jaxtune.data.items import (
    Items,
    class_folders,
    existing_folder,
    folder_label,
    listing,
    no_photos,
    scan_images,
    warn_left_out,
)
from jaxtune.data.labels import label_items
from jaxtune.data.values import clean_name

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

    Each class gives `valid_pct` of its photos, rounded, to validation: at least one of
    two or more, and never its last. Within a class the photos with the smallest hash of
    (seed, name) validate, so photos added later move few of the others.

    Args:
        labels: Class of each photo.
        valid_pct: Share of each class that validates, strictly between 0 and 1.
        seed: Another seed gives another split.
        names: What identifies each photo, all different; its position by default.

    Raises:
        ValueError: If `valid_pct` is not a fraction, or names and labels differ in
            number.

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
    """Returns a share strictly between 0 and 1.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is out of range.
    """
    meaning = "the share of photos that validate"
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
    """Returns the items that train and those that validate.

    With a single label each class is split alone, see `stratified_split`. Labels of
    other kinds, or `stratify=False`, are split as if all were of one class: those with
    the smallest hash of (seed, name) validate.

    Args:
        items: All the photos.
        valid_pct: Share of each class that validates, strictly between 0 and 1.
        seed: Another seed gives another split.
        root: Photos are identified by their path below it, so that the whole folder
            can be moved without changing the split; by their whole path if None.
        stratify: Whether to split each class alone.
    """
    check_instance(items, "items", Items, "Items, as label_items makes them")
    valid_pct = check_valid_pct(valid_pct)
    seed = check_integer(seed, "seed", least=0, most=2**32 - 1)
    check_flag(stratify, "stratify")
    labels = items.labels
    if not stratify or items.kind != "single":
        labels = np.zeros(len(items), np.int32)
    names = _names(items.paths, root)
    train, valid = stratified_split(labels, valid_pct=valid_pct, seed=seed, names=names)
    return items.take(train), items.take(valid)


def _names(paths: Sequence[Path], root: str | os.PathLike[str] | None) -> list[str]:
    """Returns paths below `root`, with slashes."""
    if not isinstance(paths, tuple):
        return paths.texts()
    if root is None:
        return [path.as_posix() for path in paths]
    below = Path(root).as_posix().rstrip("/") + "/"
    below = "" if below == "./" else below
    # Asking where a path lies from here is slow; photos of one folder ask once.
    folders: dict[str, str] = {}
    names = []
    for path in paths:
        name = path.as_posix()
        plain = ".." not in name and (bool(below) or not path.is_absolute())
        if plain and name.startswith(below):
            names.append(name[len(below) :])
        else:
            folder, file = os.path.split(name)
            if folder not in folders:
                way = Path(os.path.relpath(folder or ".", root)).as_posix()
                folders[folder] = "" if way == "." else way + "/"
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
        root: Holds `train/<class>/…` and `valid/<class>/…`, or, with `valid_pct`,
            `<class>/…`.
        train: Name of the folder of training photos.
        valid: Name of the folder of validation photos.
        valid_pct: Share of each class to set aside.
        classes: Names of the classes in the order of their numbers.
        seed: Of the split, with `valid_pct`.
        stratify: Whether to split each class alone, with `valid_pct`.

    Raises:
        FileNotFoundError: If a folder is missing; the message says what to type.
        ValueError: If there are no photos, photos outside class folders, or classes
            in validation that training does not have.
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
        items, left_out = _labelled(root, classes)
        warn_left_out(left_out, root)
        return split_items(
            items, valid_pct=valid_pct, seed=seed, root=root, stratify=stratify
        )
    _check_folders(root, train, valid)
    train_items, left_out = _labelled(root / train, classes)
    known = train_items.classes
    strangers = {clean_name(name): name for name in class_folders(root / valid)}
    strangers = {
        name
        for clean, name in strangers.items()
        if clean not in known and scan_images(root / valid / name)[0]
    }
    if strangers:
        raise ValueError(
            f"{str(root / valid)!r} has classes without photos in {train!r}:"
            f" {listing(sorted(strangers))}. The classes are {listing(known)}. Put"
            f" photos of each class in {train!r}, or correct the folders' names."
        )
    valid_items, more_left_out = _labelled(root / valid, known)
    warn_left_out(left_out + more_left_out, root)
    return train_items, valid_items


def labelled_folder(
    folder: str | os.PathLike[str], *, classes: Iterable[Any] | None = None
) -> Items:
    """Returns the photos of a folder of class folders, labelled by those.

    A class folder without photos is left out with a warning: there is nothing to learn
    from it, and the others can train; but a class that goes missing must be seen.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If there are no photos, or some lie outside class folders.
    """
    items, left_out = _labelled(existing_folder(folder, "folder"), classes)
    warn_left_out(left_out, folder)
    return items


def _labelled(
    folder: Path, classes: Iterable[Any] | None
) -> tuple[Items, collections.Counter[str]]:
    """Returns the items of a folder, and the files left out by extension."""
    paths, left_out = scan_images(folder)
    loose = [path.name for path in paths if path.parent == folder]
    if loose:
        raise ValueError(
            f"{len(loose)} photos lie directly in {str(folder)!r}, in no class folder:"
            f" {listing(loose)}. Move each into the folder of its class; for labels in"
            " the files' names use from_name_re or from_name_func."
        )
    if not paths:
        raise ValueError(
            f"{no_photos(left_out, folder)}. A folder for each class is wanted, with"
            " its photos. Check the path."
        )
    label = folder_label(folder)
    labels = [label(path) for path in paths]
    empty = sorted(set(class_folders(folder)) - set(labels))
    if empty and classes is None:
        warnings.warn(
            f"Left out {len(empty)} class folders without photos in {str(folder)!r}:"
            f" {listing(empty)}.",
            stacklevel=3,
        )
    return label_items(paths, labels, classes=classes), left_out


def _refuse_split_folders(root: Path, train: str, valid: str) -> None:
    """Refuses folders called train or valid where folders named by class belong."""
    folders = class_folders(root)
    if train in folders and (valid in folders or set(folders) & set(_VALID_NAMES)):
        raise ValueError(
            f"{str(root)!r} is split already: it holds {listing(folders)}, which"
            f" valid_pct would take for classes. Leave valid_pct out to use that split,"
            f" or split the training photos alone: from_folder({str(root / train)!r},"
            " valid_pct=0.2)."
        )


def _check_folders(root: Path, train: str, valid: str) -> None:
    folders = class_folders(root)
    missing = [name for name in (train, valid) if not (root / name).is_dir()]
    if not missing:
        return
    wanted = " and ".join(repr(name) for name in missing)
    asked = f"from_folder({str(root)!r}"
    say = (
        f"{str(root)!r} has no folder {wanted}; it holds {listing(folders) or 'none'}."
    )
    others = [name for name in _VALID_NAMES if name in folders and name != valid]
    if missing == [valid] and others:
        way_out = f"Write {asked}, train={train!r}, valid={others[0]!r})."
    elif missing == [valid]:
        way_out = (
            f"Write from_folder({str(root / train)!r}, valid_pct=0.2) to set a fifth"
            f" of {train!r} aside, or name the folder: {asked}, valid=...)."
        )
    elif train in missing and valid in missing and folders:
        way_out = (
            f"If these are the classes, write {asked}, valid_pct=0.2) to set a fifth of"
            f" the photos aside; else name the folders: {asked}, train=..., valid=...)."
        )
    elif folders:
        way_out = f"Name it: {asked}, train=..., valid={valid!r})."
    else:
        way_out = "Check the path; for labels in the files' names use from_name_re."
    raise FileNotFoundError(f"{say} {way_out}")
