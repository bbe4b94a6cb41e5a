"""Data parallelism: photos are split over local devices, weights are on each.

The training code does not depend on the number of devices. Photos that they don't
divide are filled up with empty ones, which the compiled steps cut off again: XLA then
splits what is left as evenly as it goes.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxtune.arguments import check_instance
from jaxtune.train import local_devices


def data_sharding(mesh: Mesh | None = None) -> tuple[NamedSharding, NamedSharding]:
    """Returns the shardings of photos (rows split) and of the state (replicated).

    Args:
        mesh: Devices, over all of which the rows are split, whatever its axes are; all
            local devices if None.

    Raises:
        DeviceError: If there is no device, see `local_devices`.
    """
    devices = local_devices() if mesh is None else mesh.devices.flat
    # An axis of our own: the given ones may be explicit, so that no row could be cut.
    mesh = Mesh(np.asarray(list(devices)), ("data",))
    split = NamedSharding(mesh, PartitionSpec("data"))
    return split, NamedSharding(mesh, PartitionSpec())


def check_mesh(mesh: Any) -> Mesh | None:
    """Returns a mesh of this process's devices as it is; None for all of them.

    Raises:
        TypeError: If it is no `jax.sharding.Mesh`.
        ValueError: If it has a device of another process.
    """
    if mesh is None:
        return None
    wanted = "a jax.sharding.Mesh, such as jax.make_mesh((4,), ('data',)), or None"
    check_instance(mesh, "mesh", Mesh, wanted)
    foreign = [d for d in mesh.devices.flat if d.process_index != jax.process_index()]
    if foreign:
        raise ValueError(
            f"mesh has {foreign[0]}, a device of another process, and jaxtune does not "
            "train across processes yet. Give a mesh of jax.local_devices()."
        )
    return mesh


def filled_up(count: int, devices: int) -> int:
    """Returns the next number of rows that so many devices divide."""
    return -(-count // devices) * devices


def place_batch(
    batch: Mapping, rows: NamedSharding, everywhere: NamedSharding
) -> dict[str, jax.Array]:
    """Puts a batch of numpy arrays onto the devices.

    The rows of `image` are split among them, filled up with zeros to a number that they
    divide; see `real_rows`. The others are small: they are split if their rows can be,
    else each device gets all of them.

    Args:
        batch: Arrays (b, ...) by name.
        rows: Sharding of photos, see `data_sharding`.
        everywhere: Sharding of the state, see `data_sharding`.
    """
    count = len(batch["label"] if "label" in batch else next(iter(batch.values())))
    missing = filled_up(count, rows.num_devices) - count
    others = everywhere if missing else rows
    placed = {}
    for name, value in batch.items():
        photos = name == "image" and missing
        if photos and len(value) == count:
            widths = [(0, missing)] + [(0, 0)] * (value.ndim - 1)
            value = np.pad(value, widths)
        placed[name] = jax.device_put(value, rows if photos else others)
    return placed


def real_rows(batch: Mapping) -> jax.Array:
    """Returns a batch's images without what `place_batch` filled them up with."""
    return batch["image"][: len(batch["label"])]


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
