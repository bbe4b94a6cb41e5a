"""Gathering: what a network says of every photo of a loader, row by row.

Batches in, arrays with one row a photo out. The one rule of the file: rows come in the
loader's order, each photo once; padding and photos that could not be read are left out.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxtune.arguments import described
from jaxtune.data import Loader
from jaxtune.data.items import Items
from jaxtune.data.photos import photo_loader
from jaxtune.data.resize import Preparation
from jaxtune.loop.extra_validation import matching_loader
from jaxtune.loop.recovery import warn_not_finite
from jaxtune.results.thresholds import decode


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """What a network says of photos, beside what they are.

    It can be taken apart as fastai's answer: `probabilities, targets = ...`; with
    decoded rows and losses, where they were asked for, after these two in this order.

    Attributes:
        probabilities: float32 (n, c): of each class; for regression the values.
        targets: The labels: int32 (n,), or float32 (n, c) for several labels, or
            float32 (n,) or (n, k) for regression. None for photos without labels.
        index: int32 (n,), each row's position in the loader's items.
        decoded: int32 (n,), the most probable class; bool (n, c) for several labels;
            the values themselves for regression. None if not asked for.
        losses: float32 (n,), None if not asked for.
    """

    probabilities: np.ndarray
    targets: np.ndarray | None
    index: np.ndarray
    decoded: np.ndarray | None = None
    losses: np.ndarray | None = None

    @classmethod
    def of_rows(
        cls,
        rows: Mapping[str, np.ndarray],
        loader: Any,
        *,
        kind: str,
        thresholds: np.ndarray | None = None,
        with_decoded: bool = False,
    ) -> "Predictions":
        """Returns the predictions that rows of a loader stand for.

        Warns if probabilities are NaN or infinite.

        Args:
            rows: `probabilities`, `label`, `index`, and perhaps `losses`.
            loader: Says whether there are labels.
            kind: Of the labels: "single", "multi" or "regression".
            thresholds: Of several labels, each class's own.
            with_decoded: Whether to decode the probabilities.
        """
        probabilities = rows["probabilities"]
        bad = (~np.isfinite(probabilities)).any(axis=1)
        warn_not_finite(int(bad.sum()), len(probabilities))
        decoded = None
        if with_decoded:
            decoded = decode(probabilities, kind, thresholds)
        return cls(
            probabilities=probabilities,
            targets=rows["label"] if is_labelled(loader) else None,
            index=rows["index"],
            decoded=decoded,
            losses=rows.get("losses"),
        )

    def __iter__(self) -> Iterator[np.ndarray | None]:
        """Goes through probabilities and targets, then decoded and losses if there."""
        further = (part for part in (self.decoded, self.losses) if part is not None)
        return iter((self.probabilities, self.targets, *further))

    def __len__(self) -> int:
        """Returns the number of arrays that iteration gives, 2 to 4."""
        return len(list(iter(self)))

    def __getitem__(self, position: int | slice) -> Any:
        """Returns one of the arrays that iteration gives."""
        return tuple(self)[position]

    def __repr__(self) -> str:
        """Returns the shapes."""
        parts = [
            f"{field.name} {value.dtype}{list(value.shape)}"
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) is not None
        ]
        return f"Predictions({', '.join(parts)})"


def gather(
    answer: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    batches: Iterable[Mapping[str, np.ndarray]],
) -> dict[str, np.ndarray]:
    """Returns the rows of all batches, one below the other.

    Args:
        answer: From a batch to arrays with a row each, by name.
        batches: With `label`, and if they are not all real rows `mask`; `index` is
            counted where there is none.

    Returns:
        What `answer` gives, and `label` and `index`.

    Raises:
        ValueError: If there is no row at all.
    """
    parts: list[dict[str, Any]] = []
    masks: list[np.ndarray] = []
    for batch in batches:
        rows = len(batch["label"])
        counted = np.arange(rows, dtype=np.int32) + rows * len(parts)
        parts.append(
            {
                "label": np.asarray(batch["label"]),
                "index": np.asarray(batch.get("index", counted)),
                **answer(batch),
            }
        )
        masks.append(np.asarray(batch.get("mask", np.ones(rows, bool))))
    if not sum(mask.sum() for mask in masks):
        raise ValueError("there is no readable photo to predict.")
    # Only now: the device has had the next batch while this one was computed.
    parts = jax.device_get(parts)
    return {
        name: np.concatenate(
            [part[name][mask] for part, mask in zip(parts, masks, strict=True)]
        )
        for name in parts[0]
    }


def plain_loader(
    data: Any, loader: Any = None, *, needs_labels: bool = False, name: str = "loader"
) -> Any:
    """Returns a loader whose batches are in order, and prepared as for validation.

    Args:
        data: `ImageDataLoaders` of the network.
        loader: None or "valid" (or 1) for validation; "train" (or 0) for the training
            photos, in order and without augmentation; a loader, one that shuffles being
            put in order; other `ImageDataLoaders`, whose validation photos are taken;
            or photos, see `jaxtune.data.list_photos`.
        needs_labels: Whether labels are asked for. Those of photos are then found by
            the folders that they lie in.
        name: Of the argument, for errors.

    Raises:
        FileNotFoundError: If it is a name of no file, folder or split.
        TypeError: If it is nothing of that kind.
        ValueError: If its labels don't fit those of the data, its images have other
            channels, or it has no labels and they are asked for.
    """
    if loader is None or _is_split(loader, "valid", 1):
        return data.valid_loader
    if _is_split(loader, "train", 0):
        loader = data.train_loader
    if hasattr(loader, "valid_loader") or hasattr(loader, "batches"):
        _refuse_class(loader, name)
        found = _in_order(getattr(loader, "valid_loader", loader), data)
        if is_labelled(found):
            found = matching_loader(found, data, name=name)
    else:
        found = _photo_loader(data, loader, needs_labels, name)
    if needs_labels and not is_labelled(found):
        raise ValueError(
            f"{name} has photos without labels, and labels are needed here: make it "
            "with data.test_loader(photos, labels=[...]), or with_labels=True where "
            "the photos lie in folders named like the classes."
        )
    if isinstance(found, Loader) and found.image_shape[-1] != data.in_channels:
        raise ValueError(
            f"{name} gives images of {found.image_shape[-1]} channels, and the network "
            f"takes {data.in_channels}. Make it with data.test_loader(photos), or "
            f"with in_channels={data.in_channels}."
        )
    return found


def _in_order(loader: Any, data: Any) -> Any:
    if not isinstance(loader, Loader) or not loader.shuffle:
        return loader
    valid = data.valid_loader
    return loader_like(valid, loader.items, valid.preparation)


def _is_split(loader: Any, word: str, number: int) -> bool:
    if isinstance(loader, str):
        return loader == word
    return isinstance(loader, int) and not isinstance(loader, bool) and loader == number


def is_labelled(loader: Any) -> bool:
    """Returns whether a loader's photos have labels; others' loaders have them."""
    return getattr(getattr(loader, "items", None), "labelled", True)


def _refuse_class(loader: Any, name: str) -> None:
    if isinstance(loader, type):
        raise TypeError(
            f"{name} must be a loader; received {described(loader)}, not one of its "
            "instances."
        )


def _photo_loader(data: Any, photos: Any, needs_labels: bool, name: str) -> Loader:
    wanted = (
        f"{name} must be 'train', 'valid', a loader, ImageDataLoaders, or photos "
        "(paths, a folder, a glob, …)"
    )
    if isinstance(photos, int) and not isinstance(photos, bool):
        raise ValueError(f"{wanted}; received {photos}.")
    if isinstance(photos, bool | float | complex | np.generic):
        raise TypeError(f"{wanted}; received {described(photos)}.")
    try:
        return photo_loader(data, photos, with_labels=needs_labels, name=name)
    except FileNotFoundError as error:
        is_word = isinstance(photos, str) and not any(c in photos for c in "./\\*")
        if is_word:
            raise ValueError(f"{wanted}; received {photos!r}.") from None
        raise error


def loader_like(loader: Loader, items: Items, preparation: Preparation) -> Loader:
    """Returns a loader of other items or preparation, in order; it keeps no photos."""
    return Loader(
        items,
        preparation,
        batch_size=loader.batch_size,
        seed=loader.seed,
        workers=loader.workers,
        cache_bytes=0,
        on_error=loader.on_error,
    )


def require_items(loader: Any, purpose: str) -> Loader:
    """Returns the loader if it is one of jaxtune's, whose photos can be found again.

    Raises:
        TypeError: If it is not.
    """
    if not isinstance(loader, Loader):
        raise TypeError(
            f"{purpose} needs a jaxtune.data.Loader, whose photos can be read again; "
            f"got a {type(loader).__name__}."
        )
    return loader
