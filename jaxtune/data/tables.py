"""Tables: a row for each photo, in a CSV file or a DataFrame, becomes labels.

A file, or anything with named columns, goes in; columns of Python's own values, file
names and labels come out. The one rule: no DataFrame library is imported; a table is
what has `columns` and gives one by its name.
"""

from __future__ import annotations

import codecs
import csv
import dataclasses
import io
import numbers
import operator
import os
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from jaxtune.arguments import (
    check_choice,
    check_flag,
    check_instance,
    check_integer,
    check_path,
    described,
)
from jaxtune.data.formats import image_extensions
from jaxtune.data.items import Items, Kind, listing
from jaxtune.data.labels import check_classes, label_items, rows_of
from jaxtune.data.values import (
    NA_WORDS,
    clean_name,
    is_missing,
    listed,
    plain_column,
)

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

    def position(self, column: Column, argument: str = "column") -> int:
        """Returns the position of a column that is given by name or position.

        Args:
            column: Its name or position.
            argument: Which gives it, for errors.
        """
        if isinstance(column, Hashable) and not isinstance(column, bool):
            found = [n for n, name in enumerate(self.names) if name == column]
            if not found and isinstance(column, str):
                names = [str(name).strip() for name in self.names]
                found = [n for n, name in enumerate(names) if name == column.strip()]
            if len(found) > 1:
                raise ValueError(
                    f"{argument}: {len(found)} columns have the name {column!r}, those"
                    f" at the positions {listing(found)}. Give the position of one."
                )
            if found:
                return found[0]
        try:
            whole = None if isinstance(column, bool) else operator.index(column)
        except TypeError:
            whole = None
        if whole is not None and -len(self.names) <= whole < len(self.names):
            return whole % len(self.names)
        if whole is None and not isinstance(column, str):
            raise TypeError(
                f"{argument} must be the name of a column or its position; received"
                f" {described(column)}. The columns are"
                f" {listing([repr(name) for name in self.names], most=50)}, positions 0"
                f" to {len(self.names) - 1}."
            )
        raise ValueError(
            f"{argument}: there is no column {column!r}; the columns are"
            f" {listing([repr(name) for name in self.names], most=50)}. Name one of"
            f" them, or give a position, 0 to {len(self.names) - 1}."
        )


def as_table(frame: Any) -> Table:
    """Returns the columns of a DataFrame as lists.

    Args:
        frame: A DataFrame of pandas, Polars or another library (it has `columns`, their
            names, and `frame[name]` is a column that can be iterated), an Arrow table
            or a Hugging Face dataset (`column_names`), or a dict from name to values.

    Raises:
        TypeError: If it is neither.
        ValueError: If columns differ in length, or a name stands twice.
    """
    if isinstance(frame, Table):
        return frame
    names = list(frame) if isinstance(frame, Mapping) else None
    for attribute in ("column_names", "columns"):
        if names is None and not isinstance(frame, type):
            names = getattr(frame, attribute, None)
    unfit = isinstance(names, str) or not isinstance(names, Iterable)
    if unfit or not hasattr(frame, "__getitem__"):
        raise TypeError(
            "a table has `columns` and gives one by its name, as a pandas DataFrame"
            f" does, or is a dict of columns; df is {type(frame).__name__}."
        )
    names = tuple(names)
    twice = {str(name) for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"columns have the same name: {listing(sorted(twice))}.")
    for name in names:
        if isinstance(frame, Mapping) and isinstance(frame[name], str):
            raise TypeError(
                f"a table's columns are lists of values; column {name!r} of df is the"
                f" string {frame[name]!r}."
            )
    columns = tuple(_values(frame[name], name) for name in names)
    lengths = {str(name): len(c) for name, c in zip(names, columns, strict=True)}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns differ in length: {lengths}.")
    return Table(names, columns)


def _values(column: Any, name: Hashable) -> list:
    if not isinstance(column, Iterable) and not hasattr(column, "to_list"):
        raise TypeError(
            f"a table's columns are lists of values; column {name!r} of df is"
            f" {described(column)}."
        )
    return listed(column)


