"""Values that a run can go back to, when a step failed on the device.

A step that failed has used its own state up, and what it returned can't be read. The
one rule of the file: what is gone back to was never given to a step.
"""

from typing import Any, NamedTuple

import jax
from jax.sharding import Sharding

from jaxtune.train import TrainState, averaged


class GoodValues(NamedTuple):
    """Values that can be gone back to.

    Attributes:
        values: Parameters and model state, trees of arrays.
        step: Steps done so far.
    """

    values: tuple[Any, Any]
    step: int


def copy_of_values(state: TrainState, sharding: Sharding) -> GoodValues | None:
    """Returns a copy of a state's values, those that are validated and kept.

    Args:
        state: Of a run; its arrays may be given up afterwards.
        sharding: Where the copy lies.

    Returns:
        None if the device has no memory for it: training goes on without.
    """
    try:
        copy = jax.device_put(averaged(state), sharding, may_alias=False)
        return GoodValues(copy, int(state.step))
    except (RuntimeError, ValueError):
        return None


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
