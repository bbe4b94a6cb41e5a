"""Collects predictions for all photos of a loader, one row for each photo.

Rows come in the loader's order, each photo once; padding rows and unreadable photos are
left out.
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
    """Predictions for photos, with their labels.

    It unpacks like the result of fastai's `get_preds`: `probabilities, targets = ...`,
    followed by decoded predictions and then losses, where these were asked for.

    Attributes:
        probabilities: float32 (n, c), of each class; for regression the predicted
            values.
        targets: The labels: int32 (n,); multi-label float32 (n, c); regression float32
            (n,) or (n, k). None for photos without labels.
        index: int32 (n,), each row's position in the loader's items.
        decoded: int32 (n,), the most probable class; multi-label bool (n, c);
            regression the predicted values. None if not asked for.
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
        """Returns predictions from the arrays that `gather` returns.

        Warns if probabilities are NaN or infinite.

        Args:
            rows: `probabilities`, `label`, `index`, and optionally `losses`.
            loader: The loader they come from; tells whether there are labels.
            kind: Kind of the labels: "single", "multi" or "regression".
            thresholds: Multi-label: threshold of each class.
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
        """Iterates over probabilities, targets, and then decoded and losses if any."""
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
    """Returns the unpadded rows of all batches, concatenated.

    Args:
        answer: Maps a batch to arrays (b, ...) by name; a `mask` of its own stands in
            for the batch's.
        batches: Batches with `label`; with `mask`, which is False for padding and
            unreadable photos, unless every row counts; and with `index`, which is
            counted up where it is missing.

    Returns:
        The arrays of `answer`, and `label` and `index`, (n, ...) by name.

    Raises:
        ValueError: If no row is left.
    """
    parts: list[dict[str, Any]] = []
    for batch in batches:
        rows = len(batch["label"])
        counted = np.arange(rows, dtype=np.int32) + rows * len(parts)
        parts.append(
            {
                "label": np.asarray(batch["label"]),
                "index": np.asarray(batch.get("index", counted)),
                "mask": np.asarray(batch.get("mask", np.ones(rows, bool))),
                **answer(batch),
            }
        )
    # Fetched only now, so that the device never waits for the host between batches.
    parts = jax.device_get(parts)
    masks = [part.pop("mask") for part in parts]
    if not sum(mask.sum() for mask in masks):
        raise ValueError("there is no readable photo to predict.")
    return {
        name: np.concatenate(
            # Rows that were filled up for the devices come last.
            [part[name][: len(m)][m] for part, m in zip(parts, masks, strict=True)]
        )
        for name in parts[0]
    }


def plain_loader(
    data: Any, loader: Any = None, *, needs_labels: bool = False, name: str = "loader"
) -> Any:
    """Returns a loader without shuffling or augmentation, as for validation.

    Args:
        data: `ImageDataLoaders` of the network.
        loader: None, "valid" or 1 for the validation photos; "train" or 0 for the
            training photos, in order and without augmentation; a loader (one that
            shuffles is replaced by one in order); other `ImageDataLoaders`, for their
            validation photos; or photos, see `jaxtune.data.list_photos`.
        needs_labels: Whether labels are required. Photos are then labelled by the
            folders they lie in.
        name: Name of the argument, for errors.

    Raises:
        FileNotFoundError: If a path doesn't exist.
        TypeError: If `loader` is of another type.
        ValueError: If a name is neither a split nor a file, the labels don't fit those
            of the data, the images have another number of channels, or labels are
            required and missing.
    """
    if loader is None or _is_split(loader, "valid", 1):
        return data.valid_loader
    if _is_split(loader, "train", 0):
        loader = data.train_loader
    if hasattr(loader, "valid_loader") or hasattr(loader, "batches"):
        _refuse_class(loader, name)
        plain = _in_order(getattr(loader, "valid_loader", loader), data)
        if is_labelled(plain):
            plain = matching_loader(plain, data, name=name)
    else:
        plain = _photo_loader(data, loader, needs_labels, name)
    if needs_labels and not is_labelled(plain):
        raise ValueError(
            f"{name} has photos without labels, and labels are needed here: make it "
            "with data.test_loader(photos, labels=[...]), or with_labels=True where "
            "the photos lie in folders named like the classes."
        )
    if isinstance(plain, Loader) and plain.image_shape[-1] != data.in_channels:
        raise ValueError(
            f"{name} gives images of {plain.image_shape[-1]} channels, and the network "
            f"takes {data.in_channels}. Make it with data.test_loader(photos), or "
            f"with in_channels={data.in_channels}."
        )
    return plain


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
    """Returns whether a loader has labels; assumed of loaders not of jaxtune."""
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
    """Returns a loader of other items, with the same settings, in order, uncached."""
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
    """Returns the loader if it is one of jaxtune's, whose photos can be read again.

    Raises:
        TypeError: If it is not.
    """
    if not isinstance(loader, Loader):
        raise TypeError(
            f"{purpose} needs a jaxtune.data.Loader, whose photos can be read again; "
            f"got a {type(loader).__name__}."
        )
    return loader
