"""Photos to predict: any form in which users hand over photos becomes a sequence.

A path, a folder, a glob, a picture, or any number of these in a list, a column of a
table, an array or an iterator are accepted. Bad photos are reported with their position
before the first photo is decoded, where that is possible.
"""

from __future__ import annotations

import dataclasses
import glob
import io
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxtune.arguments import Integer, check_choice, check_flag
from jaxtune.data.check import MOST_CHECKED, first_lines
from jaxtune.data.decode import ImageError, check_image, is_array
from jaxtune.data.folders import find_images, is_image
from jaxtune.data.items import Items, Kind, SourceImages, listing
from jaxtune.data.labels import label_items
from jaxtune.data.loader import Loader

_WANTED = (
    "a photo (a path, bytes, a file object, a PIL image, an array (h, w, c)), a folder,"
    " a glob such as 'photos/*.jpg', or many photos (a list, an iterator, a column of a"
    " table, an array (n, h, w, c))"
)


@dataclasses.dataclass(frozen=True)
class Photos:
    """Photos in the order in which they were handed over.

    Attributes:
        each: The photos, as `load_image` takes them: a list, or an iterator that can be
            read once.
        alone: Whether a single photo was handed over, rather than a list.
    """

    each: Sequence[Any] | Iterator[Any]
    alone: bool = False


def list_photos(source: Any, name: str = "photos", *, channels: int = 3) -> Photos:
    """Returns the photos of a source, without decoding them.

    Args:
        source: One photo, as `load_image` takes it; or many:

            - a folder: every picture below it, at any depth, sorted by path;
            - a glob ("photos/**/*.jpg"): the pictures that match, sorted by path;
            - a list, a tuple, or any iterable, such as a generator or `Path.glob`;
            - an array of paths, or of images (n, h, w, c), or (n, h, w) where
              `channels` is 1;
            - a pandas or Polars Series, an Arrow column, or a table of one column.

            Files and photos in memory may be mixed. Each entry of a list is one photo:
            a folder or a glob among them is refused.
        name: Of the argument, for errors.
        channels: Of the images that the network takes.

    Raises:
        FileNotFoundError: If a folder or a glob has no picture.
        TypeError: If the source is none of these.
        ValueError: If it is an empty string or an array of another shape.

    Example:
        >>> list_photos(["a.jpg", b"..."]).each, list_photos("a.jpg").alone
        (['a.jpg', b'...'], True)
    """
    if isinstance(source, str | os.PathLike):
        return _from_path(source, name)
    if isinstance(source, bytes | bytearray | memoryview | Image.Image):
        return Photos([source], alone=True)
    if isinstance(source, type):
        raise TypeError(f"{name} must be {_WANTED}; received {_refused(source)}")
    if hasattr(source, "read"):
        return Photos([source], alone=True)
    if _is_table(source):
        return list_photos(_only_column(source, name), name, channels=channels)
    if hasattr(source, "to_pylist"):
        return Photos(source.to_pylist())
    if hasattr(source, "__array__"):
        return _from_array(source, name, channels)
    if isinstance(source, list | tuple):
        return Photos(list(source))
    refused = isinstance(source, Mapping | set | frozenset | Items)
    if refused or _has_batches(source) or not isinstance(source, Iterable):
        raise TypeError(f"{name} must be {_WANTED}; received {_refused(source)}")
    return Photos(iter(source))


def _from_path(source: str | os.PathLike, name: str) -> Photos:
    text = os.fsdecode(source)
    if not text:
        raise ValueError(f"{name} must be {_WANTED}; received {source!r}.")
    path = os.path.expanduser(text)
    if os.path.isdir(path):
        images = find_images(path)
        if not images:
            raise FileNotFoundError(f"There is no picture in the folder {text!r}.")
        return Photos(images)
    if os.path.exists(path) or not glob.has_magic(path):
        return Photos([source if path == text else path], alone=True)
    matches = sorted(m for m in glob.glob(path, recursive=True) if os.path.isfile(m))
    matches = [match for match in matches if is_image(match)] or matches
    if not matches:
        raise FileNotFoundError(
            f"No picture matches {text!r} (the working directory is {os.getcwd()})."
        )
    return Photos([Path(match) for match in matches])


def _from_array(source: Any, name: str, channels: int) -> Photos:
    """Returns the photos of arrays, Series and other objects that convert to arrays."""
    shape = np.shape(source)
    dtype = getattr(source, "dtype", None)
    pixels = isinstance(dtype, np.dtype) and dtype.kind in "biuf"
    if channels == 1 and len(shape) == 3 and shape[-1] > 4 and pixels:
        return Photos(list(np.asarray(source)))
    if len(shape) in (2, 3) and (pixels or not isinstance(source, np.ndarray)):
        return Photos([source], alone=True)
    if len(shape) == 4:
        return Photos(list(np.asarray(source)))
    array = np.asarray(source)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim > 1 or array.dtype.kind not in "OUST":
        raise ValueError(
            f"{name} must be {_WANTED}; received an array of shape {array.shape} and"
            f" dtype {array.dtype}."
        )
    if array.dtype.kind == "S":
        array = np.array([os.fsdecode(text) for text in array.ravel()]).reshape(
            array.shape
        )
    if array.ndim == 0:
        return list_photos(array.item(), name)
    return Photos(array.tolist())


