"""Options: what every way to make an `ImageDataLoaders` takes.

Keyword arguments go in; what they say of labels, split and weights is taken out of
them, and the rest goes on to the loaders. The one rule: they are looked at before any
folder is.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

from jaxtune.data.augment import Augmentation
from jaxtune.data.fit import PadMode, Resize, check_resize
from jaxtune.data.items import Items, Kind, check_kind
from jaxtune.data.loader import OnError, check_loader_arguments
from jaxtune.data.prepare import as_size
from jaxtune.data.sampling import Weights, item_weights
from jaxtune.data.splits import check_valid_pct, split_items

DEFAULT_VALID_PCT = 0.2


class LoaderOptions(TypedDict, total=False):
    """What `ImageDataLoaders` takes besides its items."""

    size: int | tuple[int, int]
    valid_size: int | tuple[int, int] | None
    batch_size: int
    seed: int
    augmentation: Augmentation | None
    resize: Resize | None
    pad_mode: PadMode
    presize: int | tuple[int, int] | None
    weights: Weights | None
    in_channels: int | None
    workers: int | None
    on_error: OnError
    cache_bytes: int


class SplitOptions(LoaderOptions, total=False):
    """What every way to make an `ImageDataLoaders` by a random split takes."""

    valid_pct: float | int
    stratify: bool
    classes: Iterable[Any] | None
    kind: Kind | None


def check_options(options: Mapping[str, Any]) -> None:
    """Refuses what is unknown or out of range.

    Raises:
        TypeError: If an option is unknown, or of another type.
        ValueError: If it is out of range.
    """
    known = SplitOptions.__annotations__
    unknown = [name for name in options if name not in known]
    if unknown:
        raise TypeError(
            f"there is no option {', '.join(unknown)}; the options are"
            f" {', '.join(known)}."
        )
    as_size(options.get("size", 224))
    check_valid_pct(options.get("valid_pct", DEFAULT_VALID_PCT))
    check_loader_arguments(
        batch_size=options.get("batch_size", 64),
        seed=options.get("seed", 0),
        workers=options.get("workers"),
        cache_bytes=options.get("cache_bytes", 0),
        on_error=options.get("on_error", "raise"),
    )
    check_resize(options.get("resize"), options.get("pad_mode", "reflection"))
    check_kind(options.get("kind"))
    for name in ("valid_size", "presize"):
        if options.get(name) is not None:
            as_size(options[name])
    if (options.get("in_channels") or 1) < 1:
        raise ValueError(
            f"in_channels must be at least 1; got {options['in_channels']}."
        )
    augmentation = options.get("augmentation")
    if augmentation is not None and not isinstance(augmentation, Augmentation):
        raise TypeError(
            f"augmentation is an Augmentation(...) or None; got {augmentation!r}."
        )
    if isinstance(options.get("classes"), str):
        raise TypeError(
            f"classes is a sequence of names; got the string {options['classes']!r}."
        )


def label_options(options: dict[str, Any]) -> dict[str, Any]:
    """Takes out of the options what says how labels are read, and returns it."""
    return {name: options.pop(name, None) for name in ("classes", "kind")}


def split_by_options(
    items: Items, options: dict[str, Any], root: str | os.PathLike[str] | None
) -> tuple[Items, Items]:
    """Returns both sides of a random split; takes out of the options what says how.

    Args:
        items: All the photos.
        options: As `SplitOptions`; those of `LoaderOptions` are left, but for a weight
            of each photo, which is in the items then.
        root: See `split_items`.
    """
    return split_items(
        weighted(items, options),
        valid_pct=options.pop("valid_pct", DEFAULT_VALID_PCT),
        stratify=options.pop("stratify", True),
        seed=options.get("seed", 0),
        root=root,
    )


def without_split(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options without those of a random split."""
    taken = ("valid_pct", "stratify")
    return {name: value for name, value in options.items() if name not in taken}


def weighted(items: Items, options: dict[str, Any]) -> Items:
    """Returns items with a weight each, if the options have one for each.

    It is taken out of the options then; weights by class are left to the training
    split.
    """
    weights = options.get("weights")
    if weights is None or isinstance(weights, str | Mapping):
        return items
    return dataclasses.replace(
        items, weights=item_weights(items, options.pop("weights"))
    )
