"""Whether what was frozen has kept every bit.

Snapshots and values in, silence or an error out. The one rule of the file: equal means
the same bits, in parameters and in statistics.
"""

from collections.abc import Collection, Sequence
from typing import Any

from jaxtune.learner.diff import Stretch, stretches
from jaxtune.learner.moved import tree_diff
from jaxtune.learner.snapshot import Snapshot


class FrozenMovedError(AssertionError):
    """Something moved that was to stay bit for bit what it was."""


def check_frozen(
    snapshots: Sequence[Snapshot],
    now: tuple[Any, Any],
    labels: Any,
    *,
    groups: Collection[str] | None = None,
    norms: str = "frozen",
) -> None:
    """Returns quietly if nothing frozen has moved by a bit.

    Args:
        snapshots: Of the beginnings of phases, oldest first.
        now: Parameters and statistics.
        labels: Group name of each parameter.
        groups: Which groups must be what they were at the first snapshot; if None, in
            each phase those that were frozen in it.
        norms: What the norm layers of frozen groups do, for the message.

    Raises:
        FrozenMovedError: If something moved; it is named.
    """
    parts = stretches(snapshots, now)
    if groups is not None and parts:
        first = parts[0]
        parts = [Stretch(0, "all training", tuple(groups), first.before, now)]
    problems = []
    for part in parts:
        moved = [
            row
            for was, is_now in zip(part.before, part.after, strict=True)
            for row in tree_diff(was, is_now, labels)
            if row.changed and row.group in part.frozen
        ]
        for group in part.frozen:
            names = [row.path for row in moved if row.group == group]
            if names:
                listed = ", ".join(names[:5])
                more = f" and {len(names) - 5} more" if len(names) > 5 else ""
                problems.append(f"  {group}, in {part.name}: {listed}{more}")
    if problems:
        way_out = {
            "stats": '\nnorms="stats" moves the statistics of frozen groups; '
            'norms="frozen" moves nothing.',
            "train": '\nnorms="train" moves statistics, weights and biases of the '
            'norm layers of frozen groups; norms="frozen" moves nothing.',
        }
        raise FrozenMovedError(
            "these were to stay bit for bit what they were, and moved:\n"
            + "\n".join(problems)
            + way_out.get(norms, "")
        )
