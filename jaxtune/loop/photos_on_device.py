"""Decoded photos on the device where the step runs: an epoch then sends positions only.

Photos are decoded once. When all of them are, and they fit in a share of the device's
memory, they are copied there, and batches are made on it. Of several devices each has
all photos; where these are too many, each has a part of them, and a batch is gathered
from all. Where a step has no room for them any more, they go.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxtune.arguments import Integer
from jaxtune.data import Loader
from jaxtune.loop.memory import MemoryNeed, memory_limit
from jaxtune.loop.sharding import filled_up, place_batch

#: Of a device's memory, what photos may take.
SHARE = 0.2
#: Photos are kept as rows of so many bytes, those of a TPU's registers. In their own
#: shape its compiler copied all of them for each batch, to another layout.
_ROW = 128


class PhotosOnDevice:
    """The decoded photos of some loaders, as far as they have room on the devices."""

    def __init__(
        self, *, rows: NamedSharding, everywhere: NamedSharding, used: Callable[[], int]
    ):
        """Keeps nothing yet.

        Args:
            rows: Sharding of batches, see `data_sharding`.
            everywhere: Sharding of the state, see `data_sharding`.
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
        return sum(
            photos.addressable_shards[0].data.nbytes for photos in self._photos.values()
        )

    def shardings(self, loaders: Iterable[Any]) -> list[NamedSharding] | None:
        """Returns where the decoded photos of each of these loaders have room.

        Beside those that are kept already: on every device, or split among them. None
        if one has no room in either way, or does not keep its photos.
        """
        if self._limit is None:
            return None
        kept = self.kept
        room = min(SHARE * self._limit, self._limit - self._used())
        shardings = []
        for loader in loaders:
            if not getattr(loader, "cached_bytes", 0):
                return None
            photo = filled_up(math.prod(loader.image_shape), _ROW)
            for sharding in (self._everywhere, self._rows):
                parts = 1 if sharding.is_fully_replicated else sharding.num_devices
                taken = photo * -(-loader.num_items // parts)
                if kept + taken <= room:
                    break
            else:
                return None
            kept += taken
            shardings.append(sharding)
        return shardings

    def says_where(self, loaders: Iterable[Any]) -> str:
        """Returns where the decoded photos are, for the start line; "" on a CPU."""
        if self._limit is None:
            return ""
        loaders = list(loaders)
        sizes = [getattr(loader, "cached_bytes", 0) for loader in loaders]
        size = f"{sum(sizes) / 1e9:.2f} GB"
        shardings = self.shardings(loaders)
        if shardings is not None:
            if self._everywhere in shardings[:1]:
                return f" · photos kept on the device ({size})"
            devices = self._rows.num_devices
            return f" · photos kept on {devices} devices, a part on each ({size})"
        if all(sizes):
            return f" · photos kept in the host's memory ({size})"
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
        """A loader's photos on the devices, see `_placed`; None without room."""
        if loader not in self._photos:
            shardings = self.shardings([loader])
            if shardings is None:
                return None
            self._photos[loader] = _placed(images, *shardings)
        return self._photos[loader]

    def batches(self, loader: Loader, epoch: int, start: int) -> Iterator[dict]:
        """Yields a loader's batches of an epoch, from the batch numbered `start` on."""
        images, aspects = loader.decoded() or (None, None)
        photos = None if images is None else self._of(loader, images)
        if photos is None:
            yield from loader.batches(epoch, start)
            return
        taken = photos_taken(photos.sharding, self._rows, loader.image_shape)
        for indices in loader.index_batches(epoch)[start:]:
            batch = loader.rows(indices)
            real = len(indices)
            positions = np.zeros(loader.batch_size, np.int32)
            positions[:real] = indices % loader.num_items
            batch["aspect"][:real] = aspects[positions[:real]]
            placed = place_batch(
                batch | {"image": positions}, self._rows, self._everywhere
            )
            placed["image"] = taken(photos, placed["image"], placed["mask"])
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


def _placed(images: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Photos (n, h, w, c) on the devices, uint8 (n, rows, 128), filled up with zeros.

    Where they are split, a device without as many photos has zeros for the others.
    """
    flat = images.reshape(len(images), -1)
    bytes_of_each = filled_up(flat.shape[1], _ROW)
    parts = 1 if sharding.is_fully_replicated else sharding.num_devices
    shape = (filled_up(len(flat), parts), bytes_of_each // _ROW, _ROW)

    def part(index):
        start, stop, _ = index[0].indices(shape[0])
        photos = flat[start:stop]
        missing = (stop - start - len(photos), bytes_of_each - flat.shape[1])
        if any(missing):
            photos = np.pad(photos, [(0, count) for count in missing])
        return photos.reshape(-1, *shape[1:])

    return jax.make_array_from_callback(shape, sharding, part)


@functools.cache
def photos_taken(
    sharding: NamedSharding, rows: NamedSharding, image_shape: tuple[int, int, int]
) -> Callable:
    """Returns a compiled function that makes a batch's images of photos on the devices.

    Args:
        sharding: Of the photos: replicated, or split over the first axis.
        rows: Sharding of the images.
        image_shape: Of a photo.

    Returns:
        (photos uint8 (n, rows, 128), positions int32 (b,), mask bool) -> images uint8
        (b, h, w, c), zeros in padded rows. The mask may have fewer values than there
        are positions; the others are padded rows.
    """

    def of_all(photos, positions, mask):
        found = photos[positions].reshape(len(positions), -1)
        images = found[:, : math.prod(image_shape)].reshape(-1, *image_shape)
        return jnp.where(mask[:, None, None, None], images, 0)

    def of_parts(photos, positions, mask):
        axis = sharding.mesh.axis_names[0]
        here = positions - jax.lax.axis_index(axis) * len(photos)
        mask &= (here >= 0) & (here < len(photos))
        mine = of_all(photos, here, mask)
        return jax.lax.psum_scatter(mine, axis, tiled=True)

    take = of_all
    if not sharding.is_fully_replicated:
        specs = (sharding.spec, P(), P())
        take = jax.shard_map(
            of_parts, mesh=sharding.mesh, in_specs=specs, out_specs=rows.spec
        )

    def taken(photos, positions, mask):
        mask = jnp.pad(mask, (0, len(positions) - len(mask)))
        return take(photos, positions, mask)

    return jax.jit(taken)
