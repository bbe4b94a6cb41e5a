"""Verification: every photo is decoded once, before anything trains on it.

Loaders go in; the list of what can't be read comes out, with reasons, and of photos
that are the same, byte for byte, where they should differ. The one rule: each photo is
read as its loader reads it, and forgotten at once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxtune.arguments import Integer, check_flag, check_integer
from jaxtune.data.loader import Loader, default_workers

# Photos whose results are waited for together: enough to keep all threads busy.
_WINDOW = 256


@dataclasses.dataclass(frozen=True)
class BadPhoto:
    """A photo that can't be read.

    Attributes:
        path: Where it lies; of an image in memory the name that errors give it.
        split: "train" or "valid".
        position: Among the items of its split.
        label: In words.
        reason: What is wrong with it.
    """

    path: Path
    split: str
    position: int
    label: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Copies:
    """Photos that are the same, byte for byte, in both splits or under two labels.

    Attributes:
        paths: Of two or more photos.
        splits: "train" or "valid", for each.
        labels: In words, for each.
    """

    paths: tuple[Path, ...]
    splits: tuple[str, ...]
    labels: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class PhotoCheck(Sequence):
    """What a check of all photos found: a sequence of the bad ones.

    Attributes:
        photos: How many were decoded.
        bad: Those that can't be read; also what iterating, `len` and `[...]` give.
        copies: Photos that are the same in both splits, or have several labels.
    """

    photos: int
    bad: tuple[BadPhoto, ...]
    copies: tuple[Copies, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every photo can be read, and none is there twice where it matters."""
        return not self.bad and not self.copies

    @property
    def paths(self) -> list[Path]:
        """Where the bad photos lie."""
        return [photo.path for photo in self.bad]

    def __len__(self) -> int:
        """Returns how many photos are bad."""
        return len(self.bad)

    def __getitem__(self, position: Any) -> Any:
        """Returns a bad photo, or a tuple of those of a slice."""
        return self.bad[position]

    def __iter__(self) -> Iterator[BadPhoto]:
        """Returns the bad photos."""
        return iter(self.bad)

    def __str__(self) -> str:
        """Returns a line for each bad photo and each set of copies."""
        lines = [f"{self.photos} photos were decoded; {len(self.bad)} can't be read."]
        for photo in self.bad:
            lines.append(f"  {photo.split}, {photo.label}: {photo.reason}")
        if self.copies:
            lines.append(
                f"{len(self.copies)} photos are there more than once, the same byte for"
                " byte:"
            )
        for copies in self.copies:
            each = zip(copies.paths, copies.splits, copies.labels, strict=True)
            lines.append("  " + " = ".join(f"{p} ({s}, {n})" for p, s, n in each))
        return "\n".join(lines)

    __repr__ = __str__


def check_photos(
    loaders: dict[str, Loader],
    *,
    workers: Integer | None = None,
    verbose: bool = True,
) -> PhotoCheck:
    """Returns which photos of some loaders can't be decoded, and which are copies.

    Args:
        loaders: By the name of their split.
        workers: Threads that decode; by default one per processor, at most 16; 0
            decodes in the caller's thread.
        verbose: Whether to show a progress bar, on a terminal.

    Raises:
        TypeError: If an argument is of another type.
        ValueError: If `workers` is negative.
    """
    if workers is not None:
        workers = check_integer(workers, "workers", least=0)
    check_flag(verbose, "verbose")
    threads = default_workers() if workers is None else workers
    all_photos = [
        (split, position)
        for split, loader in loaders.items()
        for position in range(len(loader.items))
    ]

    def look(photo: tuple[str, int]) -> tuple[str | None, bytes | None]:
        return _look_at(loaders[photo[0]], photo[1])

    bad: list[BadPhoto] = []
    same: dict[bytes, list[tuple[str, int]]] = {}
    looks = _mapped(look, all_photos, threads)
    if verbose:
        looks = _shown(looks, len(all_photos))
    for photo, (reason, digest) in zip(all_photos, looks, strict=True):
        split, position = photo
        items = loaders[split].items
        if reason is not None:
            label = items.label_text(items.labels[position])
            bad.append(BadPhoto(items.paths[position], *photo, label, reason))
        elif digest is not None:
            same.setdefault(digest, []).append(photo)
    copies = (_copies(loaders, each) for each in same.values() if len(each) > 1)
    return PhotoCheck(
        len(all_photos), tuple(bad), tuple(each for each in copies if each is not None)
    )


def _look_at(loader: Loader, position: int) -> tuple[str | None, bytes | None]:
    try:
        loader.prepared(position)
        return None, _digest(loader.items.photo(position))
    except (OSError, TypeError, ValueError, MemoryError) as error:
        return str(error) or type(error).__name__, None


def _digest(photo: Any) -> bytes | None:
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(photo, str | os.PathLike):
        with open(photo, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
        return digest.digest()
    if isinstance(photo, bytes | bytearray | memoryview):
        digest.update(photo)
    elif isinstance(photo, Image.Image):
        digest.update(repr((photo.mode, photo.size)).encode() + photo.tobytes())
    elif hasattr(photo, "__array__"):
        array = np.ascontiguousarray(photo)
        digest.update(repr((array.shape, array.dtype)).encode() + array.tobytes())
    else:
        return None
    return digest.digest()


def _copies(loaders: dict[str, Loader], same: list[tuple[str, int]]) -> Copies | None:
    paths, labels = [], []
    for split, position in same:
        items = loaders[split].items
        paths.append(items.paths[position])
        labels.append(items.label_text(items.labels[position]))
    splits = tuple(split for split, _ in same)
    if len(set(splits)) == 1 and len(set(labels)) == 1:
        return None
    return Copies(tuple(paths), splits, tuple(labels))


def _mapped(function: Callable, values: list, threads: int) -> Iterator:
    if threads == 0:
        yield from map(function, values)
        return
    with ThreadPoolExecutor(threads, "jaxtune-decode") as pool:
        for start in range(0, len(values), _WINDOW):
            yield from pool.map(function, values[start : start + _WINDOW])


def _shown(results: Iterable, total: int) -> Iterator:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(
        results,
        "Decoding every photo",
        total,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
