"""Tables: a row for each photo, in a CSV file or a DataFrame, becomes labels.

A file, or anything with named columns, goes in; columns of Python's own values, file
names and labels come out. The one rule: no DataFrame library is imported; a table is
what has `columns` and gives one by its name.
"""

from __future__ import annotations

import csv
import dataclasses
import math
import numbers
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool

from jaxtune.data.items import IMAGE_EXTENSIONS, Items, Kind, listing
from jaxtune.data.labels import label_items

Column = Hashable  # a name, or a position from 0


@dataclasses.dataclass(frozen=True)
class Table:
    """Columns of equal length, each under a name.

    Attributes:
        names: Of the columns, in their order.
        columns: The values, a list for each name.
    """

    names: tuple[Hashable, ...]
    columns: tuple[list, ...]

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self.columns[0]) if self.columns else 0

    def __getitem__(self, column: Column) -> list:
        """Returns a column by its name, or else by its position.

        Raises:
            ValueError: If there is no such column; those there are are named.
        """
        return self.columns[self.position(column)]

    def position(self, column: Column) -> int:
        """Returns the position of a column that is given by name or position."""
        if column in self.names:
            return self.names.index(column)
        whole = isinstance(column, int) and not isinstance(column, bool)
        if whole and -len(self.names) <= column < len(self.names):
            return column % len(self.names)
        raise ValueError(
            f"there is no column {column!r}; the columns are"
            f" {listing([repr(name) for name in self.names], most=50)}. Name one of"
            f" them, or give a position, 0 to {len(self.names) - 1}."
        )


def as_table(frame: Any) -> Table:
    """Returns the columns of a DataFrame as lists.

    Args:
        frame: A DataFrame of pandas, Polars or another library (it has `columns`, their
            names, and `frame[name]` is a column that can be iterated), or a dict from
            name to values.

    Raises:
        TypeError: If it is neither.
        ValueError: If columns differ in length, or a name stands twice.
    """
    if isinstance(frame, Table):
        return frame
    names = list(frame) if isinstance(frame, Mapping) else None
    if names is None:
        names = getattr(frame, "columns", None)
    if names is None or isinstance(names, str) or not hasattr(frame, "__getitem__"):
        raise TypeError(
            "a table has `columns` and gives one by its name, as a pandas DataFrame"
            f" does, or is a dict of columns; got {type(frame).__name__}."
        )
    names = tuple(names)
    twice = {str(name) for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"columns have the same name: {listing(sorted(twice))}.")
    columns = tuple(_values(frame[name]) for name in names)
    lengths = {str(name): len(c) for name, c in zip(names, columns, strict=True)}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns differ in length: {lengths}.")
    return Table(names, columns)


def _values(column: Any) -> list:
    to_list = getattr(column, "tolist", None) or getattr(column, "to_list", None)
    return list(column) if to_list is None else to_list()


