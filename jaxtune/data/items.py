"""Items: the photos of one split, with their labels."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import re
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, Literal, SupportsIndex, get_args

import numpy as np
from jaxtyping import Float, Float32, Int, Int32

from jaxtune.arguments import check_choice, check_function, check_instance, check_path

Kind = Literal["single", "multi", "regression"]

#: How bytes of names that are not UTF-8 are kept, as Python does with file names.
_ESCAPED = "surrogateescape"


class SourceImages:
    """Images that are not files, read by their position when they are needed.

    Attributes:
        positions: Of these images in the source.
        channels: How many channels each image has.
        array: The array (n, h, w, c) that holds the whole source, if there is one.
        encoded: Whether they are files' contents, which any process can decode.
    """

    encoded = False

    def __init__(
        self,
        read: Callable[[int], Any],
        positions: Int[np.ndarray, " n"],
        channels: int,
        *,
        array: np.ndarray | None = None,
    ) -> None:
        """Takes a function from a position to an image, and the positions."""
        self._read = read
        self.positions = positions
        self.channels = channels
        self.array = array

    def __len__(self) -> int:
        """Returns how many images there are."""
        return len(self.positions)

    def __getitem__(self, position: SupportsIndex) -> Any:
        """Returns one image, as `load_image` takes it."""
        return self._read(int(self.positions[position]))

    def take(self, positions: np.ndarray) -> SourceImages:
        """Returns the images at these positions, in this order."""
        return SourceImages(
            self._read, self.positions[positions], self.channels, array=self.array
        )


class NumberedPaths(Sequence):
    """Names of images by number, created on access: a million of them cost nothing.

    Example:
        >>> NumberedPaths("train", np.array([3, 11]))[1].as_posix()
        'train/0000011'
    """

    def __init__(self, name: str, numbers: Int[np.ndarray, " n"]) -> None:
        """Takes the name they share, and the number of each."""
        self._name = name
        self._numbers = numbers

    def __len__(self) -> int:
        """Returns how many names there are."""
        return len(self._numbers)

    def __getitem__(self, position: SupportsIndex | slice) -> Path | NumberedPaths:
        """Returns the name of one image, or those of a slice."""
        if isinstance(position, slice):
            return NumberedPaths(self._name, self._numbers[position])
        return Path(self._name, f"{self._numbers[position]:07}")

    def texts(self) -> list[str]:
        """Returns all names as strings, without creating paths."""
        return [f"{self._name}/{number:07}" for number in self._numbers.tolist()]

    def take(self, positions: np.ndarray) -> NumberedPaths:
        """Returns the names at these positions, in this order."""
        return NumberedPaths(self._name, self._numbers[positions])


class PackedPaths(Sequence):
    """Paths below a folder in one block of bytes; a `Path` is made on access.

    Example:
        >>> paths = PackedPaths("photos", b"a.jpgbb.jpg", np.array([0, 5, 11]))
        >>> paths[1].as_posix(), len(paths)
        ('photos/bb.jpg', 2)
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        names: bytes,
        bounds: Int[np.ndarray, " ends"],
        *,
        suff: str = "",
        rows: Int[np.ndarray, " m"] | None = None,
    ) -> None:
        """Takes names one after the other.

        Args:
            folder: Which they are relative to.
            names: UTF-8, without anything between them.
            bounds: Where each begins, and where the last one ends.
            suff: Appended to each.
            rows: Which of them there are, in this order; all if None.
        """
        self._folder, self._suff = Path(folder), suff
        self._names, self._bounds, self._rows = names, bounds, rows

    def __len__(self) -> int:
        """Returns how many paths there are."""
        return len(self._bounds) - 1 if self._rows is None else len(self._rows)

    def __getitem__(self, position: SupportsIndex | slice) -> Path | PackedPaths:
        """Returns one path, or those of a slice."""
        if isinstance(position, slice):
            return self.take(np.arange(len(self))[position])
        position = range(len(self))[position]
        row = position if self._rows is None else int(self._rows[position])
        begin, end = int(self._bounds[row]), int(self._bounds[row + 1])
        name = self._names[begin:end].decode(errors=_ESCAPED)
        return Path(self._folder, name + self._suff)

    def take(self, positions: np.ndarray) -> PackedPaths:
        """Returns the paths at these positions, in this order; the block is shared."""
        positions = np.asarray(positions, np.int64)
        rows = positions if self._rows is None else self._rows[positions]
        return PackedPaths(
            self._folder, self._names, self._bounds, suff=self._suff, rows=rows
        )

    def texts(self) -> list[str]:
        """Returns all paths as strings, with slashes, without creating paths."""
        folder = self._folder.as_posix()
        start = "" if folder == "." else folder.rstrip("/") + "/"
        rows = range(len(self)) if self._rows is None else self._rows.tolist()
        bounds, names = self._bounds.tolist(), self._names
        return [
            f"{start}{names[bounds[row] : bounds[row + 1]].decode(errors=_ESCAPED)}"
            f"{self._suff}"
            for row in rows
        ]

    def digest(self) -> str:
        """Returns a sha256 of the names, relative to their folder, and their order."""
        digest = hashlib.sha256(self._names)
        for numbers in (self._bounds, self._rows):
            digest.update(b"all" if numbers is None else numbers.tobytes())
        digest.update(self._suff.encode())
        return digest.hexdigest()


