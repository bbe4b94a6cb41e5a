"""Tables: a CSV file or a DataFrame with a row for each photo becomes `Items`.

No DataFrame library is imported: a table is anything that has `columns` and gives one
by its name.
"""

from __future__ import annotations

import codecs
import csv
import dataclasses
import io
import numbers
import operator
import os
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
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
from jaxtune.data.folders import image_extensions
from jaxtune.data.items import Items, Kind, listing, rows_of
from jaxtune.data.labels import check_classes, label_items
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
        columns: The values, a list for each column.
    """

    names: tuple[Hashable, ...]
    columns: tuple[list, ...]

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self.columns[0]) if self.columns else 0

    def __getitem__(self, column: Column) -> list:
        """Returns a column by its name, or else by its position.

        Raises:
            ValueError: If there is no such column.
        """
        return self.columns[self.position(column)]

    def position(self, column: Column, argument: str = "column") -> int:
        """Returns the position of a column that is given by name or position.

        Args:
            column: Its name or position.
            argument: Name of the argument that gives it, for errors.
        """
        if isinstance(column, Hashable) and not isinstance(column, bool):
            same = [n for n, name in enumerate(self.names) if name == column]
            if not same and isinstance(column, str):
                names = [str(name).strip() for name in self.names]
                same = [n for n, name in enumerate(names) if name == column.strip()]
            if len(same) > 1:
                raise ValueError(
                    f"{argument}: {len(same)} columns have the name {column!r}, at the"
                    f" positions {listing(same)}. Give the position of one."
                )
            if same:
                return same[0]
        try:
            whole = None if isinstance(column, bool) else operator.index(column)
        except TypeError:
            whole = None
        if whole is not None and -len(self.names) <= whole < len(self.names):
            return whole % len(self.names)
        last = len(self.names) - 1
        if whole is None and not isinstance(column, str):
            raise TypeError(
                f"{argument} must be the name of a column or its position; received"
                f" {described(column)}; {self.described_columns()},"
                f" positions 0 to {last}."
            )
        raise ValueError(
            f"{argument}: there is no column {column!r}; {self.described_columns()}."
            f" Give one of these names, or a position, 0 to {last}."
        )

    def described_columns(self) -> str:
        """Returns the names of the columns in words, for errors."""
        return f"the columns are {listing([*map(repr, self.names)], most=50)}"


def as_table(frame: Any) -> Table:
    """Returns the columns of a DataFrame as lists.

    Args:
        frame: A DataFrame of pandas, Polars or another library (it has `columns`, their
            names, and `frame[name]` is a column that can be iterated), an Arrow table
            or a Hugging Face dataset (`column_names`), or a dict from name to values.

    Raises:
        TypeError: If it is none of these.
        ValueError: If columns differ in length, or two have the same name.
    """
    if isinstance(frame, Table):
        return frame
    names = list(frame) if isinstance(frame, Mapping) else None
    for attribute in ("column_names", "columns"):
        if names is None and not isinstance(frame, type):
            names = getattr(frame, attribute, None)
    no_names = isinstance(names, str) or not isinstance(names, Iterable)
    if no_names or not hasattr(frame, "__getitem__"):
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
    """Returns a CSV file's columns: strings, None for empty cells.

    Whitespace around cells and names is removed. Rows of empty cells, as spreadsheets
    write them below a table, are skipped.

    Args:
        path: The file.
        header: The row of the columns' names, from 0; "infer" is 0. If None, there is
            none, and columns are named by their position.
        delimiter: Between columns; a comma if None.
        encoding: Of the file, such as "cp1252" (Excel's in Western Europe and America)
            or "shift_jis". If None, UTF-8, or UTF-16 or UTF-32 if the file begins with
            their byte order mark.
        keep_default_na: Whether the words that pandas reads as missing ("NA", "nan",
            "NULL", "None" and others) mean missing.

    Raises:
        FileNotFoundError: If there is no such file; the message lists CSV files beside
            it.
        TypeError: If an argument is of another type.
        ValueError: If it has no rows, or rows of different lengths, or another
            encoding; the message suggests one.

    References:
        The arguments are those of pandas' `read_csv`.
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
        delimiter, text = first.strip()[4], rest  # as Excel writes it
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=delimiter or ",", skipinitialspace=True)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise ValueError(
            f"{str(path)!r} is not a CSV file: line {reader.line_num}: {error}."
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
            " Quote values that contain the delimiter, or give another one:"
            " delimiter=';'."
        )
    if width == 1:
        raise ValueError(
            f"{str(path)!r} has one column, {str((names or rows[0][1])[0])!r}; and"
            " photos and labels need two. Give what separates them: delimiter=';'."
        )
    missing = missing_words(keep_default_na)
    columns = tuple(
        [None if cell in missing else cell for cell in column]
        for column in zip(*(row for _, row in rows), strict=True)
    )
    return Table(tuple(range(width)) if names is None else tuple(names), columns)


def missing_words(keep_default_na: bool) -> frozenset[str]:
    """Returns the texts of cells that mean missing."""
    return frozenset(NA_WORDS if keep_default_na else {""})


# Byte order marks, the longer first, and the first bytes of files that are not text.
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


def marked_encoding(start: bytes) -> str | None:
    """Returns the encoding whose byte order mark a file begins with; None if none."""
    found = (name for mark, name in _MARKS.items() if start.startswith(mark))
    return next(found, None)


