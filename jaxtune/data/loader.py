"""The loader: batches of photos as dicts of NumPy arrays, all of one shape.

A batch is a pure function of (seed, epoch, number of the batch), whatever the number of
threads, the cache or the batch that iteration starts at.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, Literal

import numpy as np

from jaxtune.arguments import (
    Integer,
    check_choice,
    check_flag,
    check_instance,
    check_integer,
)
from jaxtune.data.decode import ImageError
from jaxtune.data.decoding import (
    DecodingProcesses,
    decoding_processes,
    read_here,
    worth_processes,
)
from jaxtune.data.items import Items
from jaxtune.data.resize import Preparation
from jaxtune.data.sampling import earlier_copies, weighted_order

Batch = dict[str, np.ndarray]
OnError = Literal["raise", "skip"]

DEFAULT_CACHE_BYTES = 2 * 2**30
#: Of more photos no process holds an epoch's order.
MOST_SHUFFLED = 1_000_000

# Batches assembled at once: while one waits for its last photo, the next has begun.
_AHEAD = 2
# Batches that wait to be taken: photos are decoded while a program is compiled, too.
_MOST_WAITING, _WAITING_BYTES = 16, 256 * 2**20


def default_workers() -> int:
    """Returns the number of threads that decode: one per processor, at most 16."""
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), 16)
    return min(os.cpu_count() or 1, 16)


@dataclasses.dataclass(frozen=True)
class _Unreadable:
    """A photo whose damage showed only when it was decoded."""

    position: int
    error: Exception


class Loader:
    """Batches of one split's photos; iterating gives those of epoch 0.

    A batch is a dict of numpy arrays with b rows:

    - `image`: uint8 (b, height, width, channels);
    - `label`: as in `items`: int32 (b,), the class; multi-label float32 (b, classes), 0
      or 1; regression float32 (b,) or (b, k);
    - `mask`: bool (b,), False in padded rows;
    - `index`: int32 (b,), position of the photo in `items`, -1 in padded rows;
    - `aspect`: float32 (b,), original width / height of the photo, 1 in padded rows.

    With `shuffle` (training) an incomplete last batch is dropped, as in fastai. Without
    it (validation) the last batch is padded with zeros.

    If `items` have weights and the order is shuffled, an epoch draws as many photos as
    there are, with replacement, in proportion to the weights. The k-th repetition of a
    photo in an epoch has `index` position + k * num_items, so that each copy is
    augmented differently.

    Decoded photos are kept in memory if all of them together fit in `cache_bytes`.
    """

    def __init__(
        self,
        items: Items,
        preparation: Preparation,
        *,
        batch_size: Integer = 64,
        shuffle: bool = False,
        seed: Integer = 0,
        workers: Integer | None = None,
        cache_bytes: Integer = DEFAULT_CACHE_BYTES,
        on_error: OnError = "raise",
    ) -> None:
        """Creates the loader; photos are read when batches are iterated.

        Args:
            items: The photos and their labels.
            preparation: How a photo is resized on the host.
            batch_size: Rows per batch. With `shuffle` and fewer photos it is lowered to
                their number, with a warning.
            shuffle: True for training: another order each epoch, and no incomplete
                batch.
            seed: Of the order.
            workers: Threads that decode; 0 decodes in the caller's thread. By default
                one per processor, at most 16. With four or more, and enough photos,
                each hands its photos to a process of its own, which shares no lock with
                the others. Batches do not depend on it.
            cache_bytes: Most memory for decoded photos; 0 keeps none. If they do not
                fit, a warning says so, and each epoch decodes them again.
            on_error: Whether a photo that turns out to be damaged "raise"s its
                `ImageError` in the training loop, or is "skip"ped: a warning, and a
                padded row.

        Raises:
            ValueError: If there are no items, or an argument is out of range.
        """
        checked = check_loader_arguments(
            batch_size=batch_size,
            seed=seed,
            workers=workers,
            cache_bytes=cache_bytes,
            on_error=on_error,
        )
        batch_size, seed, workers, cache_bytes, on_error = checked.values()
        check_flag(shuffle, "shuffle")
        check_instance(items, "items", Items, "Items, as label_items makes them")
        check_instance(preparation, "preparation", Preparation, "a Preparation(...)")
        if len(items) == 0:
            raise ValueError("A Loader needs at least one photo; got no items.")
        if shuffle and len(items) < batch_size:
            warnings.warn(
                f"batch_size={batch_size} is lowered to {len(items)}: that is how many"
                " photos there are for training, and an incomplete batch would be"
                " dropped.",
                stacklevel=2,
            )
            batch_size = len(items)
        self.items = items
        self.preparation = preparation
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.workers = default_workers() if workers is None else workers
        self.on_error = on_error
        self.image_shape = (*preparation.crop, preparation.channels)
        self.cache_bytes = cache_bytes
        decoded = len(items) * int(np.prod(self.image_shape))
        fits = decoded <= cache_bytes
        if cache_bytes and not fits:
            warnings.warn(
                f"{len(items):,} photos take {decoded / 1e9:.2f} GB once decoded, more "
                f"than the {cache_bytes / 1e9:.2f} GB that cache_bytes leaves them: "
                "they are decoded again in each epoch. Give a larger cache_bytes to "
                "keep them, or 0 to silence this warning.",
                stacklevel=3,
            )
        self._cache = _Cache(len(items), self.image_shape) if fits else None
        self._own_rows: np.ndarray | None = None
        self._warned: set[int] = set()

    @property
    def num_items(self) -> int:
        """Number of photos of the split."""
        return len(self.items)

    @property
    def cached_bytes(self) -> int:
        """Memory of all decoded photos in bytes; 0 if they are not kept."""
        return 0 if self._cache is None else self._cache.images.nbytes

    def decoded(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns all decoded photos and their aspects.

        uint8 (n, h, w, c) and float32 (n,); None as long as one of them is not decoded,
        and where they are not kept. The arrays are the cache itself, not to be changed.
        """
        if self._cache is None or not self._cache.filled.all():
            return None
        return self._cache.images, self._cache.aspects

    def __len__(self) -> int:
        """Returns the number of batches in an epoch."""
        if self.shuffle:
            return self.num_items // self.batch_size
        return -(-self.num_items // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Returns the batches of epoch 0."""
        return self.batches()

    def __repr__(self) -> str:
        """Returns sizes and order, in one line."""
        order = "shuffled" if self.shuffle else "in order"
        return (
            f"Loader({self.num_items} photos, {len(self)} batches of {self.batch_size},"
            f" {order}, image {self.image_shape})"
        )

    def order(self, epoch: Integer = 0) -> np.ndarray:
        """Returns the positions of the items in the order an epoch visits them."""
        epoch = check_integer(epoch, "epoch", least=0)
        if not self.shuffle:
            return np.arange(self.num_items)
        if self.items.weights is not None:
            return weighted_order(self.items.weights, seed=self.seed, epoch=epoch)
        if self._is_long:
            return np.fromiter(self._long_order(epoch), np.int64, self.num_items)
        # NumPy guarantees that RandomState's numbers never change; grain's own shuffle
        # leaves short lists in order far too often (10 items: 7 times in 1000).
        return np.random.RandomState([self.seed, epoch]).permutation(self.num_items)

    @property
    def _is_long(self) -> bool:
        """Whether each place of a shuffled epoch is computed when it is needed."""
        return self.num_items > MOST_SHUFFLED

    def _long_order(self, epoch: int) -> Any:
        """Positions in an epoch's order, of which none is held in memory."""
        import grain

        # One seed of two numbers; SeedSequence never changes either.
        seed = np.random.SeedSequence([self.seed, epoch]).generate_state(1)[0]
        return grain.MapDataset.range(self.num_items).shuffle(seed=int(seed))

    def _source(self, epoch: int) -> Any:
        """The `index` of each row of an epoch, for Grain."""
        import grain

        if self.shuffle and self._is_long and self.items.weights is None:
            return self._long_order(epoch)
        return grain.MapDataset.source(self._indices(epoch))

    def _indices(self, epoch: int) -> np.ndarray:
        order = self.order(epoch)
        if not self.shuffle or self.items.weights is None:
            return order
        most = (2**31 - 1) // self.num_items  # an index is an int32
        return order + self.num_items * (earlier_copies(order) % most)

    def batches(self, epoch: Integer = 0, start: Integer = 0) -> Iterator[Batch]:
        """Returns the batches of an epoch, from the batch numbered `start` on.

        Args:
            epoch: Number of the epoch, from 0; it determines the order.
            start: Number of batches to skip without decoding them, to resume.

        Raises:
            ValueError: If `epoch` is negative or `start` is not in 0..len(self).
            jaxtune.data.ImageError: While iterating, if a photo is damaged and
                `on_error` is "raise".
        """
        epoch = check_integer(epoch, "epoch", least=0)
        start = check_integer(start, "start", least=0, most=len(self))
        return self._batches(epoch, start)

    def index_batches(self, epoch: Integer = 0) -> list[np.ndarray]:
        """Returns the `index` of each unpadded row, for each batch of an epoch."""
        indices = self._indices(epoch)
        starts = range(0, len(self) * self.batch_size, self.batch_size)
        return [indices[start : start + self.batch_size] for start in starts]

    def rows(self, indices: np.ndarray) -> Batch:
        """Returns a batch without its images; every aspect is 1.

        Args:
            indices: Of the unpadded rows, see `index_batches`.
        """
        rows, real, labels = self.batch_size, len(indices), self.items.labels
        batch: Batch = {
            "label": np.zeros((rows, *labels.shape[1:]), labels.dtype),
            "mask": np.zeros(rows, bool),
            "index": np.full(rows, -1, np.int32),
            "aspect": np.ones(rows, np.float32),
        }
        batch["label"][:real] = labels[indices % self.num_items]
        batch["index"][:real] = indices
        batch["mask"][:real] = True
        return batch

    def with_batch_size(self, batch_size: Integer) -> Loader:
        """Returns a loader of the same photos with another number of rows per batch.

        Decoded photos are shared with this one.

        Args:
            batch_size: Rows per batch; for training, at most the number of photos.
        """
        most = self.num_items if self.shuffle else None
        other = copy.copy(self)
        other.batch_size = check_integer(batch_size, "batch_size", least=1, most=most)
        other._own_rows = None
        return other

    def with_rows(self, rows: np.ndarray) -> Loader:
        """Returns a loader that reads the photos of these rows of each batch only.

        The other rows' images are zeros; everything else is as in this loader, with
        which decoded photos are shared. So several processes read each photo once.

        Args:
            rows: Whether a row is read, bool (batch_size,).
        """
        other = copy.copy(self)
        other._own_rows = rows
        return other

    def in_order(self) -> Loader:
        """Returns a loader of the same photos in order, with a padded last batch.

        Decoded photos are shared with this one.
        """
        other = copy.copy(self)
        other.shuffle = False
        return other

    def _batches(self, epoch: int, start: int) -> Iterator[Batch]:
        import grain

        with contextlib.ExitStack() as stack:
            pool = processes = None
            if self.workers > 0:
                pool = ThreadPoolExecutor(self.workers, "jaxtune-decode")
                # Also when the caller stops early, or presses Ctrl-C.
                stack.callback(pool.shutdown, wait=False, cancel_futures=True)
            if self._in_files and worth_processes(self.workers, self._to_decode):
                processes = stack.enter_context(decoding_processes(self.workers))
            dataset = (
                self._source(epoch)
                .batch(self.batch_size, drop_remainder=self.shuffle)
                .slice(slice(start, None))
                .map(lambda indices: self._assemble(indices, pool, processes))
            )
            # Grain's threads assemble batches; the pool decodes their photos, so that
            # even the first batch uses every processor.
            ahead = 0 if pool is None else _AHEAD
            if processes is not None:
                # Each process has the photos that it decodes, and as many that wait.
                photos = 2 * self.workers * self._photos_at_once
                ahead = max(ahead, -(-photos // self.batch_size))
            waiting = ahead
            if ahead and self._to_decode:
                size = self.batch_size * int(np.prod(self.image_shape))
                waiting = max(ahead, min(_MOST_WAITING, _WAITING_BYTES // size))
            options = grain.ReadOptions(num_threads=ahead, prefetch_buffer_size=waiting)
            iterator = iter(dataset.to_iter_dataset(options))
            stack.callback(iterator.close)
            for batch, unreadable in iterator:
                self._report(unreadable)
                yield batch

    @property
    def _in_files(self) -> bool:
        return self.items.images is None or self.items.images.encoded

    @property
    def _to_decode(self) -> int:
        """Number of photos that are not kept decoded yet."""
        if self._cache is None:
            return self.num_items
        return int(self.num_items - self._cache.filled.sum())

    def _assemble(
        self,
        indices: np.ndarray,
        pool: Executor | None,
        processes: DecodingProcesses | None,
    ) -> tuple[Batch, list[_Unreadable]]:
        images = np.zeros((self.batch_size, *self.image_shape), np.uint8)
        batch: Batch = {"image": images, **self.rows(indices)}
        real, positions = len(indices), indices % self.num_items
        own = self._own_rows
        rows = np.arange(real) if own is None else np.flatnonzero(own[:real])
        if self._cache is not None and self._cache.filled[positions[rows]].all():
            if len(rows) == real:
                np.take(self._cache.images, positions, axis=0, out=images[:real])
            else:
                images[rows] = self._cache.images[positions[rows]]
            batch["aspect"][rows] = self._cache.aspects[positions[rows]]
            return batch, []

        missing = []
        for row, position in zip(rows.tolist(), positions[rows].tolist(), strict=True):
            if self._cache is not None and self._cache.filled[position]:
                images[row] = self._cache.images[position]
                batch["aspect"][row] = self._cache.aspects[position]
            else:
                missing.append((row, position))
        size = 1 if processes is None else self._photos_at_once
        parts = [missing[i : i + size] for i in range(0, len(missing), size)]

        def fill(part: list[tuple[int, int]]) -> list[_Unreadable]:
            return self._fill(batch, part, processes)

        results = map(fill, parts) if pool is None else pool.map(fill, parts)
        return batch, [photo for unreadable in results for photo in unreadable]

    @property
    def _photos_at_once(self) -> int:
        """Photos that a process is handed in one message."""
        return min(max(_AHEAD * self.batch_size // self.workers, 1), 8)

    def _fill(
        self,
        batch: Batch,
        part: list[tuple[int, int]],
        processes: DecodingProcesses | None,
    ) -> list[_Unreadable]:
        """Decodes photos, (row of the batch, position), into their rows."""
        rows = [batch["image"][row] for row, _ in part]
        positions = [position for _, position in part]
        if processes is None:
            results = read_here(self.prepared, positions, rows)
        else:
            photos = [self.items.photo(position) for position in positions]
            results = processes.read(self.preparation, photos, rows)
            if self.items.images is not None:
                pairs = zip(positions, results, strict=True)
                results = [self._named(position, result) for position, result in pairs]
        unreadable = []
        for (row, position), result in zip(part, results, strict=True):
            if isinstance(result, ImageError | OSError):
                batch["mask"][row] = False
                unreadable.append(_Unreadable(position, result))
                continue
            if isinstance(result, Exception):
                raise result
            batch["aspect"][row] = result
            if self._cache is not None:
                self._cache.put(position, batch["image"][row], result)
        return unreadable

    def prepared(self, position: int) -> tuple[np.ndarray, float]:
        """Returns one photo's pixels and its aspect, not from the cache.

        Args:
            position: In `items`.

        Raises:
            FileNotFoundError: If its file does not exist.
            jaxtune.data.ImageError: If it cannot be read.
        """
        photo = self.items.photo(position)
        if self.items.images is None:
            return self.preparation(photo)
        try:
            return self.preparation(photo)
        except (ImageError, TypeError) as error:
            raise self._named(position, error) from None

    def _named(self, position: int, result: Any) -> Any:
        """A result as it is; an error that doesn't name its image, with its name."""
        if not isinstance(result, ImageError | TypeError):
            return result
        return ImageError(f"In {self.items.paths[position].as_posix()}: {result}")

    def _report(self, unreadable: list[_Unreadable]) -> None:
        """Raises or warns in the caller's thread, where errors can be caught."""
        for photo in unreadable:
            if self.on_error == "raise":
                raise ImageError(
                    f"{photo.error} With on_error='skip' such photos are skipped."
                ) from photo.error
            if photo.position not in self._warned:
                self._warned.add(photo.position)
                warnings.warn(f"Skipped a photo. {photo.error}", stacklevel=3)


class _Cache:
    """Decoded photos, filled in any order from any thread.

    No lock is needed: two threads that decode the same photo write the same bytes, and
    a photo counts as filled only when it is complete.
    """

    def __init__(self, number: int, image_shape: tuple[int, int, int]) -> None:
        # np.empty only reserves addresses; memory is used as photos arrive.
        self.images = np.empty((number, *image_shape), np.uint8)
        self.aspects = np.empty(number, np.float32)
        self.filled = np.zeros(number, bool)

    def put(self, position: int, image: np.ndarray, aspect: float) -> None:
        self.images[position] = image
        self.aspects[position] = aspect
        self.filled[position] = True


def check_loader_arguments(
    *,
    batch_size: Any,
    seed: Any,
    workers: Any,
    cache_bytes: Any,
    on_error: Any,
) -> dict[str, Any]:
    """Returns a loader's arguments as Python's own values.

    Raises:
        TypeError: If one is of another type.
        ValueError: If one is out of range.
    """
    if workers is not None:
        workers = check_integer(
            workers,
            "workers",
            least=0,
            meaning="the number of threads, None for one per processor,",
        )
    return {
        "batch_size": check_integer(batch_size, "batch_size", least=1),
        "seed": check_integer(seed, "seed", least=0, most=2**32 - 1),
        "workers": workers,
        "cache_bytes": check_integer(cache_bytes, "cache_bytes", least=0),
        "on_error": check_choice(on_error, "on_error", ("raise", "skip")),
    }
