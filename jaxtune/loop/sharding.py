"""Data parallelism: batches are split over local devices, weights are on each.

The training code does not depend on the number of devices. What can't be split evenly
is reported, once.
"""

import math
from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxtune.train import local_devices, say_once


def data_sharding(*batch_sizes: int) -> tuple[NamedSharding, NamedSharding]:
    """Returns the shardings of batches (rows split) and of the state (replicated).

    All local devices are used if their number divides the batch sizes, else as many as
    possible; devices that stay idle are reported, once.

    Args:
        *batch_sizes: Rows of the training and of the validation batches.

    Raises:
        DeviceError: If there is no device, see `local_devices`.
    """
    devices = local_devices()
    rows = math.gcd(*batch_sizes)
    count = max(n for n in range(1, len(devices) + 1) if rows % n == 0)
    if count < len(devices):
        say_once(_idle(batch_sizes, count, devices))
    mesh = Mesh(np.asarray(devices[:count]), ("data",))
    split = NamedSharding(mesh, PartitionSpec("data"))
    return split, NamedSharding(mesh, PartitionSpec())


def rows_sharding(
    count: int, rows: NamedSharding, everywhere: NamedSharding
) -> NamedSharding:
    """Returns the sharding of a batch of so many rows: split, if it can be evenly."""
    return everywhere if count % rows.num_devices else rows


def place_batch(
    batch: Mapping, rows: NamedSharding, everywhere: NamedSharding
) -> dict[str, jax.Array]:
    """Puts a batch of numpy arrays onto the devices.

    Its rows are split among them. If they can't be split evenly, every device gets the
    whole batch, which is reported once.

    Args:
        batch: Arrays (b, ...) by name.
        rows: Sharding of batches, see `data_sharding`.
        everywhere: Sharding of the state, see `data_sharding`.
    """
    count, devices = len(next(iter(batch.values()))), rows.num_devices
    sharding = rows_sharding(count, rows, everywhere)
    if sharding is everywhere:
        say_once(
            f"a batch of {count} rows can't be split evenly among {devices} devices, "
            f"so each of them computes all of it. {_sizes(count, devices)} would be "
            "split."
        )
    return {name: jax.device_put(value, sharding) for name, value in batch.items()}


def check_one_process() -> None:
    """Raises if `jax.distributed` has started several processes.

    Raises:
        NotImplementedError: If it has; the message says what to do.
    """
    local_devices()
    if jax.process_count() > 1:
        raise NotImplementedError(
            f"this is process {jax.process_index()} of {jax.process_count()} of "
            "jax.distributed, and jaxtune does not train across processes yet: each "
            "of them would train the same whole network by itself. Start one process, "
            "without jax.distributed.initialize(); it uses all devices of its host."
        )


def _idle(batch_sizes: tuple[int, ...], count: int, devices: list) -> str:
    sizes = sorted(set(batch_sizes))
    of = f"a batch of {sizes[0]} rows"
    if len(sizes) > 1:
        of = f"batches of {' and '.join(map(str, sizes))} rows"
    return (
        f"{count} of {len(devices)} {devices[0].platform} devices "
        f"{'is' if count == 1 else 'are'} used: {of} can't be split evenly among more. "
        f"{_sizes(sizes[-1], len(devices))} would use all {len(devices)}."
    )


def _sizes(rows: int, devices: int) -> str:
    """The next smaller and next larger batch size that `devices` divides, in words."""
    smaller, larger = rows // devices * devices, -(-rows // devices) * devices
    sizes = [str(size) for size in dict.fromkeys((smaller, larger)) if size]
    return f"batch_size={' or '.join(sizes)}"
