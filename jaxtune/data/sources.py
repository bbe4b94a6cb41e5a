"""Sources: images that are in memory, or that another library reads.

Arrays of images, or anything with a length and positions, go in; `Items` come out. The
one rule: images stay where they are; only the labels are gathered.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Int

from jaxtune.data.decode import check_floats
from jaxtune.data.items import Items, Kind
from jaxtune.data.labels import check_classes, label_items
from jaxtune.data.values import label_columns, plain_labels


class SourceImages:
    """Images read by their position in a source, when they are needed.

    Attributes:
        channels: How many channels each image has.
        array: All images, where one array holds them: (n, h, w, c).
        positions: Of these images among all.
    """

    def __init__(
        self,
        read: Callable[[int], Any],
        positions: Int[np.ndarray, " n"],
        channels: int,
        *,
        array: np.ndarray | None = None,
    ) -> None:
        """Takes what reads an image by its position, and the positions there are."""
        self._read = read
        self.positions = positions
        self.channels = channels
        self.array = array

    def __len__(self) -> int:
        """Returns how many images there are."""
        return len(self.positions)

    def __getitem__(self, position: SupportsIndex) -> Any:
        """Returns one image: an array, or what else the source holds."""
        return self._read(int(self.positions[position]))

    def take(self, positions: np.ndarray) -> SourceImages:
        """Returns the images at these positions, in this order."""
        return SourceImages(
            self._read, self.positions[positions], self.channels, array=self.array
        )


class NumberedPaths(Sequence):
    """Names of images by number, made when they are asked for: a million cost nothing.

    Example:
        >>> NumberedPaths("train", np.array([3, 11]))[1].as_posix()
        'train/0000011'
    """

    def __init__(self, name: str, numbers: Int[np.ndarray, " n"]) -> None:
        """Takes the name of all and the number of each."""
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
        """Returns all names, with slashes, without making a path of each."""
        return [f"{self._name}/{number:07}" for number in self._numbers.tolist()]

    def take(self, positions: np.ndarray) -> NumberedPaths:
        """Returns the names at these positions, in this order."""
        return NumberedPaths(self._name, self._numbers[positions])


def source_items(
    source: Any,
    *,
    name: str = "image",
    classes: Iterable[Any] | None = None,
    kind: Kind | None = None,
) -> Items:
    """Returns the items of arrays, or of a random-access source.

    Args:
        source: `(images, labels)`, with images an array (n, h, w, c) or (n, h, w) of
            `uint8`, `uint16`, `bool` or floats in 0..1 (see `to_uint8`), of any number
            of channels; or anything with `len` whose items are dicts with "image" (an
            array (h, w, c) or (h, w), or what else `load_image` reads) and "label": a
            list, a Grain source, a Hugging Face dataset. Its labels are gathered once,
            by its "label" column if it has columns.
        name: Of the images, for errors and splits.
        classes: Names of the classes. Labels that are whole numbers and name none of
            them are positions in it.
        kind: Of the labels; see `label_items`.

    Raises:
        ValueError: If the images have another shape or type, there are none, or the
            labels do not fit.
        TypeError: If the source is none of the above.
    """
    read = _arrays if _is_pair(source) else _records
    images, labels, named = read(source)
    classes = check_classes(named if classes is None else classes)
    columns = label_columns(labels)
    labels = plain_labels(labels)
    if len(images) != len(labels):
        raise ValueError(
            f"{len(images)} images were given with {len(labels)} labels. One label for"
            " each image is wanted."
        )
    table = isinstance(labels, np.ndarray) and labels.ndim == 2
    if columns and classes is None and table:
        if kind != "regression" and np.isin(labels, (0, 1)).all():
            classes = check_classes(columns)
    labels = _names(labels, classes, kind)
    paths = NumberedPaths(name, np.arange(len(images)))
    items = label_items(paths, labels, classes=classes, kind=kind)
    return Items(paths, items.labels, items.classes, items.kind, images)


def _is_pair(source: Any) -> bool:
    return (
        isinstance(source, tuple | list)
        and len(source) == 2
        and hasattr(source[0], "__array__")
    )


def _arrays(source: Any) -> tuple[SourceImages, Any, None]:
    images, labels = source
    images = np.asanyarray(images)
    if images.ndim not in (3, 4) or 0 in images.shape:
        raise ValueError(
            "images are an array (n, h, w, c) or (n, h, w), none of these 0; got shape"
            f" {images.shape}."
        )
    if images.ndim == 4 and images.shape[1] <= 4 < min(images.shape[2:]):
        raise ValueError(
            f"images of shape {images.shape} have their channels before height and"
            " width. Channels come last: np.moveaxis(images, 1, -1)."
        )
    if np.issubdtype(images.dtype, np.floating):
        check_floats(images)
    elif images.dtype not in (np.uint8, np.uint16, bool):
        raise ValueError(
            "images are uint8, uint16, bool or floats in 0..1; got"
            f" {images.dtype}. Convert them with images.astype('uint8') if they hold"
            " 0..255."
        )
    if images.ndim == 3:
        images = images[..., None]
    positions = np.arange(len(images))
    read = images.__getitem__
    found = SourceImages(read, positions, images.shape[-1], array=images)
    return found, labels, None


def _records(source: Any) -> tuple[SourceImages, Any, tuple[str, ...] | None]:
    if not (hasattr(source, "__len__") and hasattr(source, "__getitem__")) or (
        isinstance(source, str | bytes | os.PathLike | Mapping)
    ):
        raise TypeError(
            "a source is (images, labels), or has len() and items {'image': ...,"
            f" 'label': ...}} by position; got {type(source).__name__}."
        )
    if len(source) == 0:
        raise ValueError("the source has no images.")
    first = source[0]
    missing = [
        key
        for key in ("image", "label")
        if not (isinstance(first, Mapping) and key in first)
    ]
    if missing:
        holds = (
            f"holds {list(first)}"
            if isinstance(first, Mapping)
            else f"is a {type(first).__name__}"
        )
        raise ValueError(
            f"items of a source are dicts with 'image' and 'label'; the first {holds}."
            " Rename what it has; Grain's map and a dataset's rename_column do."
        )
    positions = np.arange(len(source))
    images = SourceImages(
        lambda position: source[position]["image"],
        positions,
        _channels(first["image"]),
    )
    return images, _labels(source), _class_names(source)


def _labels(source: Any) -> list:
    # Reading a column of a data set decodes no image.
    if "label" in (getattr(source, "column_names", None) or ()):
        return list(source["label"])
    return [
        label.item() if isinstance(label, np.ndarray) and label.ndim == 0 else label
        for label in (source[position]["label"] for position in range(len(source)))
    ]


def _class_names(source: Any) -> tuple[str, ...] | None:
    features = getattr(source, "features", None)
    label = features.get("label") if isinstance(features, Mapping) else None
    names = getattr(label, "names", None)
    return None if names is None else tuple(names)


def _channels(image: Any) -> int:
    """Returns how many channels one image has; pictures that are no arrays have 3."""
    if not hasattr(image, "__array__") or hasattr(image, "mode"):
        return 3
    shape = np.shape(image)
    if len(shape) not in (2, 3) or 0 in shape:
        raise ValueError(
            f"an image is an array (h, w, c) or (h, w); the source's first has {shape}."
        )
    return 1 if len(shape) == 2 else shape[2]


def _names(
    labels: list | np.ndarray, classes: Sequence[str] | None, kind: Kind | None
) -> list | np.ndarray:
    """Returns labels by name where they are positions in `classes`."""
    if classes is None or kind == "regression":
        return labels
    if isinstance(labels, np.ndarray):
        whole = labels.dtype.kind in "biu" or (
            kind == "single" and bool((labels == np.rint(labels)).all())
        )
        if labels.ndim != 1 or not whole or (kind == "multi"):
            return labels
        known = {str(each) for each in np.unique(labels).tolist()}
        if labels.dtype.kind != "b" or not known <= set(classes):
            labels = labels.astype(np.int64)
        used = np.unique(labels)
    else:
        flat = _flat(labels)
        whole = all(type(x) in (int, bool) for x in flat)
        if not whole or {str(x) for x in set(flat)} <= set(classes):
            return labels
        used = np.unique(np.array(flat, np.int64))
    if not len(used) or set(map(str, used.tolist())) <= set(classes):
        return labels
    if used[0] < 0 or used[-1] >= len(classes):
        raise ValueError(
            f"labels are {used[0]} to {used[-1]}, and there are {len(classes)} classes,"
            f" 0 to {len(classes) - 1}. Name every class."
        )
    names = np.asarray(classes, object)
    if isinstance(labels, np.ndarray):
        return names[labels].tolist()
    return [
        [names[int(x)] for x in label] if isinstance(label, list) else names[int(label)]
        for label in labels
    ]


def _flat(labels: list) -> list:
    if labels and isinstance(labels[0], list):
        return [x for label in labels if isinstance(label, list) for x in label]
    return labels
