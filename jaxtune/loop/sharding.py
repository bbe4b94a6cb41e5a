"""Data parallelism: photos are split over all devices, weights are on each or split.

The training code depends neither on the number of devices nor on that of processes.
Photos that the devices don't divide are filled up with empty ones, which the compiled
steps cut off again: XLA then splits what is left as evenly as it goes. Of several
processes each reads the photos of its own devices' rows.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from jaxtune.arguments import check_choice, check_instance
from jaxtune.data import Loader
from jaxtune.train import all_devices, whole_on_host

#: Arrays of a batch of which a process knows its own rows only, besides the images.
_OF_DECODED = ("mask", "aspect")


def data_sharding(mesh: Mesh | None = None) -> tuple[NamedSharding, NamedSharding]:
    """Returns the shardings of photos (rows split) and of the state (replicated).

    Args:
        mesh: Devices, over all of which the rows are split, whatever its axes are; all
            devices of all processes if None.

    Raises:
        DeviceError: If there is no device, see `all_devices`.
    """
    devices = all_devices() if mesh is None else mesh.devices.flat
    # An axis of our own: the given ones may be explicit, so that no row could be cut.
    mesh = Mesh(np.asarray(list(devices)), ("data",))
    split = NamedSharding(mesh, PartitionSpec("data"))
    return split, NamedSharding(mesh, PartitionSpec())


def check_mesh(mesh: Any) -> Mesh | None:
    """Returns a mesh as it is; None for all devices.

    Raises:
        TypeError: If it is no `jax.sharding.Mesh`.
        ValueError: If a process has no device in it.
    """
    if mesh is None:
        return None
    wanted = "a jax.sharding.Mesh, such as jax.make_mesh((4,), ('data',)), or None"
    check_instance(mesh, "mesh", Mesh, wanted)
    taking_part = {device.process_index for device in mesh.devices.flat}
    idle = set(range(jax.process_count())) - taking_part
    if idle:
        raise ValueError(
            f"mesh has no device of process {min(idle)} of {jax.process_count()}. All "
            "processes of jax.distributed train together: give a mesh of devices of "
            "each, such as one of jax.devices()."
        )
    return mesh


def filled_up(count: int, devices: int) -> int:
    """Returns the next number of rows that so many devices divide."""
    return -(-count // devices) * devices


def sharding_of_labels(
    count: int, rows: NamedSharding, everywhere: NamedSharding
) -> NamedSharding:
    """Returns the sharding of all that a batch has besides its images.

    Args:
        count: Rows of the batch.
        rows: Sharding of photos, see `data_sharding`.
        everywhere: Sharding of the state, see `data_sharding`.
    """
    is_split = rows.is_fully_addressable and count % rows.num_devices == 0
    return rows if is_split else everywhere


def place_batch(
    batch: Mapping, rows: NamedSharding, everywhere: NamedSharding
) -> dict[str, jax.Array]:
    """Puts a batch of numpy arrays onto the devices.

    The rows of `image` are split among them, filled up with zeros to a number that they
    divide; see `real_rows`. The others are small: they are split if their rows can be,
    else each device gets all of them. Several processes call it with the same batch,
    of which each needs to have its own rows of the images only, see `with_own_rows`.

    Args:
        batch: Arrays (b, ...) by name.
        rows: Sharding of photos, see `data_sharding`.
        everywhere: Sharding of the state, see `data_sharding`.
    """
    count = len(batch["label"] if "label" in batch else next(iter(batch.values())))
    missing = filled_up(count, rows.num_devices) - count
    others = sharding_of_labels(count, rows, everywhere)
    placed = {}
    for name, value in batch.items():
        split = others
        if name == "image" or (name in _OF_DECODED and not rows.is_fully_addressable):
            split = rows
            if missing and len(value) == count:
                value = np.pad(value, [(0, missing)] + [(0, 0)] * (value.ndim - 1))
        placed[name] = _placed(value, split)
    if not rows.is_fully_addressable:
        own = {name: placed[name] for name in _OF_DECODED if name in placed}
        placed |= _joined(everywhere)(own, count)
    return placed


def _placed(value: Any, sharding: NamedSharding) -> jax.Array:
    if sharding.is_fully_addressable:
        return jax.device_put(value, sharding)
    value = np.asarray(value)
    return jax.make_array_from_callback(value.shape, sharding, value.__getitem__)


@functools.cache
def _joined(everywhere: NamedSharding) -> Any:
    def cut(arrays, count):
        return jax.tree.map(lambda x: x[:count], arrays)

    return jax.jit(cut, static_argnums=1, out_shardings=everywhere)


def real_rows(batch: Mapping) -> jax.Array:
    """Returns a batch's images without what `place_batch` filled them up with."""
    return batch["image"][: len(batch["label"])]


def with_own_rows(loader: Any, rows: NamedSharding) -> Any:
    """Returns a loader that reads only the photos of this process's rows.

    It is the loader itself in a single process, or if it isn't one of jaxtune's.

    Args:
        loader: Of photos.
        rows: Sharding of photos, see `data_sharding`.
    """
    if rows.is_fully_addressable or not isinstance(loader, Loader):
        return loader
    filled = (filled_up(loader.batch_size, rows.num_devices),)
    own = np.zeros(filled, bool)
    for (part,) in rows.addressable_devices_indices_map(filled).values():
        own[part] = True
    return loader.with_rows(own[: loader.batch_size])


