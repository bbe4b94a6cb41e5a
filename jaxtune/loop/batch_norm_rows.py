"""Checks that a batch has enough rows for the batch norms that train.

The network is traced on shapes only, so a layer is refused exactly when it would see
one value per channel.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxtune.models import BatchNorm, call_module
from jaxtune.transfer import dotted, listen

_NORMS = (BatchNorm, nnx.BatchNorm)


def check_enough_rows(
    view: nnx.Module, rows: int, *, size: tuple[int, int], in_channels: int
) -> None:
    """Raises if a batch norm would see only one value per channel in a batch.

    Its variance would be 0 for every photo: the layer's output would not depend on the
    photo, and its running statistics would be useless.

    Args:
        view: The network in training mode, see `training_view`.
        rows: Photos in a batch.
        size: Height and width of the images, in pixels.
        in_channels: Channels of an image.

    Raises:
        ValueError: If there is such a layer; the message names it.

    References:
        `torch.nn.functional.batch_norm`, which raises in the same case.
    """
    graphdef, state = nnx.split(view)
    images = jax.ShapeDtypeStruct((rows, *size, in_channels), jnp.float32)

    def run(state: Any, images: jax.Array) -> Any:
        network = nnx.merge(graphdef, state)
        for path, node in list(nnx.iter_graph(network)):
            if isinstance(node, _NORMS) and not node.use_running_average:
                parts = getattr(node, "batch_parts", 1)
                listen(node, functools.partial(_look, dotted(path), parts))
        return call_module(network, images, rngs=nnx.Rngs(dropout=jax.random.key(0)))

    jax.eval_shape(run, state, images)


def _look(path: str, parts: int, call: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    if x.size == x.shape[-1] * parts:
        each = "" if parts == 1 else f" of which each of {parts} devices sees its part"
        raise ValueError(
            f"{path} normalises over the batch, and in a batch of {x.shape[0]}{each} "
            "there is one value for each channel: nothing to normalise over, so "
            "training would diverge (PyTorch refuses it, too). Make the data with "
            f"batch_size={2 * parts} or more, and at least as many training photos; "
            "gradient_accumulation_steps does not help, since each batch is "
            "normalised by itself. Or train a head without batch norm: "
            "hidden=(), first_bn=False."
        )
    return call(x, *args, **kwargs)