def read_csv(
    path: str | os.PathLike[str],
    *,
    header: Any = "infer",
    delimiter: Any = None,
    encoding: Any = None,
    keep_default_na: Any = True,
) -> Table:
    """Returns a CSV file's columns: strings, None for cells that hold nothing.

    Blanks around cells and names are not part of them. Rows of empty cells, as
    spreadsheets write them below a table, are left out.

    Args:
        path: The file.
        header: The row of the columns' names, from 0; "infer" is 0. None if there is
            none: columns are then named by their position.
        delimiter: Between columns; a comma if None.
        encoding: Of the file, such as "cp1252" (Excel's in Western Europe and America)
            or "shift_jis". If None, UTF-8, or UTF-16 or UTF-32 where the file begins
            with their mark.
        keep_default_na: Whether the words that pandas reads as missing ("NA", "nan",
            "NULL", "None" and others) hold nothing, too.

    Raises:
        FileNotFoundError: If there is no such file; CSV files beside it are named.
        TypeError: If an argument is of another type.
        ValueError: If it holds no rows, or rows of different lengths, or is of another
            encoding; the message names one to try.

    References:
        pandas, `read_csv`, whose arguments these are.
    """
    path = Path(check_path(path, "csv_fname")).expanduser()
    if isinstance(header, str):
        check_choice(header, "header", ("infer",), or_none=True)
    elif header is not None:
        header = check_integer(
            header, "header", least=0, meaning="the row of the columns' names, or None,"
        )
    if delimiter is not None:
        check_instance(delimiter, "delimiter", str, "one character, or None for ','")
        if len(delimiter) != 1 or delimiter in '\r\n"':
            raise ValueError(
                "delimiter must be one character, such as ';' or '\\t', or None for"
                f" ','; received {delimiter!r}."
            )
    check_flag(keep_default_na, "keep_default_na")
    if not path.is_file():
        beside = sorted(other.name for other in path.parent.glob("*.csv"))
        raise FileNotFoundError(
            f"There is no file {str(path)!r}; beside it are"
            f" {listing(beside) or 'no CSV files'}. Name the file: csv_fname=...."
        )
    text = decoded_text(path, encoding)
    first, _, rest = text.partition("\n")
    if delimiter is None and first.strip()[:4] == "sep=" and len(first.strip()) == 5:
        delimiter, text = first.strip()[4], rest  # Excel's own way to say it
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=delimiter or ",", skipinitialspace=True)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise ValueError(
            f"{str(path)!r} is no CSV file: line {reader.line_num}: {error}."
        ) from None
    rows = [(line, row) for line, row in rows if any(row)]
    start = 0 if isinstance(header, str) else header
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
    missing = NA_WORDS if keep_default_na else {""}
    columns = tuple(
        [None if cell in missing else cell for cell in column]
        for column in zip(*(row for _, row in rows), strict=True)
    )
    return Table(tuple(range(width)) if names is None else tuple(names), columns)


# What begins a file of each encoding, the longer first; and files that are no text.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_NO_TEXT = {
    b"PK\x03\x04": "an Excel workbook or a ZIP file",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"\x1f\x8b": "compressed by gzip",
    b"PAR1": "a Parquet file",
}


def decoded_text(path: Path, encoding: Any = None) -> str:
    """Returns a file's text, without the mark of its encoding.

    Args:
        path: The file.
        encoding: Its encoding; see `read_csv`.

    Raises:
        TypeError: If `encoding` is no string.
        ValueError: If there is no such encoding or the file is of another; the message
            names the file and, where one fits, an encoding to try.
    """
    wanted = "the name of an encoding, such as 'cp1252', or None for UTF-8"
    if encoding is not None:
        check_instance(encoding, "encoding", str, wanted)
        try:
            is_text = codecs.lookup(encoding)._is_text_encoding
        except (LookupError, ValueError):
            is_text = False
        if not is_text:
            raise ValueError(f"encoding must be {wanted}; received {encoding!r}.")
    data = path.read_bytes()
    for start, what in _NO_TEXT.items():
        if data.startswith(start):
            raise ValueError(
                f"{str(path)!r} is {what}, not CSV. Save it as CSV, or read it with"
                " pandas and use from_df."
            )
    marked = next((e for mark, e in _MARKS.items() if data.startswith(mark)), None)
    chosen = encoding or marked or "utf-8"
    try:
        text = data.decode(chosen)
    except UnicodeError as error:
        at = getattr(error, "start", 0)
        line = data.count(b"\n", 0, at) + 1
        others = [marked] if marked else _likely(data)
        fits = [other for other in others if other != chosen and _fits(data, other)]
        way_out = "Save it as UTF-8, or name its encoding: encoding=...."
        if fits:
            way_out = f"Try encoding={fits[0]!r}, or save it as UTF-8."
        if fits[:1] == ["cp1252"]:
            way_out = (
                "Excel writes 'cp1252' in Western Europe and America: try"
                " encoding='cp1252', or save it as \"CSV UTF-8\"."
            )
        byte = data[at : at + 1].hex() or "00"
        raise ValueError(
            f"{str(path)!r} is not {chosen.upper()}: byte 0x{byte} in line {line} can't"
            f" be decoded. {way_out}"
        ) from None
    if "\0" in text[:1000]:
        raise ValueError(
            f"{str(path)!r} is not {chosen.upper()}: it holds zero bytes. Try"
            f" encoding={_likely(data)[0]!r}."
        )
    return text.removeprefix("\ufeff")


