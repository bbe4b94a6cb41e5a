"""Photos to predict: whatever a user hands over, one photo after the other.

A path, a folder, a glob, a picture, or any number of these in a list, a column of a
table, an array or an iterator go in; an ordered sequence or iterator of single photos
comes out. The one rule: what can be found out before the first photo is decoded is said
before, with the place of each bad one.
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

from jaxtune.arguments import Integer, check_choice, check_flag, check_integer
from jaxtune.data.check import MOST_CHECKED
from jaxtune.data.decode import ImageError, check_image
from jaxtune.data.items import Items, Kind, find_images, is_image, listing
from jaxtune.data.labels import label_items
from jaxtune.data.loader import Loader
from jaxtune.data.sources import SourceImages

_WANTED = (
    "a photo (a path, bytes, a file object, a PIL image, an array (h, w, c)), a folder,"
    " a glob such as 'photos/*.jpg', or many photos (a list, an iterator, a column of a"
    " table, an array (n, h, w, c))"
)


@dataclasses.dataclass(frozen=True)
class Photos:
    """Photos in the order in which they were handed over.

    Attributes:
        each: The photos, as `load_image` takes them: a list, or an iterator that is
            read once.
        alone: Whether what was handed over is one photo, not many.
    """

    each: Sequence[Any] | Iterator[Any]
    alone: bool = False


def list_photos(source: Any, name: str = "photos", *, channels: int = 3) -> Photos:
    """Returns the photos that a source stands for; decodes none of them.

    Args:
        source: One photo, as `load_image` takes it; or many:

            - a folder: every picture below it, at any depth, sorted by path;
            - a glob ("photos/**/*.jpg"): the pictures that match, sorted by path;
            - a list, a tuple, or any iterable, such as a generator or `Path.glob`;
            - an array of paths, or of images (n, h, w, c), of grey ones (n, h, w) too
              where one channel is wanted;
            - a pandas or Polars Series, an Arrow column, or a table of one column.

            Files and photos in memory may be mixed. A list's entries are one photo
            each: a folder or a glob among them is refused.
        name: Of the argument, for errors.
        channels: Of the images that are wanted.

    Raises:
        FileNotFoundError: If a folder or a glob has no picture.
        TypeError: If the source is none of these.
        ValueError: If it is an empty string or an array of another shape.

    Example:
        >>> list_photos(["a.jpg", b"..."]).each, list_photos("a.jpg").alone
        (['a.jpg', b'...'], True)
    """
    if isinstance(source, str | os.PathLike):
        return _of_path(source, name)
    if isinstance(source, bytes | bytearray | memoryview | Image.Image):
        return Photos([source], alone=True)
    if isinstance(source, type):
        raise TypeError(f"{name} must be {_WANTED}; received {_unfit(source)}")
    if hasattr(source, "read"):
        return Photos([source], alone=True)
    if _is_table(source):
        return list_photos(_only_column(source, name), name, channels=channels)
    if hasattr(source, "to_pylist"):
        return Photos(source.to_pylist())
    if hasattr(source, "__array__"):
        return _of_array(source, name, channels)
    if isinstance(source, list | tuple):
        return Photos(list(source))
    if isinstance(source, Mapping | set | frozenset | Items) or _has_batches(source):
        raise TypeError(f"{name} must be {_WANTED}; received {_unfit(source)}")
    if isinstance(source, Iterator):
        return Photos(source)
    if isinstance(source, Iterable):
        return Photos(iter(source))
    raise TypeError(f"{name} must be {_WANTED}; received {_unfit(source)}")


def _of_path(source: str | os.PathLike, name: str) -> Photos:
    text = os.fspath(source)
    if not isinstance(text, str):
        text = os.fsdecode(text)
    if not text:
        raise ValueError(f"{name} must be {_WANTED}; received {source!r}.")
    path = os.path.expanduser(text)
    if os.path.isdir(path):
        found = find_images(path)
        if not found:
            raise FileNotFoundError(f"There is no picture in the folder {text!r}.")
        return Photos(found)
    if os.path.exists(path) or not glob.has_magic(path):
        return Photos([source if path == text else path], alone=True)
    matches = sorted(m for m in glob.glob(path, recursive=True) if os.path.isfile(m))
    matches = [match for match in matches if is_image(match)] or matches
    if not matches:
        raise FileNotFoundError(
            f"No picture matches {text!r} (the working directory is {os.getcwd()})."
        )
    return Photos([Path(match) for match in matches])


def _of_array(source: Any, name: str, channels: int) -> Photos:
    """Of arrays, Series and whatever else turns into an array."""
    shape = np.shape(source)
    dtype = getattr(source, "dtype", None)
    pictures = isinstance(dtype, np.dtype) and dtype.kind in "biuf"
    if channels == 1 and len(shape) == 3 and shape[-1] > 4 and pictures:
        return Photos(list(np.asarray(source)))
    if len(shape) in (2, 3) and (pictures or not isinstance(source, np.ndarray)):
        return Photos([source], alone=True)
    if len(shape) == 4:
        return Photos(list(np.asarray(source)))
    array = source if isinstance(source, np.ndarray) else np.asarray(source)
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
            f"{name} is a table with the columns {listing(columns)}; hand over the one"
            " with the photos, such as table['path']."
        )
    return source[columns[0]]


def _has_batches(source: Any) -> bool:
    return hasattr(source, "batches") or hasattr(source, "valid_loader")


def _unfit(source: Any) -> str:
    kind = type(source).__name__
    if isinstance(source, type):
        return f"the class {source.__name__}."
    if _has_batches(source):
        return f"a {kind}; get_preds() takes these."
    if isinstance(source, Mapping):
        return f"a {kind}; hand over a list of its values."
    if isinstance(source, set | frozenset):
        return f"a {kind}, which has no order; make it a list."
    return f"{source!r:.80} ({kind})."


def photo_name(photo: Any, position: int, name: str = "photos") -> Path:
    """Returns a path by which errors and results name a photo."""
    if isinstance(photo, str | os.PathLike):
        return Path(os.fspath(photo))
    return Path(f"{name}[{position}]")


def check_photo(photo: Any) -> None:
    """Looks at a photo without decoding it: its type, and of a file its header.

    Raises:
        FileNotFoundError: If the path does not exist.
        jaxtune.data.ImageError: If the file is plainly no picture, or is a folder.
        TypeError: If it is nothing that `load_image` takes.
    """
    check_photo_type(photo)
    if isinstance(photo, str | os.PathLike):
        if os.path.isdir(photo):
            raise ImageError(
                f"{os.fspath(photo)!r} is a folder, and an entry of a list is one"
                " photo. Hand the folder over alone, or list its photos."
            )
        if isinstance(photo, str) and not os.path.exists(photo):
            if photo and glob.has_magic(photo):
                raise ImageError(
                    f"there is no picture at {photo!r}, and an entry of a list is one"
                    " photo. Hand a glob over alone, or list what it matches."
                )
        check_image(photo)
    elif isinstance(photo, bytes | bytearray | memoryview):
        check_image(photo)
    elif hasattr(photo, "__array__") and not isinstance(photo, Image.Image):
        shape, dtype = np.shape(photo), getattr(photo, "dtype", None)
        kind = dtype.kind if isinstance(dtype, np.dtype) else "f"
        if len(shape) not in (2, 3) or 0 in shape or kind not in "biuf":
            raise ImageError(
                f"an image is an array (h, w, c) or (h, w); got {dtype} {shape}."
            )


def check_photo_type(photo: Any) -> None:
    """Raises a TypeError unless `load_image` may take it."""
    if isinstance(photo, io.TextIOBase):
        raise TypeError(
            "a file object must be opened for bytes, open(path, 'rb'), and this one is "
            "opened for text."
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
    """Returns what is wrong with each bad photo, by its position; decodes none.

    Above 100,000 photos no file is looked at: bad ones are met when they are decoded.
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
    """Returns one error for all bad photos, which names each by its position.

    Args:
        problems: What is wrong, by position.
        count: How many photos there are; None if it is not known.
        name: Of the argument that holds them.
        way_out: Ends the message; "{them}" in it is replaced by "them", or "it".

    Returns:
        A `TypeError` if one of them is, a `FileNotFoundError` if all are, else an
        `ImageError`.
    """
    kinds = {type(problem) for problem in problems.values()}
    kind: type[Exception] = ImageError
    if any(issubclass(each, TypeError) for each in kinds):
        kind = TypeError
    elif all(issubclass(each, FileNotFoundError) for each in kinds):
        kind = FileNotFoundError
    way_out = way_out.format(them="it" if len(problems) == 1 else "them")
    lines = [f"{name}[{i}]: {problem}" for i, problem in problems.items()]
    if len(lines) == 1:
        return kind(f"{lines[0]} {way_out}")
    of = "" if count is None else f" of {count}"
    shown = [f"  {line}" for line in lines[:10]]
    if len(lines) > 10:
        shown.append(f"  and {len(lines) - 10} more")
    text = "\n".join(shown)
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
    """Returns batches of photos for a network that was made for some data.

    See `ImageDataLoaders.test_loader`.

    Args:
        data: Has `valid_loader`, whose preparation and batch size are taken, and the
            classes.
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
    check_integer(batch_size, "batch_size", least=1)
    on_error = valid.on_error if on_error is None else on_error
    check_choice(on_error, "on_error", ("raise", "skip"))
    return Loader(
        photo_items(
            photos,
            data=data,
            labels=labels,
            with_labels=with_labels,
            on_error=on_error,
            name=name,
        ),
        valid.preparation,
        batch_size=batch_size,
        seed=valid.seed,
        workers=valid.workers,
        cache_bytes=0,
        on_error=on_error,
    )


def photo_items(
    source: Any,
    *,
    data: Any,
    labels: Any = None,
    with_labels: bool = False,
    on_error: str = "raise",
    name: str = "photos",
) -> Items:
    """Returns the items of photos for a network that was made for some data.

    Args:
        source: See `list_photos`; an iterator is read to its end.
        data: Has kind, classes, num_outputs and in_channels.
        labels: One for each photo, as `label_items` takes them; none if None.
        with_labels: Whether to take labels from the folders that the photos lie in: of
            each the nearest folder that is named like a class.
        on_error: "raise", or "skip" to leave out with a warning what can't be read.
        name: Of the argument, for errors.

    Returns:
        With `labelled=False`, and zeros for labels, if there are none.

    Raises:
        ValueError: If there is no photo, or labels are not as many, unknown, or can't
            be found.
        FileNotFoundError: If a folder, a glob or a file is not there.
        jaxtune.data.ImageError: If a file is no picture.
        TypeError: If a photo is of no known type.
    """
    listed = list_photos(source, name, channels=data.in_channels)
    photos = list(listed.each)
    if not photos:
        raise ValueError(f"{name} has no photo; there is nothing to predict.")
    bad = find_bad(photos)
    if bad and listed.alone:
        raise bad[0]
    if bad and (on_error == "raise" or len(bad) == len(photos)):
        way_out = (
            "Mend or remove {them}, or leave {them} out with"
            " data.test_loader(photos, on_error='skip')."
        )
        raise bad_photos(bad, len(photos), name, way_out)
    paths = tuple(photo_name(photo, i, name) for i, photo in enumerate(photos))
    if with_labels and labels is None:
        labels = _folder_labels(paths, data.kind, data.classes)
    images = None
    if not all(isinstance(photo, str | os.PathLike) for photo in photos):
        images = SourceImages(
            photos.__getitem__, np.arange(len(photos)), data.in_channels
        )
    items = _labelled(paths, labels, data)
    items = dataclasses.replace(items, images=images)
    if not bad:
        return items
    said = bad_photos(bad, len(photos), name, "Left {them} out.")
    warnings.warn(str(said), stacklevel=4)
    return items.take([i for i in range(len(photos)) if i not in bad])


def _labelled(paths: tuple[Path, ...], labels: Any, data: Any) -> Items:
    shape = (len(paths), *data.valid_items.labels.shape[1:])
    if labels is None:
        none = np.zeros(shape, data.valid_items.labels.dtype)
        return Items(paths, none, data.classes, data.kind, labelled=False)
    known = None if data.kind == "regression" else data.classes
    items = label_items(paths, labels, classes=known, kind=data.kind)
    if items.labels.shape != shape:
        raise ValueError(
            f"labels must have shape {shape}, as the network predicts; received "
            f"{items.labels.shape}."
        )
    return items


def _folder_labels(
    paths: Sequence[Path], kind: Kind, classes: Sequence[str]
) -> list[str]:
    way_out = (
        "Labels are needed here: give them with data.test_loader(photos, labels=[...]),"
        " one for each photo"
    )
    if kind != "single":
        raise ValueError(f"these photos have no labels. {way_out}.")
    known = set(classes)
    found = [
        next((part.name for part in path.parents if part.name in known), "")
        for path in paths
    ]
    without = [str(path) for path, label in zip(paths, found, strict=True) if not label]
    if without:
        raise ValueError(
            f"{len(without)} of {len(paths)} photos have no label, for they lie in no"
            f" folder named like a class: {listing(without, 3)}. {way_out}, or sort"
            f" the photos into folders ({listing(classes)})."
        )
    return found