@dataclasses.dataclass(frozen=True, eq=False)
class Items:
    """The photos of one split, with their labels.

    Attributes:
        paths: Of the photos; for images in memory, the names that errors give them.
        labels: One for each photo. Single label: int32 (n,), the class as a position in
            `classes`. Multi-label: float32 (n, classes), 1 for each class the photo
            has, else 0. Regression: float32 (n,) or (n, k), the targets.
        classes: Names of the classes, the same for every split; empty for regression.
        kind: "single", "multi" or "regression".
        images: Images by position, for those that are not files.
        weights: How often training draws each photo, relative to the others; None
            draws each once an epoch.
        labelled: Whether the labels are known. If not, `labels` are placeholder zeros
            of the right shape and dtype: see `ImageDataLoaders.test_loader`.
    """

    paths: Sequence[Path]
    labels: Int32[np.ndarray, " n"] | Float32[np.ndarray, n * outputs]
    classes: tuple[str, ...]
    kind: Kind = "single"
    images: SourceImages | None = None
    weights: Float[np.ndarray, " n"] | None = None
    labelled: bool = True

    def __post_init__(self) -> None:
        """Refuses labels whose shape or dtype does not fit the kind."""
        check_kind(self.kind)
        wanted = {
            "single": (np.int32, (len(self),)),
            "multi": (np.float32, (len(self), len(self.classes))),
            "regression": (np.float32, (len(self), *self.labels.shape[1:])),
        }[self.kind]
        if (self.labels.dtype, self.labels.shape) != wanted:
            raise ValueError(
                f"{len(self)} {self.kind} labels of {len(self.classes)} classes are"
                f" {np.dtype(wanted[0])} {wanted[1]}; got {self.labels.dtype}"
                f" {self.labels.shape}. label_items makes them."
            )

    def __len__(self) -> int:
        """Returns the number of photos."""
        return len(self.paths)

    @property
    def num_outputs(self) -> int:
        """Outputs a network needs: one for each class, or for each target."""
        if self.kind == "regression":
            return math.prod(self.labels.shape[1:])
        return len(self.classes)

    def counts(self) -> dict[str, int]:
        """Returns the number of photos of each class, in the order of `classes`.

        A photo with several labels counts for each of them; regression has no classes.
        """
        if self.kind == "single":
            numbers = np.bincount(self.labels, minlength=len(self.classes)).tolist()
        else:
            numbers = [int(self.labels[:, n].sum()) for n in range(len(self.classes))]
        return dict(zip(self.classes, numbers, strict=True))

    def photo(self, position: SupportsIndex) -> Any:
        """Returns a photo as `load_image` takes it: a path, or the image itself."""
        return self.paths[position] if self.images is None else self.images[position]

    def label_text(self, label: Any) -> str:
        """Returns one photo's label as text: its class, its classes, or its targets.

        Args:
            label: A row of `labels`.

        Example:
            >>> two = np.ones((1, 2), np.float32)
            >>> items = Items((Path("a.jpg"),), two, ("cat", "dog"), "multi")
            >>> items.label_text(items.labels[0])
            'cat;dog'
        """
        if self.kind == "single":
            return self.classes[int(label)]
        if self.kind == "multi":
            return ";".join(self.classes[n] for n in np.flatnonzero(label))
        return ", ".join(f"{number:.4g}" for number in np.ravel(label))

    def take(self, positions: Sequence[int] | np.ndarray) -> Items:
        """Returns the items at these positions, in this order."""
        positions = np.asarray(positions, np.int64)
        if isinstance(self.paths, tuple):
            paths = tuple(self.paths[position] for position in positions.tolist())
        else:
            paths = self.paths.take(positions)
        return dataclasses.replace(
            self,
            paths=paths,
            labels=self.labels[positions],
            images=None if self.images is None else self.images.take(positions),
            weights=None if self.weights is None else self.weights[positions],
        )


