"""Factories: every way from photos and labels to an `ImageDataLoaders`.

A folder, names, lists, a table or arrays go in; the class they are called on is made
with the items that train and those that validate. The one rule: whatever can be found
wrong with the data is said before anything trains, all of it at once, with the way out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Unpack

import numpy as np

from jaxtune.arguments import (
    Integer,
    Number,
    check_flag,
    check_function,
    check_instance,
    check_path,
    described,
)
from jaxtune.data.check import check_trained_classes
from jaxtune.data.items import (
    existing_folder,
    name_label,
    no_photos,
    regex_label,
    scan_images,
    warn_left_out,
)
from jaxtune.data.labels import label_items, rows_of
from jaxtune.data.options import (
    LoaderOptions,
    SplitOptions,
    check_options,
    label_options,
    refuse_split,
    split_by_options,
    weighted,
)
from jaxtune.data.sources import source_items
from jaxtune.data.splits import split_folders
from jaxtune.data.tables import Column, as_table, read_csv, table_items, valid_rows
from jaxtune.data.values import is_missing, listed

Made = TypeVar("Made", bound="Factories")


class Factories:
    """The class methods that make an `ImageDataLoaders`.

    What they are called on takes the items of both splits and `LoaderOptions`.
    """

    @classmethod
    def from_folder(
        cls: type[Made],
        root: str | os.PathLike[str],
        train: str = "train",
        valid: str = "valid",
        *,
        valid_pct: Number | None = None,
        stratify: bool = True,
        classes: Iterable[Any] | None = None,
        **options: Unpack[LoaderOptions],
    ) -> Made:
        """Returns the photos of a folder of class folders.

        Without `valid_pct` the folder holds `train/<class>/…` and `valid/<class>/…`;
        with it, `<class>/…`, and a share of each class is set aside for validation.
        Photos may lie at any depth below their class folder.

        Args:
            root: The folder.
            train: Name of the folder of training photos.
            valid: Name of the folder of validation photos.
            valid_pct: Share of each class to validate on, strictly between 0 and 1.
            stratify: Whether to set aside a share of each class, or of all photos.
            classes: Names of the classes in the order of their numbers; by default the
                class folders of training that hold photos, sorted.
            **options: Of `ImageDataLoaders`: size, valid_size, batch_size, seed,
                augmentation, resize, pad_mode, presize, weights, in_channels, workers,
                on_error, cache_bytes.

        Raises:
            FileNotFoundError: If a folder is missing; the message says what to type.
            ValueError: If there are no photos, photos outside class folders, or
                classes in validation that training does not have.
            TypeError: If an argument would not be used beside another.
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
                f"valid_pct={valid_pct} splits the folders of classes in root, so the"
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
        cls: type[Made],
        root: str | os.PathLike[str],
        pattern: str | re.Pattern[str],
        **options: Unpack[SplitOptions],
    ) -> Made:
        r"""Returns the photos below a folder, labelled by a pattern on the file's name.

        Args:
            root: The folder; photos are found at any depth.
            pattern: Regular expression searched for in the name; its first group is the
                label: `r"(.+)_\d+.jpg$"` labels `great_pyrenees_173.jpg`.
            **options: `valid_pct` (0.2: the share of each class to validate on),
                `stratify`, `classes` and others as for `from_folder`, and `kind`, to
                say what the labels are: "single", "multi" or "regression".

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
        cls: type[Made],
        root: str | os.PathLike[str],
        pattern: str | re.Pattern[str],
        **options: Unpack[SplitOptions],
    ) -> Made:
        """Returns the photos below a folder, labelled by a pattern on the whole path.

        Args:
            root: The folder; photos are found at any depth.
            pattern: As for `from_name_re`, searched for in the path, with slashes.
            **options: As for `from_name_re`.

        Raises:
            FileNotFoundError: If the folder is missing.
            ValueError: As for `from_name_re`.
            jaxtune.data.ImageError: If photos cannot be read.
        """
        label = regex_label(pattern)
        return cls.from_path_func(root, lambda path: label(path.as_posix()), **options)

    @classmethod
    def from_name_func(
        cls: type[Made],
        root: str | os.PathLike[str],
        label_func: Callable[[str], Any],
        **options: Unpack[SplitOptions],
    ) -> Made:
        """Returns the photos below a folder, labelled by a function of the file's name.

        Args:
            root: The folder; photos are found at any depth.
            label_func: From a file's name ("cat_12.jpg") to its label, see
                `from_lists`; None is refused.
            **options: As for `from_name_re`.

        Raises:
            FileNotFoundError: If the folder is missing.
            ValueError: If a photo gets no label, or there are no photos.
            jaxtune.data.ImageError: If photos cannot be read.
        """
        return cls.from_path_func(root, name_label(label_func), **options)

    @classmethod
    def from_path_func(
        cls: type[Made],
        root: str | os.PathLike[str],
        label_func: Callable[[Path], Any],
        **options: Unpack[SplitOptions],
    ) -> Made:
        """Returns the photos below a folder, labelled by a function of the path.

        Args:
            root: The folder; photos are found at any depth.
            label_func: From a photo's `Path` to its label, see `from_lists`; None is
                refused.
            **options: As for `from_name_re`.

        Raises:
            FileNotFoundError: If the folder is missing.
            ValueError: If a photo gets no label, or there are no photos.
            jaxtune.data.ImageError: If photos cannot be read.
        """
        options = check_options(options)
        check_function(label_func, "label_func", "a function from a path to a label")
        root = existing_folder(root)
        paths, left_out = scan_images(root)
        if not paths:
            raise ValueError(f"{no_photos(left_out, root)}. Check the path.")
        warn_left_out(left_out, root)
        labels = [label_func(path) for path in paths]
        below = [path.relative_to(root) for path in paths]
        return cls.from_lists(below, labels, root=root, **options)

    @classmethod
    def from_lists(
        cls: type[Made],
        paths: Iterable[str | os.PathLike[str]],
        labels: Iterable[Any],
        *,
        root: str | os.PathLike[str] = ".",
        **options: Unpack[SplitOptions],
    ) -> Made:
        """Returns photos whose labels are known, a share of each class set aside.

        Args:
            paths: The photos; below `root` where they are not absolute.
            labels: One for each photo: a name, a list of names (multi-label), or a
                float or several (regression).
            root: What relative paths begin at. A photo's side of the split depends on
                its path below it, so the whole folder may be moved.
            **options: As for `from_name_re`.

        Raises:
            ValueError: If numbers differ, a label is None, labels mix kinds, or there
                are no photos.
            jaxtune.data.ImageError: If photos cannot be read.
        """
        options = check_options(options)
        root = Path(check_path(root, "root")).expanduser()
        paths = _absolute(paths, root)
        if not paths:
            raise ValueError(
                "paths has no photo in it. Check the pattern or the folder it is from."
            )
        items = label_items(paths, labels, **label_options(options))
        return cls(*split_by_options(items, options, root), **options)

    @classmethod
    def from_df(
        cls: type[Made],
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
    ) -> Made:
        """Returns the photos that a table lists, with its labels.

        Columns are given by name, or by position from 0. A column of floats is to be
        predicted; a column of anything else is the class, or with `label_delim` the
        classes. Of several columns of zeros and ones each is a class: one a photo if
        each row has exactly one 1, else multi-label. Several of names are multi-label;
        each holds one or nothing. Several columns of other numbers are to be predicted.
        Blanks around values are not part of them.

        Args:
            df: A DataFrame (pandas, Polars, anything with `columns` that gives a column
                by its name), or a dict of columns.
            root: The folder.
            fn_col: Column of the photos' paths below the folder.
            label_col: Column of the label, or a list of columns.
            label_delim: What stands between several labels in one column.
            valid_col: Column of booleans, True for the photos that validate; if None,
                a share of each class is set aside.
            suff: Put behind each path, such as ".jpg".
            folder: Folder below `root` that holds the photos.
            **options: As for `from_name_re`.

        Raises:
            TypeError: If `df` is no table.
            ValueError: If columns are missing, or a photo gets no label.
            jaxtune.data.ImageError: If photos cannot be read.
        """
        options = check_options(options)
        return cls._from_table(
            as_table(df),
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
        cls: type[Made],
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
    ) -> Made:
        """Returns the photos that a CSV file lists, with its labels.

        A label column in which each cell is a whole number, or a float, holds numbers;
        others hold names (007 is one).

        Args:
            root: The folder.
            csv_fname: The file, below the folder unless it is absolute.
            header: The row of the columns' names, from 0; None if there is none.
            delimiter: Between columns; a comma if None.
            encoding: Of the file, such as "cp1252", which Excel writes in Western
                Europe and America. UTF-8 if None, or what the file's mark says.
            keep_default_na: Whether the words that pandas reads as missing ("NA",
                "nan", "None" and others) mean that nothing is there; False takes them
                as names.
            fn_col: As for `from_df`, like those that follow.
            label_col: Column of the label, or a list of columns.
            label_delim: What stands between several labels in one column.
            valid_col: Column of booleans.
            suff: Put behind each path.
            folder: Folder below `root` that holds the photos.
            **options: As for `from_name_re`.

        Raises:
            FileNotFoundError: If the folder or the file is missing.
            ValueError: If columns are missing, rows differ in length, or a photo gets
                no label.
            jaxtune.data.ImageError: If photos cannot be read.
        """
        options = check_options(options)
        path = Path(existing_folder(root), check_path(csv_fname, "csv_fname"))
        return cls._from_table(
            read_csv(
                path,
                header=header,
                delimiter=delimiter,
                encoding=encoding,
                keep_default_na=keep_default_na,
            ),
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
        cls: type[Made],
        train: Any,
        valid: Any = None,
        **options: Unpack[SplitOptions],
    ) -> Made:
        """Returns images that are in memory, or that another library reads.

        Args:
            train: `(images, labels)`, with images an array (n, h, w, c) or (n, h, w),
                `uint8` (or see `to_uint8`), of any number of channels; or anything with
                `len` and items `{"image", "label"}`: a list, a Grain source, a Hugging
                Face dataset.
            valid: Another, to validate on; if None, a share of each class of `train` is
                set aside.
            **options: As for `from_name_re`. With `classes`, labels that are whole
                numbers and name none of them are positions in it.

        Raises:
            TypeError: If a source is none of these.
            ValueError: If images or labels are not as they should be.
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
    def _from_table(
        cls: type[Made],
        table: Any,
        root: str | os.PathLike[str],
        *,
        valid_col: Column | None,
        folder: str | None,
        options: dict[str, Any],
        **columns: Any,
    ) -> Made:
        root = existing_folder(root)
        check_instance(
            folder, "folder", (str, os.PathLike, type(None)), "a path, or None"
        )
        if valid_col is not None:
            refuse_split(options, "valid_col")
        chosen = None if valid_col is None else valid_rows(table, valid_col)
        items = table_items(
            table, root / (folder or ""), **columns, **label_options(options)
        )
        if chosen is None:
            return cls(*split_by_options(items, options, root), **options)
        items = weighted(items, options)
        sides = items.take(np.flatnonzero(~chosen)), items.take(np.flatnonzero(chosen))
        check_trained_classes(*sides)
        return cls(*sides, **options)


def _absolute(paths: Any, root: Path) -> list[Path]:
    """Returns paths below a folder, in whatever they were listed."""
    wanted = "paths must be a list of paths, one for each photo"
    is_one = isinstance(paths, str | bytes | os.PathLike | Mapping | set | frozenset)
    if is_one or not (isinstance(paths, Iterable) or hasattr(paths, "__array__")):
        raise TypeError(f"{wanted}; received {described(paths)}.")
    if hasattr(paths, "columns"):
        raise TypeError(f"{wanted}; received a table. Use from_df.")
    # Joining is what takes the time where there are a million of them.
    found: list[Path] = []
    missing: list[int] = []
    for row, path in enumerate(listed(paths)):
        if isinstance(path, Path) and path.is_absolute():
            found.append(path)
        elif is_missing(path):
            missing.append(row)
        elif isinstance(path, str | os.PathLike):
            found.append(root / path)
        else:
            raise TypeError(f"{wanted}; paths[{row}] is {described(path)}.")
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(missing) + len(found)} paths are missing:"
            f" {rows_of(missing)}. Leave them and their labels out."
        )
    return found
