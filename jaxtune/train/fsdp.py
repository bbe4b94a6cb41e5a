"""Fully sharded data parallelism (FSDP): what trains is split over the devices.

Each device keeps a part of every parameter that trains, of its optimizer state and of
its moving average. A step gathers the parameters, and each device gets the gradients of
its own parts. What is frozen is whole on every device: it has neither gradient nor
optimizer state, so a step with a frozen body exchanges its head only.

References:
    Rajbhandari et al., "ZeRO", https://arxiv.org/abs/1910.02054; Zhao et al., "PyTorch
    FSDP", https://arxiv.org/abs/2304.11277. Xu et al., "GSPMD",
    https://arxiv.org/abs/2105.04663, which makes the exchanges.
"""

import functools
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from jaxtune.train.optimizer import FROZEN
from jaxtune.train.state import TrainState
from jaxtune.train.steps import Apply, Batch, TrainStep

#: Arrays of fewer elements are whole on every device: an exchange costs more than
#: they do.
MIN_SIZE = 2**14


def fsdp_sharding(shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Returns how an array is split: along its longest axis that the devices divide.

    Arrays of less than 16,384 elements, and those of which the devices divide no axis,
    are whole on every device.

    Args:
        shape: Of the array.
        mesh: Devices, along one axis.
    """
    (name,) = mesh.axis_names
    axes = [axis for axis, size in enumerate(shape) if size % mesh.size == 0]
    if not axes or np.prod(shape, dtype=np.int64) < MIN_SIZE:
        return NamedSharding(mesh, PartitionSpec())
    longest = max(axes, key=lambda axis: shape[axis])
    return NamedSharding(mesh, PartitionSpec(*[None] * longest, name))


def fsdp_shardings(state: TrainState, mesh: Mesh, labels: nnx.State) -> TrainState:
    """Returns the sharding of every array of a train state.

    Args:
        state: Arrays, or their shapes.
        mesh: Devices, along one axis.
        labels: Group name of each parameter; those labelled `FROZEN` are whole on every
            device, and so are statistics.
    """
    whole = NamedSharding(mesh, PartitionSpec())

    def split(tree):
        return jax.tree.map(lambda x: fsdp_sharding(np.shape(x), mesh), tree)

    return TrainState(
        step=whole,
        params=jax.tree.map(
            lambda x, label: whole if label == FROZEN else split(x),
            state.params,
            labels,
        ),
        model_state=jax.tree.map(lambda x: whole, state.model_state),
        opt_state=split(state.opt_state),
        ema=split(state.ema),
    )


def split_state(state: TrainState, mesh: Mesh, labels: nnx.State) -> TrainState:
    """Returns a state that is split as `fsdp_shardings` says, inside `jax.jit`."""
    shardings = fsdp_shardings(state, mesh, labels)
    return jax.lax.with_sharding_constraint(state, shardings)


def fsdp_step(step: TrainStep, mesh: Mesh, labels: nnx.State) -> TrainStep:
    """Returns a train step whose new state is split as the old one.

    Args:
        step: Made by `make_train_step` with `apply=fsdp_apply(apply_module, mesh)` and
            the same labels; its states are split as `fsdp_shardings` says.
        mesh: Devices, along one axis, over which the rows of its batches are split.
        labels: Group name of each parameter, `FROZEN` for those that don't train.
    """

    def train_step(state: TrainState, batch: Batch, key: jax.Array):
        state, metrics = step(state, batch, key)
        return split_state(state, mesh, labels), metrics

    return train_step


def fsdp_apply(apply: Apply, mesh: Mesh) -> Apply:
    """Returns a forward pass that gathers parameters, and splits their gradients.

    Args:
        apply: Such as `apply_module`.
        mesh: Devices, along one axis.
    """

    def gathered(graphdef, params, model_state, images, **options) -> Any:
        params = jax.tree.map(lambda x: _gathered(x, mesh), params)
        return apply(graphdef, params, model_state, images, **options)

    return gathered


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _gathered(x: jax.Array, mesh: Mesh) -> jax.Array:
    """The whole array on each device. Each gets its part only of the gradient."""
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.lax.with_sharding_constraint(x, whole)


def _forward(x: jax.Array, mesh: Mesh) -> tuple[jax.Array, None]:
    return _gathered(x, mesh), None


def _backward(mesh: Mesh, _: None, gradient: jax.Array) -> tuple[jax.Array]:
    constrained = jax.lax.with_sharding_constraint
    # First whole, which XLA undoes where it can scatter a sum. Otherwise it would split
    # the gradient's computation by channels, and send activations around.
    gradient = constrained(gradient, NamedSharding(mesh, PartitionSpec()))
    return (constrained(gradient, fsdp_sharding(gradient.shape, mesh)),)


_gathered.defvjp(_forward, _backward)