def read_csv(
    path: str | os.PathLike[str],
    *,
    header: Literal["infer"] | int | None = "infer",
    delimiter: str | None = None,
) -> Table:
    """Returns a CSV file's columns, all of them strings.

    Args:
        path: The file, UTF-8.
        header: The row of the columns' names, from 0; "infer" is 0. None if there is
            none: columns are then named by their position.
        delimiter: Between columns; a comma if None.

    Raises:
        FileNotFoundError: If there is no such file; CSV files beside it are named.
        ValueError: If it holds no rows, or rows of different lengths.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        beside = sorted(other.name for other in path.parent.glob("*.csv"))
        raise FileNotFoundError(
            f"There is no file {str(path)!r}; beside it are"
            f" {listing(beside) or 'no CSV files'}. Name the file: csv_fname=...."
        )
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, delimiter=delimiter or ",")
        rows = [(reader.line_num, row) for row in reader if row]
    start = 0 if header == "infer" else header
    names = None
    if start is not None:
        names, rows = (rows[start][1] if start < len(rows) else []), rows[start + 1 :]
    if not rows:
        raise ValueError(f"{str(path)!r} has no rows below its header.")
    width = len(rows[0][1] if names is None else names)
    uneven = [line for line, row in rows if len(row) != width]
    if uneven:
        raise ValueError(
            f"{str(path)!r} has {width} columns, but not in line {listing(uneven)}."
            " Put quotes around a value that holds the delimiter, or name another:"
            " delimiter=';'."
        )
    if width == 1:
        raise ValueError(
            f"{str(path)!r} has one column, {str((names or rows[0][1])[0])!r}; photos"
            " and labels take two. Name what is between them: delimiter=';'."
        )
    columns = tuple(
        list(column) for column in zip(*(row for _, row in rows), strict=True)
    )
    return Table(tuple(range(width)) if names is None else tuple(names), columns)


def table_items(
    table: Table,
    folder: str | os.PathLike[str],
    *,
    fn_col: Column = 0,
    label_col: Column | Sequence[Column] = 1,
    label_delim: str | None = None,
    suff: str = "",
    classes: Sequence[str] | None = None,
    kind: Kind | None = None,
    text: bool = False,
) -> Items:
    """Returns the photos that a table lists, with its labels.

    One column of floats is to be predicted; of anything else, it is the class, or the
    classes with `label_delim`. Several columns are multi-label: of zeros and ones, each
    is a class by its name; of strings, each holds a class or nothing. Several columns
    of other numbers are to be predicted.

    Args:
        table: A row for each photo.
        folder: Holds the photos.
        fn_col: Column of the photos' paths below the folder, by name or position.
        label_col: Column of the label, or several columns.
        label_delim: What stands between several labels in one column.
        suff: Put behind each path, such as ".jpg".
        classes: Names of the classes in the order of their numbers.
        kind: Of the labels, where it could be another; see `label_items`.
        text: Whether values were read as strings and numbers among them are to be
            found, as for CSV files.

    Raises:
        ValueError: If columns are missing, the table is empty, or photos get no label.
    """
    several = isinstance(label_col, list | tuple)
    wanted = [fn_col, *(label_col if several else [label_col])]
    positions = _all_positions(table, wanted)
    if len(table) == 0:
        raise ValueError("the table has no rows.")
    paths = _paths(table.columns[positions[0]], Path(folder), suff)
    columns = [table.columns[position] for position in positions[1:]]
    if label_delim is not None:
        if len(columns) > 1:
            raise ValueError(
                f"label_delim={label_delim!r} splits one column; label_col names"
                f" {len(columns)}. Leave label_delim out, or name one column."
            )
        labels = [_split(value, label_delim) for value in columns[0]]
        return label_items(paths, labels, classes=classes, kind=kind or "multi")
    columns = [_numbers(column) if text else column for column in columns]
    if len(columns) == 1:
        labels = [None if value == "" else value for value in columns[0]]
        return label_items(paths, labels, classes=classes, kind=kind)
    names = [str(table.names[position]) for position in positions[1:]]
    return _several(paths, columns, names, classes, kind)


def valid_rows(table: Table, column: Column) -> Bool[np.ndarray, " n"]:
    """Returns which rows validate, by a column of booleans.

    True, 1, "True", "true", "1" and "yes" are; False, 0, "" and their like are not.

    Raises:
        ValueError: If a value is neither, or all rows are on one side.
    """
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False}
    words |= {"no": False, "": False, "1.0": True, "0.0": False}
    values = [words.get(str(value).strip().lower()) for value in table[column]]
    strange = [n for n, value in enumerate(values) if value is None]
    if strange:
        given = {repr(table[column][n]) for n in strange}
        raise ValueError(
            f"valid_col={column!r} needs True or False in each row; {len(strange)} of"
            f" {len(table)} hold {listing(sorted(given))}."
        )
    chosen = np.array(values, bool)
    if chosen.all() or not chosen.any():
        raise ValueError(
            f"valid_col={column!r} is {bool(chosen[0])} in all {len(table)} rows, and"
            " both sides need photos. Leave it out to split at random."
        )
    return chosen


def _all_positions(table: Table, columns: Sequence[Column]) -> list[int]:
    missing = []
    positions = []
    for column in columns:
        try:
            positions.append(table.position(column))
        except ValueError as error:
            missing.append((column, error))
    if len(missing) > 1:
        raise ValueError(
            f"there are no columns {listing([repr(c) for c, _ in missing])}; the"
            f" columns are {listing([repr(n) for n in table.names], most=50)}."
        )
    if missing:
        raise missing[0][1]
    return positions


def _paths(names: Sequence[Any], folder: Path, suff: str) -> tuple[Path, ...]:
    empty = [row for row, name in enumerate(names) if name is None or name == ""]
    if empty:
        raise ValueError(f"{len(empty)} rows name no photo: rows {listing(empty)}.")
    paths = tuple(Path(folder, f"{name}{suff}") for name in names)
    first = paths[0]
    if not first.exists():
        ends = (end for end in sorted(IMAGE_EXTENSIONS) for end in (end, end.upper()))
        found = [end for end in ends if first.with_name(first.name + end).exists()]
        if found:
            raise ValueError(
                f"there is no {str(first)!r}, but it exists with {found[0]!r} behind"
                f" it. Add suff={suff + found[0]!r}."
            )
    return paths


def _split(value: Any, delimiter: str) -> list[str] | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return []  # as an empty cell: a photo with none of the labels
    names = (name.strip() for name in str(value).split(delimiter))
    return [name for name in names if name]


def _several(
    paths: Sequence[Path],
    columns: Sequence[list],
    names: Sequence[str],
    classes: Sequence[str] | None,
    kind: Kind | None,
) -> Items:
    values = [value for column in columns for value in column]
    given = [value for value in values if _name(value) is not None]
    if given and all(map(_is_number, given)):
        if len(given) < len(values):
            raise ValueError(
                f"{len(values) - len(given)} of {len(values)} cells in the columns"
                f" {listing(names)} are empty. Write a number in each, or leave these"
                " rows out."
            )
        table = np.array(columns, np.float64).T
        if kind != "regression" and np.isin(table, (0, 1)).all():
            if classes is not None and set(classes) != set(names):
                raise ValueError(
                    f"classes={tuple(classes)} and the columns of labels"
                    f" {tuple(names)} differ."
                )
            order = [list(names).index(name) for name in classes or names]
            array = table[:, order].astype(np.int32)
            classes = classes or names
            return label_items(paths, array, classes=classes, kind="multi")
        return label_items(paths, table, kind=kind or "regression")
    rows = [[_name(value) for value in row] for row in zip(*columns, strict=True)]
    labels = [[name for name in row if name is not None] for row in rows]
    return label_items(paths, labels, classes=classes, kind=kind or "multi")


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real | np.number | np.bool_)


def _name(value: Any) -> str | None:
    if value is None or value == "" or (isinstance(value, float) and value != value):
        return None
    return str(value)


def _numbers(column: list[str]) -> list:
    """Returns a column of strings as ints or floats, where all of them are."""
    convert: Callable[[str], Any]
    for convert in (_whole, _decimal):
        try:
            return [None if value == "" else convert(value) for value in column]
        except ValueError:
            continue
    return column


def _whole(value: str) -> int:
    return int(_number(value))


def _decimal(value: str) -> float:
    return float(_number(value))


def _number(value: str) -> str:
    digits = value.strip().lstrip("+-")
    if "_" in value or (digits.startswith("0") and digits[1:2].isdigit()):
        raise ValueError("007 and 1_000 are names")
    return value
