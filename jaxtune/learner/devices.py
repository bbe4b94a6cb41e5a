"""Batches over all local devices, state on each of them.

The one rule of the file: the code that trains does not know how many devices there are.
"""

from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def data_sharding(batch_size: int) -> tuple[NamedSharding, NamedSharding]:
    """Returns where batches and where the state lie: rows split, state everywhere.

    All local devices are used if they divide the batch size, else the most that do.

    Args:
        batch_size: Rows of a batch.
    """
    devices = jax.local_devices()
    count = max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)
    mesh = Mesh(np.asarray(devices[:count]), ("data",))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    return rows, NamedSharding(mesh, PartitionSpec())


def place_batch(batch: Mapping, sharding: NamedSharding) -> dict[str, jax.Array]:
    """Puts a batch of numpy arrays onto the devices, rows split among them."""
    return {name: jax.device_put(value, sharding) for name, value in batch.items()}
