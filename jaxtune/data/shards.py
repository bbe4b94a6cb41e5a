"""Shards: photos in tar files, in WebDataset's layout, read where they lie.

In such a file the parts of a sample follow one another under one key: `0001.jpg`,
`0001.cls`. An index beside each file says where its photos begin and what their labels
are, so a photo is one read at a known place, in any order, and a process reads only
the photos it needs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import glob
import json
import os
import tarfile
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from jaxtune.arguments import check_instance, check_path, described
from jaxtune.data.folders import image_extensions
from jaxtune.data.items import Items, Kind, PackedPaths, SourceImages, listing
from jaxtune.data.labels import label_rows
from jaxtune.data.sources import labels_by_name
from jaxtune.data.tables import numbers_of_texts
from jaxtune.data.values import clean_name

#: Of the index; another layout is another number, and is made anew.
_VERSION = 1

Shards = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class _Index(NamedTuple):
    """Where the photos of one tar file are.

    Attributes:
        begins: Of each photo in the file, in bytes.
        sizes: Bytes of each.
        numbers: Of each photo's label among the `texts`.
        texts: The labels that there are.
        names: Of all photos, one after the other, UTF-8.
        bounds: Where each name ends.
    """

    begins: np.ndarray
    sizes: np.ndarray
    numbers: np.ndarray
    texts: np.ndarray
    names: np.ndarray
    bounds: np.ndarray


class ShardImages(SourceImages):
    """Photos in tar files, read as bytes by their position.

    Attributes:
        encoded: True: they are files' contents, which any process can decode.
    """

    encoded = True

    def __init__(
        self,
        files: Sequence[Path],
        firsts: Int[np.ndarray, " files"],
        begins: Int[np.ndarray, " n"],
        sizes: Int[np.ndarray, " n"],
        *,
        rows: Int[np.ndarray, " m"] | None = None,
    ) -> None:
        """Takes the files and the places in them.

        Args:
            files: Tar files.
            firsts: Number of each file's first photo.
            begins: Where each photo begins in its file, in bytes.
            sizes: Bytes of each.
            rows: Which of the photos there are, in this order; all if None.
        """
        positions = np.arange(len(begins)) if rows is None else rows
        super().__init__(self._photo, positions, 3)
        self._files, self._firsts = tuple(files), firsts
        self._begins, self._sizes = begins, sizes

    def _photo(self, number: int) -> bytes:
        file = int(np.searchsorted(self._firsts, number, side="right")) - 1
        begin, size = int(self._begins[number]), int(self._sizes[number])
        with open(self._files[file], "rb") as opened:
            opened.seek(begin)
            return opened.read(size)

    def take(self, positions: np.ndarray) -> ShardImages:
        """Returns the images at these positions, in this order."""
        return ShardImages(
            self._files,
            self._firsts,
            self._begins,
            self._sizes,
            rows=self.positions[positions],
        )


def shard_items(
    shards: Shards,
    *,
    label: str = "cls",
    classes: Iterable[Any] | None = None,
    kind: Kind | None = None,
    workers: int | None = None,
) -> Items:
    """Returns the photos in tar files, with their labels; reads no photo.

    The first time each file is gone through, and an index is written beside it, as
    `train-000.tar.index.npz`; it is made anew when the file has changed.

    Args:
        shards: A folder with tar files, a pattern such as "train-*.tar", or a list of
            files. They are not compressed: photos are already.
        label: Which part of a sample is its label: "cls" or another ending of files of
            one text, a number or a name; or "json", which has it under "label".
        classes: Names of the classes. Whole-number labels that are not among these
            names are positions in `classes`.
        kind: Of the labels, "single" or "regression".
        workers: Threads that index; 8 if None.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a file is no tar file or compressed, or a photo has no label.

    References:
        https://github.com/webdataset/webdataset, whose shards these are.
    """
    check_instance(label, "label", str, "the ending of the label's files, as 'cls'")
    files = _tar_files(shards)
    with ThreadPoolExecutor(max(workers or 8, 1), "jaxtune-index") as pool:
        found = list(pool.map(functools.partial(_index, label=label), files))
    texts: dict[str, int] = {}
    numbers = np.concatenate([_renumbered(each, texts) for each in found])
    if not len(numbers):
        raise ValueError(f"there is no photo in {listing(files)}.")
    values = numbers_of_texts([clean_name(text) for text in texts])
    if classes is not None:
        values = labels_by_name(values, tuple(classes), kind)
    counts = np.array([len(each.begins) for each in found])
    firsts = np.cumsum(counts) - counts
    lengths = np.array([len(each.names) for each in found])
    offsets = np.cumsum(lengths) - lengths
    bounds = [each.bounds + at for each, at in zip(found, offsets, strict=True)]
    images = ShardImages(
        files,
        firsts,
        np.concatenate([each.begins for each in found]),
        np.concatenate([each.sizes for each in found]),
    )
    names = b"".join(each.names.data for each in found)
    paths = PackedPaths("", names, np.concatenate([[0], *bounds]))
    items = label_rows(paths, numbers, values, classes=classes, kind=kind)
    return dataclasses.replace(items, images=images)


def _renumbered(index: _Index, texts: dict[str, int]) -> Int[np.ndarray, " n"]:
    """A file's labels by their numbers among those of all files."""
    numbers = [texts.setdefault(str(text), len(texts)) for text in index.texts]
    return np.array(numbers, np.int32)[index.numbers]


