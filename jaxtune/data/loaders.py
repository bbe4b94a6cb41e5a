"""ImageDataLoaders: the training and validation batches of one set of photos.

Both splits are prepared with the same options, and predictions like validation.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np
from jaxtyping import UInt8

from jaxtune.arguments import (
    Integer,
    Number,
    check_flag,
    check_function,
    check_instance,
    check_path,
    described,
)
from jaxtune.data.check import (
    PhotoCheck,
    check_not_empty,
    check_photos,
    check_trained_classes,
    readable_items,
    warn_odd_labels,
)
from jaxtune.data.folders import existing_folder, no_photos, scan_images, warn_skipped
from jaxtune.data.items import Items, Kind, listing, name_label, regex_label, rows_of
from jaxtune.data.labels import label_items
from jaxtune.data.loader import DEFAULT_CACHE_BYTES, Loader, OnError
from jaxtune.data.long_tables import LONG_FILE, read_long_csv
from jaxtune.data.options import (
    DEFAULT_BATCH_SIZE,
    Augmented,
    LoaderOptions,
    SplitOptions,
    check_options,
    label_options,
    refuse_split,
    split_by_options,
    weighted,
)
from jaxtune.data.photos import photo_loader
from jaxtune.data.resize import (
    PadMode,
    Preparation,
    Resize,
    Size,
    prepare_image,
    train_preparation,
    validation_preparation,
)
from jaxtune.data.sampling import Weights, item_weights
from jaxtune.data.shards import Shards, shard_items
from jaxtune.data.show import show_batch
from jaxtune.data.sources import source_items
from jaxtune.data.splits import split_folders
from jaxtune.data.tables import Column, as_table, read_csv, table_items, valid_rows
from jaxtune.data.transforms import Augmentation, check_functions
from jaxtune.data.values import is_missing, listed

DEFAULT_AUGMENTATION = Augmentation()


class ImageDataLoaders:
    """Training and validation batches of labelled photos.

    Created by `from_folder`, `from_name_re`, `from_path_re`, `from_name_func`,
    `from_path_func`, `from_lists`, `from_df`, `from_csv` or `from_arrays`.

    Attributes:
        train_loader: Shuffled batches, of the size from which random crops are cut.
        valid_loader: Batches in order, of the final size; the last one is padded.
        train_items: Paths and labels of the training photos.
        valid_items: Paths and labels of the validation photos.
        classes: Names of the classes; empty for regression.
        kind: Of the labels: "single", "multi" or "regression".
        size: Height and width of the network's input in training, in pixels.
        valid_size: Height and width in validation and prediction.
        batch_size: Rows of a training batch.
        auto_batch_size: Whether a learner is to find it; until then it is 64.
        seed: Of the split and of the order of the photos.
        augmentation: Applied on the device; if None, training photos are prepared like
            validation photos.
        resize: How photos of another shape are resized, see `validation_preparation`.
        pad_mode: What "pad" adds.
        in_channels: Channels of each image: 3 for photos.
    """

    def __init__(
        self,
        train_items: Items,
        valid_items: Items,
        *,
        size: Size = 224,
        valid_size: Size | None = None,
        batch_size: Integer | Literal["auto"] = DEFAULT_BATCH_SIZE,
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
        """Reads every photo's header, and creates the loaders.

        Args:
            train_items: Photos to train on.
            valid_items: Photos to validate on, with the same classes.
            size: Height and width of the network's input, in pixels; an int means a
                square.
            valid_size: Height and width in validation and prediction; `size` if None.
            batch_size: Photos per batch; "auto" for what the first learner finds, see
                `Learner.find_batch_size`.
            seed: Of the order of the photos.
            augmentation: Applied to training photos: an `Augmentation`; a function of
                your own, or a list of these that may begin with an `Augmentation` (else
                the default one comes first), see `Transform`; None for no augmentation.
            resize: For validation, prediction, and training without augmentation:
                "crop" keeps the centre, "squish" distorts, "pad" keeps all and adds
                borders, as in fastai's `Resize`. None squishes to 14% more and keeps
                the centre, as in fastai's `RandomResizedCrop`.
            pad_mode: What "pad" adds: "reflection", "border" or "zeros".
            presize: Height and width of training photos before augmentation; by default
                large enough that no crop is enlarged, see `presize`.
            weights: How often training draws each photo, with replacement: "balanced",
                a dict from class to weight, or a number for each photo; see
                `item_weights`. None draws each once an epoch.
            in_channels: Channels of each image. By default those of the arrays, or 3
                (RGB) for photos, which can also be 1 (grey) or 4 (RGB and alpha).
            workers: Threads that decode; by default one per processor, at most 16.
            on_error: Whether unreadable photos "raise" an `ImageError` that names them
                all, or are "skip"ped with a warning.
            cache_bytes: Most memory for decoded photos, both splits together.

        Raises:
            ValueError: If an argument is out of range, the classes differ, or a split
                or a class has no photos left.
            jaxtune.data.ImageError: If photos cannot be read and `on_error` is "raise".
        """
        options = check_options(
            {
                "size": size,
                "valid_size": valid_size,
                "batch_size": batch_size,
                "seed": seed,
                "augmentation": augmentation,
                "resize": resize,
                "pad_mode": pad_mode,
                "presize": presize,
                "weights": weights,
                "in_channels": in_channels,
                "workers": workers,
                "on_error": on_error,
                "cache_bytes": cache_bytes,
            }
        )
        for name, items in (("train_items", train_items), ("valid_items", valid_items)):
            check_instance(items, name, Items, "Items, as label_items makes them")
        _check_same_labels(train_items, valid_items)
        check_not_empty(train_items, valid_items)
        if weights is not None:
            numbers = item_weights(train_items, weights)
            train_items = dataclasses.replace(train_items, weights=numbers)
        self.train_items, self.valid_items = readable_items(
            train_items, valid_items, workers=options["workers"], on_error=on_error
        )
        _warn_untrained_classes(self.train_items)
        warn_odd_labels(self.train_items, self.valid_items)
        self.size = options["size"]
        self.classes: tuple[str, ...] = train_items.classes
        self.kind: Kind = train_items.kind
        self.seed = options["seed"]
        self.augmentation = augmentation = options["augmentation"]
        self.valid_size = options["valid_size"] or self.size
        self.resize, self.pad_mode = resize, pad_mode
        self.in_channels = _channels(train_items, valid_items, options["in_channels"])
        preparation, validation = map(self._validation, (self.size, self.valid_size))
        if augmentation is not None:
            check_functions(augmentation.functions, (*self.size, self.in_channels))
            preparation = train_preparation(
                self.size,
                augmentation.smallest_share,
                squash=options["presize"],
                channels=self.in_channels,
            )
        if train_items.images is not None:
            # Images that cannot be prepared raise an error now, not in the first epoch.
            preparation(train_items.photo(0))
            validation(valid_items.photo(0))
        common = {name: options[name] for name in ("seed", "workers", "on_error")}
        self.auto_batch_size = options["batch_size"] == "auto"
        if self.auto_batch_size:
            options["batch_size"] = min(DEFAULT_BATCH_SIZE, len(self.train_items))
        self.train_loader = Loader(
            self.train_items,
            preparation,
            batch_size=options["batch_size"],
            shuffle=True,
            cache_bytes=options["cache_bytes"],
            **common,
        )
        self.valid_loader = Loader(
            self.valid_items,
            validation,
            batch_size=options["batch_size"],
            cache_bytes=options["cache_bytes"] - self.train_loader.cached_bytes,
            **common,
        )
        self.batch_size = self.train_loader.batch_size

    def with_batch_size(self, batch_size: Integer) -> ImageDataLoaders:
        """Returns the same photos in batches of another size.

        Args:
            batch_size: Photos per batch, at most as many as there are for training.
        """
        other = copy.copy(self)
        other.train_loader = self.train_loader.with_batch_size(batch_size)
        other.valid_loader = self.valid_loader.with_batch_size(batch_size)
        other.batch_size = other.train_loader.batch_size
        other.auto_batch_size = False
        return other

    def _validation(self, size: tuple[int, int]) -> Preparation:
        return validation_preparation(
            size,
            resize=self.resize,
            pad_mode=self.pad_mode,
            channels=self.in_channels,
        )

    @classmethod
    def from_folder(
        cls,
        root: str | os.PathLike[str],
        train: str = "train",
        valid: str = "valid",
        *,
        valid_pct: Number | None = None,
        stratify: bool = True,
        classes: Iterable[Any] | None = None,
        **options: Unpack[LoaderOptions],
    ) -> ImageDataLoaders:
        """Returns the photos of a folder that has a subfolder for each class.

        Without `valid_pct` the folder contains `train/<class>/…` and `valid/<class>/…`;
        with it, `<class>/…`, and a random part of each class is for validation. Photos
        may lie at any depth below their class folder.

        Args:
            root: The folder.
            train: Name of the folder of training photos.
            valid: Name of the folder of validation photos.
            valid_pct: Fraction of each class for validation, strictly between 0 and 1.
            stratify: Whether to take the fraction of each class, or of all photos.
            classes: Names of the classes in the order of their numbers; by default the
                class folders that contain training photos, sorted.
            **options: Of `ImageDataLoaders`: size, valid_size, batch_size, seed,
                augmentation, resize, pad_mode, presize, weights, in_channels, workers,
                on_error, cache_bytes.

        Raises:
            FileNotFoundError: If a folder is missing; the message says what to write.
            ValueError: If there are no photos, photos outside class folders, or
                validation has classes that training does not have.
            TypeError: If an argument has no effect beside another.
            jaxtune.data.ImageError: If photos cannot be read.
        """
        options = check_options(options)
        if valid_pct is None and check_flag(stratify, "stratify") is False:
            raise TypeError(
                "stratify=False is about a random split: give valid_pct too, or leave"
                " it out."
            )
        if valid_pct is not None and (train, valid) != ("train", "valid"):
            raise TypeError(
                f"valid_pct={valid_pct} splits the class folders in root, so the"
                f" names train={train!r} and valid={valid!r} would not be used: leave"
                " out valid_pct or the names."
            )
        train_items, valid_items = split_folders(
            root,
            train,
            valid,
            valid_pct=valid_pct,
            classes=classes,
            seed=options.get("seed", 0),
            stratify=stratify,
        )
        return cls(train_items, valid_items, **options)

    @classmethod
    def from_name_re(
        cls,
        root: str | os.PathLike[str],
        pattern: str | re.Pattern[str],
        **options: Unpack[SplitOptions],
    ) -> ImageDataLoaders:
        r"""Returns the photos below a folder, labelled by a pattern in the file's name.

        Args:
            root: The folder; photos are found at any depth.
            pattern: Regular expression searched for in the name; its first group is the
                label: `r"(.+)_\d+.jpg$"` labels `great_pyrenees_173.jpg`.
            **options: Those of `from_folder`, of which valid_pct is 0.2 by default; and
                `kind` of the labels, "single", "multi" or "regression", where they
                could be of several.

        Raises:
            FileNotFoundError: If the folder is missing.
            ValueError: If the pattern has no group, a name does not match, or there
                are no photos.
            jaxtune.data.ImageError: If photos cannot be read.
        """
        label = name_label(regex_label(pattern))
        return cls.from_path_func(root, label, **options)

    @classmethod
    def from_path_re(
        cls,
        root: str | os.PathLike[str],
        pattern: str | re.Pattern[str],
        **options: Unpack[SplitOptions],
    ) -> ImageDataLoaders:
        """Returns the photos below a folder, labelled by a pattern in the whole path.

        Args:
            root: The folder; photos are found at any depth.
            pattern: As for `from_name_re`, searched for in the path, with slashes.
            **options: As for `from_name_re`, and so are the errors.
        """
        label = regex_label(pattern)
        return cls.from_path_func(root, lambda path: label(path.as_posix()), **options)

    @classmethod
    def from_name_func(
        cls,
        root: str | os.PathLike[str],
        label_func: Callable[[str], Any],
        **options: Unpack[SplitOptions],
    ) -> ImageDataLoaders:
        """Returns the photos below a folder, labelled by a function of the file's name.

        Args:
            root: The folder; photos are found at any depth.
            label_func: From a file's name ("cat_12.jpg") to its label, see
                `from_lists`; None is refused.
            **options: As for `from_name_re`, and so are the errors.
        """
        return cls.from_path_func(root, name_label(label_func), **options)

    @classmethod
    def from_path_func(
        cls,
        root: str | os.PathLike[str],
        label_func: Callable[[Path], Any],
        **options: Unpack[SplitOptions],
    ) -> ImageDataLoaders:
        """Returns the photos below a folder, labelled by a function of the path.

        Args:
            root: The folder; photos are found at any depth.
            label_func: From a photo's `Path` to its label, see `from_lists`; None is
                refused.
            **options: As for `from_name_re`, and so are the errors.
        """
        options = check_options(options)
        check_function(label_func, "label_func", "a function from a path to a label")
        root = existing_folder(root)
        paths, skipped = scan_images(root)
        if not paths:
            raise ValueError(f"{no_photos(skipped, root)}. Check the path.")
        warn_skipped(skipped, root)
        labels = [label_func(path) for path in paths]
        relative = [path.relative_to(root) for path in paths]
        return cls.from_lists(relative, labels, root=root, **options)

    @classmethod
    def from_lists(
        cls,
        paths: Iterable[str | os.PathLike[str]],
        labels: Iterable[Any],
        *,
        root: str | os.PathLike[str] = ".",
        **options: Unpack[SplitOptions],
    ) -> ImageDataLoaders:
        """Returns photos with their labels, split at random.

        Args:
            paths: Of the photos, absolute or relative to `root`.
            labels: One for each photo: a name, a list of names (multi-label), or a
                float or several (regression).
            root: Base of relative paths. The split depends on the paths relative to it,
                so the whole folder may be moved.
            **options: As for `from_name_re`.

        Raises:
            ValueError: If there are more or fewer labels than paths, a label is None,
                labels mix kinds, or there are no photos.
            jaxtune.data.ImageError: If photos cannot be read.
        """
        options = check_options(options)
        root = Path(check_path(root, "root")).expanduser()
        paths = _absolute(paths, root)
        if not paths:
            raise ValueError(
                "paths is empty. Check the pattern or the folder that it comes from."
            )
        items = label_items(paths, labels, **label_options(options))
        return cls(*split_by_options(items, options, root), **options)

    @classmethod
    def from_df(
        cls,
        df: Any,
        root: str | os.PathLike[str] = ".",
        *,
        fn_col: Column = 0,
        label_col: Column | Sequence[Column] = 1,
        label_delim: str | None = None,
        valid_col: Column | None = None,
        suff: str = "",
        folder: str | None = None,
        **options: Unpack[SplitOptions],
    ) -> ImageDataLoaders:
        """Returns the photos that a table lists, with its labels.

        Columns are given by name, or by position from 0; `table_items` says what kind
        of labels they give. Whitespace around values is removed.

        Args:
            df: A DataFrame (pandas, Polars, anything with `columns` that gives a column
                by its name), or a dict of columns.
            root: The folder.
            fn_col: Column of the photos' paths relative to the folder.
            label_col: Column of the label, or a list of columns.
            label_delim: Separator of several labels in one column.
            valid_col: Column of booleans, True for validation photos; if None, the
                split is random.
            suff: Appended to each path, such as ".jpg".
            folder: Folder below `root` that contains the photos.
            **options: As for `from_name_re`.

        Raises:
            TypeError: If `df` is not a table.
            ValueError: If columns are missing, or a photo gets no label.
            jaxtune.data.ImageError: If photos cannot be read.
        """
        return cls._from_table(
            lambda: as_table(df),
            root,
            valid_col=valid_col,
            folder=folder,
            options=options,
            fn_col=fn_col,
            label_col=label_col,
            label_delim=label_delim,
            suff=suff,
        )

    @classmethod
    def from_csv(
        cls,
        root: str | os.PathLike[str],
        csv_fname: str | os.PathLike[str] = "labels.csv",
        *,
        header: Literal["infer"] | Integer | None = "infer",
        delimiter: str | None = None,
        encoding: str | None = None,
        keep_default_na: bool = True,
        fn_col: Column = 0,
        label_col: Column | Sequence[Column] = 1,
        label_delim: str | None = None,
        valid_col: Column | None = None,
        suff: str = "",
        folder: str | None = None,
        **options: Unpack[SplitOptions],
    ) -> ImageDataLoaders:
        """Returns the photos that a CSV file lists, with its labels.

        A label column in which each cell is a whole number, or a float, holds numbers;
        others hold names (007 is one).

        Args:
            root: The folder.
            csv_fname: The file, relative to the folder or absolute.
            header: As for `jaxtune.data.read_csv`, like the next three.
            delimiter: Between columns; a comma if None.
            encoding: Of the file, such as "cp1252", as written by Excel in Western
                Europe and America; UTF-8 if None.
            keep_default_na: Whether the words that pandas reads as missing ("NA",
                "nan", "None" and others) mean missing; False takes them as names.
            fn_col: As for `from_df`, like those that follow.
            label_col: Column of the label, or a list of columns.
            label_delim: Separator of several labels in one column.
            valid_col: Column of booleans.
            suff: Appended to each path.
            folder: Folder below `root` that contains the photos.
            **options: As for `from_name_re`.

        Raises:
            FileNotFoundError: If the folder or the file is missing.
            ValueError: If columns are missing, rows differ in length, or a photo gets
                no label.
            jaxtune.data.ImageError: If photos cannot be read.
        """
        path = Path(existing_folder(root), check_path(csv_fname, "csv_fname"))
        reading = {
            "header": header,
            "delimiter": delimiter,
            "encoding": encoding,
            "keep_default_na": keep_default_na,
        }
        one_label = not isinstance(label_col, list | tuple) and label_delim is None
        is_long = path.is_file() and path.stat().st_size >= LONG_FILE
        if is_long and one_label and options.get("kind") != "multi":
            options = check_options(options)
            if valid_col is not None:
                refuse_split(options, "valid_col")
            items, is_valid = read_long_csv(
                path,
                Path(root, folder or ""),
                fn_col=fn_col,
                label_col=label_col,
                valid_col=valid_col,
                suff=suff,
                **reading,
                **label_options(options),
            )
            return cls._split(items, is_valid, root, options)
        return cls._from_table(
            lambda: read_csv(path, **reading),
            root,
            valid_col=valid_col,
            folder=folder,
            options=options,
            fn_col=fn_col,
            label_col=label_col,
            label_delim=label_delim,
            suff=suff,
            text=True,
        )

    @classmethod
    def from_arrays(
        cls,
        train: Any,
        valid: Any = None,
        **options: Unpack[SplitOptions],
    ) -> ImageDataLoaders:
        """Returns images that are in memory, or in another library's data set.

        Args:
            train: `(images, labels)`, with images an array (n, h, w, c) or (n, h, w),
                `uint8` (or see `to_uint8`), of any number of channels; or anything with
                `len` and items `{"image", "label"}`: a list, a Grain source, a Hugging
                Face dataset.
            valid: The same for validation; if None, `train` is split at random.
            **options: As for `from_name_re`. With `classes`, whole-number labels that
                are not among these names are positions in it.

        Raises:
            TypeError: If a source is none of these.
            ValueError: If images or labels have a wrong shape, dtype or number.
        """
        options = check_options(options)
        named = label_options(options)
        if valid is None:
            items = source_items(train, **named)
            return cls(*split_by_options(items, options, None), **options)
        refuse_split(options, "valid")
        train_items = source_items(train, name="train", **named)
        named = {"classes": train_items.classes or None, "kind": train_items.kind}
        valid_items = source_items(valid, name="valid", **named)
        return cls(train_items, valid_items, **options)

    @classmethod
    def from_shards(
        cls,
        train: Shards,
        valid: Shards | None = None,
        *,
        label: str = "cls",
        **options: Unpack[SplitOptions],
    ) -> ImageDataLoaders:
        """Returns photos in tar files, in WebDataset's layout.

        Photos stay in their files, and each is read where it lies: in a random order
        over all files, and of several processes by one. The first time each file is
        gone through for an index beside it.

        Args:
            train: A folder with tar files, a pattern such as "train-*.tar", or a list
                of files, not compressed.
            valid: The same for validation; if None, photos of `train` are split at
                random.
            label: Which part of a sample is its label: "cls" or another ending of
                files of one text, a number or a name; or "json", under "label".
            **options: As for `from_name_re`. With `classes`, whole-number labels that
                are not among these names are positions in it.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If a file is no tar file or compressed, or a photo has no label.
        """
        options = check_options(options)
        named: dict[str, Any] = label_options(options)
        reading = {"label": label, "workers": options.get("workers")}
        if valid is None:
            items = shard_items(train, **named, **reading)
            return cls(*split_by_options(items, options, None), **options)
        refuse_split(options, "valid")
        train_items = shard_items(train, **named, **reading)
        named = {"classes": train_items.classes or None, "kind": train_items.kind}
        valid_items = shard_items(valid, **named, **reading)
        return cls(train_items, valid_items, **options)

    @classmethod
    def _from_table(
        cls,
        read: Callable[[], Any],
        root: str | os.PathLike[str],
        *,
        valid_col: Column | None,
        folder: str | None,
        options: Mapping[str, Any],
        **columns: Any,
    ) -> ImageDataLoaders:
        options = check_options(options)
        table = read()
        root = existing_folder(root)
        check_instance(
            folder, "folder", (str, os.PathLike, type(None)), "a path, or None"
        )
        if valid_col is not None:
            refuse_split(options, "valid_col")
            is_valid = valid_rows(table, valid_col)
        items = table_items(
            table, root / (folder or ""), **columns, **label_options(options)
        )
        return cls._split(items, None if valid_col is None else is_valid, root, options)

    @classmethod
    def _split(
        cls,
        items: Items,
        is_valid: np.ndarray | None,
        root: str | os.PathLike[str],
        options: dict[str, Any],
    ) -> ImageDataLoaders:
        if is_valid is None:
            return cls(*split_by_options(items, options, root), **options)
        items = weighted(items, options)
        splits = [items.take(np.flatnonzero(rows)) for rows in (~is_valid, is_valid)]
        check_trained_classes(*splits)
        return cls(*splits, **options)

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
        """Outputs a network needs: one for each class, or for each target."""
        return self.train_items.num_outputs

    @property
    def num_classes(self) -> int:
        """`num_outputs`, by another name."""
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
        """Returns batches of other photos, in order, prepared like validation photos.

        For `Learner.get_preds`, `tta`, `interpret`, `show_results` and `validate`.
        `loader.items.paths[i]` names the photo of row i.

        Args:
            photos: Paths, a folder, a glob, a column of a table, pictures in memory or
                a mixture; see `list_photos`. An iterator is read to its end.
            labels: One for each photo: names of classes, or regression targets. None
                if they are unknown.
            with_labels: Whether to take each label from the nearest parent folder that
                is named like a class.
            batch_size: Photos per batch; as in validation if None.
            on_error: "raise" or "skip" for unreadable photos; as in validation if None.

        Raises:
            ValueError: If there is no photo, there are more or fewer labels than
                photos, or a label is unknown.
            FileNotFoundError: If a folder, a glob or a file does not exist.
            jaxtune.data.ImageError: If files are no pictures; all are named.
            TypeError: If a photo is of another type.

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
        """Decodes every photo of both splits, and returns those that cannot be read.

        Creating the loaders reads headers only, which does not find truncated photos.
        Nothing is kept in memory. The result is a sequence of `BadPhoto`, prints as a
        list with reasons, and names photos that are identical, byte for byte, in both
        splits or under two labels.

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
            f" of {'auto' if self.auto_batch_size else self.batch_size}, seed"
            f" {self.seed}"
        ]
        for name, items in (("train", self.train_items), ("valid", self.valid_items)):
            drawn = "" if items.weights is None else ", drawn by weight"
            drawn = drawn if name == "train" else ""
            lines.append(
                f"  {name}: {len(items)} photos{drawn} ({_labels_text(items)})"
            )
        return "\n".join(lines)


def _labels_text(items: Items) -> str:
    if items.kind == "regression":
        return f"{items.labels.min():.4g} to {items.labels.max():.4g}"
    counts = [f"{label} {number}" for label, number in items.counts().items()]
    return listing(counts, most=20)


def _warn_untrained_classes(items: Items) -> None:
    if items.kind == "regression":
        return
    without = [name for name, number in items.counts().items() if not number]
    if without:
        warnings.warn(
            f"{len(without)} of {len(items.classes)} classes without a photo to train"
            f" on: {listing(without)}. A network cannot learn these, and one that"
            " already knows them may forget them.",
            stacklevel=4,
        )


def _check_same_labels(train_items: Items, valid_items: Items) -> None:
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
            "Both splits need equally many targets a photo; train has"
            f" {train_items.num_outputs}, valid has {valid_items.num_outputs}."
        )


def _channels(train_items: Items, valid_items: Items, asked: int | None) -> int:
    images = train_items.images, valid_items.images
    if (images[0] is None) != (images[1] is None):
        raise ValueError(
            "Both splits need photos on disk, or both images in memory; one split has"
            " photos on disk and the other images in memory."
        )
    if images[0] is None or images[1] is None:
        if asked not in (None, 1, 3, 4):
            raise ValueError(
                "in_channels must be 1 (grey), 3 (RGB) or 4 (RGBA) for photos on disk;"
                f" received {asked}. from_arrays takes images of other channels."
            )
        return asked or 3
    train, valid = images[0].channels, images[1].channels
    if asked is None and train != valid:
        raise ValueError(
            f"Both splits need the same channels; train has {train}, valid has {valid}."
            " With in_channels=3 grey and RGBA images become RGB."
        )
    return asked or train


def _absolute(paths: Any, root: Path) -> list[Path]:
    """Returns paths relative to a folder as absolute ones, from any collection."""
    wanted = "paths must be a list of paths, one for each photo"
    is_one = isinstance(paths, str | bytes | os.PathLike | Mapping | set | frozenset)
    if is_one or not (isinstance(paths, Iterable) or hasattr(paths, "__array__")):
        raise TypeError(f"{wanted}; received {described(paths)}.")
    if hasattr(paths, "columns"):
        raise TypeError(f"{wanted}; received a table. Use from_df.")
    # Joining paths is what takes time where there are a million.
    absolute: list[Path] = []
    missing: list[int] = []
    for row, path in enumerate(listed(paths)):
        if isinstance(path, Path) and path.is_absolute():
            absolute.append(path)
        elif is_missing(path):
            missing.append(row)
        elif isinstance(path, str | os.PathLike):
            absolute.append(root / path)
        else:
            raise TypeError(f"{wanted}; paths[{row}] is {described(path)}.")
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(missing) + len(absolute)} paths are missing:"
            f" {rows_of(missing)}. Leave them and their labels out."
        )
    return absolute
