"""Items: which photos there are, and what each is called.

A folder goes in; paths come out, and beside them labels and class names. The one rule:
what is found is sorted, so that nothing depends on the order in which a file system
lists its files.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import os
import re
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, SupportsIndex, get_args

import numpy as np
from jaxtyping import Float, Float32, Int32

from jaxtune.arguments import check_function, check_instance, check_path
from jaxtune.data.formats import (
    extension_of,
    holds_picture,
    holds_text,
    image_extensions,
    is_beside,
)

#: Folders that other programs make, with copies of the photos.
_NOT_ENTERED = frozenset({"__MACOSX", "@eaDir"})
Kind = Literal["single", "multi", "regression"]


@dataclasses.dataclass(frozen=True, eq=False)
class Items:
    """The photos of one split, with their labels.

    Attributes:
        paths: Where each photo lies; for images that are in memory, how errors name
            them.
        labels: Of each photo. Single label: int32 (n,), the class as a position in
            `classes`. Multi-label: float32 (n, classes), 1 for each class the photo
            has, else 0. Regression: float32 (n,) or (n, k), the numbers.
        classes: Names of the classes, the same for every split; none for regression.
        kind: "single", "multi" or "regression".
        images: Images by position, for those that do not lie on disk.
        weights: How often training draws each photo, relative to the others; all alike
            if None.
        labelled: Whether the labels are known. If not, `labels` are zeros of the right
            form, which stand for nothing: see `ImageDataLoaders.test_loader`.
    """

    paths: tuple[Path, ...] | Names
    labels: Int32[np.ndarray, " n"] | Float32[np.ndarray, n * outputs]
    classes: tuple[str, ...]
    kind: Kind = "single"
    images: Images | None = None
    weights: Float[np.ndarray, " n"] | None = None
    labelled: bool = True

    def __post_init__(self) -> None:
        """Refuses labels that are not those of the kind."""
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
        """Returns how many photos there are."""
        return len(self.paths)

    @property
    def num_outputs(self) -> int:
        """How many numbers a network gives: one a class, or those to be predicted."""
        if self.kind == "regression":
            return math.prod(self.labels.shape[1:])
        return len(self.classes)

    def counts(self) -> dict[str, int]:
        """Returns how many photos each class has, in the order of `classes`.

        With several labels a photo counts for each; for regression there is no class.
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
        """Returns one photo's label in words: its class, its classes, or its numbers.

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


class Names(Protocol):
    """Names of images, as paths that are made when they are asked for."""

    def __len__(self) -> int:
        """Returns how many there are."""

    def __getitem__(self, position: SupportsIndex) -> Path:
        """Returns one of them."""

    def texts(self) -> list[str]:
        """Returns all of them, with slashes."""

    def take(self, positions: np.ndarray) -> Names:
        """Returns the names at these positions, in this order."""


class Images(Protocol):
    """Images by position, which can be told to keep some of them only."""

    @property
    def channels(self) -> int:
        """How many channels each image has."""

    def __getitem__(self, position: SupportsIndex) -> Any:
        """Returns one image, as `load_image` takes it."""

    def take(self, positions: np.ndarray) -> Images:
        """Returns the images at these positions, in this order."""


def check_kind(kind: Any) -> None:
    """Raises an error unless it is a kind of label, or None."""
    wanted = "'single', 'multi' or 'regression' (of labels), or None"
    check_instance(kind, "kind", (str, type(None)), wanted)
    if kind not in (None, *get_args(Kind)):
        raise ValueError(
            f"kind is 'single', 'multi' or 'regression' (of labels); got {kind!r}."
        )


def is_image(path: str | os.PathLike[str]) -> bool:
    """Returns whether a file's name is that of a picture that can be read.

    Every extension of a format that Pillow decodes is, whatever the case. Hidden files
    are not: copies made by macOS begin with a dot and end in .jpg.

    Example:
        >>> is_image("cat.JPG"), is_image("._cat.jpg"), is_image("notes.txt")
        (True, False, False)
    """
    wanted = "a path, a str or a pathlib.Path"
    check_instance(path, "path", (str, os.PathLike), wanted)
    name = os.path.basename(os.fspath(path))
    return not name.startswith(".") and extension_of(name) in image_extensions()


def find_images(root: str | os.PathLike[str]) -> tuple[Path, ...]:
    """Returns every picture below a folder, at any depth, sorted by its path.

    A picture is known by its extension, or else, as where there is none, by its first
    bytes. Hidden files and hidden folders are left out in silence, and so are tables
    and texts; what else is left out is counted in a warning. Links to folders are
    followed, each folder once.

    Raises:
        FileNotFoundError: If there is no such folder.
        NotADirectoryError: If it is a file.
    """
    found, left_out = scan_images(root)
    warn_left_out(left_out, root)
    return found


def scan_images(
    root: str | os.PathLike[str],
) -> tuple[tuple[Path, ...], collections.Counter[str]]:
    """Returns what `find_images` does, and how many files were left out, by extension.

    Files that nobody would miss (texts, tables, hidden files) are not counted.
    """
    root = existing_folder(root)
    found: list[Path] = []
    left_out: collections.Counter[str] = collections.Counter()
    seen = {os.path.realpath(root)}
    extensions = image_extensions()
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".")
            and name not in _NOT_ENTERED
            and not _seen_before(os.path.join(folder, name), seen)
        )
        for name in files:
            if name.startswith("."):
                continue
            extension = extension_of(name)
            path = os.path.join(folder, name)
            if extension in extensions:
                found.append(Path(path))
            elif is_beside(name) or not os.path.isfile(path):
                continue
            elif holds_picture(path):
                found.append(Path(path))
            elif extension or not holds_text(path):
                left_out[extension] += 1
    found.sort(key=lambda path: path.relative_to(root).as_posix())
    return tuple(found), left_out


def warn_left_out(
    left_out: Mapping[str, int], root: str | os.PathLike[str], *, stacklevel: int = 3
) -> None:
    """Warns of files that were left out, if there are any, with their extensions.

    Args:
        left_out: How many there are, by extension.
        root: The folder.
        stacklevel: As in `warnings.warn`, counted from here.
    """
    if left_out:
        warnings.warn(
            f"Left out {files_left_out(left_out)} below {str(root)!r}, which can't be"
            " read as pictures. Convert them to JPEG or PNG, or register a plugin of"
            " Pillow's that reads them (pillow-heif for .heic).",
            stacklevel=stacklevel + 1,
        )


def files_left_out(left_out: Mapping[str, int]) -> str:
    """Returns in words how many files were left out, by extension.

    Example:
        >>> files_left_out({".svg": 1, ".heic": 6, "": 1})
        '8 files (.heic 6, without extension 1, .svg 1)'
    """
    number = sum(left_out.values())
    by_number = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    each = [f"{name or 'without extension'} {count}" for name, count in by_number]
    return f"{number} file{'s' * (number > 1)} ({listing(each, most=20)})"


def no_photos(left_out: Mapping[str, int], root: str | os.PathLike[str]) -> str:
    """Returns a sentence that says a folder holds no photos, and what it holds."""
    holds = f"; it holds {files_left_out(left_out)}" if left_out else ""
    return f"There are no photos in {str(root)!r} that can be read{holds}"


def _seen_before(folder: str, seen: set[str]) -> bool:
    real = os.path.realpath(folder)
    if real in seen:
        return True
    seen.add(real)
    return False


def existing_folder(path: str | os.PathLike[str], name: str = "root") -> Path:
    """Returns the path of a folder that exists, `~` expanded.

    Args:
        path: Of the folder.
        name: Of the argument that gives it, for errors.

    Raises:
        FileNotFoundError: If there is no such folder.
        NotADirectoryError: If it is a file.
    """
    folder = Path(check_path(path, name)).expanduser()
    if not folder.exists():
        raise FileNotFoundError(
            f"There is no folder {str(folder)!r}. Check the path (the working"
            f" directory is {os.getcwd()})."
        )
    if not folder.is_dir():
        raise NotADirectoryError(
            f"{str(folder)!r} is a file; name the folder that holds the photos."
        )
    return folder


def class_folders(folder: str | os.PathLike[str]) -> tuple[str, ...]:
    """Returns the sorted names of the folders directly inside, without hidden ones."""
    with os.scandir(folder) as entries:
        return tuple(
            sorted(
                entry.name
                for entry in entries
                if entry.is_dir()
                and not entry.name.startswith(".")
                and entry.name not in _NOT_ENTERED
            )
        )


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
    """Returns a function from a path to the first folder on its way down from `root`.

    A class may keep its photos in folders of its own: below `photos`,
    `photos/cat/siamese/1.jpg` is a cat.
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

    The pattern is searched for anywhere in the name, as fastai's `from_name_re` does.
    A name without it gives None.

    Raises:
        ValueError: If the pattern is no regular expression, or has no group.

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
    """Returns the first few of many things and how many more there are.

    Example:
        >>> listing(["a.jpg", "b.jpg", "c.jpg"], most=2)
        'a.jpg, b.jpg and 1 more'
    """
    shown = ", ".join(str(thing) for thing in things[:most])
    more = len(things) - most
    return f"{shown} and {more} more" if more > 0 else shown