def on_every_device(tree: Any, everywhere: Sharding, *, copied: bool = True) -> Any:
    """Returns arrays on every device; each process gives its own.

    Args:
        tree: Arrays, the same in each process.
        everywhere: Sharding of the state, see `data_sharding`.
        copied: Whether they are copied even where they are there already, as what a
            step is given must be.
    """
    if everywhere.is_fully_addressable:
        return jax.device_put(tree, everywhere, may_alias=False if copied else None)
    return jax.tree.map(functools.partial(_copied, everywhere=everywhere), tree)


def _copied(value: Any, *, everywhere: Sharding) -> jax.Array:
    local = _of_this_process(value)
    copies = [
        jax.device_put(local, device, may_alias=False)
        for device in everywhere.addressable_devices
    ]
    return jax.make_array_from_single_device_arrays(local.shape, everywhere, copies)


def split_on_devices(tree: Any, shardings: Any) -> Any:
    """Returns copies of arrays on the devices, split as their shardings say.

    Args:
        tree: Whole arrays, the same in each process; or arrays of all processes that
            are split so already.
        shardings: A tree with a sharding for each array, see `fsdp_shardings`.
    """
    if all(each.is_fully_addressable for each in jax.tree.leaves(shardings)):
        return jax.device_put(tree, shardings, may_alias=False)
    return jax.tree.map(_split, tree, shardings)


def _split(value: Any, sharding: Sharding) -> jax.Array:
    if sharding.is_fully_replicated:
        return _copied(value, everywhere=sharding)
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        parts = [
            jax.device_put(part.data, part.device, may_alias=False)
            for part in value.addressable_shards
        ]
        return jax.make_array_from_single_device_arrays(value.shape, sharding, parts)
    value = np.asarray(value)
    return jax.make_array_from_callback(value.shape, sharding, value.__getitem__)


def copies(tree: Any) -> Any:
    """Returns copies of arrays, on the same devices and split in the same way."""
    return split_on_devices(tree, jax.tree.map(lambda x: x.sharding, tree))


def whole_arrays(tree: Any, everywhere: NamedSharding) -> Any:
    """Returns arrays whole on every device; all processes must call it.

    Args:
        tree: Arrays, of which some may be split over the devices.
        everywhere: Sharding of those in the result, see `data_sharding`.
    """
    if everywhere.is_fully_addressable:
        return jax.device_put(tree, everywhere)
    leaves, treedef = jax.tree.flatten(tree)
    split = {
        number: leaf
        for number, leaf in enumerate(leaves)
        if isinstance(leaf, jax.Array) and not leaf.is_fully_replicated
    }
    whole = _gathered(everywhere)(split)
    return treedef.unflatten(whole.get(i, leaf) for i, leaf in enumerate(leaves))


def of_this_process(tree: Any) -> Any:
    """Returns arrays that are on every device as arrays of this process alone.

    What is computed with them involves no other process.
    """
    return jax.tree.map(_of_this_process, tree)


def of_all_processes(tree: Any) -> Any:
    """Returns arrays in a form in which all of their values are in this process.

    Args:
        tree: Arrays of a step. Those of which other processes hold parts become NumPy
            arrays; all processes must call it.
    """

    def whole(value):
        if isinstance(value, jax.Array) and not value.is_fully_replicated:
            return value if value.is_fully_addressable else whole_on_host(value)
        return value

    return jax.tree.map(whole, tree)


def _of_this_process(value: Any) -> Any:
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        return value.addressable_data(0)
    return value


def readable(tree: Any, everywhere: NamedSharding) -> Any:
    """Returns arrays that each process can read whole; all of them must call it.

    Args:
        tree: What a compiled step returned.
        everywhere: Sharding of the state, see `data_sharding`.
    """
    if everywhere.is_fully_addressable:
        return tree
    return _gathered(everywhere)(tree)


@functools.cache
def _gathered(everywhere: NamedSharding) -> Any:
    return jax.jit(lambda tree: tree, out_shardings=everywhere)


def check_sharding(sharding: Any) -> str:
    """Returns "replicated" or "fsdp" as it is.

    Raises:
        TypeError: If it is not a string.
        ValueError: If it is another string; or "fsdp" in several processes of CPUs with
            more than one device each, where XLA's exchanges may wait for each other.
    """
    check_choice(sharding, "sharding", ("replicated", "fsdp"))
    devices, processes = all_devices(), jax.process_count()
    on_cpu = devices[0].platform == "cpu"
    if sharding == "fsdp" and on_cpu and len(devices) > processes > 1:
        raise ValueError(
            f'sharding="fsdp" in {processes} processes of CPUs with {len(devices)} '
            "devices in all may wait for ever. Give each process one device "
            "(--xla_force_host_platform_device_count=1), or leave the option out."
        )
    return sharding
