"""Snapshots: what the values were when a phase began.

The one rule of the file: a snapshot holds the arrays themselves, which nothing changes,
so taking one costs no time, and keeping one the memory of the values that have moved.
"""

from typing import Any, NamedTuple


class Snapshot(NamedTuple):
    """The values at the beginning of a phase.

    Attributes:
        phase: The phase's number, as in the history.
        name: What its start line called it.
        frozen: Names of the groups that were frozen in it.
        params: Parameters, arrays by path.
        model_state: Batch-norm statistics, arrays by path.
    """

    phase: int
    name: str
    frozen: tuple[str, ...]
    params: Any
    model_state: Any
