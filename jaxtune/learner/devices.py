"""Batches over all local devices, state on each of them.

The one rule of the file: the code that trains does not know how many devices there are.
"""

import math
from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def data_sharding(*batch_sizes: int) -> tuple[NamedSharding, NamedSharding]:
    """Returns where batches and where the state lie: rows split, state everywhere.

    All local devices are used if they divide the batch sizes, else the most that do.

    Args:
        *batch_sizes: Rows of the batches that there will be.
    """
    devices = jax.local_devices()
    rows = math.gcd(*batch_sizes)
    count = max(n for n in range(1, len(devices) + 1) if rows % n == 0)
    mesh = Mesh(np.asarray(devices[:count]), ("data",))
    split = NamedSharding(mesh, PartitionSpec("data"))
    return split, NamedSharding(mesh, PartitionSpec())


def place_batch(batch: Mapping, sharding: NamedSharding) -> dict[str, jax.Array]:
    """Puts a batch of numpy arrays onto the devices, rows split among them."""
    return {name: jax.device_put(value, sharding) for name, value in batch.items()}
