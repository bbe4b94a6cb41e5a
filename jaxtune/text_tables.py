"""Tables as text and as HTML: what a summary, a plan or a history is printed as.

Rows of cells in, text that fits the screen out. The one rule of the file: what doesn't
fit moves to a further line; nothing is cut off.
"""

import dataclasses
import html
import shutil
from collections.abc import Sequence
from typing import Literal

from rich.cells import cell_len

#: Width where there is no terminal to ask.
_WIDTH = 120


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        name: Stands over it.
        align: Where its cells stand.
        folds: Whether its cells may take several lines where the screen is narrow.
    """

    name: str
    align: Literal["left", "right"] = "right"
    folds: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """Cells in rows under columns.

    Attributes:
        columns: The columns, left to right.
        rows: Cells, one for each column; None is a line between two parts.
        title: Stands before it.
        notes: Stand after it, each on a line of its own.
        rules: Whether lines stand below the head and between parts.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[str] | None]
    title: str = ""
    notes: Sequence[str] = ()
    rules: bool = True

    def text(self, width: int | None = None) -> str:
        """Returns the table as plain text.

        Args:
            width: Characters in a line; the terminal's if None. Columns that fold go
                down to 12 characters to keep to it, others keep their width.
        """
        if width is None:
            width = shutil.get_terminal_size((_WIDTH, 24)).columns
        widths, gap = self._widths(width)
        head = self._lines([column.name for column in self.columns], widths, gap)
        rule = ["─" * (sum(widths) + len(gap) * (len(widths) - 1))] * self.rules
        lines = [self.title] if self.title else []
        lines += head + rule
        for row in self.rows:
            lines += rule if row is None else self._lines(row, widths, gap)
        if self.notes:
            lines += rule
            lines += [part for note in self.notes for part in _fold_words(note, width)]
        return "\n".join(lines)

    def html(self) -> str:
        """Returns the table as HTML, for notebooks."""
        style = [f'style="text-align: {column.align}"' for column in self.columns]

        def line(cells: Sequence[str], tag: str) -> str:
            inner = "".join(
                f"<{tag} {s}>{html.escape(cell)}</{tag}>"
                for cell, s in zip(cells, style, strict=True)
            )
            return f"<tr>{inner}</tr>"

        head = line([column.name for column in self.columns], "th")
        bodies, part = [], []
        for row in [*self.rows, None]:
            if row is not None:
                part.append(line(row, "td"))
            elif part:
                bodies.append(f"<tbody>{''.join(part)}</tbody>")
                part = []
        title = f"<caption>{html.escape(self.title)}</caption>" if self.title else ""
        notes = "".join(f"<div>{html.escape(note)}</div>" for note in self.notes)
        return f"<table>{title}<thead>{head}</thead>{''.join(bodies)}</table>{notes}"

    def _widths(self, width: int) -> tuple[list[int], str]:
        """How wide each column is, and what stands between two."""
        cells = [[column.name for column in self.columns]]
        cells += [row for row in self.rows if row is not None]
        widths = [
            max(cell_len(one_line(cell)) for cell in column)
            for column in zip(*cells, strict=True)
        ]
        gap = "  "
        if sum(widths) + 2 * (len(widths) - 1) > width:
            gap = " "
        for i, column in enumerate(self.columns):
            over = sum(widths) + len(gap) * (len(widths) - 1) - width
            if column.folds and over > 0:
                widths[i] = max(12, widths[i] - over, len(column.name))
        return widths, gap

    def _lines(self, cells: Sequence[str], widths: list[int], gap: str) -> list[str]:
        parts = [_fold(one_line(c), w) for c, w in zip(cells, widths, strict=True)]
        lines = []
        for i in range(max(map(len, parts))):
            padded = [
                self._pad(part[i] if i < len(part) else "", width, column)
                for part, width, column in zip(parts, widths, self.columns, strict=True)
            ]
            lines.append(gap.join(padded).rstrip())
        return lines

    @staticmethod
    def _pad(cell: str, width: int, column: Column) -> str:
        space = " " * (width - cell_len(cell))
        return space + cell if column.align == "right" else cell + space


class Tabular:
    """What prints as its table, and shows as one in a notebook."""

    def table(self) -> Table:
        """Returns the table."""
        raise NotImplementedError

    def __str__(self) -> str:
        """Returns the table as text, as wide as the terminal."""
        return self.table().text()

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.table().html()


def one_line(text: str) -> str:
    r"""Returns a text with what can't be printed, such as line ends, written out.

    Example:
        >>> one_line("a\nb\x1b[31m")
        'a\\nb\\x1b[31m'
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )


def _fold(cell: str, width: int) -> list[str]:
    """Pieces of a cell, broken after a dot or a space where there is one."""
    pieces = []
    while cell_len(cell) > width:
        # Some characters, such as Chinese ones, are two columns wide.
        room = next(i for i in range(len(cell), 0, -1) if cell_len(cell[:i]) <= width)
        cut = max(cell.rfind(".", 0, room), cell.rfind(" ", 0, room)) + 1
        cut = cut if cut > room // 3 else room
        pieces.append(cell[:cut])
        cell = "  " + cell[cut:]
    return [*pieces, cell]


def _fold_words(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if len(joined) > width and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = joined
    return lines


def format_count(number: int) -> str:
    """Returns a whole number with commas."""
    return f"{number:,}"


def format_bytes(number: int) -> str:
    """Returns a number of bytes as B, KB, MB or GB, of 1024 each."""
    value, unit = float(number), "B"
    for unit in ("B", "KB", "MB", "GB"):
        if value < 1024 or unit == "GB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.2f} {unit}"
