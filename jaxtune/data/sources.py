"""Sources: images in memory, or in another library's data set, become `Items`.

Images stay where they are and are read when they are needed; only labels are gathered.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxtune.data.decode import check_floats
from jaxtune.data.items import Items, Kind, NumberedPaths, SourceImages
from jaxtune.data.labels import check_classes, label_items
from jaxtune.data.values import label_columns, plain_labels


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
            array (h, w, c) or (h, w), or whatever else `load_image` reads) and "label":
            a list, a Grain source, a Hugging Face dataset. Labels are read once; a
            dataset with columns gives its "label" column.
        name: Of the images, for errors and splits.
        classes: Names of the classes. Whole-number labels that are not among these
            names are positions in `classes`.
        kind: Of the labels; see `label_items`.

    Raises:
        ValueError: If the images have another shape or dtype, there are none, or the
            labels do not fit.
        TypeError: If the source is none of the above.
    """
    is_pair = isinstance(source, tuple | list) and len(source) == 2
    if is_pair and hasattr(source[0], "__array__"):
        images, labels, known = _array_images(source[0]), source[1], None
    else:
        images = _record_images(source)
        labels, known = _record_labels(source), _feature_names(source)
    classes = check_classes(known if classes is None else classes)
    plain = plain_labels(labels)
    if len(images) != len(plain):
        raise ValueError(
            f"{len(images)} images were given with {len(plain)} labels. Give one label"
            " for each image."
        )
    if classes is not None or not label_columns(labels):  # label_items names columns
        labels = labels_by_name(plain, classes, kind)
    paths = NumberedPaths(name, np.arange(len(images)))
    items = label_items(paths, labels, classes=classes, kind=kind)
    return Items(paths, items.labels, items.classes, items.kind, images)


def _array_images(images: Any) -> SourceImages:
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
    return SourceImages(
        images.__getitem__, np.arange(len(images)), images.shape[-1], array=images
    )


def _record_images(source: Any) -> SourceImages:
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
    if not isinstance(first, Mapping) or not {"image", "label"} <= set(first):
        is_mapping = isinstance(first, Mapping)
        has = f"has {list(first)}" if is_mapping else f"is a {type(first).__name__}"
        raise ValueError(
            f"items of a source are dicts with 'image' and 'label'; the first {has}."
            " Rename its keys, with map of a Grain source or rename_column of a"
            " dataset."
        )
    positions = np.arange(len(source))
    channels = _channels(first["image"])
    return SourceImages(lambda i: source[i]["image"], positions, channels)


def _record_labels(source: Any) -> list:
    # Reading a column of a dataset does not decode images.
    if "label" in (getattr(source, "column_names", None) or ()):
        return list(source["label"])
    return [
        label.item() if isinstance(label, np.ndarray) and label.ndim == 0 else label
        for label in (source[position]["label"] for position in range(len(source)))
    ]


def _feature_names(source: Any) -> tuple[str, ...] | None:
    """Returns the names of the classes that a Hugging Face dataset declares."""
    features = getattr(source, "features", None)
    label = features.get("label") if isinstance(features, Mapping) else None
    names = getattr(label, "names", None)
    return None if names is None else tuple(names)


def _channels(image: Any) -> int:
    """Returns the channels of an image; 3 for pictures that are not arrays."""
    if not hasattr(image, "__array__") or hasattr(image, "mode"):
        return 3
    shape = np.shape(image)
    if len(shape) not in (2, 3) or 0 in shape:
        raise ValueError(
            f"an image is an array (h, w, c) or (h, w); the source's first has {shape}."
        )
    return 1 if len(shape) == 2 else shape[2]


def labels_by_name(
    labels: list | np.ndarray, classes: Sequence[str] | None, kind: Kind | None
) -> list | np.ndarray:
    """Returns labels by name where they are positions in `classes`."""
    if classes is None or kind == "regression":
        return labels
    if isinstance(labels, np.ndarray):
        whole = labels.dtype.kind in "biu" or (
            kind == "single" and bool((labels == np.rint(labels)).all())
        )
        if labels.ndim != 1 or not whole or kind == "multi":
            return labels
        values = np.unique(labels).tolist()
        listed = labels.tolist()
    else:
        rows = (label if isinstance(label, list) else [label] for label in labels)
        values = {value for row in rows for value in row}
        if any(type(value) not in (int, bool) for value in values):
            return labels
        listed = labels
    if all(type(value) is not float and str(value) in classes for value in values):
        return labels
    positions = {int(value) for value in values}
    table: dict[Any, str] = {position: str(position) for position in positions}
    if not set(table.values()) <= set(classes):
        if min(positions) < 0 or max(positions) >= len(classes):
            raise ValueError(
                f"labels are {min(positions)} to {max(positions)}, and there are"
                f" {len(classes)} classes, 0 to {len(classes) - 1}. Name every class."
            )
        table = {position: classes[position] for position in positions}
    return [
        [table[value] for value in label] if isinstance(label, list) else table[label]
        for label in listed
    ]
