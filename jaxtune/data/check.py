"""Checks of a data set before anything trains on it.

Creating the loaders reads the header of each photo, which takes seconds, and reports
all bad ones at once. `check_photos` decodes each photo, which also finds truncated
files and copies.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxtune.arguments import Integer, check_flag, check_integer
from jaxtune.data.decode import ImageError, check_image
from jaxtune.data.items import Items, SourceImages, listing
from jaxtune.data.loader import Loader, default_workers

# Reading the headers of more files than this would take minutes.
MOST_CHECKED = 100_000
#: Of more photos the paths are not compared either.
MOST_COMPARED = 1_000_000

# Photos whose results are waited for together: enough to keep all threads busy.
_WINDOW = 256


def readable_items(
    train_items: Items,
    valid_items: Items,
    *,
    workers: int | None = None,
    on_error: str = "raise",
) -> tuple[Items, Items]:
    """Returns both splits without the photos whose header cannot be read.

    Images that are not files are not checked, nor are more than 100,000 photos: the
    damaged ones are then found when they are decoded. Also warns of photos that are in
    both splits, or listed with different labels, among a million at most.

    Args:
        train_items: Photos to train on.
        valid_items: Photos to validate on.
        workers: Threads that read; 8 by default, because reading is mostly waiting.
        on_error: "raise", or "skip" to drop unreadable photos with a warning.

    Raises:
        jaxtune.data.ImageError: If photos cannot be read and `on_error` is "raise".
        ValueError: If skipping leaves a split empty, or a class without training
            photos.
    """
    if train_items.images is not None or valid_items.images is not None:
        _warn_shared_memory(train_items.images, valid_items.images)
        return train_items, valid_items
    if len(train_items) + len(valid_items) > MOST_COMPARED:
        return train_items, valid_items
    paths = (*train_items.paths, *valid_items.paths)
    if len(paths) > MOST_CHECKED:
        _warn_repeated(train_items, valid_items, [os.path.abspath(p) for p in paths])
        return train_items, valid_items
    with ThreadPoolExecutor(max(workers or 8, 1), "jaxtune-check") as pool:
        problems, identities = zip(*pool.map(_read_header, paths), strict=True)
    bad = [problem for problem in problems if problem is not None]
    if not bad:
        _warn_repeated(train_items, valid_items, identities)
        return train_items, valid_items
    lines = "\n".join(first_lines(bad))
    if on_error == "raise":
        raise ImageError(
            f"{len(bad)} of {len(paths)} photos cannot be read:\n{lines}\n"
            "Repair or remove them, or pass on_error='skip' to skip them."
        )
    warnings.warn(
        f"Skipped {len(bad)} of {len(paths)} photos, which cannot be read:\n{lines}",
        stacklevel=4,
    )
    good = np.array([problem is None for problem in problems])
    kept_train = train_items.take(np.flatnonzero(good[: len(train_items)]))
    kept_valid = valid_items.take(np.flatnonzero(good[len(train_items) :]))
    check_not_empty(kept_train, kept_valid)
    remaining = kept_train.counts()
    lost = [
        name for name, n in train_items.counts().items() if n and not remaining[name]
    ]
    if lost:
        raise ValueError(
            "on_error='skip' leaves no photo to train on for the classes"
            f" {listing(lost)}: all of theirs are unreadable. Replace the files, or"
            " remove the classes."
        )
    _warn_repeated(
        kept_train, kept_valid, [identities[i] for i in np.flatnonzero(good)]
    )
    return kept_train, kept_valid


def _read_header(path: Path) -> tuple[str | None, Hashable]:
    """Returns what is wrong with a photo, and an identity that links to it share."""
    identity: Hashable = os.path.abspath(path)
    try:
        check_image(path)
        status = os.stat(path)
        if status.st_ino:
            identity = (status.st_dev, status.st_ino)
    except (ImageError, OSError) as error:
        return str(error), identity
    return None, identity


def first_lines(lines: Sequence[str], most: int = 10) -> list[str]:
    """Returns the first few lines, indented, and how many more there are."""
    more = len(lines) - most
    shown = [f"  {line}" for line in lines[:most]]
    return [*shown, f"  and {more} more"] if more > 0 else shown


def check_not_empty(train_items: Items, valid_items: Items) -> None:
    """Raises a ValueError if there is nothing to train or to validate on."""
    labels = train_items.labels
    if not len(valid_items) and train_items.kind == "single" and len(labels) > 2:
        if len(np.unique(labels)) == len(labels):
            raise ValueError(
                f"All {len(labels)} photos have different labels:"
                f" {listing(train_items.classes, most=5)}. A class needs two photos to"
                " have one in each split."
                f" {_way_out_of_many_classes(train_items.classes)}"
            )
    for name, items in (("training", train_items), ("validation", valid_items)):
        if len(items) == 0:
            raise ValueError(
                f"There are no photos for {name} ({len(train_items)} train,"
                f" {len(valid_items)} validate). A class needs two photos to have one"
                " in each split."
            )


def check_trained_classes(train_items: Items, valid_items: Items) -> None:
    """Raises a ValueError if a class has validation photos but no training photos."""
    if train_items.kind != "single":
        return
    trained = train_items.counts()
    lost = [n for n, count in valid_items.counts().items() if count and not trained[n]]
    if lost:
        raise ValueError(
            f"{len(lost)} classes have photos for validation and none for training:"
            f" {listing(lost)}. Train on some of these photos, or leave out their rows."
        )


def warn_odd_labels(train_items: Items, valid_items: Items) -> None:
    """Warns of labels that nothing can be learned from, or that look like a mistake.

    These are: the same label for all training photos; nearly as many classes as photos;
    class names that differ only in case or whitespace.
    """
    _warn_alike(train_items)
    _warn_many_classes(train_items, valid_items)
    similar: dict[str, list[str]] = {}
    for name in train_items.classes:
        similar.setdefault(" ".join(name.split()).casefold(), []).append(name)
    twins = [" and ".join(map(repr, names)) for names in similar.values() if names[1:]]
    if twins:
        warnings.warn(
            f"Classes differ only in case or whitespace: {listing(twins)}. If they are"
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
            "Add photos of other classes; from_folder takes the direct subfolders of"
            " the folder you name as classes."
        )
    warnings.warn(
        f"All {len(items)} training photos have the same label, {text!r}: there is"
        f" nothing to learn from them. {way_out}",
        stacklevel=5,
    )


def _warn_many_classes(train_items: Items, valid_items: Items) -> None:
    if train_items.kind != "single":
        return
    labels = np.concatenate([train_items.labels, valid_items.labels])
    different = len(np.unique(labels))
    if len(labels) >= 10 and 2 * different > len(labels):
        warnings.warn(
            f"{len(labels)} photos have {different} different labels:"
            f" {listing(train_items.classes, most=5)}."
            f" {_way_out_of_many_classes(train_items.classes)}",
            stacklevel=5,
        )


def _way_out_of_many_classes(classes: tuple[str, ...]) -> str:
    columns = (
        "If they are IDs of the photos, choose the column of the labels, or the part"
    )
    if all(map(_is_number, classes)):
        return (
            "If they are quantities to predict, such as ages, write kind='regression'"
            f" (or floats instead of strings). {columns} of the name that is the label."
        )
    return f"{columns} of the name that is the label."


def _is_number(name: str) -> bool:
    try:
        return math.isfinite(float(name))
    except ValueError:
        return False


def _warn_repeated(
    train_items: Items, valid_items: Items, identities: Sequence[Hashable]
) -> None:
    """Warns of photos in both splits, and of photos with different labels."""
    if len(set(identities)) == len(identities):
        return
    paths = (*train_items.paths, *valid_items.paths)
    labels = np.concatenate([train_items.labels, valid_items.labels])
    places: dict[Hashable, list[int]] = {}
    for position, identity in enumerate(identities):
        places.setdefault(identity, []).append(position)
    repeated = [each for each in places.values() if len(each) > 1]
    number = len(train_items)
    leaked = [each for each in repeated if each[0] < number <= each[-1]]
    if leaked:
        warnings.warn(
            f"{len(leaked)} of {len(places)} photos are in both splits:"
            f" {listing([paths[each[0]] for each in leaked], most=5)}. Validation"
            " then overestimates how well new photos are predicted. Keep each photo in"
            " one split, and list it once.",
            stacklevel=5,
        )
    unlike = [each for each in repeated if (labels[each] != labels[each[0]]).any()]
    if unlike:
        texts = [
            f"{paths[each[0]]} ({' and '.join(_texts(train_items, labels[each]))})"
            for each in unlike
        ]
        warnings.warn(
            f"{len(unlike)} of {len(places)} photos are listed more than once, with"
            f" different labels: {listing(texts, most=5)}. Keep one of them; a photo"
            " that has several labels is listed once, with a list of them.",
            stacklevel=5,
        )


def _warn_shared_memory(
    train_images: SourceImages | None, valid_images: SourceImages | None
) -> None:
    """Warns where images of both splits lie in the same memory."""
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
            "Validation images are among the training images: both arrays share memory."
            " Validation then overestimates how well new images are predicted. Keep"
            " each image in one split.",
            stacklevel=5,
        )


def _texts(items: Items, labels: np.ndarray) -> list[str]:
    return list(dict.fromkeys(repr(items.label_text(label)) for label in labels))


@dataclasses.dataclass(frozen=True)
class BadPhoto:
    """A photo that cannot be read.

    Attributes:
        path: Of the file; for an image in memory, the name that errors give it.
        split: "train" or "valid".
        position: Among the items of its split.
        label: As text.
        reason: What is wrong with it.
    """

    path: Path
    split: str
    position: int
    label: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Copies:
    """Photos that are identical, byte for byte, in both splits or under two labels.

    Attributes:
        paths: Of two or more photos.
        splits: "train" or "valid", for each.
        labels: As text, for each.
    """

    paths: tuple[Path, ...]
    splits: tuple[str, ...]
    labels: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class PhotoCheck(Sequence):
    """The result of decoding all photos: a sequence of the bad ones.

    Attributes:
        photos: How many were decoded.
        bad: Those that cannot be read; also what iterating, `len` and `[...]` give.
        copies: Photos that are identical in both splits, or under two labels.
    """

    photos: int
    bad: tuple[BadPhoto, ...]
    copies: tuple[Copies, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether there are neither bad photos nor copies."""
        return not self.bad and not self.copies

    @property
    def paths(self) -> list[Path]:
        """Paths of the bad photos."""
        return [photo.path for photo in self.bad]

    def __len__(self) -> int:
        """Returns the number of bad photos."""
        return len(self.bad)

    def __getitem__(self, position: Any) -> Any:
        """Returns a bad photo, or a tuple of those of a slice."""
        return self.bad[position]

    def __iter__(self) -> Iterator[BadPhoto]:
        """Returns the bad photos."""
        return iter(self.bad)

    def __str__(self) -> str:
        """Returns a line for each bad photo and each set of copies."""
        lines = [f"{self.photos} photos were decoded; {len(self.bad)} can't be read."]
        for photo in self.bad:
            lines.append(f"  {photo.split}, {photo.label}: {photo.reason}")
        if self.copies:
            lines.append(f"{len(self.copies)} photos have identical copies:")
        for copies in self.copies:
            each = zip(copies.paths, copies.splits, copies.labels, strict=True)
            lines.append("  " + " = ".join(f"{p} ({s}, {n})" for p, s, n in each))
        return "\n".join(lines)

    __repr__ = __str__


