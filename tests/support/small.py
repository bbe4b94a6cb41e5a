"""A small architecture with all that one can have: weights, channels, stages."""

import functools

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxtune import adapt_channels
from jaxtune.models import BatchNorm, Conv, GlobalAvgPool, Linear, ReLU, Sequential


def small_network(
    *,
    pretrained: bool = False,
    in_channels: int = 3,
    channel_init: str = "zero",
    rngs: nnx.Rngs | None = None,
) -> Sequential:
    """Returns a network of three layer groups; "pretrained" is always the same."""
    rngs = nnx.Rngs(3) if pretrained or rngs is None else rngs
    conv1 = Conv(3, 8, 3, stride=2, rngs=rngs)
    if in_channels != 3:
        weight = np.asarray(conv1.weight[...]).transpose(3, 2, 0, 1)
        adapted = adapt_channels(weight, in_channels, channel_init=channel_init)
        conv1 = Conv(in_channels, 8, 3, stride=2, rngs=nnx.Rngs(0))
        conv1.weight.set_value(jnp.asarray(adapted.transpose(2, 3, 1, 0)))
    network = Sequential(
        {
            "conv1": conv1,
            "bn1": BatchNorm(8),
            "relu": ReLU(),
            "layer1": Conv(8, 8, 3, rngs=rngs),
            "pool": GlobalAvgPool(),
            "fc": Linear(8, 4, rngs=rngs),
        }
    )
    network.default_groups = (("early", r"(conv1|bn1)\."), ("late", r"layer1\."))
    return network


@functools.wraps(small_network)
def small_pretrained(**options) -> Sequential:
    """Returns that network with a batch norm that has seen data, if "pretrained"."""
    network = small_network(**options)
    if options.get("pretrained"):
        mean = network.bn1.running_mean
        mean.set_value(mean[...] + 0.1)
    return network


def two_convolutions(rngs: nnx.Rngs | None = None) -> Sequential:
    """Returns that network for a learner, whole and always the same; cut it at 4."""
    return small_network(pretrained=True)
