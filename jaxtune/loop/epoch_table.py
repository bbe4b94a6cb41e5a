"""The table shown during training: what trains, each epoch's figures, the progress.

On a terminal the table is updated in place; elsewhere each line is printed once, when
it is complete.
"""

from collections.abc import Sequence

import jax
from flax import nnx
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from jaxtune.loop.history import Row
from jaxtune.train import FROZEN, split_module


class Reporter:
    """Shows one phase: a start line, the table, and the current epoch's progress.

    Used as a context manager; with `verbose=False` it shows nothing.
    """

    def __init__(
        self,
        start_line: str,
        columns: Sequence[str],
        *,
        verbose: bool = True,
        console: Console | None = None,
    ):
        """Takes the line shown first and the names of the table's columns."""
        # Names are the user's: "[red]" and ":smile:" must not be read as markup.
        self._console = console or Console(
            quiet=not verbose, highlight=False, markup=False, emoji=False
        )
        self._start_line = start_line
        self._columns = list(columns)
        self._rows: list[list[str]] = []
        self._widths = [max(len(name), 8) for name in columns]
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}", markup=False),
            console=self._console,
        )
        self._task = None
        self._live: Live | None = None

    def __enter__(self) -> "Reporter":
        """Shows the start line and the table's head."""
        self._console.print(Text(self._start_line), soft_wrap=True)
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=4)
            self._live.__enter__()
        else:
            self._line(self._columns)
        return self

    def __exit__(self, *exception) -> None:
        """Leaves the finished table on the screen."""
        if self._live is not None:
            self._live.update(self._table())
            self._live.__exit__(*exception)
            self._live = None

    def begin(self, description: str, steps: int, done: int = 0) -> None:
        """Starts a progress bar.

        Args:
            description: Shown beside the bar.
            steps: Number of steps in all.
            done: How many of them are done already.
        """
        if self._live is None:
            return
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(
            description, total=steps, completed=done, loss=""
        )
        self._live.update(Group(self._table(), self._progress), refresh=True)

    def advance(self, loss: float | None = None) -> None:
        """Moves the bar by one step, and shows the loss if given."""
        if self._task is not None:
            text = {} if loss is None else {"loss": f"loss {loss:.4f}"}
            self._progress.update(self._task, advance=1, **text)

    def add(self, row: Row) -> None:
        """Adds a finished epoch to the table."""
        cells = row.cells(self._columns)
        self._rows.append(cells)
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
        else:
            self._line(cells)

    def _line(self, cells: Sequence[str]) -> None:
        padded = [c.rjust(w) for c, w in zip(cells, self._widths, strict=True)]
        self._console.print(Text("  ".join(padded)), soft_wrap=True)

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for name in self._columns:
            table.add_column(Text(name), justify="right")
        for cells in self._rows:
            table.add_row(*map(Text, cells))
        return table


def describe_phase(
    name: str, labels: nnx.State, module: nnx.Module, frozen: tuple[str, ...]
) -> str:
    """Returns a phase's start line: which groups and how many parameters train.

    Args:
        name: Of the phase.
        labels: Layer group of each parameter, `FROZEN` for those that don't train.
        module: The network.
        frozen: Names of the frozen groups.
    """
    sizes = [leaf.size for leaf in jax.tree.leaves(split_module(module)[1])]
    names = jax.tree.leaves(labels)
    trained = sum(s for s, n in zip(sizes, names, strict=True) if n != FROZEN)
    whole = ", ".join(dict.fromkeys(n for n in names if n not in {FROZEN, *frozen}))
    if not frozen:
        what = "all layer groups"
    elif set(names) & set(frozen):
        what = f"{whole}, and the norms of frozen groups"
    else:
        what = f"{whole} only"
    return (
        f"{name} · {what} · {_count(trained)} of {_count(sum(sizes))} parameters train"
    )


def _count(number: int) -> str:
    return f"{number / 1e6:.2f}M" if number >= 10_000 else f"{number:,}"
