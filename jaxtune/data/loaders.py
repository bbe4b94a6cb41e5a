"""ImageDataLoaders: from a folder of photos to training and validation batches.

A folder and a way to label go in; two loaders and the names of the classes come out.
The one rule: whatever can be found wrong with the data is said before anything trains,
all of it at once, with the way out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
from jaxtyping import UInt8

from jaxtune.data.augment import Augmentation
from jaxtune.data.check import check_not_empty, readable_items
from jaxtune.data.items import (
    Items,
    existing_folder,
    find_images,
    label_items,
    listing,
    name_label,
    regex_label,
)
from jaxtune.data.loader import (
    DEFAULT_CACHE_BYTES,
    Loader,
    OnError,
    check_loader_arguments,
)
from jaxtune.data.prepare import (
    as_size,
    prepare_image,
    train_preparation,
    validation_preparation,
)
from jaxtune.data.splits import check_valid_pct, split_folders, split_items

DEFAULT_AUGMENTATION = Augmentation()
DEFAULT_VALID_PCT = 0.2


class SplitOptions(TypedDict, total=False):
    """What every way to make an `ImageDataLoaders` by a random split takes."""

    valid_pct: float | int
    size: int | tuple[int, int]
    batch_size: int
    seed: int
    augmentation: Augmentation | None
    workers: int | None
    on_error: OnError
    cache_bytes: int
    classes: Sequence[str] | None


class ImageDataLoaders:
    """Training and validation batches of labelled photos.

    Made by `from_folder`, `from_name_re`, `from_name_func`, `from_path_func` or
    `from_lists`.

    Attributes:
        train_loader: Shuffled batches; photos have the size random crops are cut from.
        valid_loader: Batches in order, padded; photos have their final size.
        train_items: Paths and labels of the photos that train.
        valid_items: Paths and labels of the photos that validate.
        classes: Names of the classes.
        size: Height and width of what the network sees, in pixels.
        batch_size: Rows of a training batch.
        seed: Of the split and of the order of the photos.
        augmentation: What is drawn on the device; None for nothing: training photos
            are then prepared just as validation photos are.
        in_channels: 3.
    """

    in_channels = 3

    def __init__(
        self,
        train_items: Items,
        valid_items: Items,
        *,
        size: int | tuple[int, int] = 224,
        batch_size: int = 64,
        seed: int = 0,
        augmentation: Augmentation | None = DEFAULT_AUGMENTATION,
        workers: int | None = None,
        on_error: OnError = "raise",
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        """Checks every photo's header, and describes the batches.

        Args:
            train_items: Photos to train on.
            valid_items: Photos to validate on, with the same classes.
            size: Height and width of what the network sees, in pixels; an int means a
                square.
            batch_size: Photos per batch.
            seed: Of the order of the photos.
            augmentation: What is drawn for each training photo; None for nothing.
            workers: Threads that decode; by default one per processor, at most 16.
            on_error: What an unreadable photo does: "raise" an `ImageError` that names
                them all, or "skip" them with a warning.
            cache_bytes: Bound on the memory for decoded photos, both splits together.

        Raises:
            ValueError: If an argument is out of range, the classes differ, or a split
                or a class has no photo left.
            jaxtune.data.ImageError: If photos cannot be read and `on_error` is "raise".
        """
        _check_options(
            size=size,
            batch_size=batch_size,
            seed=seed,
            augmentation=augmentation,
            workers=workers,
            on_error=on_error,
            cache_bytes=cache_bytes,
        )
        self.size = as_size(size)
        if train_items.classes != valid_items.classes:
            raise ValueError(
                "Both splits need the same classes in the same order; train has"
                f" {train_items.classes}, valid has {valid_items.classes}."
            )
        check_not_empty(train_items, valid_items)
        train_items, valid_items = readable_items(
            train_items, valid_items, workers=workers, on_error=on_error
        )
        self.train_items = train_items
        self.valid_items = valid_items
        self.classes = train_items.classes
        self.seed = seed
        self.augmentation = augmentation
        validation = validation_preparation(self.size)
        preparation = (
            validation
            if augmentation is None
            else train_preparation(self.size, augmentation.min_scale)
        )
        common = {"seed": seed, "workers": workers, "on_error": on_error}
        self.train_loader = Loader(
            train_items,
            preparation,
            batch_size=batch_size,
            shuffle=True,
            cache_bytes=cache_bytes,
            **common,
        )
        self.valid_loader = Loader(
            valid_items,
            validation,
            batch_size=batch_size,
            cache_bytes=cache_bytes - self.train_loader.cached_bytes,
            **common,
        )
        self.batch_size = self.train_loader.batch_size

    @classmethod
    def from_folder(
        cls,
        root: str | os.PathLike[str],
        train: str = "train",
        valid: str = "valid",
        *,
        valid_pct: float | int | None = None,
        size: int | tuple[int, int] = 224,
        batch_size: int = 64,
        seed: int = 0,
        augmentation: Augmentation | None = DEFAULT_AUGMENTATION,
        workers: int | None = None,
        on_error: OnError = "raise",
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        classes: Sequence[str] | None = None,
    ) -> ImageDataLoaders:
        """Returns the photos of a folder of class folders.

        Without `valid_pct` the folder holds `train/<class>/…` and `valid/<class>/…`;
        with it, `<class>/…`, and a share of each class is set aside for validation.
        Photos may lie at any depth below their class folder.

        Args:
            root: The folder.
            train: Name of the folder of training photos.
            valid: Name of the folder of validation photos.
            valid_pct: Share of each class to validate on, strictly between 0 and 1.
            size: As for `ImageDataLoaders`, like those that follow.
            batch_size: Photos per batch.
            seed: Of the split and of the order of the photos.
            augmentation: What is drawn for each training photo.
            workers: Threads that decode.
            on_error: What an unreadable photo does.
            cache_bytes: Bound on the memory for decoded photos.
            classes: Names of the classes in the order of their numbers; by default the
                class folders of training that hold photos, sorted.

        Raises:
            FileNotFoundError: If a folder is missing; the message says what to type.
            ValueError: If there are no photos, photos outside class folders, or
                classes in validation that training does not have.
            jaxtune.data.ImageError: If photos cannot be read.
        """
        options: dict[str, Any] = {
            "size": size,
            "batch_size": batch_size,
            "seed": seed,
            "augmentation": augmentation,
            "workers": workers,
            "on_error": on_error,
            "cache_bytes": cache_bytes,
        }
        _check_options(**options)
        train_items, valid_items = split_folders(
            root, train, valid, valid_pct=valid_pct, classes=classes, seed=seed
        )
        return cls(train_items, valid_items, **options)

    @classmethod
    def from_name_re(
        cls,
        root: str | os.PathLike[str],
        pattern: str | re.Pattern[str],
        **options: Unpack[SplitOptions],
    ) -> ImageDataLoaders:
        r"""Returns the photos below a folder, labelled by a pattern on the file's name.

        Args:
            root: The folder; photos are found at any depth.
            pattern: Regular expression searched for in the name; its first group is the
                label: `r"(.+)_\d+.jpg$"` labels `great_pyrenees_173.jpg`.
            **options: `valid_pct` (0.2: the share of each class to validate on) and
                those of `from_folder` from `size` on.

        Raises:
            FileNotFoundError: If the folder is missing.
            ValueError: If the pattern has no group, a name does not match, or there
                are no photos.
            jaxtune.data.ImageError: If photos cannot be read.
        """
        label = name_label(regex_label(pattern))
        return cls.from_path_func(root, label, **options)

    @classmethod
    def from_name_func(
        cls,
        root: str | os.PathLike[str],
        label_func: Callable[[str], Hashable],
        **options: Unpack[SplitOptions],
    ) -> ImageDataLoaders:
        """Returns the photos below a folder, labelled by a function of the file's name.

        Args:
            root: The folder; photos are found at any depth.
            label_func: From a file's name ("cat_12.jpg") to its label; None is refused.
            **options: As for `from_name_re`.

        Raises:
            FileNotFoundError: If the folder is missing.
            ValueError: If a photo gets no label, or there are no photos.
            jaxtune.data.ImageError: If photos cannot be read.
        """
        return cls.from_path_func(root, name_label(label_func), **options)

    @classmethod
    def from_path_func(
        cls,
        root: str | os.PathLike[str],
        label_func: Callable[[Path], Hashable],
        **options: Unpack[SplitOptions],
    ) -> ImageDataLoaders:
        """Returns the photos below a folder, labelled by a function of the path.

        Args:
            root: The folder; photos are found at any depth.
            label_func: From a photo's `Path` to its label; None is refused.
            **options: As for `from_name_re`.

        Raises:
            FileNotFoundError: If the folder is missing.
            ValueError: If a photo gets no label, or there are no photos.
            jaxtune.data.ImageError: If photos cannot be read.
        """
        _check_options(**options)
        root = existing_folder(root)
        paths = find_images(root)
        labels = [label_func(path) for path in paths]
        return cls.from_lists(paths, labels, root=root, **options)

    @classmethod
    def from_lists(
        cls,
        paths: Iterable[str | os.PathLike[str]],
        labels: Iterable[Hashable],
        *,
        root: str | os.PathLike[str] = ".",
        **options: Unpack[SplitOptions],
    ) -> ImageDataLoaders:
        """Returns photos whose labels are known, a share of each class set aside.

        Args:
            paths: The photos; below `root` where they are not absolute.
            labels: One for each photo.
            root: What relative paths begin at. A photo's side of the split depends on
                its path below it, so the whole folder may be moved.
            **options: As for `from_name_re`.

        Raises:
            ValueError: If numbers differ, a label is None, or there are no photos.
            jaxtune.data.ImageError: If photos cannot be read.
        """
        _check_options(**options)
        root = Path(root).expanduser()
        paths = [root / path for path in paths]
        if not paths:
            raise ValueError(
                f"There are no photos in {str(root)!r} (jpg, jpeg, png, gif, bmp, webp,"
                " tif, tiff). Check the path."
            )
        items = label_items(paths, labels, classes=options.pop("classes", None))
        train_items, valid_items = split_items(
            items,
            valid_pct=options.pop("valid_pct", DEFAULT_VALID_PCT),
            seed=options.get("seed", 0),
            root=root,
        )
        return cls(train_items, valid_items, **options)

    @property
    def train(self) -> Loader:
        """`train_loader`, by fastai's name."""
        return self.train_loader

    @property
    def valid(self) -> Loader:
        """`valid_loader`, by fastai's name."""
        return self.valid_loader

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.classes)

    def prepare_image(self, source: Any) -> UInt8[np.ndarray, "h w 3"]:
        """Returns a picture exactly as validation sees it; see `prepare_image`."""
        return prepare_image(source, self.size)

    def __repr__(self) -> str:
        """Returns sizes, and how many photos each class has in each split."""
        lines = [
            f"ImageDataLoaders: {self.num_classes} classes, size {self.size}, batches"
            f" of {self.batch_size}, seed {self.seed}"
        ]
        for name, items in (("train", self.train_items), ("valid", self.valid_items)):
            counts = [f"{label} {number}" for label, number in items.counts().items()]
            lines.append(f"  {name}: {len(items)} photos ({listing(counts, most=20)})")
        return "\n".join(lines)


def _check_options(
    *,
    size: int | tuple[int, int] = 224,
    batch_size: int = 64,
    seed: int = 0,
    workers: int | None = None,
    on_error: str = "raise",
    cache_bytes: int = DEFAULT_CACHE_BYTES,
    valid_pct: float | int = DEFAULT_VALID_PCT,
    augmentation: Augmentation | None = None,
    classes: Sequence[str] | None = None,
) -> None:
    """Refuses what is out of range before a folder is looked at."""
    as_size(size)
    check_valid_pct(valid_pct)
    check_loader_arguments(
        batch_size=batch_size,
        seed=seed,
        workers=workers,
        cache_bytes=cache_bytes,
        on_error=on_error,
    )
    if augmentation is not None and not isinstance(augmentation, Augmentation):
        raise TypeError(
            f"augmentation is an Augmentation(...) or None; got {augmentation!r}."
        )
    if isinstance(classes, str):
        raise TypeError(f"classes is a sequence of names; got the string {classes!r}.")