def check_kind(kind: Any) -> None:
    """Raises an error unless it is a kind of label, or None."""
    check_choice(kind, "kind", get_args(Kind), or_none=True)


def parent_label(path: str | os.PathLike[str]) -> str:
    """Returns the name of the folder that holds a file.

    Example:
        >>> parent_label("photos/train/cat/1.jpg")
        'cat'
    """
    return Path(check_path(path, "path")).parent.name


def folder_label(
    root: str | os.PathLike[str],
) -> Callable[[str | os.PathLike[str]], str]:
    """Returns a function from a path to its first folder below `root`.

    A class may have subfolders: with root `photos`, `photos/cat/siamese/1.jpg` is
    labelled "cat".
    """
    check_path(root, "root")

    def label(path: str | os.PathLike[str]) -> str:
        return Path(path).relative_to(root).parts[0]

    return label


def name_label(
    function: Any,
) -> Callable[[str | os.PathLike[str]], Hashable]:
    """Returns a function from a path to `function` of the file's name.

    Example:
        >>> name_label(str.isupper)("photos/CAT_1")
        True
    """
    check_function(function, "label_func", "a function from a name to a label")

    def label(path: str | os.PathLike[str]) -> Hashable:
        return function(Path(path).name)

    return label


def regex_label(pattern: Any) -> Callable[[str], str | None]:
    """Returns a function from a file's name to the first group of a pattern.

    The pattern may match anywhere in the name, as in fastai's `from_name_re`. A name
    that does not match gives None.

    Raises:
        ValueError: If the pattern is not a regular expression, or has no group.

    Example:
        >>> regex_label(r"(.+)_\\d+.jpg$")("great_pyrenees_173.jpg")
        'great_pyrenees'
    """
    check_instance(pattern, "pattern", (str, re.Pattern), "a regular expression, a str")
    if not isinstance(getattr(pattern, "pattern", pattern), str):
        raise TypeError(f"pattern must be of str, not of bytes; received {pattern!r}.")
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"pattern={pattern!r} is not a regular expression: {error}."
        ) from None
    if compiled.groups < 1:
        raise ValueError(
            f"pattern={compiled.pattern!r} has no group: put parentheses around the"
            r" part of the name that is the label, as in r'(.+)_\d+.jpg$'."
        )

    def label(name: str) -> str | None:
        match = compiled.search(name)
        return match.group(1) if match else None

    return label


def listing(things: Sequence[object], most: int = 10) -> str:
    """Returns the first few of many things, and the number of the others.

    Example:
        >>> listing(["a.jpg", "b.jpg", "c.jpg"], most=2)
        'a.jpg, b.jpg and 1 more'
    """
    shown = ", ".join(str(thing) for thing in things[:most])
    more = len(things) - most
    return f"{shown} and {more} more" if more > 0 else shown


def rows_of(positions: Sequence[int]) -> str:
    """Returns row numbers as text.

    Example:
        >>> rows_of([3]), rows_of([0, 12])
        ('row 3, counted from 0', 'rows 0, 12, counted from 0')
    """
    plural = "s" if len(positions) > 1 else ""
    return f"row{plural} {listing(positions)}, counted from 0"
