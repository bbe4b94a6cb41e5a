"""Options: what every way to make an `ImageDataLoaders` takes.

They are checked before any folder is looked at.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict

import numpy as np

from jaxtune.arguments import (
    Integer,
    Number,
    check_flag,
    check_integer,
    check_number,
    described,
)
from jaxtune.data.items import Items, Kind, check_kind
from jaxtune.data.labels import check_classes
from jaxtune.data.loader import OnError, check_loader_arguments
from jaxtune.data.resize import PadMode, Resize, Size, as_size, check_resize
from jaxtune.data.sampling import Weights, item_weights
from jaxtune.data.splits import check_valid_pct, split_items
from jaxtune.data.transforms import Augmentation, Transform, as_augmentation

DEFAULT_VALID_PCT = 0.2
DEFAULT_BATCH_SIZE = 64

#: What `augmentation=` takes, see `as_augmentation`.
Augmented = Augmentation | Transform | Sequence[Augmentation | Transform] | None


class LoaderOptions(TypedDict, total=False):
    """What `ImageDataLoaders` takes besides its items."""

    size: Size
    valid_size: Size | None
    batch_size: Integer | Literal["auto"]
    seed: Integer
    augmentation: Augmented
    resize: Resize | None
    pad_mode: PadMode
    presize: Size | None
    weights: Weights | None
    in_channels: Integer | None
    workers: Integer | None
    on_error: OnError
    cache_bytes: Integer


class SplitOptions(LoaderOptions, total=False):
    """What every way to make an `ImageDataLoaders` by a random split takes."""

    valid_pct: Number
    stratify: bool
    classes: Iterable[Any] | None
    kind: Kind | None


def check_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options that were given, numbers as Python's own.

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
    checked = dict(options)
    checked["valid_pct"] = check_valid_pct(options.get("valid_pct", DEFAULT_VALID_PCT))
    auto = isinstance(options.get("batch_size"), str)
    if auto and options["batch_size"] != "auto":
        raise TypeError(
            "batch_size must be a whole number or 'auto'; received "
            f"{options['batch_size']!r}."
        )
    checked |= check_loader_arguments(
        batch_size=1 if auto else options.get("batch_size", DEFAULT_BATCH_SIZE),
        seed=options.get("seed", 0),
        workers=options.get("workers"),
        cache_bytes=options.get("cache_bytes", 0),
        on_error=options.get("on_error", "raise"),
    )
    checked["batch_size"] = "auto" if auto else checked["batch_size"]
    check_resize(options.get("resize"), options.get("pad_mode", "reflection"))
    check_kind(options.get("kind"))
    check_flag(options.get("stratify", True), "stratify")
    checked["size"] = as_size(options.get("size", 224))
    for name in ("valid_size", "presize"):
        if options.get(name) is not None:
            checked[name] = as_size(options[name], name)
    if options.get("in_channels") is not None:
        channels = check_integer(options["in_channels"], "in_channels", least=1)
        checked["in_channels"] = channels
    checked["augmentation"] = as_augmentation(options.get("augmentation"))
    check_weights(options.get("weights"))
    checked["classes"] = check_classes(options.get("classes"))
    return {name: checked[name] for name in options}


def check_weights(weights: Any) -> None:
    """Raises an error unless weights are of a form that `item_weights` takes."""
    wanted = "'balanced', a dict from class to weight, a number for each photo, or None"
    if isinstance(weights, str):
        if weights != "balanced":
            raise ValueError(f"weights must be {wanted}; received {weights!r}.")
    elif weights is not None and not isinstance(weights, Mapping | list | tuple):
        if getattr(weights, "ndim", None) != 1 and not hasattr(weights, "to_list"):
            raise TypeError(f"weights must be {wanted}; received {described(weights)}.")
    if isinstance(weights, Mapping):
        for name, weight in weights.items():
            check_number(weight, f"weights[{name!r}]", least=0)
    elif isinstance(weights, list | tuple):
        for position, weight in enumerate(weights):
            if not isinstance(weight, bool | np.bool_):
                check_number(weight, f"weights[{position}]", least=0)


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


def refuse_split(options: Mapping[str, Any], because: str) -> None:
    """Raises an error if options say how to split photos that are split already.

    Raises:
        TypeError: If one of them is given.
    """
    given = [name for name in ("valid_pct", "stratify") if name in options]
    if given:
        raise TypeError(
            f"{because} says which photos validate, so {' and '.join(given)} would not"
            f" be used: leave {'them' if given[1:] else 'it'} out, or {because}."
        )


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
