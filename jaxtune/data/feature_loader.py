"""Batches of stored features: the outputs of a frozen body for each photo."""

from collections.abc import Iterator

import numpy as np

from jaxtune.arguments import Integer
from jaxtune.data.loader import Batch, Loader


class FeatureLoader:
    """A loader's batches with stored features in place of the photos.

    A batch has the rows of the loader's own batch: the same photos in the same order,
    with `image` holding their features (b, ...). No photo is read.

    Attributes:
        loader: Whose batches these are.
        features: float (k, n, ...): k draws of the augmentation for each of n photos.
        readable: bool (k, n), False for photos that were skipped.
        first_epoch: The epoch that sees the first draw; the next one sees the second,
            and after the last draw comes the first again.
    """

    def __init__(
        self,
        loader: Loader,
        features: np.ndarray,
        readable: np.ndarray,
        *,
        first_epoch: int = 0,
    ):
        """Takes the features, which are not copied."""
        self.loader = loader
        self.features, self.readable = features, readable
        self.first_epoch = first_epoch

    def __len__(self) -> int:
        """Returns the number of batches in an epoch."""
        return len(self.loader)

    def batches(self, epoch: Integer = 0, start: Integer = 0) -> Iterator[Batch]:
        """Returns the batches of an epoch, see `Loader.batches`."""
        draw = (epoch - self.first_epoch) % len(self.features)
        features, readable = self.features[draw], self.readable[draw]
        for indices in self.loader.index_batches(epoch)[start:]:
            batch = self.loader.rows(indices)
            real, positions = len(indices), indices % self.loader.num_items
            batch["image"] = np.zeros(
                (self.loader.batch_size, *features.shape[1:]), features.dtype
            )
            batch["image"][:real] = features[positions]
            batch["mask"][:real] = readable[positions]
            yield batch