def check_photos(
    loaders: dict[str, Loader],
    *,
    workers: Integer | None = None,
    verbose: bool = True,
) -> PhotoCheck:
    """Decodes every photo as its loader does, and returns bad photos and copies.

    Args:
        loaders: By the name of their split.
        workers: Threads that decode; by default one per processor, at most 16; 0
            decodes in the caller's thread.
        verbose: Whether to show a progress bar, on a terminal.

    Raises:
        TypeError: If an argument is of another type.
        ValueError: If `workers` is negative.
    """
    if workers is not None:
        workers = check_integer(workers, "workers", least=0)
    check_flag(verbose, "verbose")
    threads = default_workers() if workers is None else workers
    photos = [
        (split, position)
        for split, loader in loaders.items()
        for position in range(len(loader.items))
    ]

    def label(split: str, position: int) -> str:
        items = loaders[split].items
        return items.label_text(items.labels[position])

    def path(split: str, position: int) -> Path:
        return loaders[split].items.paths[position]

    bad: list[BadPhoto] = []
    same: dict[bytes, list[tuple[str, int]]] = {}
    results = _mapped(lambda p: _decoded(loaders[p[0]], p[1]), photos, threads)
    if verbose:
        results = _with_progress(results, len(photos))
    for photo, (reason, digest) in zip(photos, results, strict=True):
        if reason is not None:
            bad.append(BadPhoto(path(*photo), *photo, label(*photo), reason))
        elif digest is not None:
            same.setdefault(digest, []).append(photo)
    copies = [
        Copies(
            tuple(path(*photo) for photo in group),
            tuple(split for split, _ in group),
            tuple(label(*photo) for photo in group),
        )
        for group in same.values()
        if len(group) > 1
    ]
    copies = [c for c in copies if len(set(c.splits)) > 1 or len(set(c.labels)) > 1]
    return PhotoCheck(len(photos), tuple(bad), tuple(copies))