def decoded_text(path: Path, encoding: Any = None) -> str:
    """Returns a file's text, without its byte order mark.

    Args:
        path: The file.
        encoding: Its encoding; see `read_csv`.

    Raises:
        TypeError: If `encoding` is not a string.
        ValueError: If there is no such encoding or the file has another; the message
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
    marked = marked_encoding(data)
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

    One column of floats is a regression target; any other column holds the class, or
    with `label_delim` the classes. Several columns of zeros and ones are a class each:
    single-label if each row has exactly one 1, else multi-label. Several columns of
    strings are multi-label; a cell holds one class or is empty. Several columns of
    other numbers are regression targets.

    Args:
        table: A row for each photo.
        folder: Contains the photos.
        fn_col: Column of the photos' paths relative to the folder, by name or position.
        label_col: Column of the label, or several columns.
        label_delim: Separator of several labels in one column.
        suff: Appended to each path, such as ".jpg".
        classes: Names of the classes in the order of their numbers.
        kind: Of the labels; see `label_items`.
        text: Whether all values were read as strings, as from CSV files, so that
            columns of numbers must be converted.

    Raises:
        ValueError: If columns are missing, the table is empty, or photos get no label.
    """
    if hasattr(label_col, "tolist"):
        label_col = label_col.tolist()
    several = isinstance(label_col, list | tuple)
    if several and not label_col:
        raise ValueError("label_col must name at least one column; received none.")
    if label_delim is not None:
        check_instance(label_delim, "label_delim", str, "a string such as ' ', or None")
        if not label_delim:
            raise ValueError("label_delim must be a string of at least one character.")
    check_instance(suff, "suff", str, "a string such as '.jpg'")
    table = as_table(table)
    wanted = [fn_col, *(label_col if several else [label_col])]
    positions, errors = [], {}
    for number, column in enumerate(wanted):
        try:
            argument = "label_col" if number else "fn_col"
            positions.append(table.position(column, argument))
        except ValueError as error:
            errors[column] = error
    if len(errors) > 1:
        raise ValueError(
            f"fn_col, label_col: there are no columns {listing([*map(repr, errors)])};"
            f" {table.described_columns()}."
        )
    for error in errors.values():
        raise error
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
    columns = [numbers_of_texts(column) if text else column for column in columns]
    names = [str(table.names[position]) for position in positions[1:]]
    if len(columns) == 1:
        missing = [row for row, value in enumerate(columns[0]) if value is None]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(paths)} photos get no label:"
                f" {listing([paths[row] for row in missing])} (column {names[0]!r},"
                f" {rows_of(missing)}). {way_out}"
            )
        return label_items(paths, columns[0], classes=classes, kind=kind)
    return _several(paths, columns, names, classes, kind, way_out)


def valid_rows(table: Table, column: Column) -> Bool[np.ndarray, " n"]:
    """Returns which rows are for validation, by a column of booleans.

    True, 1, "True", "true", "1" and "yes" are; False, 0 and so on are not. If all
    others are empty, as in a CSV file that marks the validation rows, they are not.

    Raises:
        ValueError: If a value is neither, or all rows are in one split.
    """
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False}
    words |= {"no": False, "1.0": True, "0.0": False}
    place = table.position(column, "valid_col")
    cells = plain_column(table.columns[place])
    values = [None if cell is None else words.get(str(cell).lower()) for cell in cells]
    unclear = [n for n, value in enumerate(values) if value is None]
    given = [table.columns[place][n] for n in unclear]
    only_marks = all(is_missing(v) and isinstance(v, str | None) for v in given)
    if unclear and not (only_marks and set(values) == {True, None}):
        raise ValueError(
            f"valid_col={column!r} needs True or False in each row; {len(unclear)} of"
            f" {len(table)} hold {listing(sorted({repr(v) for v in given}))}"
            f" ({rows_of(unclear)}). Fill them in, or leave these rows out."
        )
    chosen = np.array([value is True for value in values], bool)
    if chosen.all() or not chosen.any():
        raise ValueError(
            f"valid_col={column!r} is {bool(chosen[0])} in all {len(table)} rows, and"
            " both splits need photos. Leave it out to split at random."
        )
    return chosen


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
    for end in ends:
        if first.with_name(first.name + end).exists():
            raise ValueError(
                f"there is no {str(first)!r}, but there is one ending in {end!r}. Add"
                f" suff={suff + end!r}."
            )
    for other, column in zip(table.names, table.columns, strict=True):
        name = _file_name(column[0])
        if name is not None and Path(folder, f"{name}{suff}").is_file():
            raise ValueError(
                f"there is no {str(first)!r}; the column"
                f" {table.names[position]!r} was used for the photos' paths, but"
                f" {other!r} names files that exist. Write fn_col={other!r}."
            )
    return paths


def _file_name(value: Any) -> str | None:
    """Returns the path in a cell, or None if it is missing."""
    if hasattr(value, "as_py"):
        value = value.as_py()
    if is_missing(value):
        return None
    if isinstance(value, bytes):
        value = os.fsdecode(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # missing values make a column of ints floats
    return str(value).strip()


def _split(value: Any, delimiter: str) -> list[str]:
    if value is None:
        return []  # an empty cell: a photo with none of the labels
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
    if given and all(isinstance(value, numbers.Real) for value in given):
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
                    f"classes={classes} differ from the columns of labels"
                    f" {tuple(names)}."
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


def numbers_of_texts(column: list[str | None]) -> list:
    """Returns a column of strings as ints or floats, if all of them are."""
    # 007 and 1_000 are names.
    if any(cell is not None and re.match(r"[+-]*0\d|.*_", cell) for cell in column):
        return column
    for convert in (int, float):
        try:
            return [None if cell is None else convert(cell) for cell in column]
        except ValueError:
            continue
    return column
