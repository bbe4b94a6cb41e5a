"""Extra data to validate on, such as the photos of an earlier training.

Labels are matched to the learner's classes by name; their numbers in the data that they
come from don't matter.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

from jaxtune.data import Items, Loader, with_classes
from jaxtune.loop.run_description import describe_items


def matching_loader(source: Any, data: Any, *, name: str = "the loader") -> Any:
    """Returns a loader whose batches a network for some data can be validated on.

    Args:
        source: `ImageDataLoaders`, of which the validation photos are used, or a
            loader.
        data: The network's `ImageDataLoaders`.
        name: What to call it in errors.

    Returns:
        The loader itself if its classes are the data's, in their order; else a loader
        of the same photos whose labels are renumbered by class name.

    Raises:
        ValueError: If its labels are of another kind, or a photo has a label that is
            not among the data's classes.
        TypeError: If it is neither.
    """
    loader = getattr(source, "valid_loader", source)
    if not hasattr(loader, "batches"):
        raise TypeError(
            f"{name} is ImageDataLoaders or a loader; received a "
            f"{type(source).__name__}."
        )
    items = getattr(loader, "items", None)
    if items is not None and not items.labelled:
        raise ValueError(
            f"{name} has photos without labels, and there is nothing to compare with: "
            "make it with data.test_loader(photos, labels=[...])."
        )
    if items is not None and items.kind == data.kind == "regression":
        shapes = [each.labels.shape[1:] for each in (items, data.train_items)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{name} has labels of shape {shapes[0]} a photo, and the data of "
                f"{shapes[1]}; both must be alike."
            )
    if items is None or (items.kind, items.classes) == (data.kind, data.classes):
        return loader
    if items.kind != data.kind:
        raise ValueError(
            f"{name} has {items.kind} labels, and the data {data.kind} ones; both must "
            "be alike."
        )
    try:
        items = with_classes(items, data.classes)
    except ValueError as error:
        raise ValueError(f"can't validate on {name}: {error}") from None
    return _in_order(loader, items, data)


def _in_order(loader: Any, items: Items, data: Any) -> Loader:
    return Loader(
        items,
        loader.preparation,
        batch_size=data.valid_loader.batch_size,
        seed=loader.seed,
        workers=loader.workers,
        cache_bytes=loader.cache_bytes,
        on_error=loader.on_error,
    )


def matching_loaders(
    sources: Mapping[str, Any] | None, data: Any, metrics: Iterable[str]
) -> dict[str, Any]:
    """Returns a loader for each name, see `matching_loader`.

    Args:
        sources: `ImageDataLoaders` or loaders by name, or None.
        data: The network's `ImageDataLoaders`.
        metrics: Names of the metrics.

    Raises:
        ValueError: If a name would add a column that the table already has.
        TypeError: If a name is not a string.
    """
    loaders, taken = {}, {"phase", "epoch", "train_loss", "valid_loss", *metrics}
    for name, source in (sources or {}).items():
        if not isinstance(name, str) or not name:
            raise TypeError(
                'validate_also needs a name for each, such as {"old": photos}; '
                f"received {name!r}."
            )
        columns = extra_columns(name, metrics)
        if taken & {*columns}:
            raise ValueError(
                f"validate_also={{{name!r}: …}} would add the columns "
                f"{', '.join(columns)}, at least one of which already exists. Choose "
                "another name."
            )
        taken |= {*columns}
        loaders[name] = _like_validation(source, data, f"validate_also[{name!r}]")
    return loaders


def _like_validation(source: Any, data: Any, name: str) -> Any:
    """A loader whose batches have the validation batches' shape: no recompiling."""
    loader, wanted = matching_loader(source, data, name=name), data.valid_loader
    if not hasattr(loader, "items"):
        return loader
    if loader.image_shape != wanted.image_shape:
        raise ValueError(
            f"{name} gives images of shape {loader.image_shape}, and the data's "
            f"validation {wanted.image_shape}. Make it with the same size= and "
            "in_channels=, and hand over the data itself or its valid_loader."
        )
    if loader.shuffle or loader.batch_size != wanted.batch_size:
        return _in_order(loader, loader.items, data)
    return loader


def extra_columns(name: str, metrics: Iterable[str]) -> list[str]:
    """Returns the names of the table's columns for extra validation data.

    Example:
        >>> extra_columns("old", ["error_rate"])
        ['old_valid_loss', 'old_error_rate']
    """
    return [f"{name}_valid_loss", *(f"{name}_{metric}" for metric in metrics)]


def extra_figures(name: str, figures: Mapping[str, float]) -> dict[str, float]:
    """Returns the loss and the metrics under the names of their columns.

    Args:
        name: Of the extra data; "" for the validation data itself, whose names stay.
        figures: The loss, then the metrics.
    """
    if not name:
        return dict(figures)
    _, *metrics = figures
    return dict(zip(extra_columns(name, metrics), figures.values(), strict=True))


def describe_extra(loaders: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the extra data's part of a run's recipe, as plain JSON."""
    return {
        name: {
            "photos": loader.num_items,
            "preparation": json.loads(
                json.dumps(dataclasses.asdict(loader.preparation))
            ),
            "items": describe_items(loader.items),
        }
        for name, loader in loaders.items()
        if hasattr(loader, "items")
    }
