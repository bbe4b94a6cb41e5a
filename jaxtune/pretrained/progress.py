"""Tells what is being fetched.

In: descriptions and byte counts. Out: lines on standard error; a bar or a spinner as
well where that is a terminal. The one rule: off a terminal a fetch is one plain line.
"""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.text import Text


def _console(**options) -> Console:
    # Names of files are text, whatever brackets and colons are in them.
    return Console(stderr=True, highlight=False, markup=False, emoji=False, **options)


def say(message: str) -> None:
    """Prints one plain line on standard error."""
    _console(soft_wrap=True).print(message)


@contextlib.contextmanager
def waiting(message: str) -> Iterator[None]:
    """Shows a spinner beside a message while the block runs, on a terminal only."""
    console = _console()
    if not console.is_terminal:
        yield
        return
    with console.status(Text(message)):
        yield


@contextlib.contextmanager
def transfer_bar(message: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Shows how much of a file has come, on a terminal only.

    Args:
        message: stands before the bar.
        total: bytes to come; None if not known.

    Yields:
        A function that takes the number of bytes that came since it was last called.
    """
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    console = _console()
    if not console.is_terminal:
        yield lambda count: None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(message, total=total)
        yield lambda count: progress.advance(task, count)
        progress.refresh()  # the last bytes too, however fast they came
