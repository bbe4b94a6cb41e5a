"""ImageDataLoaders: the training and the validation batches of one set of photos.

The items of two splits go in; two loaders, and what a network must know of the labels,
come out. The one rule: both splits are prepared by the same options, and validation as
prediction is.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jaxtune.arguments import Integer, check_instance
from jaxtune.data.check import check_not_empty, readable_items, warn_odd_labels
from jaxtune.data.factories import Factories
from jaxtune.data.items import Items, Kind, listing
from jaxtune.data.loader import DEFAULT_CACHE_BYTES, Loader, OnError
from jaxtune.data.options import Augmented, check_options
from jaxtune.data.photos import photo_loader
from jaxtune.data.resize import (
    PadMode,
    Resize,
    Size,
    as_size,
    prepare_image,
    train_preparation,
    validation_preparation,
)
from jaxtune.data.sampling import Weights, item_weights
from jaxtune.data.show import show_batch
from jaxtune.data.transforms import Augmentation, check_functions
from jaxtune.data.verify import PhotoCheck, check_photos

DEFAULT_AUGMENTATION = Augmentation()


class ImageDataLoaders(Factories):
    """Training and validation batches of labelled photos.

    Made by `from_folder`, `from_name_re`, `from_path_re`, `from_name_func`,
    `from_path_func`, `from_lists`, `from_df`, `from_csv` or `from_arrays`.

    Attributes:
        train_loader: Shuffled batches; photos have the size random crops are cut from.
        valid_loader: Batches in order, padded; photos have their final size.
        train_items: Paths and labels of the photos that train.
        valid_items: Paths and labels of the photos that validate.
        classes: Names of the classes; none where numbers are to be predicted.
        kind: Of the labels: "single", "multi" or "regression".
        size: Height and width of what the network trains on, in pixels.
        valid_size: Height and width of what it sees in validation and prediction.
        batch_size: Rows of a training batch.
        seed: Of the split and of the order of the photos.
        augmentation: What is drawn on the device; None for nothing: training photos
            are then prepared as validation photos are, in their own size.
        resize: How photos of another shape are resized, see `validation_preparation`.
        pad_mode: What "pad" fills up with.
        in_channels: Channels of each image: 3 for photos.
    """

    def __init__(
        self,
        train_items: Items,
        valid_items: Items,
        *,
        size: Size = 224,
        valid_size: Size | None = None,
        batch_size: Integer = 64,
        seed: Integer = 0,
        augmentation: Augmented = DEFAULT_AUGMENTATION,
        resize: Resize | None = None,
        pad_mode: PadMode = "reflection",
        presize: Size | None = None,
        weights: Weights | None = None,
        in_channels: Integer | None = None,
        workers: Integer | None = None,
        on_error: OnError = "raise",
        cache_bytes: Integer = DEFAULT_CACHE_BYTES,
    ) -> None:
        """Checks every photo's header, and describes the batches.

        Args:
            train_items: Photos to train on.
            valid_items: Photos to validate on, with the same classes.
            size: Height and width of what the network sees, in pixels; an int means a
                square.
            valid_size: What it sees in validation and prediction, if not `size`. Random
                crops show things larger than validation does; a network that trained
                on them at 128 px often sees more at 160 or 192 (Touvron et al.,
                "Fixing the train-test resolution discrepancy",
                https://arxiv.org/abs/1906.06423).
            batch_size: Photos per batch.
            seed: Of the order of the photos.
            augmentation: What is drawn for each training photo: an `Augmentation`; a
                function of your own, or a list of them that an `Augmentation` may
                begin (the default one does otherwise), see `Transform`; None for
                nothing.
            resize: For validation, prediction, and training without augmentation:
                "crop" keeps the centre, "squish" changes the shape, "pad" keeps all and
                fills up, as fastai's `Resize`. None squishes to 14% more and keeps the
                centre, as fastai's `RandomResizedCrop`.
            pad_mode: What "pad" fills up with: "reflection", "border" or "zeros".
            presize: Height and width of training photos on the way to augmentation; by
                default so large that the smallest crop has a pixel for each one wanted.
            weights: How often training draws each photo, with replacement: "balanced",
                a dict from class to weight, or a number for each photo; see
                `item_weights`. None draws each once an epoch.
            in_channels: Channels of each image: of arrays what they have, of photos 3
                (RGB), unless 1 (grey) or 4 (RGB and opacity) is asked for.
            workers: Threads that decode; by default one per processor, at most 16.
            on_error: What an unreadable photo does: "raise" an `ImageError` that names
                them all, or "skip" them with a warning.
            cache_bytes: Bound on the memory for decoded photos, both splits together.

        Raises:
            ValueError: If an argument is out of range, the classes differ, or a split
                or a class has no photo left.
            jaxtune.data.ImageError: If photos cannot be read and `on_error` is "raise".
        """
        common = {"seed": seed, "workers": workers, "on_error": on_error}
        checked = check_options(
            {
                "size": size,
                "valid_size": valid_size,
                "batch_size": batch_size,
                "augmentation": augmentation,
                "resize": resize,
                "pad_mode": pad_mode,
                "presize": presize,
                "weights": weights,
                "in_channels": in_channels,
                "cache_bytes": cache_bytes,
                **common,
            }
        )
        size, batch_size, seed = (checked[k] for k in ("size", "batch_size", "seed"))
        valid_size, presize = checked["valid_size"], checked["presize"]
        in_channels, cache_bytes = checked["in_channels"], checked["cache_bytes"]
        common = {name: checked[name] for name in common}
        for name, items in (("train_items", train_items), ("valid_items", valid_items)):
            check_instance(items, name, Items, "Items, as label_items makes them")
        _check_alike(train_items, valid_items)
        check_not_empty(train_items, valid_items)
        if weights is not None:
            numbers = item_weights(train_items, weights)
            train_items = dataclasses.replace(train_items, weights=numbers)
        self.train_items, self.valid_items = readable_items(
            train_items, valid_items, workers=workers, on_error=on_error
        )
        _warn_untrained(self.train_items)
        warn_odd_labels(self.train_items, self.valid_items)
        self.size = as_size(size)
        self.valid_size = self.size if valid_size is None else as_size(valid_size)
        self.classes: tuple[str, ...] = train_items.classes
        self.kind: Kind = train_items.kind
        self.seed = seed
        self.augmentation = augmentation = checked["augmentation"]
        self.resize, self.pad_mode = resize, pad_mode
        self.in_channels = _channels(train_items, valid_items, in_channels)
        preparation, validation = (
            validation_preparation(
                each, resize=resize, pad_mode=pad_mode, channels=self.in_channels
            )
            for each in (self.size, self.valid_size)
        )
        if augmentation is not None:
            check_functions(augmentation.functions, (*self.size, self.in_channels))
            preparation = train_preparation(
                self.size,
                augmentation.smallest_share,
                squash=presize,
                channels=self.in_channels,
            )
        if train_items.images is not None:
            # What cannot be prepared is said now, not in the first epoch.
            preparation(train_items.photo(0))
            validation(valid_items.photo(0))
        self.train_loader = Loader(
            self.train_items,
            preparation,
            batch_size=batch_size,
            shuffle=True,
            cache_bytes=cache_bytes,
            **common,
        )
        self.valid_loader = Loader(
            self.valid_items,
            validation,
            batch_size=batch_size,
            cache_bytes=cache_bytes - self.train_loader.cached_bytes,
            **common,
        )
        self.batch_size = self.train_loader.batch_size

    @property
    def train(self) -> Loader:
        """`train_loader`, by fastai's name."""
        return self.train_loader

    @property
    def valid(self) -> Loader:
        """`valid_loader`, by fastai's name."""
        return self.valid_loader

    @property
    def num_outputs(self) -> int:
        """How many numbers a network gives: one a class, or those to be predicted."""
        return self.train_items.num_outputs

    @property
    def num_classes(self) -> int:
        """`num_outputs`, by the name that it has where there are classes."""
        return self.num_outputs

    def test_loader(
        self,
        photos: Any,
        *,
        labels: Any = None,
        with_labels: bool = False,
        batch_size: Integer | None = None,
        on_error: str | None = None,
    ) -> Loader:
        """Returns batches of other photos, prepared as validation's, in their order.

        For `Learner.get_preds`, `tta`, `interpret`, `show_results` and `validate`.
        `loader.items.paths[i]` names the photo of row i.

        Args:
            photos: Paths, a folder, a glob, a column of a table, pictures in memory or
                a mixture; see `list_photos`. An iterator is read to its end.
            labels: One for each photo, named as the classes are; of numbers to be
                predicted, these. None if they are not known.
            with_labels: Whether to take labels from the folders the photos lie in: of
                each the nearest folder that is named like a class.
            batch_size: Photos per batch; as in validation if None.
            on_error: What an unreadable photo does, "raise" or "skip"; as in validation
                if None.

        Raises:
            ValueError: If there is no photo, labels are not as many, or one is unknown.
            FileNotFoundError: If a folder, a glob or a file is not there.
            jaxtune.data.ImageError: If a file is no picture; each is named.
            TypeError: If a photo is of no known type.

        References:
            fastai 2.8.12, data/core.py `test_dl`.
        """
        return photo_loader(
            self,
            photos,
            labels=labels,
            with_labels=with_labels,
            batch_size=batch_size,
            on_error=on_error,
        )

    test_dl = test_loader

    def prepare_image(self, source: Any) -> UInt8[np.ndarray, "h w c"]:
        """Returns a picture exactly as validation sees it; see `prepare_image`."""
        return prepare_image(
            source,
            self.valid_size,
            resize=self.resize,
            pad_mode=self.pad_mode,
            channels=self.in_channels,
        )

    def check(
        self, *, workers: Integer | None = None, verbose: bool = True
    ) -> PhotoCheck:
        """Decodes every photo of both splits, and returns those that can't be read.

        Making the loaders reads headers only; a photo that is cut short is met when
        it is decoded. Nothing is kept in memory. What it returns is a sequence of
        `BadPhoto`, prints as a list with reasons, and names photos that are the same,
        byte for byte, in both splits or under two labels.

        Args:
            workers: Threads that decode; by default one per processor, at most 16.
            verbose: Whether to show a progress bar, on a terminal.
        """
        loaders = {"train": self.train_loader, "valid": self.valid_loader}
        return check_photos(loaders, workers=workers, verbose=verbose)

    def show_batch(
        self,
        *,
        max_n: Integer = 9,
        split: str = "train",
        epoch: Integer = 0,
        augment: bool = True,
        columns: Integer | None = None,
    ) -> matplotlib.figure.Figure:
        """Returns a figure of photos as training sees them; see `show_batch`."""
        return show_batch(
            self,
            max_n=max_n,
            split=split,
            epoch=epoch,
            augment=augment,
            columns=columns,
        )

    def __repr__(self) -> str:
        """Returns sizes, and how many photos each class has in each split."""
        labels = {
            "single": f"{self.num_outputs} classes",
            "multi": f"{self.num_outputs} classes, several a photo",
            "regression": f"{self.num_outputs} number{'s' * (self.num_outputs > 1)} to"
            " predict",
        }[self.kind]
        larger = ""
        if self.valid_size != self.size:
            larger = f" (validation {self.valid_size})"
        lines = [
            f"ImageDataLoaders: {labels}, size {self.size}{larger}, batches"
            f" of {self.batch_size}, seed {self.seed}"
        ]
        for name, items in (("train", self.train_items), ("valid", self.valid_items)):
            drawn = "" if items.weights is None else ", drawn by weight"
            drawn = drawn if name == "train" else ""
            lines.append(f"  {name}: {len(items)} photos{drawn} ({_of_labels(items)})")
        return "\n".join(lines)


def _of_labels(items: Items) -> str:
    if items.kind == "regression":
        return f"{items.labels.min():.4g} to {items.labels.max():.4g}"
    counts = [f"{label} {number}" for label, number in items.counts().items()]
    return listing(counts, most=20)


def _warn_untrained(items: Items) -> None:
    if items.kind == "regression":
        return
    without = [name for name, number in items.counts().items() if not number]
    if without:
        warnings.warn(
            f"{len(without)} of {len(items.classes)} classes without a photo to train"
            f" on: {listing(without)}. A network can learn nothing of these, and one"
            " that knows them may forget them.",
            stacklevel=4,
        )


def _check_alike(train_items: Items, valid_items: Items) -> None:
    if train_items.kind != valid_items.kind:
        raise ValueError(
            "Both splits need labels of the same kind; train has"
            f" {train_items.kind!r}, valid has {valid_items.kind!r}."
        )
    if train_items.classes != valid_items.classes:
        raise ValueError(
            "Both splits need the same classes in the same order; train has"
            f" {train_items.classes}, valid has {valid_items.classes}."
        )
    if train_items.labels.shape[1:] != valid_items.labels.shape[1:]:
        raise ValueError(
            "Both splits need as many numbers a photo; train has"
            f" {train_items.num_outputs}, valid has {valid_items.num_outputs}."
        )


def _channels(train_items: Items, valid_items: Items, asked: int | None) -> int:
    images = train_items.images, valid_items.images
    if (images[0] is None) != (images[1] is None):
        raise ValueError(
            "Both splits need photos on disk, or both images in memory; one has these"
            " and the other those."
        )
    if images[0] is None or images[1] is None:
        if asked not in (None, 1, 3, 4):
            raise ValueError(
                "in_channels must be 1 (grey), 3 (RGB) or 4 (RGBA) for photos on disk;"
                f" received {asked}. Images of other channels come from from_arrays."
            )
        return asked or 3
    found = tuple(of_split.channels for of_split in images)
    if asked is None and found[0] != found[1]:
        raise ValueError(
            f"Both splits need the same channels; train has {found[0]}, valid has"
            f" {found[1]}. With in_channels=3 grey and RGBA images become RGB."
        )
    return asked or found[0]
