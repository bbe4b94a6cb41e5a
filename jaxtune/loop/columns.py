"""The columns of the table, and whether more or less of each is better.

A direction that isn't known is never guessed: the user is asked for it.
"""

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxtune.arguments import like
from jaxtune.loop.extra_validation import extra_columns

#: Columns that locate an epoch; they don't measure it.
_PLACES = ("phase", "epoch")

_MORE = {
    "accuracy", "acc", "precision", "recall", "sensitivity", "specificity", "f1", "f2",
    "fbeta", "auc", "auroc", "roc", "kappa", "cohen", "quadratic", "mcc", "matthews",
    "corrcoef", "iou", "jaccard", "dice", "map", "r2", "psnr", "ssim",
}  # fmt: skip
_LESS = {
    "loss", "error", "err", "mae", "mse", "rmse", "msle", "rmsle", "mape", "log", "nll",
    "cross", "entropy", "crossentropy", "brier", "hamming", "perplexity", "ece",
}  # fmt: skip
#: Words that leave the direction as it is.
_FILLING = {
    "score", "rate", "macro", "micro", "weighted", "balanced", "top", "multi", "binary",
    "mean", "average", "absolute", "squared", "train", "valid", "my",
}  # fmt: skip
_TURNING = {"one", "minus", "neg", "negative", "inverse", "inverted", "not", "non"}

#: Names of the columns in other libraries.
_ELSEWHERE = {"loss": "train_loss", "val_loss": "valid_loss", "acc": "accuracy"}


def table_columns(metrics: Iterable[str], further: Iterable[str] = ()) -> list[str]:
    """Returns the names of a table's columns, in order.

    Args:
        metrics: Names of the metrics.
        further: Names of the extra validation data, see `validate_also`.

    Example:
        >>> table_columns(["accuracy"], ["old"])[2:-2]
        ['train_loss', 'valid_loss', 'accuracy', 'old_valid_loss', 'old_accuracy']
    """
    names = [*_PLACES, "train_loss", "valid_loss", *(metrics := list(metrics))]
    for name in further:
        names += extra_columns(name, metrics)
    return [*names, "images/s", "time"]


def check_monitor(monitor: str, columns: Sequence[str], owner: str) -> None:
    """Raises if the table will have no such column to monitor.

    Args:
        monitor: Name of the column.
        columns: The columns that the table will have.
        owner: Name of the callback that monitors, for the message.

    Raises:
        ValueError: If it is not one of the columns; the message lists them.
    """
    possible = [name for name in columns if name not in _PLACES]
    if monitor in possible:
        return
    bare = monitor.removeprefix("val_")
    same = _ELSEWHERE.get(monitor) or _ELSEWHERE.get(bare, bare)
    if same in possible:
        hint = f"What Keras calls {monitor} is {same} here."
    else:
        close = like(monitor, possible)
        hint = close if close.startswith("Did") else ""
    text = (
        f"{owner} monitors {monitor!r}, and the table will have no such column. It "
        f"will have {', '.join(possible)}. {hint}"
    )
    raise ValueError(text.rstrip())


def more_is_better(
    monitor: str, metrics: Mapping[str, Any], further: Iterable[str] = ()
) -> bool | None:
    """Returns whether more of a column is better; None if that isn't known.

    A metric's attribute `higher_is_better` or `greater_is_better` decides. Without one,
    its name decides if every word of it is a common one.

    Args:
        monitor: Name of the column.
        metrics: Functions by name.
        further: Names of the extra validation data, see `validate_also`.

    Example:
        >>> [more_is_better(name, {}) for name in ("valid_loss", "f1_score", "hits")]
        [False, True, None]
    """
    for name in sorted(further, key=len, reverse=True):
        if monitor in extra_columns(name, metrics):
            monitor = monitor.removeprefix(f"{name}_")
            break
    declared = _attribute(metrics.get(monitor))
    return _by_name(monitor) if declared is None else declared


def _attribute(metric: Any) -> bool | None:
    while metric is not None:
        for name in ("higher_is_better", "greater_is_better"):
            declared = getattr(metric, name, None)
            if declared is not None:
                return bool(declared)
        metric = metric.func if isinstance(metric, functools.partial) else None
    return None


def _by_name(name: str) -> bool | None:
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    words = re.findall(r"[a-z]+\d?|\d+", spaced.lower())
    if _TURNING & set(words):
        return None
    words = [w for w in words if w not in _FILLING and not w.isdigit()]
    if words and words[-1] in ("loss", "error"):
        return False
    if words and set(words) <= _MORE:
        return True
    return False if words and set(words) <= _LESS else None
