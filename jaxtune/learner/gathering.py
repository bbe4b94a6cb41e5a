"""Gathering: what a network says of every photo of a loader, row by row.

Batches in, arrays with one row a photo out. The one rule of the file: rows come in the
loader's order, each photo once; padding and photos that could not be read are left out.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxtune.data import Loader
from jaxtune.data.items import Items
from jaxtune.data.prepare import Preparation


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """What a network says of photos, beside what they are.

    It can be taken apart as fastai's answer: `probabilities, targets = ...`; with
    decoded rows and losses, where they were asked for, after these two in this order.

    Attributes:
        probabilities: float32 (n, c): of each class; for regression the values.
        targets: The labels: int32 (n,), or float32 (n, c) for several labels, or
            float32 (n,) or (n, k) for regression.
        index: int32 (n,), each row's position in the loader's items.
        decoded: int32 (n,), the most probable class; bool (n, c) for several labels;
            the values themselves for regression. None if not asked for.
        losses: float32 (n,), None if not asked for.
    """

    probabilities: np.ndarray
    targets: np.ndarray
    index: np.ndarray
    decoded: np.ndarray | None = None
    losses: np.ndarray | None = None

    def __iter__(self) -> Iterator[np.ndarray]:
        """Goes through probabilities and targets, then decoded and losses if there."""
        parts = (self.probabilities, self.targets, self.decoded, self.losses)
        return (part for part in parts if part is not None)

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


def decode(probabilities: np.ndarray, kind: str, thresh: Any = 0.5) -> np.ndarray:
    """Returns what probabilities mean.

    Args:
        probabilities: (n, c).
        kind: "single": the most probable class, int32 (n,); "multi": which classes are
            above the threshold, bool (n, c); "regression": the values as they are.
        thresh: Of several labels, one for all classes or (c,).
    """
    if kind == "single":
        return probabilities.argmax(axis=-1).astype(np.int32)
    if kind == "multi":
        return probabilities > np.asarray(thresh)
    return probabilities


def plain_loader(data: Any, loader: Any = None) -> Any:
    """Returns a loader whose batches are in order, and prepared as for validation.

    Args:
        data: Has `train_loader` and `valid_loader`.
        loader: None or "valid" (or 1) for validation; "train" (or 0) for the training
            photos, in order and without augmentation; or a loader. One that shuffles
            is replaced by one in order.

    Raises:
        ValueError: If it is another string or number.
    """
    if loader is None or loader in ("valid", 1):
        return data.valid_loader
    if loader in ("train", 0):
        loader = data.train_loader
    if isinstance(loader, str | int):
        raise ValueError(
            f"loader is 'train', 'valid' or a loader of your own; got {loader!r}."
        )
    if isinstance(loader, Loader) and loader.shuffle:
        valid = data.valid_loader
        return loader_like(valid, loader.items, valid.preparation)
    return loader


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