def _tar_files(shards: Any) -> list[Path]:
    if isinstance(shards, str | os.PathLike):
        path = Path(shards).expanduser()
        if path.is_dir():
            found = sorted(path.glob("*.tar"))
        elif path.is_file():
            found = [path]
        else:
            found = sorted(map(Path, glob.glob(os.fspath(path))))
        if not found:
            raise FileNotFoundError(
                f"there is no tar file at {os.fspath(shards)!r}. Give a folder of tar "
                "files, a pattern such as 'train-*.tar', or a list of files."
            )
        return found
    if not isinstance(shards, Sequence) or not shards:
        raise TypeError(
            "shards are a folder, a pattern or a list of tar files; received "
            f"{described(shards)}."
        )
    files = [Path(check_path(each, "shards")).expanduser() for each in shards]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise FileNotFoundError(f"there is no tar file {listing(missing)}.")
    return files


def _index(file: Path, label: str) -> _Index:
    """A tar file's index, read or made."""
    status = file.stat()
    made_of = json.dumps([_VERSION, label, status.st_size, status.st_mtime_ns])
    place = file.with_name(f"{file.name}.index.npz")
    with contextlib.suppress(OSError, ValueError, KeyError), np.load(place) as stored:
        if str(stored["made_of"]) == made_of:
            return _Index(*(stored[name] for name in _Index._fields))
    index = _made(file, label)
    part = file.with_name(f".{file.name}.index.{os.getpid()}.npz")
    try:
        np.savez(part, made_of=made_of, **index._asdict())
        os.replace(part, place)
    except OSError as error:
        warnings.warn(
            f"the index of {file} can't be kept beside it ({error}), so it is made each"
            " time.",
            stacklevel=2,
        )
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return index


def _made(file: Path, label: str) -> _Index:
    photos: dict[str, tuple[int, int, str]] = {}
    labels: dict[str, str] = {}
    endings = image_extensions()
    try:
        with tarfile.open(file, "r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                key, _, ending = _key(member.name)
                if f".{ending.lower()}" in endings:
                    photos[key] = member.offset_data, member.size, member.name
                elif ending == label:
                    labels[key] = _text(tar.extractfile(member).read(), label)
    except tarfile.TarError as error:
        raise ValueError(
            f"{str(file)!r} is no tar file that can be read in any order ({error}). "
            "Compressed ones can't: unpack them with gunzip."
        ) from None
    without = [photos[key][2] for key in photos if key not in labels]
    if without:
        raise ValueError(
            f"{len(without)} of {len(photos)} photos in {str(file)!r} have no label, "
            f"none that ends in .{label}: {listing(without)}. Say which part is the "
            "label: label='txt'."
        )
    texts: dict[str, int] = {}
    numbers = [texts.setdefault(labels[key], len(texts)) for key in photos]
    names = [f"{file.name}/{name}".encode() for _, _, name in photos.values()]
    return _Index(
        begins=np.array([begin for begin, _, _ in photos.values()], np.int64),
        sizes=np.array([size for _, size, _ in photos.values()], np.int32),
        numbers=np.array(numbers, np.int32),
        texts=np.array(list(texts), str),
        names=np.frombuffer(b"".join(names), np.uint8),
        bounds=np.cumsum([len(name) for name in names], dtype=np.int64),
    )


def _key(name: str) -> tuple[str, str, str]:
    """A sample's key, a dot, and the ending: all from the first dot of the file on."""
    folder, slash, file = name.rpartition("/")
    key, dot, ending = file.partition(".")
    return f"{folder}{slash}{key}", dot, ending


def _text(content: bytes, label: str) -> str:
    text = content.decode(errors="surrogateescape").strip()
    return str(json.loads(text)["label"]) if label == "json" else text