def _is_table(source: Any) -> bool:
    return any(
        isinstance(getattr(source, names, None), Iterable)
        for names in ("columns", "column_names")
    )


def _only_column(source: Any, name: str) -> Any:
    columns = getattr(source, "column_names", None)
    columns = list(source.columns if columns is None else columns)
    if len(columns) != 1:
        raise TypeError(
            f"{name} is a table with the columns {listing(columns)}; pass the one with"
            " the photos, such as table['path']."
        )
    return source[columns[0]]


def _has_batches(source: Any) -> bool:
    return hasattr(source, "batches") or hasattr(source, "valid_loader")


def _refused(source: Any) -> str:
    kind = type(source).__name__
    if isinstance(source, type):
        return f"the class {source.__name__}."
    if _has_batches(source):
        return f"a {kind}; get_preds() takes these."
    if isinstance(source, Mapping):
        return f"a {kind}; pass a list of its values."
    if isinstance(source, set | frozenset):
        return f"a {kind}, which has no order; make it a list."
    return f"{source!r:.80} ({kind})."


def photo_name(photo: Any, position: int, name: str = "photos") -> Path:
    """Returns the path that errors and results name a photo by."""
    if isinstance(photo, str | os.PathLike):
        return Path(os.fspath(photo))
    return Path(f"{name}[{position}]")


def check_photo(photo: Any) -> None:
    """Checks the type of a photo, and the header of a file, without decoding it.

    Raises:
        FileNotFoundError: If the path does not exist.
        jaxtune.data.ImageError: If the file is no picture, or is a folder.
        TypeError: If `load_image` does not take it.
    """
    check_photo_type(photo)
    if isinstance(photo, str | os.PathLike):
        one_photo = "each entry of a list is one photo"
        if os.path.isdir(photo):
            raise ImageError(
                f"{os.fspath(photo)!r} is a folder, and {one_photo}. Pass the folder"
                " alone, or list its photos."
            )
        if isinstance(photo, str) and glob.has_magic(photo):
            if photo and not os.path.exists(photo):
                raise ImageError(
                    f"there is no picture at {photo!r}, and {one_photo}. Pass a glob"
                    " alone, or list the files that match."
                )
        check_image(photo)
    elif isinstance(photo, bytes | bytearray | memoryview):
        check_image(photo)
    elif is_array(photo):
        shape, dtype = np.shape(photo), getattr(photo, "dtype", None)
        kind = dtype.kind if isinstance(dtype, np.dtype) else "f"
        if len(shape) not in (2, 3) or 0 in shape or kind not in "biuf":
            raise ImageError(
                f"an image is an array (h, w, c) or (h, w); got {dtype} {shape}."
            )


def check_photo_type(photo: Any) -> None:
    """Raises a TypeError if `load_image` does not take objects of this type."""
    if isinstance(photo, io.TextIOBase):
        raise TypeError(
            "a file object must be opened in binary mode, open(path, 'rb'); this one is"
            " in text mode."
        )
    known = str | os.PathLike | bytes | bytearray | memoryview | Image.Image
    if isinstance(photo, type) or not (
        isinstance(photo, known)
        or hasattr(photo, "__array__")
        or hasattr(photo, "read")
    ):
        raise TypeError(
            "a photo is a path, bytes, a binary file object, a PIL image or an array;"
            f" got {photo!r:.80} ({type(photo).__name__})."
        )


def find_bad(photos: Sequence[Any]) -> dict[int, Exception]:
    """Returns the errors of bad photos by position, without decoding any photo.

    Of more than 100,000 photos none is checked: errors then occur while decoding.
    """
    if len(photos) > MOST_CHECKED:
        return {}
    with ThreadPoolExecutor(8, "jaxtune-check") as pool:
        problems = list(pool.map(_problem, photos))
    return {i: problem for i, problem in enumerate(problems) if problem is not None}


def _problem(photo: Any) -> Exception | None:
    try:
        check_photo(photo)
    except (ImageError, OSError, TypeError) as error:
        return error
    return None


