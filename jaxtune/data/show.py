"""Showing the first photos of a batch with their labels, as the network gets them.

Augmentation uses the same random keys as training, so the figure shows exactly the
images that the network trains on.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxtune.arguments import (
    Integer,
    check_choice,
    check_flag,
    check_integer,
    described,
)
from jaxtune.data.augment import training_images
from jaxtune.data.loader import Batch, Loader


def show_batch(
    data: Any,
    *,
    max_n: Integer = 9,
    split: str = "train",
    epoch: Integer = 0,
    augment: bool = True,
    columns: Integer | None = None,
) -> matplotlib.figure.Figure:
    """Returns a figure of the first photos of an epoch with their labels.

    Training photos are augmented exactly as training does it in that epoch, with the
    seed of the data. Of images with more than three channels the first three are shown,
    of those with two the first.

    Args:
        data: `ImageDataLoaders`; or a `Loader`, whose photos are not augmented.
        max_n: Maximum number of photos.
        split: "train" or "valid".
        epoch: Counted from 0; each has its own order and augmentation.
        augment: Whether to augment training photos.
        columns: Photos per row.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If `split` is neither, or `max_n` is less than 1.
    """
    from jaxtune.plots import image_grid

    max_n = check_integer(max_n, "max_n", least=1)
    check_choice(split, "split", ("train", "valid"))
    epoch = check_integer(epoch, "epoch", least=0)
    check_flag(augment, "augment")
    if columns is not None:
        columns = check_integer(columns, "columns", least=1)
    if not isinstance(data, Loader) and not hasattr(data, "train_loader"):
        raise TypeError(
            f"data must be ImageDataLoaders or a Loader; received {described(data)}."
        )
    if isinstance(data, type):
        raise TypeError(f"data must be ImageDataLoaders; received {described(data)}.")
    whole = not isinstance(data, Loader)
    loader = getattr(data, f"{split}_loader") if whole else data
    rows = first_rows(loader, max_n, epoch=epoch)
    images = rows["image"]
    if whole and split == "train" and augment and data.augmentation is not None:
        images = augmented_rows(data, rows, epoch=epoch)
    titles = [loader.items.label_text(label) for label in rows["label"]]
    return image_grid(np.asarray(images), titles, columns=columns)


def first_rows(loader: Loader, number: int, *, epoch: int = 0) -> Batch:
    """Returns the first `number` rows of an epoch, without padded rows, as a batch."""
    unpadded: list[Batch] = []
    batches = loader.batches(epoch)
    for batch in batches:
        unpadded.append({name: array[batch["mask"]] for name, array in batch.items()})
        if sum(len(rows["mask"]) for rows in unpadded) >= number:
            break
    batches.close()
    return {
        name: np.concatenate([rows[name] for rows in unpadded])[:number]
        for name in unpadded[0]
    }


def augmented_rows(data: Any, rows: Batch, *, epoch: int = 0) -> jax.Array:
    """Returns rows of a training batch as training augments them, floats in 0..1.

    Args:
        data: `ImageDataLoaders`.
        rows: Of its training loader.
        epoch: That the rows are of.
    """
    # As in training: one key for each epoch; a step augments with its first half.
    key = jax.random.fold_in(jax.random.key(data.seed), epoch)
    return _views(
        rows,
        jax.random.split(key)[0],
        size=data.size,
        augmentation=data.augmentation,
    )


_views = jax.jit(training_images, static_argnames=("size", "augmentation"))
