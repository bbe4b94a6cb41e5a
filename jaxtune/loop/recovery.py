"""Weights that a run can go back to when a step fails on the device.

A failed step has donated its state, and what it returned can't be read. So the copy to
go back to is never handed to a step.
"""

import math
import warnings
from typing import Any, NamedTuple

import jax

from jaxtune.loop.sharding import copies
from jaxtune.train import TrainState, averaged

#: What to do with a network whose outputs have become NaN or infinite.
SPOILED = (
    "its weights have diverged, for instance because the learning rate was too high. "
    "Load a checkpoint, or make a new learner"
)


def warn_not_finite(bad: int, count: int) -> None:
    """Warns if a network's outputs are NaN or infinite.

    Args:
        bad: Number of photos with such outputs.
        count: Number of all photos.
    """
    if bad:
        warnings.warn(
            f"the network's outputs for {bad} of {count} photos are NaN or infinite; "
            f"{SPOILED}.",
            stacklevel=4,
        )


class GoodValues(NamedTuple):
    """Weights that a run can go back to.

    Attributes:
        values: Parameters and model state, trees of arrays.
        step: Number of steps trained so far.
        when: When the run had them, in words: "after epoch 2 of this phase".
    """

    values: tuple[Any, Any]
    step: int
    when: str = "at the beginning of this phase"


def copy_of_values(
    state: TrainState, when: str = "at the beginning of this phase"
) -> GoodValues | None:
    """Returns a copy of a state's weights; of their average, where one is kept.

    Args:
        state: Of a run; its arrays may be donated afterwards.
        when: When the run had these weights, in words.

    Returns:
        None if the device has no memory for a copy: training continues without.
    """
    try:
        return GoodValues(copies(averaged(state)), int(state.step), when)
    except (RuntimeError, ValueError):
        return None


def has_diverged(loss: float, before: float) -> bool:
    """Returns whether the network has diverged, judged by its validation loss.

    It has if the loss is above four times the loss before, as in `lr_find`, or NaN.

    Args:
        loss: With the weights in question.
        before: With good weights. If this is NaN or infinite, the answer is False.

    Example:
        >>> has_diverged(float("nan"), 1.0), has_diverged(1.5, 1.0)
        (True, False)
    """
    if not math.isfinite(before):
        return False
    return not loss <= before + 3.0 * abs(before)


def is_readable(state: TrainState) -> bool:
    """Returns whether a state's arrays can be read; waits until they are computed."""
    leaves = jax.tree.leaves(state)
    if any(leaf.is_deleted() for leaf in leaves):
        return False
    try:
        jax.block_until_ready(leaves)
    except RuntimeError:
        return False
    return True
