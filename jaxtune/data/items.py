"""Items: which photos there are, and what each is called.

A folder goes in; paths, labels and class names come out. The one rule: everything is
sorted, so that nothing depends on the order in which a file system lists its files.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int32

IMAGE_EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"}
)


@dataclasses.dataclass(frozen=True, eq=False)
class Items:
    """The photos of one split, with their labels.

    Attributes:
        paths: Where each photo lies.
        labels: The class of each photo, as a position in `classes`.
        classes: Names of the classes, the same for every split.
    """

    paths: tuple[Path, ...]
    labels: Int32[np.ndarray, " n"]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        """Returns how many photos there are."""
        return len(self.paths)

    def counts(self) -> dict[str, int]:
        """Returns how many photos each class has, in the order of `classes`."""
        numbers = np.bincount(self.labels, minlength=len(self.classes))
        return dict(zip(self.classes, numbers.tolist(), strict=True))

    def take(self, positions: Sequence[int] | np.ndarray) -> Items:
        """Returns the items at these positions, in this order."""
        positions = np.asarray(positions, np.int64)
        return Items(
            tuple(self.paths[position] for position in positions),
            self.labels[positions],
            self.classes,
        )


def is_image(path: str | os.PathLike[str]) -> bool:
    """Returns whether a file's name is that of a picture, whatever the case.

    Hidden files are not: copies made by macOS begin with a dot and end in .jpg.

    Example:
        >>> is_image("cat.JPG"), is_image("._cat.jpg"), is_image("notes.txt")
        (True, False, False)
    """
    name = os.path.basename(os.fspath(path))
    extension = os.path.splitext(name)[1].lower()
    return not name.startswith(".") and extension in IMAGE_EXTENSIONS


def find_images(root: str | os.PathLike[str]) -> tuple[Path, ...]:
    """Returns every picture below a folder, at any depth, sorted by its path.

    Hidden files and hidden folders are left out; links to folders are followed, each
    folder once.

    Raises:
        FileNotFoundError: If there is no such folder.
        NotADirectoryError: If it is a file.
    """
    root = existing_folder(root)
    found: list[Path] = []
    seen = {os.path.realpath(root)}
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".")
            and not _seen_before(os.path.join(folder, name), seen)
        )
        found += [Path(folder, name) for name in files if is_image(name)]
    return tuple(sorted(found, key=lambda path: path.relative_to(root).as_posix()))


def _seen_before(folder: str, seen: set[str]) -> bool:
    real = os.path.realpath(folder)
    if real in seen:
        return True
    seen.add(real)
    return False


def existing_folder(path: str | os.PathLike[str]) -> Path:
    """Returns the path of a folder that exists, `~` expanded.

    Raises:
        FileNotFoundError: If there is no such folder.
        NotADirectoryError: If it is a file.
    """
    folder = Path(path).expanduser()
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
                if entry.is_dir() and not entry.name.startswith(".")
            )
        )


def parent_label(path: str | os.PathLike[str]) -> str:
    """Returns the name of the folder that holds a file.

    Example:
        >>> parent_label("photos/train/cat/1.jpg")
        'cat'
    """
    return Path(path).parent.name


def folder_label(
    root: str | os.PathLike[str],
) -> Callable[[str | os.PathLike[str]], str]:
    """Returns a function from a path to the first folder on its way down from `root`.

    A class may keep its photos in folders of its own: below `photos`,
    `photos/cat/siamese/1.jpg` is a cat.
    """

    def label(path: str | os.PathLike[str]) -> str:
        return Path(path).relative_to(root).parts[0]

    return label


def name_label(
    function: Callable[[str], Hashable],
) -> Callable[[str | os.PathLike[str]], Hashable]:
    """Returns a function from a path to `function` of the file's name.

    Example:
        >>> name_label(str.isupper)("photos/CAT_1")
        True
    """

    def label(path: str | os.PathLike[str]) -> Hashable:
        return function(Path(path).name)

    return label


def regex_label(pattern: str | re.Pattern[str]) -> Callable[[str], str | None]:
    """Returns a function from a file's name to the first group of a pattern.

    The pattern is searched for anywhere in the name, as fastai's `from_name_re` does.
    A name without it gives None.

    Raises:
        ValueError: If the pattern is no regular expression, or has no group.

    Example:
        >>> regex_label(r"(.+)_\\d+.jpg$")("great_pyrenees_173.jpg")
        'great_pyrenees'
    """
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


def label_items(
    paths: Sequence[Path],
    labels: Iterable[Hashable],
    *,
    classes: Sequence[str] | None = None,
) -> Items:
    """Returns paths with their labels; classes are sorted by name unless given.

    Args:
        paths: Photos, in the order the items are to have.
        labels: One for each path: a string, or anything that `str` names. None means
            that the photo has no label.
        classes: Names of the classes in the order of their numbers. Useful to go on
            with a model that already has its classes.

    Raises:
        ValueError: If a photo has no label or one that is not among `classes`, if
            numbers differ, or if a class is named twice.
    """
    labels = list(labels)
    if len(paths) != len(labels):
        raise ValueError(f"{len(paths)} paths were given with {len(labels)} labels.")
    missing = [path for path, name in zip(paths, labels, strict=True) if name is None]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(paths)} photos get no label: {listing(missing)}."
            " Correct the pattern or the function, or move these files away."
        )
    names = [str(name) for name in labels]
    if classes is None:
        classes = _sorted_names(labels)
    if len(set(classes)) < len(classes):
        raise ValueError(f"classes must differ from each other; got {tuple(classes)}.")
    positions = {name: position for position, name in enumerate(classes)}
    unknown = collections.Counter(name for name in names if name not in positions)
    if unknown:
        raise ValueError(
            f"The photos have labels that are not among the classes: "
            f"{dict(sorted(unknown.items()))} (label: photos). The classes are"
            f" {tuple(classes)}. Name every class, or move these photos away."
        )
    numbers = np.array([positions[name] for name in names], np.int32)
    return Items(tuple(paths), numbers, tuple(classes))


def _sorted_names(labels: Sequence[Hashable]) -> tuple[str, ...]:
    unique = set(labels)
    if all(type(name) is int or isinstance(name, np.integer) for name in unique):
        return tuple(str(name) for name in sorted(unique))  # 2 comes before 10
    return tuple(sorted({str(name) for name in unique}))


def listing(things: Sequence[object], most: int = 10) -> str:
    """Returns the first few of many things and how many more there are.

    Example:
        >>> listing(["a.jpg", "b.jpg", "c.jpg"], most=2)
        'a.jpg, b.jpg and 1 more'
    """
    shown = ", ".join(str(thing) for thing in things[:most])
    more = len(things) - most
    return f"{shown} and {more} more" if more > 0 else shown
