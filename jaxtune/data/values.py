"""Values: what users and their libraries write in a cell, as Python's own values.

Columns and labels of any library become lists of strings, numbers and lists of these,
with None for missing values of all libraries. No DataFrame library is imported.
"""

from __future__ import annotations

import decimal
import fractions
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxtune.arguments import described

#: What pandas reads as missing in a CSV file (`read_csv`, `keep_default_na`).
NA_WORDS = frozenset(
    ("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND")
    + ("1.#QNAN", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null")
)


def is_missing(value: Any) -> bool:
    """Returns whether a value means "missing".

    True for None, NaN of any type, pandas' NA and NaT, NumPy's NaT and masked, Arrow's
    null, and empty or blank strings.

    Example:
        >>> [is_missing(value) for value in (None, float("nan"), " ", "nan", 0, False)]
        [True, True, True, False, False, False]
    """
    if value is None or value is np.ma.masked:
        return True
    if isinstance(value, str | bytes):
        return not value.strip()
    if isinstance(value, float):
        return value != value
    if isinstance(value, int | list | tuple | set | frozenset | dict):
        return False
    if type(value).__name__ in ("NAType", "NullScalar"):
        return True
    try:
        return np.ndim(value) == 0 and bool(value != value)  # NaN and NaT
    except Exception:  # an object that cannot be compared is a value
        return False


def clean_name(name: str) -> str:
    """Returns a name in Unicode's NFC form, without surrounding whitespace.

    Names that look the same become equal: "ants " is "ants", and an é written as one
    character (Windows) equals one written as two (macOS).

    Example:
        >>> clean_name(" ants"), len(clean_name("e\\u0301"))
        ('ants', 1)
    """
    name = name.strip()
    return name if name.isascii() else unicodedata.normalize("NFC", name).strip()


def plain_value(value: Any) -> Any:
    """Returns a value of another library as Python's own; None if it is missing.

    Scalars become int, float, bool or str, bytes are decoded as UTF-8, names cleaned
    (see `clean_name`), and collections become lists.
    """
    kind = type(value)
    if kind is str:
        return clean_name(value) or None
    if kind is int or kind is bool:
        return value
    if is_missing(value):
        return None
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    elif hasattr(value, "as_py"):  # Arrow's scalars
        return plain_value(value.as_py())
    elif hasattr(value, "__array__") and hasattr(value, "shape"):
        if np.ma.isMaskedArray(value):
            return plain_value(value.tolist())
        array = _as_numpy(value)
        if array.ndim > 0:
            return plain_value(array.tolist())
        value = array.item()
        return None if is_missing(value) else plain_value(value)
    elif isinstance(value, decimal.Decimal | fractions.Fraction):
        return float(value)
    if isinstance(value, str):
        return clean_name(str(value)) or None
    if isinstance(value, set | frozenset):
        return sorted(plain_value(list(value)), key=str)
    if isinstance(value, list | tuple | range):
        return [plain_value(each) for each in value if not _is_blank(each)]
    return value


def _is_blank(value: Any) -> bool:
    # Arrays of strings are padded with these where a row has fewer labels.
    return isinstance(value, str | bytes) and not value.strip()


def listed(column: Any) -> list:
    """Returns a column of any library as a list of that library's values.

    Example:
        >>> listed(np.ma.array([1, 2], mask=[False, True])), listed("ab")
        ([1, None], ['a', 'b'])
    """
    for name in ("to_pylist", "tolist", "to_list"):
        to_list = getattr(column, name, None)
        if to_list is not None:
            column = to_list()
            return column if isinstance(column, list) else [column]
    return list(column)


def plain_column(column: Any) -> list:
    """Returns a column of any library as a list of `plain_value`s."""
    return list(_plain_each(listed(column)))


def plain_labels(labels: Any, name: str = "labels") -> list | np.ndarray:
    """Returns labels as an array of numbers or bools, or a list of plain values.

    Args:
        labels: A list or another iterable; an array, a Series or a DataFrame of any
            library. A column (n, 1) becomes (n,).
        name: Of the argument, for errors.

    Returns:
        A NumPy array (n,) or (n, k) of bools, whole numbers or floats; or a list with
        an entry for each photo.

    Raises:
        TypeError: If it is not one value for each photo.
        ValueError: If it is an array of three or more dimensions.
    """
    wanted = f"{name} must be a list or an array with one label for each photo"
    if isinstance(labels, str | bytes | Mapping | set | frozenset):
        way_out = ""
        if isinstance(labels, Mapping):
            way_out = f" Write [{name}[path] for path in paths]."
        raise TypeError(f"{wanted}; received {described(labels)}.{way_out}")
    if hasattr(labels, "to_pylist") and not hasattr(labels, "columns"):
        return column_of_lists(plain_column(labels))
    if np.ma.isMaskedArray(labels) and np.ma.is_masked(labels):
        return column_of_lists(plain_column(labels))
    if hasattr(labels, "__array__") and not isinstance(labels, list | tuple):
        array = _as_numpy(labels)
        if array.ndim == 0:
            raise TypeError(f"{wanted}; received {described(labels)}.")
        if array.ndim > 1 and set(array.shape[1:]) == {1}:
            array = array.reshape(len(array))
        if array.ndim > 2 or array.dtype.names is not None:
            raise ValueError(
                f"{wanted}: of shape (n,), or (n, k) for k numbers or classes; received"
                f" shape {array.shape}, dtype {array.dtype}."
            )
        if array.dtype.kind == "c":
            raise TypeError(f"{wanted}; received complex numbers.")
        if array.dtype.kind in "biuf":
            return array
        if array.dtype.kind in "Mm":
            missing = np.isnat(array)
            array = array.astype(str).astype(object)
            array[missing] = None
        labels = array.tolist()
    if not isinstance(labels, Iterable):
        raise TypeError(f"{wanted}; received {described(labels)}.")
    values = list(_plain_each(labels))
    for row, label in enumerate(values):
        _check_label(label, f"{name}[{row}]")
    return column_of_lists(values)


def column_of_lists(values: list) -> list | np.ndarray:
    """Returns lists that form a table of numbers as an array; other lists unchanged.

    Lists of one number each become an array (n,). Lists of equally many zeros and ones
    become an array (n, k).

    Example:
        >>> column_of_lists([[3], [1]]).tolist(), column_of_lists([[1, 2], [3]])
        ([3, 1], [[1, 2], [3]])
    """
    if not values or type(values[0]) is not list or not values[0]:
        return values
    width = len(values[0])
    if any(type(row) is not list or len(row) != width for row in values):
        return values
    kinds = {type(cell) for row in values for cell in row}
    if width == 1:
        if kinds <= {int, bool} or kinds <= {int, float}:
            return np.array([row[0] for row in values])
    elif kinds <= {int, bool, float}:
        if all(cell in (0, 1) for row in values for cell in row):
            return np.array(values)
    return values


def label_columns(labels: Any) -> list[str] | None:
    """Returns the names of a DataFrame's columns; None for anything else."""
    names = getattr(labels, "column_names", None)
    names = getattr(labels, "columns", None) if names is None else names
    if names is None or isinstance(names, str) or not hasattr(labels, "shape"):
        return None
    return [str(name).strip() for name in names]


def _plain_each(values: Iterable[Any]) -> Iterator[Any]:
    # A million labels have few different values: each string is cleaned once.
    known: dict[str, Any] = {}
    for value in values:
        if type(value) is str:
            if value not in known:
                known[value] = plain_value(value)
            yield known[value]
        else:
            yield plain_value(value)


def _as_numpy(values: Any) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind == "V" and array.dtype.names is None:
        if jnp.issubdtype(array.dtype, jnp.floating):  # bfloat16
            return array.astype(np.float32)
        if jnp.issubdtype(array.dtype, jnp.integer):  # int4
            return array.astype(np.int32)
    return array


def _check_label(label: Any, name: str) -> None:
    if label is None or type(label) in (str, int, bool, float):
        return
    wanted = f"{name} must be a name, a number, or a list of these"
    if isinstance(label, list):
        for each in label:
            if isinstance(each, list):
                raise TypeError(
                    f"{wanted}; received a list of lists, {described(label)}."
                )
            _check_label(each, name)
        return
    no_text = type(label).__str__ is object.__str__ and (
        type(label).__repr__ is object.__repr__
    )
    if no_text or callable(label) or isinstance(label, Mapping | complex | Sequence):
        raise TypeError(f"{wanted}; received {described(label)}.")
