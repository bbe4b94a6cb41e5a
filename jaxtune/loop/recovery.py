"""Values that a run can go back to, when a step failed on the device.

A step that failed has used its own state up, and what it returned can't be read. The
one rule of the file: what is gone back to was never given to a step.
"""

import math
import warnings
from typing import Any, NamedTuple

import jax
from jax.sharding import Sharding

from jaxtune.train import TrainState, averaged

#: What to do with a network whose values are not finite any more.
SPOILED = (
    "its values were spoiled, by too high a learning rate for instance. Load a "
    "checkpoint, or make a new learner"
)


def warn_not_finite(bad: int, count: int) -> None:
    """Warns if a network's answers are NaN or infinite.

    Args:
        bad: Number of photos with such an answer.
        count: Number of all photos.
    """
    if bad:
        warnings.warn(
            f"what the network says of {bad} of {count} photos is not finite (NaN or "
            f"infinite); {SPOILED}.",
            stacklevel=4,
        )


class GoodValues(NamedTuple):
    """Values that can be gone back to.

    Attributes:
        values: Parameters and model state, trees of arrays.
        step: Steps done so far.
        when: When the training had them, in words.
    """

    values: tuple[Any, Any]
    step: int
    when: str = "at the beginning of this phase"


def copy_of_values(
    state: TrainState, sharding: Sharding, when: str = "at the beginning of this phase"
) -> GoodValues | None:
    """Returns a copy of a state's values, those that are validated and kept.

    Args:
        state: Of a run; its arrays may be given up afterwards.
        sharding: Where the copy lies.
        when: When the training had them, in words.

    Returns:
        None if the device has no memory for it: training goes on without.
    """
    try:
        copy = jax.device_put(averaged(state), sharding, may_alias=False)
        return GoodValues(copy, int(state.step), when)
    except (RuntimeError, ValueError):
        return None


def has_diverged(loss: float, before: float) -> bool:
    """Returns whether a validation loss says that the network is spoiled.

    Four times the loss before is, as in the search for a learning rate.

    Args:
        loss: With the values in question; NaN says so too.
        before: With good values. If this is no number, nothing can be said.

    Example:
        >>> has_diverged(float("nan"), 1.0), has_diverged(1.5, 1.0)
        (True, False)
    """
    if not math.isfinite(before):
        return False
    return not loss <= before + 3.0 * abs(before)


def is_readable(state: TrainState) -> bool:
    """Returns whether a state's arrays are there, once they are computed."""
    leaves = jax.tree.leaves(state)
    if any(leaf.is_deleted() for leaf in leaves):
        return False
    try:
        jax.block_until_ready(leaves)
    except RuntimeError:
        return False
    return True