def bad_photos(
    problems: Mapping[int, Exception], count: int | None, name: str, way_out: str
) -> Exception:
    """Returns one error for all bad photos, naming each by its position.

    Args:
        problems: The errors by position.
        count: How many photos there are; None if unknown.
        name: Of the argument that holds them.
        way_out: The end of the message; "{them}" in it becomes "it" for a single photo.

    Returns:
        A `TypeError` if one of them is, a `FileNotFoundError` if all are, else an
        `ImageError`.
    """
    kind: type[Exception] = ImageError
    if any(isinstance(each, TypeError) for each in problems.values()):
        kind = TypeError
    elif all(isinstance(each, FileNotFoundError) for each in problems.values()):
        kind = FileNotFoundError
    way_out = way_out.format(them="it" if len(problems) == 1 else "them")
    lines = [f"{name}[{i}]: {problem}" for i, problem in problems.items()]
    if len(lines) == 1:
        return kind(f"{lines[0]} {way_out}")
    of = "" if count is None else f" of {count}"
    text = "\n".join(first_lines(lines))
    return kind(f"{len(lines)}{of} photos can't be read:\n{text}\n{way_out}")


def photo_loader(
    data: Any,
    photos: Any,
    *,
    labels: Any = None,
    with_labels: bool = False,
    batch_size: Integer | None = None,
    on_error: str | None = None,
    name: str = "photos",
) -> Loader:
    """Returns batches of other photos, prepared as `data.valid_loader` prepares its.

    See `ImageDataLoaders.test_loader`.

    Args:
        data: Has valid_loader, valid_items, kind, classes and in_channels.
        photos: See `list_photos`.
        labels: One for each photo, or None.
        with_labels: Whether to take labels from the folders that the photos lie in.
        batch_size: Photos per batch; as in validation if None.
        on_error: "raise" or "skip"; as in validation if None.
        name: Of the argument that holds the photos, for errors.
    """
    valid = data.valid_loader
    check_flag(with_labels, "with_labels")
    if batch_size is None:
        batch_size = valid.batch_size
    on_error = valid.on_error if on_error is None else on_error
    check_choice(on_error, "on_error", ("raise", "skip"))
    listed = list_photos(photos, name, channels=data.in_channels)
    each = list(listed.each)
    bad = _check_all(each, listed.alone, on_error, name)
    items = _photo_items(data, each, labels, with_labels, name)
    if bad:
        warnings.warn(
            str(bad_photos(bad, len(each), name, "Skipped {them}.")), stacklevel=3
        )
        items = items.take([i for i in range(len(each)) if i not in bad])
    return Loader(
        items,
        valid.preparation,
        batch_size=batch_size,
        seed=valid.seed,
        workers=valid.workers,
        cache_bytes=0,
        on_error=on_error,
    )


def _check_all(
    photos: list, alone: bool, on_error: str, name: str
) -> dict[int, Exception]:
    """Returns the errors of the photos to skip; raises the others."""
    if not photos:
        raise ValueError(f"{name} has no photo; there is nothing to predict.")
    bad = find_bad(photos)
    if bad and alone:
        raise bad[0]
    if bad and (on_error == "raise" or len(bad) == len(photos)):
        way_out = (
            "Repair or remove {them}, or skip {them} with"
            " data.test_loader(photos, on_error='skip')."
        )
        raise bad_photos(bad, len(photos), name, way_out)
    return bad


def _photo_items(
    data: Any, photos: list, labels: Any, with_labels: bool, name: str
) -> Items:
    paths = tuple(photo_name(photo, i, name) for i, photo in enumerate(photos))
    if with_labels and labels is None:
        labels = _folder_labels(paths, data.kind, data.classes)
    images = None
    if not all(isinstance(photo, str | os.PathLike) for photo in photos):
        positions = np.arange(len(photos))
        images = SourceImages(photos.__getitem__, positions, data.in_channels)
    valid_labels = data.valid_items.labels
    shape = (len(paths), *valid_labels.shape[1:])
    if labels is None:
        placeholders = np.zeros(shape, valid_labels.dtype)
        return Items(
            paths, placeholders, data.classes, data.kind, images, labelled=False
        )
    classes = None if data.kind == "regression" else data.classes
    items = label_items(paths, labels, classes=classes, kind=data.kind)
    if items.labels.shape != shape:
        raise ValueError(
            f"labels must have shape {shape}, as the network predicts; received "
            f"{items.labels.shape}."
        )
    return dataclasses.replace(items, images=images)


def _folder_labels(
    paths: Sequence[Path], kind: Kind, classes: Sequence[str]
) -> list[str]:
    """Returns for each path the nearest folder that is named like a class."""
    way_out = (
        "Labels are needed here: give them with data.test_loader(photos, labels=[...]),"
        " one for each photo"
    )
    if kind != "single":
        raise ValueError(f"these photos have no labels. {way_out}.")
    known = set(classes)
    labels = [
        next((part.name for part in path.parents if part.name in known), "")
        for path in paths
    ]
    without = [
        str(path) for path, label in zip(paths, labels, strict=True) if not label
    ]
    if without:
        raise ValueError(
            f"{len(without)} of {len(paths)} photos have no label, because no folder"
            f" above them is named like a class: {listing(without, 3)}. {way_out}, or"
            f" sort the photos into folders ({listing(classes)})."
        )
    return labels
