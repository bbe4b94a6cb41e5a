"""Numbers to be predicted: where they lie, and how far apart.

The labels of a split go in; a mean and a standard deviation for each number of a photo
come out. The one rule of the file: what a network is to learn has size 1.
"""

import numpy as np

from jaxtune.data.items import Items


def target_stats(items: Items) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation of each number that is to be predicted.

    Args:
        items: Of the training split.

    Returns:
        Two tuples with a number for each output, in the targets' units. A standard
        deviation of 0 (all targets are equal) is given as 1.

    Raises:
        ValueError: If the labels are classes.

    Example:
        >>> from pathlib import Path
        >>> from jaxtune.data import label_items
        >>> items = label_items([Path("a.jpg"), Path("b.jpg")], [1000.0, 3000.0])
        >>> target_stats(items)
        ((2000.0,), (1000.0,))
    """
    if items.kind != "regression":
        raise ValueError(
            f"target_stats is of numbers to be predicted; these labels are classes "
            f"(kind={items.kind!r})."
        )
    values = np.asarray(items.labels, np.float64).reshape(len(items), -1)
    mean, std = values.mean(axis=0), values.std(axis=0)
    # Rounding leaves a little of what should be 0.
    std[(values == values[0]).all(axis=0)] = 1.0
    return tuple(map(_rounded, mean)), tuple(map(_rounded, std))


def _rounded(number: float) -> float:
    """As float32 holds it, so that a network built again is the same bit for bit."""
    return float(np.float32(number))