def _likely(data: bytes) -> list[str]:
    start = data[:1000]
    if start[1::2].count(0) > len(start) // 5:
        return ["utf-16-le"]
    if start[::2].count(0) > len(start) // 5:
        return ["utf-16-be"]
    return ["utf-8", "cp1252", "latin-1"]


def _fits(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeError:
        return False
    return True


def table_items(
    table: Any,
    folder: str | os.PathLike[str],
    *,
    fn_col: Column = 0,
    label_col: Column | Sequence[Column] = 1,
    label_delim: str | None = None,
    suff: str = "",
    classes: Iterable[Any] | None = None,
    kind: Kind | None = None,
    text: bool = False,
) -> Items:
    """Returns the photos that a table lists, with its labels.

    One column of floats is to be predicted; of anything else, it is the class, or the
    classes with `label_delim`. Of several columns of zeros and ones each is a class by
    its name: one a photo if each row has exactly one 1, else multi-label. Several of
    strings are multi-label; each holds a class or nothing. Several columns of other
    numbers are to be predicted.

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
    if hasattr(label_col, "tolist"):
        label_col = label_col.tolist()
    several = isinstance(label_col, list | tuple)
    if several and not label_col:
        raise ValueError("label_col must name one column or more; received none.")
    if label_delim is not None:
        check_instance(label_delim, "label_delim", str, "a string such as ' ', or None")
        if not label_delim:
            raise ValueError("label_delim must be a string of one character or more.")
    check_instance(suff, "suff", str, "a string such as '.jpg'")
    table = as_table(table)
    wanted = [fn_col, *(label_col if several else [label_col])]
    positions = _all_positions(table, wanted)
    if len(table) == 0:
        raise ValueError("the table has no rows.")
    way_out = "Fill them in, or leave these rows out"
    if text:
        way_out += " (keep_default_na=False if words such as 'NA' are names)."
    else:
        way_out += f": df.dropna(subset={[table.names[each] for each in positions]})."
    paths = _paths(table, positions[0], Path(folder), suff, way_out)
    columns = [plain_column(table.columns[position]) for position in positions[1:]]
    if label_delim is not None:
        if len(columns) > 1:
            raise ValueError(
                f"label_delim={label_delim!r} splits one column; label_col names"
                f" {len(columns)}. Leave label_delim out, or name one column."
            )
        labels = [_split(value, label_delim) for value in columns[0]]
        return label_items(paths, labels, classes=classes, kind=kind or "multi")
    columns = [_numbers(column) if text else column for column in columns]
    names = [str(table.names[position]) for position in positions[1:]]
    if len(columns) == 1:
        _refuse_empty(columns[0], names[0], paths, way_out)
        return label_items(paths, columns[0], classes=classes, kind=kind)
    return _several(paths, columns, names, classes, kind, way_out)


def _refuse_empty(values: list, name: str, paths: Sequence[Path], way_out: str) -> None:
    missing = [row for row, value in enumerate(values) if value is None]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(values)} photos get no label:"
            f" {listing([paths[row] for row in missing])} (column {name!r},"
            f" {rows_of(missing)}). {way_out}"
        )


def valid_rows(table: Table, column: Column) -> Bool[np.ndarray, " n"]:
    """Returns which rows validate, by a column of booleans.

    True, 1, "True", "true", "1" and "yes" are; False, 0 and their like are not. Where
    all others are empty strings, as in a CSV file that marks some rows, these are not.

    Raises:
        ValueError: If a value is neither, or all rows are on one side.
    """
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False}
    words |= {"no": False, "1.0": True, "0.0": False}
    place = table.position(column, "valid_col")
    cells = plain_column(table.columns[place])
    values = [None if cell is None else words.get(str(cell).lower()) for cell in cells]
    strange = [n for n, value in enumerate(values) if value is None]
    empty = [n for n in strange if cells[n] is None]
    if len(empty) == len(strange) and set(values) == {True, None}:
        # Only those that validate are marked.
        if all(isinstance(table.columns[place][n], str | None) for n in empty):
            values = [value is True for value in values]
            strange = []
    if strange:
        given = {repr(table.columns[place][n]) for n in strange}
        raise ValueError(
            f"valid_col={column!r} needs True or False in each row; {len(strange)} of"
            f" {len(table)} hold {listing(sorted(given))} ({rows_of(strange)}). Fill"
            " them in, or leave these rows out."
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
        name = "label_col" if positions or missing else "fn_col"
        try:
            positions.append(table.position(column, name))
        except ValueError as error:
            missing.append((column, error))
    if len(missing) > 1:
        raise ValueError(
            f"fn_col, label_col: there are no columns"
            f" {listing([repr(c) for c, _ in missing])}; the"
            f" columns are {listing([repr(n) for n in table.names], most=50)}."
        )
    if missing:
        raise missing[0][1]
    return positions


def _paths(
    table: Table, position: int, folder: Path, suff: str, way_out: str
) -> tuple[Path, ...]:
    names = [_file_name(value) for value in table.columns[position]]
    empty = [row for row, name in enumerate(names) if name is None]
    if empty:
        raise ValueError(
            f"{len(empty)} of {len(names)} rows name no photo in the column"
            f" {table.names[position]!r}: {rows_of(empty)}. {way_out}"
        )
    paths = tuple(Path(folder, f"{name}{suff}") for name in names)
    first = paths[0]
    if first.exists():
        return paths
    ends = (end for end in sorted(image_extensions()) for end in (end, end.upper()))
    found = [end for end in ends if first.with_name(first.name + end).exists()]
    if found:
        raise ValueError(
            f"there is no {str(first)!r}, but it exists with {found[0]!r} behind"
            f" it. Add suff={suff + found[0]!r}."
        )
    for other, column in zip(table.names, table.columns, strict=True):
        name = _file_name(column[0])
        if name is not None and Path(folder, f"{name}{suff}").is_file():
            raise ValueError(
                f"there is no {str(first)!r}; the column"
                f" {table.names[position]!r} was taken for the photos' paths, but"
                f" {other!r} names files that exist. Write fn_col={other!r}."
            )
    return paths


def _file_name(value: Any) -> str | None:
    """Returns the path in a cell, or None where it is missing."""
    if hasattr(value, "as_py"):
        value = value.as_py()
    if is_missing(value):
        return None
    if isinstance(value, bytes):
        value = os.fsdecode(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # what a column of numbers becomes beside missing ones
    return str(value).strip()


def _split(value: Any, delimiter: str) -> list[str]:
    if value is None:
        return []  # as an empty cell: a photo with none of the labels
    names = (clean_name(name) for name in str(value).split(delimiter))
    return [name for name in names if name]


def _several(
    paths: Sequence[Path],
    columns: Sequence[list],
    names: Sequence[str],
    classes: Iterable[Any] | None,
    kind: Kind | None,
    way_out: str,
) -> Items:
    values = [value for column in columns for value in column]
    given = [value for value in values if value is not None]
    if given and all(map(_is_number, given)):
        missing = [n for n, row in enumerate(zip(*columns, strict=True)) if None in row]
        if missing:
            raise ValueError(
                f"{len(values) - len(given)} of {len(values)} cells in the columns"
                f" {listing(names)} are empty: {rows_of(missing)}. {way_out}"
            )
        table = np.array(columns, np.float64).T
        if kind != "regression" and np.isin(table, (0, 1)).all():
            classes = check_classes(classes)
            if classes is not None and set(classes) != set(names):
                raise ValueError(
                    f"classes={classes} and the columns of labels"
                    f" {tuple(names)} differ."
                )
            order = [names.index(name) for name in classes or names]
            array = table[:, order].astype(np.int32)
            return label_items(paths, array, classes=classes or names, kind=kind)
        return label_items(paths, table, kind=kind or "regression")
    labels = [
        [str(name) for name in row if name is not None]
        for row in zip(*columns, strict=True)
    ]
    return label_items(paths, labels, classes=classes, kind=kind or "multi")


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real)


def _numbers(column: list[str | None]) -> list:
    """Returns a column of strings as ints or floats, where all of them are."""
    convert: Callable[[str], Any]
    for convert in (_whole, _decimal):
        try:
            return [None if value is None else convert(value) for value in column]
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
