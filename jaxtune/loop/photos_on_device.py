"""Decoded photos on the device where the step runs: an epoch then sends positions only.

Photos are decoded once. When all of them are, and they fit in a share of the device's
memory, they are copied there, and batches are made on it. Where a step has no room for
them any more, they go.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from jaxtune.arguments import Integer
from jaxtune.data import Loader
from jaxtune.loop.memory import MemoryNeed, memory_limit
from jaxtune.loop.sharding import place_batch

#: Of a device's memory, what photos may take.
SHARE = 0.2


class PhotosOnDevice:
    """The decoded photos of some loaders, as far as they have room on the device."""

    def __init__(
        self, *, rows: NamedSharding, everywhere: NamedSharding, used: Callable[[], int]
    ):
        """Keeps nothing yet.

        Args:
            rows: Sharding of batches, see `data_sharding`.
            everywhere: Sharding of the state; each device has all photos.
            used: () -> bytes that the largest program so far takes of a device.
        """
        self._rows, self._everywhere, self._used = rows, everywhere, used
        self._photos: dict[Loader, jax.Array] = {}
        # Of several processes none has decoded all photos.
        self._limit = None
        if everywhere.is_fully_addressable:
            self._limit = _memory_beside_the_host(next(iter(everywhere.device_set)))

    @property
    def kept(self) -> int:
        """Bytes that the photos take of each device."""
        return sum(photos.nbytes for photos in self._photos.values())

    def have_room(self, loaders: Iterable[Any]) -> bool:
        """Returns whether the decoded photos of all these loaders have room."""
        sizes = [getattr(loader, "cached_bytes", 0) for loader in loaders]
        if self._limit is None or not all(sizes):
            return False
        return sum(sizes) <= min(SHARE * self._limit, self._limit - self._used())

    def says_where(self, loaders: Iterable[Any]) -> str:
        """Returns where the decoded photos are, for the start line; "" on a CPU."""
        if self._limit is None:
            return ""
        sizes = [getattr(loader, "cached_bytes", 0) for loader in loaders]
        size = f"({sum(sizes) / 1e9:.2f} GB)"
        if self.have_room(loaders):
            return f" · photos kept on the device {size}"
        if all(sizes):
            return f" · photos kept in the host's memory {size}"
        return " · photos decoded in each epoch"

    def make_room(self, need: MemoryNeed) -> None:
        """Drops the photos, for good, if a program could not run beside them."""
        if need.total and self._limit and need.total + self.kept > self._limit:
            self._photos.clear()
            self._limit = None

    def loader(self, loader: Any) -> Any:
        """Returns a loader with the same batches, made on the device if they can be."""
        return _OnDevice(self, loader) if isinstance(loader, Loader) else loader

    def _of(self, loader: Loader, images: np.ndarray) -> jax.Array | None:
        """A loader's photos on the device (n, h, w, c); None without room for them."""
        if loader not in self._photos:
            if not self.have_room([loader, *self._photos]):
                return None
            self._photos[loader] = jax.device_put(images, self._everywhere)
        return self._photos[loader]

    def batches(self, loader: Loader, epoch: int, start: int) -> Iterator[dict]:
        """Yields a loader's batches of an epoch, from the batch numbered `start` on."""
        images, aspects = loader.decoded() or (None, None)
        photos = None if images is None else self._of(loader, images)
        if photos is None:
            yield from loader.batches(epoch, start)
            return
        for indices in loader.index_batches(epoch)[start:]:
            batch = loader.rows(indices)
            real = len(indices)
            positions = np.zeros(loader.batch_size, np.int32)
            positions[:real] = indices % loader.num_items
            batch["aspect"][:real] = aspects[positions[:real]]
            placed = place_batch(
                batch | {"image": positions}, self._rows, self._everywhere
            )
            placed["image"] = _taken(photos, placed["image"], placed["mask"])
            yield placed


def _memory_beside_the_host(device: Any) -> int | None:
    """Bytes that a device has of its own.

    None for a CPU, where photos are where the step is as soon as a loader keeps them.
    """
    return None if device.platform == "cpu" else memory_limit(device)


class _OnDevice:
    """A loader whose batches may come from the device."""

    def __init__(self, photos: PhotosOnDevice, loader: Loader):
        self._photos, self._loader = photos, loader

    def __len__(self) -> int:
        return len(self._loader)

    def batches(self, epoch: Integer = 0, start: Integer = 0) -> Iterator[dict]:
        return self._photos.batches(self._loader, int(epoch), int(start))


@jax.jit
def _taken(photos: jax.Array, positions: jax.Array, mask: jax.Array) -> jax.Array:
    """The photos (b, h, w, c) at some positions, zeros in padded rows."""
    mask = jnp.pad(mask, (0, len(positions) - len(mask)))
    return jnp.where(mask[:, None, None, None], photos[positions], 0)