def _decoded(loader: Loader, position: int) -> tuple[str | None, bytes | None]:
    """Returns what is wrong with a photo, or else a digest of its content."""
    try:
        loader.prepared(position)
        return None, _digest(loader.items.photo(position))
    except (OSError, TypeError, ValueError, MemoryError) as error:
        return str(error) or type(error).__name__, None


def _digest(photo: Any) -> bytes | None:
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(photo, str | os.PathLike):
        with open(photo, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    elif isinstance(photo, bytes | bytearray | memoryview):
        digest.update(photo)
    elif isinstance(photo, Image.Image):
        digest.update(repr((photo.mode, photo.size)).encode() + photo.tobytes())
    elif hasattr(photo, "__array__"):
        array = np.ascontiguousarray(photo)
        digest.update(repr((array.shape, array.dtype)).encode() + array.tobytes())
    else:
        return None
    return digest.digest()


def _mapped(function: Callable, values: list, threads: int) -> Iterator:
    if threads == 0:
        yield from map(function, values)
        return
    with ThreadPoolExecutor(threads, "jaxtune-decode") as pool:
        for start in range(0, len(values), _WINDOW):
            yield from pool.map(function, values[start : start + _WINDOW])


def _with_progress(results: Iterable, total: int) -> Iterator:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(
        results,
        "Decoding every photo",
        total,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
