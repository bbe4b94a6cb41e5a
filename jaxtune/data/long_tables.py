"""Long CSV files: tens of millions of rows, read once and kept without an object each.

Paths are kept as one block of bytes, labels as numbers.
"""

from __future__ import annotations

import csv
import os
from array import array
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool

from jaxtune.data.items import Items, Kind, PackedPaths, listing
from jaxtune.data.labels import label_rows
from jaxtune.data.tables import (
    Column,
    Table,
    marked_encoding,
    missing_words,
    numbers_of_texts,
    valid_rows,
)
from jaxtune.data.values import clean_name

#: Bytes from which on a file counts as long: some million rows.
LONG_FILE = 2**26


def read_long_csv(
    path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    header: int | str | None = "infer",
    delimiter: str | None = None,
    encoding: str | None = None,
    keep_default_na: bool = True,
    fn_col: Column = 0,
    label_col: Column = 1,
    valid_col: Column | None = None,
    suff: str = "",
    classes: Iterable[Any] | None = None,
    kind: Kind | None = None,
) -> tuple[Items, Bool[np.ndarray, " n"] | None]:
    """Returns the photos that a long CSV file lists, with one label for each.

    A row is read once, and nothing of it is kept but the bytes of its path and the
    numbers of its label. The result is that of `read_csv` and `table_items`, but for
    what these look for in the folder.

    Args:
        path: The file.
        folder: Contains the photos.
        header: As for `read_csv`, like the next three.
        delimiter: Between columns.
        encoding: Of the file.
        keep_default_na: Whether words such as "NA" mean missing.
        fn_col: As for `table_items`, like those that follow.
        label_col: Column of the label; one.
        valid_col: Column of booleans, see `valid_rows`.
        suff: Appended to each path.
        classes: Names of the classes in the order of their numbers.
        kind: Of the labels; "multi" is not possible.

    Returns:
        The photos, and which of them validate; None without `valid_col`.

    Raises:
        ValueError: If there are no rows, a column is missing, a row has another length,
            or one names no photo or has no label; the message names the line.
    """
    with open(path, encoding=encoding or _by_mark(path), newline="") as file:
        reader = csv.reader(file, delimiter=delimiter or ",", skipinitialspace=True)
        try:
            names, first = _header(reader, header)
            table = Table(names, tuple([cell] for cell in first))
            wanted = {"fn_col": fn_col, "label_col": label_col}
            wanted |= {} if valid_col is None else {"valid_col": valid_col}
            places = {name: table.position(col, name) for name, col in wanted.items()}
            found = _columns(reader, first, places, missing_words(keep_default_na))
        except (csv.Error, UnicodeError) as error:
            raise ValueError(
                f"{str(path)!r} can't be read near line {reader.line_num}: {error}. "
                "Name its encoding, as in encoding='cp1252', or repair the line."
            ) from None
    blob, bounds, labels, marks, problems = found
    if problems:
        lines = [f"line {line}: {what}" for line, what in problems]
        raise ValueError(
            f"{str(path)!r} has rows that can't be used: {listing(lines)}. Fill them "
            "in, or leave them out."
        )
    numbers = np.frombuffer(labels.numbers, np.int32)
    values = numbers_of_texts([clean_name(text) for text in labels.texts])
    paths = PackedPaths(folder, bytes(blob), np.frombuffer(bounds, np.int64), suff=suff)
    items = label_rows(paths, numbers, values, classes=classes, kind=kind)
    if marks is None:
        return items, None
    chosen = valid_rows(Table(("valid_col",), (list(marks.texts),)), 0)
    return items, chosen[np.frombuffer(marks.numbers, np.int32)]


class _Numbered:
    """A column of texts, of which each different one has a number."""

    def __init__(self) -> None:
        self.texts: dict[str, int] = {}
        self.numbers = array("i")


def _columns(
    reader: Any, first: list[str], places: Mapping[str, int], missing: frozenset[str]
) -> tuple[bytearray, array, _Numbered, _Numbered | None, list[tuple[int, str]]]:
    """The columns that are wanted, and up to a hundred lines that are not right."""
    blob, bounds, labels = bytearray(), array("q", [0]), _Numbered()
    marks = _Numbered() if "valid_col" in places else None
    problems: list[tuple[int, str]] = []
    at_name, at_label = places["fn_col"], places["label_col"]
    at_mark, width = places.get("valid_col"), len(first)
    row: list[str] | None = first
    while row is not None and len(problems) < 100:
        if len(row) != width:
            if any(cell.strip() for cell in row):
                what = f"{len(row)} cells, and others have {width}"
                problems.append((reader.line_num, what))
            row = next(reader, None)
            continue
        name, label = row[at_name].strip(), row[at_label].strip()
        if name in missing or label in missing:
            if any(cell.strip() for cell in row):
                what = "no photo" if name in missing else "no label"
                problems.append((reader.line_num, what))
            row = next(reader, None)
            continue
        blob += name.encode(errors="surrogateescape")
        bounds.append(len(blob))
        texts = labels.texts
        labels.numbers.append(texts.setdefault(label, len(texts)))
        if marks is not None:
            mark = row[at_mark].strip()
            marks.numbers.append(marks.texts.setdefault(mark, len(marks.texts)))
        row = next(reader, None)
    return blob, bounds, labels, marks, problems


def _header(reader: Any, header: int | str | None) -> tuple[tuple, list[str]]:
    """The columns' names and the first row below them."""
    rows = (row for row in reader if any(cell.strip() for cell in row))
    start = 0 if isinstance(header, str) else header
    names = None
    if start is not None:
        for _ in range(start + 1):
            names = next(rows, None)
    first = next(rows, None)
    if first is None:
        raise ValueError("the table has no rows below its header.")
    if names is None:
        return tuple(range(len(first))), first
    return tuple(name.strip() for name in names), first


def _by_mark(path: str | os.PathLike[str]) -> str:
    with open(path, "rb") as file:
        return marked_encoding(file.read(4)) or "utf-8"
